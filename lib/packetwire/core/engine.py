"""One connection without its stream: bytes in, events out; calls in, bytes out.

Strategy: the engine does no I/O, holds no lock and knows no time but what it is told. Bytes to send pile up
inside until the owner takes a batch (`data_to_send`) and reports it as written (`data_sent`), because a reply
counts against the peer's allowance until it is written.

Threads may call it at the same time, without a lock: one that receives, one that takes what is to be sent, and
any number that ask, answer or end. That rests on CPython's global lock. A single step of a dict or list is one
step for all threads, and so is `self.number += n` where `n` is a local variable, as no thread switch and no signal
handler comes between its instructions. A request is claimed by taking it out of its dict, in one step. Work of
more than one step is either done again where it may have come too late (`_ordered`), or in an order in which any
interruption is harmless; comments say which.

Each side numbers its own requests, per channel, upwards from 2, and keeps only those that wait for an
answer. A response below the next number that nobody waits for is late (its caller gave up) and is
dropped; so no history is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterator
from itertools import count
from typing import Any

from packetwire.core.bodies import Bodies, CallBodies
from packetwire.core.budget import Budget
from packetwire.core.capabilities import MARK, Capabilities
from packetwire.core.control import MAX_UNFINISHED, Control
from packetwire.core.events import Event, PeerEndedRequests, RequestReceived, ResponseReceived, StreamEnded
from packetwire.core.frames import FRAME_CHANNEL, FrameType, Meta, encode_frame, encode_meta
from packetwire.core.hello import CONTROL_CHANNEL, DESCRIBE, DRAIN, MAX_REASON, PING, Feature, encode_drain
from packetwire.core.lanes import MAX_ANNOUNCED, MAX_IN_PIECES, PIECES_ABOVE, SHORT_PIECE, Lane, Payload, Sender
from packetwire.core.packet import (
    EOF_PACKET,
    ERQ_PACKET,
    FLAG_REQUEST,
    MAX_HEAD_BYTES,
    check_payload,
    check_uint,
    head_tail,
    packet_head,
)
from packetwire.core.packetcodec import EOF_FIELDS, ERQ_FIELDS, Fields, Key, PacketReader, decode_body
from packetwire.core.packets import packet_of
from packetwire.core.packing import packed
from packetwire.core.pieces import Collected, Pieces
from packetwire.core.refusals import refuse
from packetwire.core.requestcontext import RequestContext
from packetwire.core.requestids import RequestIds
from packetwire.core.settings import DEFAULT_MAX_OUTSTANDING as DEFAULT_MAX_OUTSTANDING
from packetwire.core.settings import DEFAULT_MAX_PACKET_SIZE
from packetwire.core.state import TRANSITIONS, Act, Half
from packetwire.core.statuses import UNKNOWN_STATUS, Status, StatusCode
from packetwire.core.statuses import flags_of as status_flags
from packetwire.core.varint import MAX_UINT, MAX_VARINT_BYTES, BytesLike, decode_varint
from packetwire.errors import (
    BodyEnded,
    CapabilityMissing,
    ChildExited,
    ConnectionEnded,
    Drained,
    LimitExceeded,
    LocalProtocolError,
    PacketwireError,
    PeerClosed,
    RemoteProtocolError,
    StreamTruncated,
    copy_of,
    ended_by,
    never_sent,
)

FIRST_TAG = 2
FIRST_CHANNEL = 16
"""Below it 0 is for the application, and the others are reserved."""
DEFAULT_MAX_INBOUND = 65_536
DEFAULT_MAX_INBOUND_OCTETS = 256 << 20
DEFAULT_MAX_REFUSALS = 10_000

MAX_REQUEST_FLAGS = MAX_UINT >> 2
MAX_RESPONSE_FLAGS = MAX_UINT >> 3
MAX_RQ_TYPE = MAX_UINT - 1

MAX_FIELDS = MAX_HEAD_BYTES - MAX_VARINT_BYTES
"""Bytes of a packet that are neither its length field nor payload, at most; mostly there are 3 or 4."""

END_GRACE = 1.0
"""Seconds for the stream to end by itself, and so say why, after a write failed or a child exited."""

JOIN_LIMIT = 16384
"""Up to this size a payload is copied behind its head; above, both are sent as they are."""

MAX_TAILS = 256
"""Combinations of channel, flags and request type whose bytes are kept."""

NO_HANDLER = b"no request handler"
REQUESTS_ENDED = b"requests no longer allowed"
BODY_LOST = b"the body of this response is not whole"
BODIES_UNTAKEN = b"too much to do: the bodies of responses wait for credit"
DRAINING = b"draining: no more requests are begun"
TOO_MUCH_FOR_ALL = b"too much to do: all clients together wait for too many bytes"
NOT_DONE = b"the connection was closed before this request was done"
NOT_BEGUN = b"the peer is ending the connection, this request was not begun"
ENDINGS = (NOT_DONE, NOT_BEGUN)
"""Texts by which an end that closes answers the requests that it will never do."""

_OK_TAIL = head_tail(0, 4, None)
"""The fields behind the tag of an "ok" response without flags, as most are."""

_ERQ_BYTES, _EOF_BYTES = bytes(ERQ_PACKET), bytes(EOF_PACKET)

_OPEN, _ENDED = Half.OPEN, Half.ENDED

_NOBODY = object()
"""In place of a waiter, which may be None."""

_new_event: Any = tuple.__new__
"""As the class itself, without its check of the arguments."""


def _set_response(waiter: Any, ok: bool, flags: int, payload: bytes) -> None:
    waiter.set_response(ok, flags, payload)


def _request_event(packet: Fields) -> RequestReceived:
    key, flags, wire_rq_type, payload = packet
    channel, tag = (0, key) if isinstance(key, int) else key
    event: RequestReceived = _new_event(RequestReceived, (channel, tag, wire_rq_type - 1, flags, payload))
    return event


def check_channel(channel: int) -> None:
    """Raise TypeError or `LocalProtocolError` unless requests may be sent on this channel."""
    check_uint("channel", channel)
    if 0 < channel < FIRST_CHANNEL:
        raise LocalProtocolError(f"channels 1 to {FIRST_CHANNEL - 1} are reserved, got {channel}")


def limit_passed(timeout: float) -> str:
    """The reason that the peer is told of an end in which not all could be waited for."""
    return f"its time limit for closing passed, which is {timeout:g} s"


def not_served(channel: int) -> bytes:
    """The text of the refusal of a request on a channel that nobody serves, though others are served."""
    if channel == 0:
        return NO_HANDLER
    if channel < FIRST_CHANNEL:
        return b"channels 1 to %d are reserved" % (FIRST_CHANNEL - 1)
    return b"channel %d is not served" % channel


def tag_of(key: Key) -> int:
    """The tag in a key."""
    return key if isinstance(key, int) else key[1]


class ConnectionEngine:
    """The protocol state of one connection.

    `accepts_requests`: whether there is anyone to answer the peer's requests on channel 0, and `channels`: which
    others are served, asked for each request (None: all that are not reserved, if `accepts_requests`). A request
    that nobody serves is refused, unless it is `observed`: then it is received all the same, and the owner refuses
    what no observer took, with `not_served`.
    `max_outstanding`: our requests without an answer. `max_inbound`, `max_inbound_octets`: the peer's
    requests, and the bytes of their payloads, whose reply is not written yet; past either a request is
    refused with an answer. `max_refusals`: refusals that the peer has not taken; past it the connection
    ends. `max_packet_size`: bytes of a packet after its length field, both ways: its fields
    and its payload, which can always have `MAX_FIELDS` fewer. `half_close`: the end of the
    stream between two packets says what ERQ and EOF say. `capabilities`: what is known of the peer, and is to be
    said of this end; without it nothing of that kind is sent or understood.
    """

    def __init__(
        self,
        *,
        accepts_requests: bool = True,
        max_packet_size: int = DEFAULT_MAX_PACKET_SIZE,
        max_outstanding: int = DEFAULT_MAX_OUTSTANDING,
        max_inbound: int = DEFAULT_MAX_INBOUND,
        max_inbound_octets: int = DEFAULT_MAX_INBOUND_OCTETS,
        max_refusals: int = DEFAULT_MAX_REFUSALS,
        channels: Container[int] | None = None,
        observed: bool = False,
        half_close: bool = False,
        capabilities: Capabilities | None = None,
    ) -> None:
        self.accepts_requests = accepts_requests
        if channels is None:
            channels = range(FIRST_CHANNEL, MAX_UINT + 1) if accepts_requests else ()
        self.channels = channels
        self.observed = observed
        self.max_packet_size = max_packet_size
        # these are machine integers where this is compiled
        self.max_outstanding = min(max_outstanding, MAX_UINT)
        self.max_inbound = min(max_inbound, MAX_UINT)
        self.max_inbound_octets = min(max_inbound_octets, MAX_UINT)
        self.max_refusals = max_refusals
        self.half_close = half_close
        self.ours = _OPEN
        """Our direction."""
        self.theirs = _OPEN
        """The peer's direction; ENDED as well when its stream broke."""
        self.ended: StreamEnded | None = None
        """The event that ended the peer's direction."""
        self.send_failure: BaseException | None = None
        """Why nothing can be sent any more, unless that was by our own EOF."""
        self.late_responses = 0
        """Responses that came after their caller had given up."""
        self.given_up = 0
        """Requests of ours whose callers gave up before the response came."""
        self.lost = 0
        """Requests of ours that were still without a response when the connection ended."""
        self.dropped = 0
        """Requests of the peer that can be answered no more, as the connection has ended."""
        self.control_answers = 0
        """Answers to control requests, which count as refusals while they are unsent."""
        self.replies_taken = self.refusals_taken = 0
        """Responses and refusals in all that `data_to_send` has ever given."""
        self.unsent_octets = 0
        """Bytes not yet reported as written."""
        self.octets_wanted = 0
        """The bytes missing from the packet that is arriving, 0 if unknown: a hint for the next read."""
        self.decoder = PacketReader(max_packet_size)
        self._join_limit = JOIN_LIMIT
        self._roomy = min(max_packet_size, MAX_UINT) - MAX_FIELDS  # a payload up to this size always fits
        self._peer_takes = MAX_UINT  # bytes of a packet behind its length field, as far as the peer has said
        self._tags = count(FIRST_TAG)
        self._next_tag = FIRST_TAG
        self._tags_of: dict[int, count[int]] = {}  # of the channels but 0
        self._next_tags_of: dict[int, int] = {}
        self._request_tails: dict[tuple[int, int, int], bytes] = {}
        self._usual_tails: dict[int, bytes] = {}  # of requests without channel and flags, by their type
        self.waiters: dict[Key, Any] = {}
        """Our requests that have no answer yet, and who waits for each."""
        self.deliver: Callable[[Any, bool, int, bytes], object] = _set_response
        """Gives a waiter its response, in `receive_to`; by its `set_response`."""
        self._inbound: dict[Key, int] = {}  # request not answered -> bytes of its payload
        self._inbound_bytes = 0
        self.unsent: list[bytes] = []
        """Packets for `data_to_send`; others may look whether there are any."""
        self._erq_taken = self._eof_taken = False
        self._eof_waits = False  # for what is sent in pieces
        self._unsent_replies = self._unsent_refusals = 0  # of these, in _unsent
        self._batch_bytes = self._batch_replies = self._batch_refusals = 0  # taken and not reported yet
        self.deadline: float | None = None
        """The time at which `tick` has something to do, unless all has ended."""
        self._expected: ConnectionEnded | None = None
        self.budget: Budget | None = None
        """The bound for all connections of a server."""
        self._ending = False  # EOF follows as soon as every reply owed is on its way
        self._ends_when_drained = False  # as soon as the peer has answered that it asks no more
        self._ends_when_known = False  # as soon as it is known if the peer can be asked to ask no more
        self._winding_down = False  # the same, with ERQ, as soon as nothing that was begun is left
        self._not_begun: dict[Key, None] = {}  # of _inbound, those that came since then
        self._given_up: dict[Key, bytes] = {}  # how the peer answered what it will never do
        self.now = 0.0
        """The time of what is received, as the owner last said: seconds of a monotonic clock."""
        self.barred: PacketwireError | None = None
        """Why no requests of ours are sent, though nothing has ended."""
        self.drained: bytes | None = None
        """Once the peer knows that it shall ask no more: the text of the refusal if it does."""
        self.control = None if capabilities is None else Control(capabilities)
        """Serves the channels between 0 and `FIRST_CHANNEL`; None if these are only reserved."""
        self.contexts: dict[Key, RequestContext] = {} if self.control is None else self.control.contexts
        """The peer's requests without a reply of which it has said more than the request."""
        self.lane: Lane | None = None
        """The lane of what is sent in pieces; None as long as nothing was."""
        self.pieces = Pieces()
        """The pieces of payloads that are not whole yet."""
        self.bodies: Bodies | None = None
        """The bodies of requests and responses; None as long as there were none."""
        self._unfinished, self._collected = self.pieces.requests, self.pieces.responses
        self._needs_mark = self._negotiates = capabilities is not None

    # what there is to know

    @property
    def outstanding(self) -> int:
        """Our requests that have no answer yet."""
        return len(self.waiters)

    @property
    def owed(self) -> int:
        """The peer's requests that are to be done and have no answer yet."""
        return len(self._inbound) - len(self._not_begun)

    @property
    def requests_sent(self) -> int:
        """Our requests so far, but for control requests: each has taken a tag."""
        others = [tag - FIRST_TAG for channel, tag in list(self._next_tags_of.items()) if channel >= FIRST_CHANNEL]
        return self._next_tag - FIRST_TAG + sum(others)

    @property
    def responses_made(self) -> int:
        """Responses to the peer's requests, sent or not; refusals are none of them."""
        return self.replies_taken + self._unsent_replies

    @property
    def refusals_made(self) -> int:
        """The peer's requests that were refused before any handler saw them."""
        return self.refusals_taken + self._unsent_refusals - self.control_answers

    @property
    def unanswered(self) -> int:
        """The peer's requests without a response, begun or not."""
        return len(self._inbound)

    @property
    def has_room(self) -> bool:
        """True while one more request of ours fits within `max_outstanding`."""
        return len(self.waiters) < self.max_outstanding

    @property
    def may_request(self) -> bool:
        """True while `request` can be called at all."""
        return self.ours is _OPEN and self.ended is None and self.send_failure is None and self.barred is None

    @property
    def overdue(self) -> bytes:
        """The text of a refusal, if too much is unsent for another reply to be made; else empty."""
        if self.budget is not None and self.unsent_octets and self.budget.holds(self.owed_bytes):
            return TOO_MUCH_FOR_ALL
        if self.unsent_octets <= self.max_inbound_octets:
            return b""
        return b"too much to do: %d bytes wait to be written" % self.unsent_octets

    @property
    def owed_bytes(self) -> int:
        """Bytes of requests without a reply, of what is not written, and of the packets that are arriving."""
        held = 0 if self.bodies is None else self.bodies.held
        return self._inbound_bytes + self.unsent_octets + self.decoder.bytes_kept + self.pieces.held + held

    def is_held(self, max_unsent: int, more: int = 0) -> bool:
        """True if no handler is to be started: this connection, or all of its server, hold too much.

        `more` are bytes of replies that are on their way here.
        """
        unsent = self.unsent_octets + more
        if self.lane is not None and self.lane.replies < MAX_IN_PIECES:
            unsent -= self.lane.waiting  # what leaves in pieces is in nobody's way, unless it is too many
        # with nothing unsent a handler makes room: its request is done with, and the peer takes the reply
        if unsent and self.budget is not None and self.budget.holds(self.owed_bytes + more):
            return True
        return unsent > max_unsent

    def is_full(self, max_unsent: int, size: int = 0) -> bool:
        """True if a request with a payload of `size` bytes is to wait, as too much is not written yet.

        A small one does not wait for what leaves in pieces.
        """
        unsent = self.unsent_octets
        if self.lane is not None and size <= PIECES_ABOVE:
            unsent -= self.lane.waiting
        return unsent > max_unsent

    def let_go(self) -> None:
        """The connection is closed: keep nothing of a packet that had begun, as it may be large."""
        self.decoder.drop()
        self.pieces.clear()

    @property
    def waits_for_peer(self) -> bool:
        """True while the peer has to take something, or to send the rest of something large."""
        return self.unsent_octets > 0 or self.decoder.bytes_kept + self.pieces.held > JOIN_LIMIT

    @property
    def is_settled(self) -> bool:
        """True while neither end owes a response to the other, and all is written."""
        if self.waiters or self._inbound or self.unsent_octets:
            return False
        return self.lane is None or self.lane.is_drained

    @property
    def octets_decoded(self) -> int:
        """The position in the peer's stream behind its last complete packet."""
        return self.decoder.octets_decoded

    @property
    def partial_octets(self) -> bytes:
        """The bytes of the packet that is arriving."""
        return self.decoder.partial

    @property
    def trailing_octets(self) -> bytes:
        """The bytes behind the peer's EOF."""
        return self.decoder.trailing

    def not_served(self, channel: int) -> bytes:
        """The text of the refusal of a request on a channel that nobody serves."""
        return not_served(channel if self.accepts_requests or self.channels else 0)

    # calls in, bytes out

    def request(
        self, rq_type: int, flags: int = 0, payload: BytesLike = b"", *, channel: int = 0, waiter: object = None
    ) -> int:
        """Send a request, return its tag; its `ResponseReceived` or `StreamEnded` will carry `waiter`.

        Raises TypeError or `LocalProtocolError` for arguments that cannot be sent, `LimitExceeded` if
        `max_outstanding` are out, `ConnectionEnded` if nothing can be asked any more. Then nothing was
        sent.
        """
        return self.ask(rq_type, flags, payload, channel, waiter)

    def ask(self, rq_type: int, flags: int, payload: BytesLike, channel: int, waiter: object) -> int:
        """As `request`, by position."""
        if (
            self.ours is not _OPEN
            or self.ended is not None
            or self.send_failure is not None
            or self.barred is not None
        ):
            raise self.why_not()
        if len(self.waiters) >= self.max_outstanding:
            raise self._too_many()
        try:
            if channel == 0 and flags == 0:  # as most have neither
                tail = self._usual_tails.get(rq_type)
            else:
                tail = self._request_tails.get((channel, flags, rq_type))
        except TypeError:  # not hashable, and so no int
            tail = None
        if tail is None:
            tail = self._request_tail(channel, flags, rq_type)
        data = payload if type(payload) is bytes else check_payload(payload)
        size = len(data)
        if size > self._roomy:
            self._check_size(packet_head(self._unused_tag(channel), tail, size), data)
        key: Key
        stays_behind = False
        if channel:
            tag = self._tag_of(channel)
            key = channel, tag
            stays_behind = self.lane is not None and self.lane.is_behind(channel)
        else:
            key = tag = next(self._tags)
            number = tag
            if number >= self._next_tag:
                self._next_tag = number + 1
        waiters = self.waiters
        waiters[key] = waiter
        try:
            if size > self._join_limit or stays_behind:
                self._send_long(channel, tag, tail, data, (), is_request=True)
            else:  # as in _send
                packet = packed(tag, tail, data)
                length = len(packet)
                self.unsent_octets += length
                self.unsent.append(packet)
        except BaseException:
            self.lost += self.waiters.pop(key, _NOBODY) is not _NOBODY
            self._leave_lane(key)
            raise
        if self.ended is not None and self.waiters.pop(key, _NOBODY) is not _NOBODY:
            self.lost += 1
            self._leave_lane(key)
            raise self.why_not()  # it ended meanwhile, and whoever ended it did not see this waiter
        return tag

    def ask_with(
        self,
        meta: Meta,
        rq_type: int,
        flags: int,
        payload: BytesLike,
        channel: int,
        waiter: object,
        bodies: CallBodies | None = None,
    ) -> int:
        """As `ask`, with metadata, to a peer that has agreed on it.

        `bodies` is given those that the metadata announces. Raises `CapabilityMissing` if the peer does not know
        them, `LimitExceeded` also if too many are open towards this end.
        """
        if not self.may_request:
            raise self.why_not()
        if len(self.waiters) >= self.max_outstanding:
            raise self._too_many()
        if bodies is not None:
            self._check_bodies(meta)
        tail = self._request_tail(channel, flags, rq_type)
        data = check_payload(payload)
        fields = encode_meta(meta)
        tag = self._unused_tag(channel)
        self._check_size(packet_head(tag, tail, len(data)), data)
        self._check_size(encode_frame(FrameType.META, channel, tag, fields), fields)
        key: Key
        if channel:
            tag = self._tag_of(channel)
            key = channel, tag
        else:
            key = tag = next(self._tags)
            number = tag
            if number >= self._next_tag:
                self._next_tag = number + 1
        frame = encode_frame(FrameType.META, channel, tag, fields)
        try:
            self.waiters[key] = waiter
            if bodies is not None:
                self._begin_bodies(meta, channel, tag, bodies)
            self._send_long(channel, tag, tail, data, (frame,), is_request=True)
        except BaseException:
            self.lost += self._forget(key)
            self._leave_lane(key)
            raise
        if self.ended is not None and self._forget(key):
            self.lost += 1
            self._leave_lane(key)
            raise self.why_not()
        return tag

    def _too_many(self) -> LimitExceeded:
        return LimitExceeded(f"{self.max_outstanding} requests are without an answer: that is max_outstanding")

    def _tag_of(self, channel: int) -> int:
        """A tag for a request on a channel other than 0."""
        tags, used = self._tags_of, self._next_tags_of
        if channel not in tags:
            tags.setdefault(channel, count(used.get(channel, FIRST_TAG)))
        tag = next(tags[channel])
        if tag >= used.get(channel, 0):
            used[channel] = tag + 1
        return tag

    def _unused_tag(self, channel: int) -> int:
        """The tag above all that requests of ours have had."""
        return self._next_tags_of.get(channel, FIRST_TAG) if channel else self._next_tag

    def _request_tail(self, channel: int, flags: int, rq_type: int) -> bytes:
        """The fields behind the tag, which most requests have in common; checks the arguments."""
        check_uint("rq_type", rq_type, MAX_RQ_TYPE)
        check_uint("flags", flags, MAX_REQUEST_FLAGS)
        check_channel(channel)
        if len(self._request_tails) + len(self._usual_tails) >= MAX_TAILS:
            self._request_tails.clear()
            self._usual_tails.clear()
        tail = head_tail(channel, flags << 2 | FLAG_REQUEST, rq_type + 1)
        if channel or flags:
            self._request_tails[channel, flags, rq_type] = tail
        else:
            self._usual_tails[rq_type] = tail
        return tail

    def forget(self, channel: int, tag: int) -> bool:
        """The waiter of a request gave up; false if it was answered or forgotten before."""
        if not self._forget((channel, tag) if channel else tag):
            return False
        self.given_up += 1
        return True

    def _forget(self, key: Key) -> bool:
        """Take a waiter, and end the bodies of its request; false if it was taken before."""
        if self.waiters.pop(key, _NOBODY) is _NOBODY:
            return False
        if self.bodies is not None:
            self.bodies.give_up(key)
            self.bodies.ours.pop(key, None)
        return True

    # bodies

    @property
    def max_payload(self) -> int:
        """Bytes of a payload that fit into a packet, whatever its other fields are."""
        return self._roomy

    @property
    def first_credit(self) -> int:
        """The credit that a response body has at its start."""
        assert self.control is not None
        return self.control.capabilities.own.body_credit

    def _lane_now(self) -> Lane:
        if self.lane is None:
            self.lane = Lane(self.unsent)
        return self.lane

    def bodies_now(self) -> Bodies:
        """All bodies; made if there were none."""
        if self.bodies is None:
            assert self.control is not None
            own = self.control.capabilities.own
            self.bodies = Bodies(self._lane_now(), own.body_credit, own.max_bodies)
        return self.bodies

    def _check_bodies(self, meta: Meta) -> None:
        if self.control is None or not self.control.capabilities.have(Feature.BODIES):
            peer = "this end has none" if self.control is None else self.control.capabilities.peer_text()
            raise CapabilityMissing(f"bodies: {peer}")
        if meta.response_credit is not None and self.bodies_now().is_full:
            raise LimitExceeded("too many bodies are open towards this end")

    def _begin_bodies(self, meta: Meta, channel: int, tag: int, bodies: CallBodies) -> None:
        assert self.control is not None
        peer = self.control.capabilities.peer
        assert peer is not None
        self.bodies_now().begin(channel, tag, meta, peer.body_credit, bodies)
        # so that its response is seen to behind what belongs to it
        self.pieces.responses[(channel, tag) if channel else tag] = Collected()

    def announce_bodies(self, key: Key, context: RequestContext) -> None:
        """A request of the peer with bodies is to come; it is refused if there are too many."""
        bodies = self.bodies_now()
        bodies.drop(key, BodyEnded("the request was announced anew"))
        channel, tag = (0, key) if isinstance(key, int) else key
        served = bodies.announce(channel, tag, context.meta)
        if served is None:
            collected = self.pieces.requests.setdefault(key, Collected())
            self.pieces.drop(collected, b"too many bodies are open")
        else:
            context.body, context.response_body = served.request, served.response
            if self.send_failure is not None:
                served.cannot_answer(self._cannot_send(self.send_failure))

    def cancel_bodies(self, key: Key) -> None:
        """The peer gave a request up."""
        if self.bodies is not None:
            self.bodies.cancel(key, self._refusal(key))
            if key not in self._inbound:  # it has not come, and never will
                self.bodies.drop(key, BodyEnded("the peer has given the request up"))

    def give_up_bodies(self, key: Key) -> None:
        """This end gives a request up, though it may wait for the response."""
        if self.bodies is not None:
            self.bodies.give_up(key)

    def _refusal(self, key: Key) -> Payload:
        """In place of a response whose body is not whole."""
        channel, tag = (0, key) if isinstance(key, int) else key
        tail = head_tail(channel, self._lost_flags << 3, None)
        return Payload(channel, tag, tail, self._fitting(BODY_LOST), is_request=False, in_pieces=False)

    @property
    def _lost_flags(self) -> int:
        return 0 if self.control is None else self.control.flags_of(StatusCode.CANCELLED, begun=True)

    def _responds_behind_body(self, key: Key, tail: bytes, data: bytes, ok: bool) -> bool:
        """A request with metadata is answered. True if the response leaves behind its body."""
        if self.bodies is None:
            return False
        channel, tag = (0, key) if isinstance(key, int) else key
        in_pieces = self.control is not None and self.control.capabilities.have(Feature.PIECES)
        response = Payload(channel, tag, tail, data, is_request=False, in_pieces=in_pieces)
        return self.bodies.respond(key, response, ok=ok)

    def _close_context(self, key: Key) -> None:
        """A request of the peer is refused or dropped, or can be answered no more."""
        self.contexts.pop(key, None)
        if self.bodies is not None:
            self.bodies.drop(key, BodyEnded("the request was refused"))

    def respond(self, channel: int, tag: int, ok: bool, flags: int = 0, payload: BytesLike = b"") -> bool:
        """Answer a request of the peer; false if it can no longer be sent.

        Raises TypeError or `LocalProtocolError` if the arguments cannot be sent, or if there is no such
        request, because it was answered before; then nothing was sent and the request still waits.
        """
        if type(flags) is not int or (flags and not 0 < flags <= MAX_RESPONSE_FLAGS):
            check_uint("flags", flags, MAX_RESPONSE_FLAGS)
        data = payload if type(payload) is bytes else check_payload(payload)
        key = (channel, tag) if channel else tag
        inbound = self._inbound
        if self.send_failure is not None or key not in inbound:
            return self._cannot_answer(channel, tag)
        if ok and self.budget is not None and self.unsent_octets and self.budget.is_exhausted(self.owed_bytes):
            ok, flags, data = False, 0, self._fitting(TOO_MUCH_FOR_ALL)
        if self.contexts and ok and self.bodies is not None and self.bodies.has_lost(key):
            ok, flags, data = False, self._lost_flags, self._fitting(BODY_LOST)
        usual = ok and not flags and not channel
        tail = _OK_TAIL if usual else head_tail(channel, flags << 3 | (4 if ok else 0), None)
        size = len(data)
        if size > self._roomy:
            self._check_size(packet_head(tag, tail, size), data)
        held = inbound.pop(key, None)
        if held is None:  # another thread has answered it just now
            return self._cannot_answer(channel, tag)
        done_with = held
        self._inbound_bytes -= done_with
        self._unsent_replies += 1
        if (
            self.contexts
            and self.contexts.pop(key, None) is not None
            and self._responds_behind_body(key, tail, data, ok)
        ):
            pass
        elif size > self._join_limit or (channel and self.lane is not None and self.lane.is_behind(channel)):
            self._send_long(channel, tag, tail, data, (), is_request=False)
        else:  # as in _send
            packet = packed(tag, tail, data)
            length = len(packet)
            self.unsent_octets += length
            self.unsent.append(packet)
        if self._ending:
            self._end_when_nothing_is_owed()
        elif self._winding_down:
            self._end_when_all_is_done()
        return True

    def _cannot_answer(self, channel: int, tag: int) -> bool:
        """False if nothing can be sent any more; raises `LocalProtocolError` if the request needs no answer."""
        key = (channel, tag) if channel else tag
        if self.send_failure is not None:
            held = self._inbound.pop(key, None)
            if held is not None:
                self._inbound_bytes -= held
                self.dropped += 1
        if not self._may_answer:
            self._close_context(key)
            return False
        raise LocalProtocolError(f"no request with tag {tag} on channel {channel} waits for an answer")

    def respond_failure(self, channel: int, tag: int, text: bytes) -> bool:
        """Answer "not ok" with as much of `text` as fits into a packet; otherwise as `respond`."""
        return self.respond(channel, tag, False, 0, self._fitting(text))

    @property
    def request_ids(self) -> RequestIds | None:
        """The ids for requests of ours that are to be done only once; None if the peer can know nothing of them."""
        return None if self.control is None else self.control.capabilities.request_ids

    def ask_capabilities(self) -> None:
        """Ask the peer what it understands, unless that was done, or nothing can be asked any more."""
        if self.control is not None:
            self.control.ask(self)

    def cancel(self, channel: int, tag: int, code: StatusCode = StatusCode.CANCELLED, text: str = "") -> bool:
        """Tell the peer that a request of ours is given up; false if it would not understand that.

        The request is answered all the same, unless nobody waits for that any more (`forget`). One whose packet has
        not left, as its payload is large, never leaves, and is answered here.
        """
        return self.control is not None and self.control.cancel(self, channel, tag, code, text)

    def status_of(self, flags: int) -> Status:
        """The meaning of the flags of a response that is not ok: a status, if the peer has agreed on these."""
        return UNKNOWN_STATUS if self.control is None else self.control.status_of(flags)

    def report(self, channel: int, tag: int, payload: bytes, now: float) -> bool:
        """Tell the peer how far a request of its is, if it wants to know that now.

        A report of the same request that is not sent yet is replaced. False if there is nobody to tell.
        """
        return self.control is not None and self.control.report(self, channel, tag, payload, now)

    def ping(self, payload: bytes, waiter: object) -> None:
        """Ask the peer for a sign of life: its `ControlAnswered`, or the `StreamEnded`, will carry `waiter`.

        Raises `LocalProtocolError` if the peer has not agreed on capabilities, or nothing can be sent any more.
        """
        self._send_control(PING, payload, waiter)

    def drain(self, milliseconds: int | None, text: str, waiter: object) -> None:
        """Tell the peer to send no more requests, as they will be refused from its answer on; else as `ping`."""
        self._send_control(DRAIN, self._drain_payload(milliseconds, text), waiter)

    def describe(self, waiter: object) -> None:
        """Ask the peer what it tells of its service; else as `ping`."""
        self._send_control(DESCRIBE, b"", waiter)

    def _drain_payload(self, milliseconds: int | None, text: str) -> bytes:
        said = self._fitting(text[:MAX_REASON].encode(errors="replace"))
        return encode_drain(milliseconds, said.decode(errors="ignore"))

    def _send_control(self, rq_type: int, payload: bytes, waiter: object) -> None:
        if self.control is None or not self.control.capabilities.has_agreed:
            raise LocalProtocolError("the peer has not agreed on control requests")
        if self.ended is not None or not self._may_answer:
            raise self.why_not()
        key = self.control.send(self, rq_type, payload, waiter)
        if self.ended is not None and self.control.forget(key):
            raise self.why_not()  # it ended meanwhile, and whoever ended it did not see this waiter

    def owes(self, channel: int, tag: int) -> bool:
        """A request of the peer waits for its answer."""
        return ((channel, tag) if channel else tag) in self._inbound

    def refuse(self, channel: int, tag: int, text: bytes, code: StatusCode, *, begun: bool) -> bool:
        """Answer "not ok" with as much of `text` as fits, and with the reason for a peer that knows the codes.

        `begun`: a handler had begun. Otherwise as `respond`.
        """
        flags = 0 if self.control is None else self.control.flags_of(code, begun=begun)
        return self.respond(channel, tag, False, flags, self._fitting(text))

    def send_frame(self, frame: bytes) -> bool:
        """Send a frame, behind all that is to be sent; false if it cannot be sent, or is too large for the peer."""
        if not self._may_answer or self._size_of(frame) > self._most_sent:
            return False
        self._send(frame, b"")
        return True

    def check_frame(self, frame: bytes, payload: bytes) -> None:
        """Raise `LocalProtocolError` if a frame is larger than a packet may be."""
        self._check_size(frame, payload)

    def control_tag(self) -> int:
        """A tag for a control request."""
        return self._tag_of(CONTROL_CHANNEL)

    def request_control(self, tag: int, tail: bytes, payload: bytes) -> None:
        """Send a control request, which counts nowhere; `tail` has its fields behind the tag."""
        self._send(packet_head(tag, tail, len(payload)), payload)

    def answer_control(self, tag: int, ok: bool, payload: bytes, *, behind_requests: bool = False) -> None:
        """Answer a control request; such answers count as refusals until the peer takes them.

        `behind_requests`: not before all requests that were sent have left.
        """
        if not self._may_answer:
            return
        self._count_refusal()
        self.control_answers += 1
        payload = self._fitting(payload)
        head = packet_head(tag, head_tail(CONTROL_CHANNEL, 4 if ok else 0, None), len(payload))
        if behind_requests and self.lane is not None and self.lane.requests:
            self.unsent_octets += len(head) + len(payload)
            self.lane.behind.append(head + payload)
            self.unsent.append(b"")
        else:
            self._send(head, payload)

    def limit_sent(self, max_packet_size: int) -> None:
        """The peer takes no larger packets."""
        self._peer_takes = max_packet_size
        self._roomy = min(self._roomy, max_packet_size - MAX_FIELDS)

    def end_requests(self) -> None:
        """Send ERQ: no more requests of ours. A second call does nothing."""
        ours = self.ours  # once, as another thread may end it meanwhile
        if ours is _OPEN and self.send_failure is None:
            self.ours = TRANSITIONS[ours, Act.ERQ]
            self._send(_ERQ_BYTES, b"")

    def end(self) -> None:
        """Send ERQ now and EOF behind the last reply that is owed. A second call does nothing."""
        self._ending = True
        self.end_requests()
        self._answer_not_begun()
        self._end_when_nothing_is_owed()

    def wind_down(self, milliseconds: int | None = None, *, patient: bool = False) -> None:
        """Begin no more requests of the peer, but let what was begun finish, with requests of ours; then `end`.

        A peer that understands it is asked first to send no more: what comes until its answer is served as usual,
        so that it sees no failure. `milliseconds` are those after which the connection is cut off. Of any other
        peer a request that comes meanwhile is answered in the end that it was not begun, or at once while the peer
        has requests of ours to answer, which may depend on that. A second call does nothing.

        `patient`: if it is not known yet what the peer understands, its first packets are waited for, which tell,
        and are served as usual: a request that crosses our EOF would have no answer. A second call ends that.
        """
        if self._winding_down or self._ends_when_drained:
            return
        control = self.control
        is_open = self.theirs is _OPEN and self._may_answer
        self._ends_when_known = patient and is_open and control is not None and not control.capabilities.is_known
        if self._ends_when_known:
            return
        if control is not None and control.capabilities.have(Feature.DRAIN) and self.drained is None and is_open:
            self._ends_when_drained = True
            control.send(self, DRAIN, self._drain_payload(milliseconds, "the server stops"), None)
        else:
            self._begin_no_more()

    def _begin_no_more(self) -> None:
        self._winding_down = True
        self._end_when_all_is_done()

    def peer_is_known(self) -> None:
        """It has become known what the peer understands."""
        if self._ends_when_known:
            self.wind_down()

    def has_drained(self, ok: bool) -> None:
        """The peer knows that it shall ask no more, or does not want to know it."""
        if ok:
            self.drained = DRAINING
        if self._ends_when_drained:
            self._begin_no_more()

    def abandon(self, text: str) -> None:
        """Answer every request of the peer that still waits "not ok", with `text`."""
        payload = self._fitting(text.encode("utf-8", errors="replace"))
        self._answer_not_begun()
        for key in list(self._inbound):
            channel, tag = key if isinstance(key, tuple) else (0, key)
            self.respond(channel, tag, False, 0, payload)

    def data_to_send(self) -> list[bytes]:
        """Take what is to be written, in order; report it by `data_sent`."""
        # first this: whoever sends bulk has sent what that belongs to before, so that it is in the batch
        lane = self.lane
        ready = () if lane is None else lane.ready_now()
        # in two steps: meanwhile others only append to it, or forget all as nothing can be sent any more
        batch = self.unsent[:]
        del self.unsent[: len(batch)]
        if self.control is not None and self.control.has_reported:
            batch = self._with_reports(batch)
        if lane is not None:
            return self._with_bulk(batch, lane, ready)
        if self.lane is not None:  # since just now; what tells that it has something may be in the batch
            self.unsent.append(b"")
            batch = [each for each in batch if each]
        self._batch_bytes = self.unsent_octets
        replies, refusals = self._unsent_replies, self._unsent_refusals
        if replies or refusals:
            self._batch_replies += replies
            self._batch_refusals += refusals
            self.replies_taken += replies
            self.refusals_taken += refusals
            self._unsent_replies -= replies
            self._unsent_refusals -= refusals
        if self.ours is not _OPEN:
            batch = self._ordered(batch)
        if self._needs_mark and batch:
            self._mark(batch)
        return batch

    def _with_bulk(self, batch: list[bytes], lane: Lane, ready: Collection[Sender]) -> list[bytes]:
        """The same, and some of what is sent in pieces."""
        batch = [each for each in batch if each]
        if self._erq_taken:
            self._fail_in_lane()
        if self.ours is not _OPEN:
            batch = self._ordered(batch)
        if self._eof_taken:  # nothing may follow
            self.unsent_octets += lane.more - lane.waiting
            lane.clear()
            if self.bodies is not None:
                self.bodies.end_requests(ConnectionEnded("this side has ended the connection (EOF)"))
        else:
            batch += lane.take_frames()
            batch += lane.take(sum(map(len, batch)), self._piece_size(lane), ready)  # type: ignore[arg-type]
            self.unsent_octets += lane.more
            lane.more = 0
            if lane.behind and not lane.requests:
                batch += self._leave_behind(lane)
            if self._eof_waits and lane.is_drained:
                self._eof_waits, self._eof_taken = False, True
                self.unsent_octets += len(_EOF_BYTES)
                batch.append(_EOF_BYTES)
        # whoever adds to the lane does that first, and counts it then
        self._batch_bytes = max(0, self.unsent_octets - lane.waiting)
        replies, refusals = max(0, self._unsent_replies - lane.replies), self._unsent_refusals
        self._batch_replies += replies
        self._batch_refusals += refusals
        self.replies_taken += replies
        self.refusals_taken += refusals
        self._unsent_replies -= replies
        self._unsent_refusals -= refusals
        if self._needs_mark and batch:
            self._mark(batch)
        if not lane.is_empty:
            self.unsent.append(b"")  # so that whoever writes finds that there is more
        return batch

    def _leave_behind(self, lane: Lane) -> list[bytes]:
        """Packets that had to wait for requests in pieces."""
        packets = []
        while lane.behind:
            packets.append(lane.behind.pop(0))
        return packets

    def _piece_size(self, lane: Lane) -> int:
        """Bytes of a piece: few, if something else is under way."""
        assert self.control is not None
        bulk = len(lane.requests) + (0 if self.bodies is None else self.bodies.exchanges)
        most = self.control.most_in_piece
        return min(SHORT_PIECE, most) if len(self.waiters) + len(self._inbound) > bulk else most

    def _fail_in_lane(self) -> None:
        """Requests that were about to be sent when this side ended its requests: they are not to leave."""
        assert self.lane is not None
        if _ERQ_BYTES in self.lane.behind:
            return  # they come before it
        for key in list(self.lane.requests):
            waiter = self.waiters.pop(key, None)
            if self._leave_lane(key) and waiter is not None:
                self.lost += 1
                waiter.fail(self.why_not())

    def take_back(self, key: Key) -> bool:
        """A request that is given up does not leave any more: it is answered here. False if it has left."""
        if not self._leave_lane(key):
            return False
        waiter = self.waiters.pop(key, None)
        if waiter is not None:
            self.given_up += 1
            self.deliver(waiter, False, status_flags(StatusCode.CANCELLED, begun=False), b"cancelled")
        return True

    def _leave_lane(self, key: Key) -> bool:
        """A request is not to leave; false if its packet has left, or was never large."""
        return self.lane is not None and self.lane.drop(key) is not None

    def _with_reports(self, batch: list[bytes]) -> list[bytes]:
        """The same, behind the reports that wait: they come before the response of their request."""
        assert self.control is not None
        frames = self.control.take_reports()
        size = sum(map(len, frames))
        self.unsent_octets += size
        return frames + [each for each in batch if each]

    def _mark(self, batch: list[bytes]) -> None:
        """Say before the first packet that HELLO is welcome; not of an end, behind which it is not."""
        self._needs_mark = False
        if batch[0] in (_ERQ_BYTES, _EOF_BYTES):
            return
        batch[0] = MARK + batch[0]
        self.unsent_octets += len(MARK)
        self._batch_bytes += len(MARK)

    def data_sent(self) -> None:
        """All that was taken is written, to its last byte."""
        sent, self._batch_bytes = self._batch_bytes, 0
        self.unsent_octets -= sent
        self._batch_replies = self._batch_refusals = 0

    def more_data_to_send(self) -> list[bytes]:
        """All that was taken is written: take what came meanwhile."""
        self.data_sent()
        return self.data_to_send() if self.unsent else []

    def _ordered(self, unsent: list[bytes]) -> list[bytes]:
        """Those of `unsent` that may leave once this side begins to end: no request behind ERQ, nothing behind EOF.

        A thread that was about to send one may have been overtaken by the thread that ended it.
        """
        ordered: list[bytes] = []
        pieces = iter(unsent)
        for piece in pieces:
            size, body = decode_varint(piece, 0, len(piece))
            packet = [piece] if body + size == len(piece) else [piece, next(pieces)]
            if self._eof_taken or (self._erq_taken and self._is_request(piece)):
                continue
            if piece in (_ERQ_BYTES, _EOF_BYTES):
                if not self._erq_taken:
                    self._erq_taken = True
                    waits = self.lane is not None and len(self.lane.requests) > 0
                    (self.lane.behind if self.lane is not None and waits else ordered).append(_ERQ_BYTES)
                if piece == _ERQ_BYTES:
                    continue
                if self.lane is not None and not self.lane.is_drained:
                    self._eof_waits = True
                    self.unsent_octets -= size + body  # counted when it leaves, as nobody could write it now
                    continue
                self._eof_taken = True
            ordered += packet
        return ordered

    def _is_request(self, piece: bytes) -> bool:
        """True if a packet that is not to leave is a request of ours; then its waiter is told."""
        _, body = decode_varint(piece, 0, len(piece))
        key, _, wire_rq_type, _ = decode_body(piece, body, len(piece))
        if wire_rq_type <= 0:
            return wire_rq_type == 0 and piece == _ERQ_BYTES
        if isinstance(key, tuple) and key[0] in (CONTROL_CHANNEL, FRAME_CHANNEL):
            return False
        waiter = self.waiters.pop(key, None)
        if waiter is not None:
            self.lost += 1
            waiter.fail(self.why_not())
        return True

    # bytes in, events out

    def receive(self, data: BytesLike, events: list[Event] | None = None) -> list[Event]:
        """Take what the stream delivered, return what happened.

        The events are appended to `events`, if that is given, one by one as they come about: so whoever
        interrupts this call finds the event of every response that is not outstanding any more.
        """
        if events is None:
            events = []
        if self.ended is not None:
            if self.ended.clean:
                self.decoder.feed(data)
            return events
        try:
            if self._negotiates and self.control is not None:
                self.control.hear(data)
            for packet in self.decoder.feed(data):
                key, flags, wire_rq_type, _ = packet
                if wire_rq_type >= 0:
                    whole = self._joined_request(packet) if self._unfinished else packet
                    if whole is not None and self._accept_request(whole, events):
                        events.append(_request_event(whole))
                elif key not in self.waiters:
                    self._receive_unexpected(packet, events)
                elif self.theirs is not _OPEN and not flags & 1 and self._is_given_up(packet):
                    pass  # the end of the stream says so, and knows why
                elif key in self._collected:
                    whole = self._joined_response(packet)
                    if whole is not None:
                        self._add_response(whole, events)
                else:
                    self._add_response(packet, events)
            if self._negotiates and self.control is not None:
                self._negotiates = self.control.say_hello(self)
            self._look_at_rest()
        except RemoteProtocolError as error:
            events.append(self._break(error, "the peer broke the protocol"))
        except LimitExceeded as error:
            events.append(self._break(error, "a limit was passed"))
        return events

    def receive_to(
        self, data: bytes, requests: Callable[[Fields], object], events: list[Event], placed: int = 0
    ) -> None:
        """As `receive`, but what is usual makes no events: responses go to their waiters at once.

        That is by `deliver`. `requests` is called with each request: its request type is the one on the
        wire, 1 above the API's. All else is appended to `events`. With `placed` no bytes are given: so
        many were written to the decoder's `place`.
        """
        if self.ended is not None:
            if self.ended.clean:
                self.decoder.feed(data)
            return
        waiters, inbound, deliver = self.waiters, self._inbound, self.deliver
        unfinished, collected = self._unfinished, self._collected
        serves = (
            self.accepts_requests
            and self.budget is None
            and self.drained is None
            and not self._winding_down
            and not unfinished
            and self.ours is not _ENDED
            and (self.bodies is None or not self.bodies.trailing)
        )
        waiter: object = None
        packets: Iterator[Fields] = iter(())
        try:
            if self._negotiates and self.control is not None:
                self.control.hear(data)
            packets = iter(self.decoder.placed(placed) if placed else self.decoder.feed(data))
            for packet in packets:
                key, flags, wire_rq_type, payload = packet
                if wire_rq_type < 0:
                    # kept before it is claimed: so whoever is interrupted here knows who must be told
                    waiter = waiters.get(key)
                    if self.theirs is not _OPEN or collected or waiters.pop(key, None) is None:
                        self._receive_unusual(packet, events)
                        serves = serves and not self._winding_down and self.drained is None
                    else:
                        deliver(waiter, flags & 1 == 1, flags >> 1, payload)
                    waiter = None
                elif (
                    serves
                    and wire_rq_type
                    and type(key) is int
                    and key not in inbound
                    and len(inbound) + self._unsent_replies + self._batch_replies < self.max_inbound
                    and self._inbound_bytes + len(payload) <= self.max_inbound_octets
                    and self.theirs is _OPEN
                ):  # what mostly is so; `_accept_request` looks at each
                    inbound[key] = size = len(payload)
                    self._inbound_bytes += size
                    requests(packet)
                else:
                    whole = self._joined_request(packet) if unfinished else packet
                    if whole is not None and self._accept_request(whole, events):
                        requests(whole)
                    serves = serves and not unfinished
            if self._negotiates and self.control is not None:
                self._negotiates = self.control.say_hello(self)
            if self.decoder.needed or self.decoder.fault is not None:
                self._look_at_rest()
            else:
                self.octets_wanted = 0
        except RemoteProtocolError as error:
            events.append(self._break(error, "the peer broke the protocol"))
        except LimitExceeded as error:
            events.append(self._break(error, "a limit was passed"))
        except BaseException as error:
            self._deliver_rest(waiter, packets, error)
            raise

    def _deliver_rest(self, waiter: Any, packets: Iterator[Fields], error: BaseException) -> None:
        """`receive_to` was interrupted: of what was decoded, responses are still delivered."""
        if waiter is not None:
            waiter.fail(ended_by(error, f"interrupted while reading: {error!r}"))
        for packet in packets:
            key, flags, wire_rq_type, payload = packet
            if wire_rq_type >= 0:
                if self.control is not None:
                    self.control.lose_piece(self, packet)
            elif key in self._collected:
                self._receive_unusual(packet, [])
            elif (waiter := self.waiters.pop(key, None)) is not None:
                waiter.set_response(flags & 1 == 1, flags >> 1, payload)

    def _receive_unusual(self, packet: Fields, events: list[Event]) -> None:
        """A response that nobody waits for, or that came behind the peer's ERQ."""
        key, flags, _, payload = packet
        if key not in self.waiters:
            self._receive_unexpected(packet, events)
        elif self.theirs is not _OPEN and not flags & 1 and self._is_given_up(packet):
            return
        elif key in self._collected:
            joined = self._joined_response(packet)
            if joined is not None and (waiter := self.waiters.pop(key, None)) is not None:
                self.deliver(waiter, flags & 1 == 1, flags >> 1, joined[3])
        else:
            waiter = self.waiters.pop(key, None)
            if waiter is not None:
                self.deliver(waiter, flags & 1 == 1, flags >> 1, payload)

    def _joined_request(self, packet: Fields) -> Fields | None:
        """A request with all of its payload; None if that was too much, so that it is refused."""
        key, flags, wire_rq_type, rest = packet
        collected = self.pieces.requests.pop(key, None) if wire_rq_type else None
        if collected is None:
            return packet
        if collected.problem:
            self._refuse(key, collected.problem)
            return None
        self._check_joined(key, collected, len(rest))
        return key, flags, wire_rq_type, self.pieces.join(collected, rest)

    def _joined_response(self, packet: Fields) -> Fields | None:
        """A response with all of its payload; None if that was too much, which its caller is told."""
        key, flags, wire_rq_type, rest = packet
        collected = self.pieces.responses.pop(key)
        if self.bodies is not None:
            self.bodies.end_call(key, ok=packet[1] & 1 == 1 and not collected.problem)
        if collected.problem:
            waiter = self.waiters.pop(key, None)
            if waiter is not None:
                waiter.fail(LimitExceeded(f"{collected.problem.decode()}: the response of {collected.size} bytes"))
            return None
        self._check_joined(key, collected, len(rest))
        return key, flags, wire_rq_type, self.pieces.join(collected, rest)

    def receive_piece(self, key: Key, piece: bytes, *, of_peer: bool) -> None:
        """A piece of a payload has come: of a request of the peer, or of a response."""
        pieces = self.pieces
        table = pieces.requests if of_peer else pieces.responses
        collected = table.get(key)
        if collected is None:
            if of_peer and len(table) >= MAX_UNFINISHED:
                raise refuse("too-many-unfinished", kind="PIECE", tag=tag_of(key), limit=MAX_UNFINISHED)
            collected = table[key] = Collected()
        pieces.add(collected, piece)
        self._check_joined(key, collected, 0)
        if pieces.held > self.max_inbound_octets:
            pieces.drop(collected, b"too much at once: payloads of %d bytes are arriving" % pieces.held)
        elif of_peer and self.budget is not None and self.budget.holds(self._inbound_bytes + pieces.held):
            pieces.drop(collected, TOO_MUCH_FOR_ALL)

    def _check_joined(self, key: Key, collected: Collected, more: int) -> None:
        size = collected.size + more
        if size > self.max_packet_size:
            problem = f"with it the payload has {size} bytes, the limit is {self.max_packet_size}"
            raise refuse("bad-frame", problem=problem, tag=tag_of(key))

    def _add_response(self, packet: Fields, events: list[Event]) -> None:
        """Add the event of a response, unless another thread gives its request up at this moment."""
        key, flags, _, payload = packet
        waiter = self.waiters.get(key, _NOBODY)
        if waiter is not _NOBODY:
            channel, tag = (0, key) if isinstance(key, int) else key
            # added before it is claimed: so whoever is interrupted here knows who must be told
            events.append(_new_event(ResponseReceived, (channel, tag, flags & 1 == 1, flags >> 1, payload, waiter)))
            if self.waiters.pop(key, _NOBODY) is not _NOBODY:
                return
            events.pop()
        self._receive_unexpected(packet, events)

    def _look_at_rest(self) -> None:
        """Behind the packets that are complete."""
        decoder = self.decoder
        if decoder.fault is not None:
            raise decoder.fault
        self.octets_wanted = 0
        if decoder.needed:
            self.octets_wanted = decoder.octets_wanted
            self._check_incomplete_packet()

    def receive_eof(self, cause: ConnectionEnded | None = None, *, gone: bool = False) -> list[Event]:
        """The stream is at its end. `cause`: what its owner knows about that, such as a dead child.

        That is the end of one direction: replies to the requests that were received are still sent, and EOF behind
        them, unless the peer is `gone`, or the cause says that it is. One that never sent a packet is sent none.
        """
        if self.ended is not None:
            return []
        failure = self.send_failure
        says_little = cause is None or isinstance(cause, PeerClosed | StreamTruncated)
        if says_little and isinstance(failure, OSError) and not isinstance(failure, ConnectionError):
            # the system tells an error once, here to who wrote, and then that there is nothing more to read
            cause = ended_by(failure, f"nothing can be sent any more: {failure}")
        truncated = self._truncation(cause)
        if self.half_close and truncated is None and _is_orderly(cause):
            events: list[Event] = [PeerEndedRequests()] if self.theirs is _OPEN else []
            events.append(
                self._end_theirs(PeerClosed("the peer ended the connection (end of the stream)"), clean=True)
            )
        else:
            unsaid = PeerClosed("the peer closed the stream without saying EOF" + self._said)
            cause = cause or truncated or unsaid
            has_spoken = self.decoder.octets_decoded > 0
            if gone or not has_spoken or not isinstance(cause, PeerClosed | StreamTruncated):
                return self.fail(cause)
            events = [self._end_theirs(cause, clean=False)]
        self.end()
        return events

    def _truncation(self, cause: ConnectionEnded | None) -> StreamTruncated | None:
        """The error if the stream ends now, inside a packet; a `cause` that is known is chained to it."""
        try:
            self.decoder.finish()
        except StreamTruncated as truncated:
            truncated.__traceback__ = None  # its frames hold the packet
            if cause is not None:
                truncated.__cause__ = cause.__cause__
                cause.__cause__ = truncated
            return truncated
        return None

    def tell_why(self, text: str) -> bool:
        """Tell a peer that has agreed on it why this end is about to end the connection; false for any other."""
        if self.control is None or not self._may_answer or not self.control.capabilities.have(Feature.DRAIN):
            return False
        self.control.send(self, DRAIN, self._drain_payload(0, text), None)
        return True

    def break_off(self, text: str) -> None:
        """End this direction now, for the reason `text`, which is told to a peer that understands it.

        Such a peer gets EOF, too, in place of what it is owed, so that it knows that no more comes.
        """
        if self.tell_why(text):
            self._drop_owed()
            if self.bodies is not None:  # behind that: a handler that this wakes is not to answer
                self.bodies.drop_all(ConnectionEnded(text))
        self.end()

    def _drop_owed(self) -> None:
        """No request of the peer is answered any more.

        All that is known of those that have come is kept until their handlers are through, as these may only begin.
        """
        for key, context in list(self.contexts.items()):
            context.is_dropped = context.is_dropped or key in self._inbound
        self.dropped += len(self._inbound)
        self._inbound.clear()
        self._not_begun.clear()
        self._inbound_bytes = 0

    def fail(self, cause: ConnectionEnded) -> list[Event]:
        """The stream broke, or is given up: nothing is received or sent any more."""
        self.send_failed(cause)
        if self.ended is not None:
            return []
        return [self._end_theirs(cause, clean=False)]

    def expect_end(self, cause: ConnectionEnded, now: float) -> None:
        """The stream should end by itself now; if it does not within `END_GRACE`, `tick` ends it.

        That is so when a write failed, or a child exited: the stream may say more about it. The cause that is known
        last counts.
        """
        self._expected = cause
        if self.deadline is None:
            self.deadline = now + END_GRACE

    def tick(self, now: float) -> list[Event]:
        """It is `now`: what comes of that."""
        if self.ended is not None or self._expected is None or self.deadline is None or now < self.deadline:
            return []
        return self.fail(self._expected)

    def send_failed(self, cause: BaseException) -> None:
        """Nothing can be written any more, though answers of the peer may still be received."""
        if self.send_failure is None:
            self.send_failure = cause
        self._drop_owed()
        if self.bodies is not None:
            reason = cause if isinstance(cause, ConnectionEnded) else self._cannot_send(cause)
            self.bodies.end_sending(reason)
        if self.control is not None:
            self.control.reports.clear()
        self.unsent.clear()
        self._eof_waits = False
        if self.lane is not None:
            self.lane.clear()
        self.unsent_octets = 0
        replies, refusals = self._unsent_replies, self._unsent_refusals
        self.replies_taken += replies
        self.refusals_taken += refusals
        self._unsent_replies = self._unsent_refusals = 0
        self._batch_bytes = self._batch_replies = self._batch_refusals = 0

    def _cannot_send(self, cause: BaseException) -> ConnectionEnded:
        return ended_by(cause, f"nothing can be sent any more: {cause}")

    def why_not(self) -> PacketwireError:
        """The exception for a request that `may_request` forbids; it was never sent."""
        if self.ended is not None:
            return never_sent(self.ended.cause.for_waiter())
        if self.send_failure is not None:
            return never_sent(self._cannot_send(self.send_failure))
        if self.barred is not None and self.ours is _OPEN:
            return copy_of(self.barred)
        return never_sent(ConnectionEnded("this side has ended its requests (ERQ), it cannot ask any more"))

    # inside

    @property
    def _may_answer(self) -> bool:
        return self.ours is not _ENDED and self.send_failure is None

    def _send(self, head: bytes, payload: bytes) -> None:
        packet = head + payload
        size = len(packet)
        # counted first: if it is taken in between, or an interruption comes, the next batch makes up for it
        self.unsent_octets += size
        self.unsent.append(packet)

    def _send_long(
        self, channel: int, tag: int, tail: bytes, payload: bytes, before: tuple[bytes, ...], *, is_request: bool
    ) -> None:
        """Send a request, with the frames that come `before` it, or a response: in pieces, if it is large."""
        size, lane = len(payload), self.lane
        in_pieces = self._goes_in_pieces(channel, size, is_request)
        if in_pieces and lane is None:
            lane = self._lane_now()
        if lane is None or not (in_pieces or (channel > 0 and lane.is_behind(channel))):
            head = packet_head(tag, tail, size)
            self.unsent_octets += sum(map(len, before)) + len(head) + size
            # in one step, so that no other thread's packet comes between
            self.unsent.extend((*before, head + payload) if size <= JOIN_LIMIT else (*before, head, payload))
            return
        if is_request and not channel:
            # it announces the request, as others will overtake that
            before = *before, encode_frame(FrameType.PIECE, channel, tag)
        self.unsent_octets += sum(map(len, before))
        self.unsent.extend(before)
        lane.add(Payload(channel, tag, tail, payload, is_request=is_request))
        self.unsent_octets += size
        self.unsent.append(b"")  # so that whoever writes finds that there is something

    def _goes_in_pieces(self, channel: int, size: int, is_request: bool) -> bool:
        if size <= PIECES_ABOVE or self.control is None or not self.control.capabilities.have(Feature.PIECES):
            return False
        lane = self.lane
        return lane is None or channel > 0 or not is_request or len(lane.requests) < MAX_ANNOUNCED

    @property
    def _most_sent(self) -> int:
        """Bytes of a packet behind its length field, at most."""
        return min(self.max_packet_size, self._peer_takes)

    def _size_of(self, head: bytes) -> int:
        size, _ = decode_varint(head, 0, len(head))  # the length field itself does not count
        return size

    def _check_size(self, head: bytes, payload: bytes) -> None:
        size, most = self._size_of(head), self._most_sent
        if size > most:
            whose = "the peer's " if most < self.max_packet_size else ""
            raise LocalProtocolError(
                f"a packet of {size} bytes, {len(payload)} of them payload, the others its tag, flags and type, "
                f"which count too, exceeds {whose}max_packet_size={most}"
            )

    @property
    def most_payload(self) -> int:
        """Bytes of a payload that any response can carry; with none it is as short as its request was."""
        return max(0, self._most_sent - MAX_HEAD_BYTES)

    def _fitting(self, text: bytes) -> bytes:
        """As much of `text` as any response can carry."""
        return text[: self.most_payload]

    def _accept_request(self, packet: Fields, events: list[Event]) -> bool:
        """True if a request is to be answered by its handler; else something else came of it."""
        key, _, wire_rq_type, payload = packet
        if not wire_rq_type:
            self._receive_special(packet, events)
            return False
        channel, tag = (0, key) if isinstance(key, int) else key
        if channel and self.control is not None and self.control.serves(key):
            self.control.receive(self, packet, events)
            return False
        size = len(payload)
        inbound = self._inbound
        if self.theirs is not _OPEN:
            self._refuse(key, REQUESTS_ENDED, StatusCode.NONE)
        elif self.drained is not None:
            self._refuse(key, self.drained, StatusCode.DRAINING)
        elif (channel or not self.accepts_requests) and not (self.observed or channel in self.channels):
            self._refuse(key, self.not_served(channel), StatusCode.UNKNOWN)
        elif key in inbound:
            self._refuse(key, b"tag %d is in use on channel %d" % (tag, channel), StatusCode.NONE)
        elif len(inbound) + self._unsent_replies + self._batch_replies >= self.max_inbound:
            self._refuse(key, b"too many requests: %d wait for their reply" % self.max_inbound)
        elif self._inbound_bytes + size > self.max_inbound_octets and inbound:
            self._refuse(key, b"too much to do: %d bytes wait for their reply" % self._inbound_bytes)
        elif self.bodies is not None and self.bodies.holds_back(self.max_inbound_octets):
            self._refuse(key, BODIES_UNTAKEN)
        elif self.budget is not None and self.budget.holds(self._inbound_bytes + size):
            self._refuse(key, TOO_MUCH_FOR_ALL)
        elif self.ours is not _ENDED:
            # also when nothing can be written any more: what the peer asked before it went is not lost
            inbound[key] = size
            self._inbound_bytes += size
            if not self._winding_down:
                return True
            self._put_off(key)
        else:
            self._close_context(key)  # it came behind our EOF
        return False

    def _receive_special(self, packet: Fields, events: list[Event]) -> None:
        if packet == EOF_FIELDS:
            # what is owed is still sent; with nothing owed, our own EOF follows at once
            # if it drains, what has no response came too late, from a thread that was about to ask
            kind = Drained if self.control is not None and self.control.leaves_nothing else PeerClosed
            cause = kind("the peer ended the connection (EOF)" + self._why())
            events.append(self._end_theirs(cause, clean=True))
            self.end()
        elif packet == ERQ_FIELDS:
            if self.theirs is _OPEN:
                events.append(PeerEndedRequests())
            theirs = self.theirs
            if theirs is not _ENDED:  # by another thread, at this moment
                self.theirs = TRANSITIONS[theirs, Act.ERQ]
        else:
            raise refuse("reserved-rq-type", packet=packet_of(packet))

    def _receive_unexpected(self, packet: Fields, events: list[Event]) -> None:
        """A response that nobody waits for: to a control request, late, or to a request that never was."""
        key = packet[0]
        if self.control is not None and self.control.take_response(self, packet, events):
            return
        if not self.was_used(key):
            channel, tag = (0, key) if isinstance(key, int) else key
            raise refuse("response-never-asked", bytes(packet_of(packet)), tag=tag, channel=channel)
        self.pieces.forget(key, of_peer=False)
        self.late_responses += 1

    def _is_given_up(self, packet: Fields) -> bool:
        """True if the peer, which has announced its end, answers only that it will not do this request."""
        key, flags, _, payload = packet
        if flags or payload not in ENDINGS:
            return False
        self._given_up[key] = payload
        return True

    def was_used(self, key: Key) -> bool:
        """A request of ours has, or had, this key."""
        channel, tag = (0, key) if isinstance(key, int) else key
        return FIRST_TAG <= tag < self._unused_tag(channel)

    def _check_incomplete_packet(self) -> None:
        """Refuse a packet by its head, before it is complete.

        Text that a login shell or a crash puts into the stream looks like a long packet, for which one
        could wait for ever; but in half of all cases its head reads as a response that was never asked for.
        """
        head = self.decoder.incomplete_head()
        if head is None:
            return
        key, _, wire_rq_type, _ = head
        if wire_rq_type < 0:
            if not self.was_used(key):
                channel, tag = (0, key) if isinstance(key, int) else key
                raise refuse("response-never-asked", self.decoder.partial, tag=tag, channel=channel)
        elif (
            wire_rq_type
            and not (self.control is not None and self.control.serves(key))
            and self.budget is not None
            and self.budget.holds(self._inbound_bytes + self.decoder.bytes_kept)
        ):
            self.decoder.skip()
            self._refuse(key, TOO_MUCH_FOR_ALL)

    def _refuse(self, key: Key, text: bytes, code: StatusCode = StatusCode.BUSY) -> None:
        if key not in self._inbound:  # else what is known belongs to the request that has its tag
            self._close_context(key)
            self.pieces.forget(key, of_peer=True)
        if not self._may_answer:
            return  # the peer learns by our EOF, or by the broken stream, that it gets no answer
        self._count_refusal()
        text = self._fitting(text)
        channel, tag = (0, key) if isinstance(key, int) else key
        flags = 0 if self.control is None else self.control.flags_of(code, begun=False)
        self._send(packet_head(tag, head_tail(channel, flags << 3, None), len(text)), text)

    def _count_refusal(self) -> None:
        refusals = self._unsent_refusals + self._batch_refusals
        if refusals >= self.max_refusals:
            raise LimitExceeded(f"{refusals} refused requests, and the peer does not read their answers")
        self._unsent_refusals += 1

    def _why(self) -> str:
        """Behind the text of the peer's end: what it said of requests that it gave up.

        All who wait are told the same, so that a request was not begun only if that is so for each of them.
        """
        said = self._said
        if not self._given_up:
            return said
        not_begun = all(self._given_up.get(key) == NOT_BEGUN for key in list(self.waiters))
        return f" with requests under way: {(NOT_BEGUN if not_begun else NOT_DONE).decode()}{said}"

    @property
    def _said(self) -> str:
        """The peer's last word on why it ends the connection, to be appended to a text."""
        return "" if self.control is None or not self.control.reason else f": {self.control.reason}"

    def _put_off(self, key: Key) -> None:
        """A request came that is not begun any more."""
        self._not_begun[key] = None
        if self.waiters or self._ending:
            self._answer_not_begun()

    def _answer_not_begun(self) -> None:
        if not self._not_begun:
            return
        text = self._fitting(NOT_BEGUN)
        not_begun, self._not_begun = self._not_begun, {}
        for key in not_begun:
            channel, tag = key if isinstance(key, tuple) else (0, key)
            self.respond(channel, tag, False, 0, text)

    def _end_when_all_is_done(self) -> None:
        if not self.owed:
            self.end()

    def _end_when_nothing_is_owed(self) -> None:
        ours = self.ours  # once, as above
        if ours is not _ENDED and self._may_answer and not self._inbound:
            self.ours = TRANSITIONS[ours, Act.EOF]
            self._send(_EOF_BYTES, b"")

    def _end_theirs(self, cause: ConnectionEnded, *, clean: bool) -> StreamEnded:
        self.theirs = _ENDED
        # said before the waiters are taken: whoever adds one afterwards finds this, and sees to it himself
        self.ended = StreamEnded(cause, (), clean)
        lost = []
        while self.waiters:
            try:
                lost.append(self.waiters.popitem()[1])
            except KeyError:  # another thread took the last
                break
        lost.reverse()
        self.lost += len(lost)
        self.pieces.clear()
        if self.bodies is not None:
            self.bodies.end_all(cause, self._refusal)
        for key, context in list(self.contexts.items()):
            if not (key in self._inbound or context.is_dropped):
                self._close_context(key)  # its request never comes
        for key in [] if self.lane is None else list(self.lane.requests):
            self._leave_lane(key)
        if self.control is not None:
            lost += self.control.take_waiters()
        if not clean:
            whole = self.decoder.octets_decoded
            self.decoder = PacketReader(self.max_packet_size)  # a packet that never was whole can be large
            self.decoder.octets_decoded = whole
        self.ended = StreamEnded(cause, tuple(lost), clean)
        return self.ended

    def _break(self, error: PacketwireError, what: str) -> StreamEnded:
        """End a connection with a peer that cannot be understood: it is told by EOF, and not heard again."""
        cause = ConnectionEnded(f"{what}: {error}")
        cause.__cause__ = error.with_traceback(None)  # its frames hold packets
        self._drop_owed()
        if self.bodies is not None:
            self.bodies.drop_all(cause)
        self.tell_why(f"{what}: {error}")
        self.end()
        return self._end_theirs(cause, clean=False)


def _is_orderly(cause: ConnectionEnded | None) -> bool:
    """True if a stream that ends for this cause was ended on purpose, as far as that can be known."""
    return (
        cause is None or isinstance(cause, PeerClosed) or (isinstance(cause, ChildExited) and cause.returncode == 0)
    )
