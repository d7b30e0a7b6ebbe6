"""One connection without its stream: octets in, events out; calls in, octets out.

Strategy: the engine does no I/O, holds no lock and knows no time, so its owner calls it from one thread
at a time. Octets to send pile up inside until the owner takes a batch (`data_to_send`) and reports it as
written (`data_sent`), because a reply counts against the peer's allowance until it is written.

Each side numbers its own requests, per channel, upwards from 2, and keeps only those that wait for an
answer. A response below the next number that nobody waits for is late (its caller gave up) and is
dropped; so no history is kept.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from packetwire.core.budget import Budget
from packetwire.core.events import Event, PeerEndedRequests, RequestReceived, ResponseReceived, StreamEnded
from packetwire.core.packet import (
    EOF_PACKET,
    ERQ_PACKET,
    FLAG_REQUEST,
    MAX_HEAD_OCTETS,
    Packet,
    check_payload,
    check_uint,
    head_tail,
    packet_head,
)
from packetwire.core.packets import PacketDecoder
from packetwire.core.refusals import refuse
from packetwire.core.settings import DEFAULT_MAX_OUTSTANDING as DEFAULT_MAX_OUTSTANDING
from packetwire.core.settings import DEFAULT_MAX_PACKET_SIZE
from packetwire.core.state import TRANSITIONS, Act, Half
from packetwire.core.varint import MAX_UINT, MAX_VARINT_OCTETS, BytesLike, decode_varint
from packetwire.errors import (
    ChildExited,
    ConnectionEnded,
    LimitExceeded,
    LocalProtocolError,
    PacketwireError,
    PeerClosed,
    RemoteProtocolError,
    StreamTruncated,
    ended_by,
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

MAX_FIELDS = MAX_HEAD_OCTETS - MAX_VARINT_OCTETS
"""Octets of a packet that are neither its length field nor payload, at most; mostly there are 3 or 4."""

END_GRACE = 1.0
"""Seconds for the stream to end by itself, and so say why, after a write failed or a child exited."""

JOIN_LIMIT = 16384
"""Up to this size a payload is copied behind its head; above, both are sent as they are."""

MAX_TAILS = 256
"""Combinations of channel, flags and request type whose octets are kept."""

NO_HANDLER = b"no request handler"
REQUESTS_ENDED = b"requests no longer allowed"
TOO_MUCH_FOR_ALL = b"too much to do: all clients together wait for too many octets"
NOT_DONE = b"the connection was closed before this request was done"
NOT_BEGUN = b"the peer is ending the connection, this request was not begun"
ENDINGS = (NOT_DONE, NOT_BEGUN)
"""Texts by which an end that closes answers the requests that it will never do."""

_OK_TAIL = head_tail(0, 4, None)
"""The fields behind the tag of an "ok" response without flags, as most are."""

_new_event: Any = tuple.__new__
"""As the class itself, without its check of the arguments."""

_RequestKey = int | tuple[int, int]


def check_channel(channel: int) -> None:
    """Raise TypeError or `LocalProtocolError` unless requests may be sent on this channel."""
    check_uint("channel", channel)
    if 0 < channel < FIRST_CHANNEL:
        raise LocalProtocolError(f"channels 1 to {FIRST_CHANNEL - 1} are reserved, got {channel}")


def not_served(channel: int) -> bytes:
    """The text of the refusal of a request on a channel that nobody serves, though others are served."""
    if channel == 0:
        return NO_HANDLER
    if channel < FIRST_CHANNEL:
        return b"channels 1 to %d are reserved" % (FIRST_CHANNEL - 1)
    return b"channel %d is not served" % channel


class ConnectionEngine:
    """The protocol state of one connection.

    `accepts_requests`: whether there is anyone to answer the peer's requests on channel 0, and `channels`: which
    others are served, asked for each request (None: all that are not reserved, if `accepts_requests`). What nobody
    serves is refused, unless it is `observed`: then it is received all the same, and the owner refuses what no
    observer took, with `not_served`.
    `max_outstanding`: our requests without an answer. `max_inbound`, `max_inbound_octets`: the peer's
    requests, and the octets of their payloads, whose reply is not written yet; past either a request is
    refused with an answer. `max_refusals`: refusals that the peer has not taken; past it the connection
    ends. `max_packet_size`: octets of a packet after its length field, both ways: its fields
    and its payload, which can always have `MAX_FIELDS` fewer. `half_close`: the end of the
    stream between two packets says what ERQ and EOF say.
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
    ) -> None:
        self.accepts_requests = accepts_requests
        if channels is None:
            channels = range(FIRST_CHANNEL, MAX_UINT + 1) if accepts_requests else ()
        self.channels = channels
        self.observed = observed
        self.max_packet_size = max_packet_size
        self.max_outstanding = max_outstanding
        self.max_inbound = max_inbound
        self.max_inbound_octets = max_inbound_octets
        self.max_refusals = max_refusals
        self.half_close = half_close
        self.ours = Half.OPEN
        """Our direction."""
        self.theirs = Half.OPEN
        """The peer's direction; ENDED as well when its stream broke."""
        self.ended: StreamEnded | None = None
        """The event that ended the peer's direction."""
        self.send_failure: BaseException | None = None
        """Why nothing can be sent any more, unless that was by our own EOF."""
        self.late_responses = 0
        """Responses that came after their caller had given up."""
        self.unsent_octets = 0
        """Octets not yet reported as written."""
        self.octets_wanted = 0
        """The octets missing from the packet that is arriving, 0 if unknown: a hint for the next read."""
        self._decoder = PacketDecoder(max_packet_size)
        self._next_tags: dict[int, int] = {}
        self._request_tails: dict[tuple[int, int, int], bytes] = {}
        self.waiters: dict[_RequestKey, Any] = {}
        """Our requests that have no answer yet, and who waits for each."""
        self._inbound: dict[_RequestKey, int] = {}  # request not answered -> octets of its payload
        self._inbound_octets = 0
        self._unsent: list[bytes] = []
        self._unsent_replies = self._unsent_refusals = 0  # of these, in _unsent
        self._batch_octets = self._batch_replies = self._batch_refusals = 0  # taken and not reported yet
        self.budget: Budget | None = None
        """The bound for all connections of a server."""
        self._ending = False  # EOF follows as soon as every reply owed is on its way
        self._winding_down = False  # the same, with ERQ, as soon as nothing that was begun is left
        self._not_begun: dict[_RequestKey, None] = {}  # of _inbound, those that came since then
        self._given_up: dict[_RequestKey, bytes] = {}  # how the peer answered what it will never do

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
    def has_room(self) -> bool:
        """Whether one more request of ours fits within `max_outstanding`."""
        return len(self.waiters) < self.max_outstanding

    @property
    def may_request(self) -> bool:
        """Whether `request` can be called at all."""
        return self.ours is Half.OPEN and self.ended is None and self.send_failure is None

    @property
    def overdue(self) -> bytes:
        """The text of a refusal, if too much is unsent for another reply to be made; else empty."""
        if self.budget is not None and self.unsent_octets and self.budget.holds(self.owed_bytes):
            return TOO_MUCH_FOR_ALL
        if self.unsent_octets <= self.max_inbound_octets:
            return b""
        return b"too much to do: %d octets wait to be written" % self.unsent_octets

    @property
    def owed_bytes(self) -> int:
        """Bytes of requests without a reply, of what is not written, and of the packet that is arriving."""
        return self._inbound_octets + self.unsent_octets + self._decoder.bytes_kept

    def is_held(self, max_unsent: int, more: int = 0) -> bool:
        """Whether no handler is to be started: this connection, or all of its server, hold too much.

        `more` are bytes of replies that are on their way here.
        """
        unsent = self.unsent_octets + more
        # with nothing unsent a handler makes room: its request is done with, and the peer takes the reply
        if unsent and self.budget is not None and self.budget.holds(self.owed_bytes + more):
            return True
        return unsent > max_unsent

    def let_go(self) -> None:
        """The connection is closed: keep nothing of a packet that had begun, as it may be large."""
        self._decoder.drop()

    @property
    def waits_for_peer(self) -> bool:
        """Whether the peer has to take something, or to send the rest of something large."""
        return self.unsent_octets > 0 or self._decoder.bytes_kept > JOIN_LIMIT

    @property
    def is_settled(self) -> bool:
        """Whether neither end owes a response to the other, and all is written."""
        return not (self.waiters or self._inbound or self.unsent_octets)

    @property
    def octets_decoded(self) -> int:
        """The position in the peer's stream behind its last complete packet."""
        return self._decoder.octets_decoded

    @property
    def partial_octets(self) -> bytes:
        """The octets of the packet that is arriving."""
        return self._decoder.partial

    @property
    def trailing_octets(self) -> bytes:
        """What came behind the peer's EOF."""
        return self._decoder.trailing

    def not_served(self, channel: int) -> bytes:
        """The text of the refusal of a request on a channel that nobody serves."""
        return not_served(channel if self.accepts_requests or self.channels else 0)

    # calls in, octets out

    def request(
        self, rq_type: int, flags: int = 0, payload: BytesLike = b"", *, channel: int = 0, waiter: Any = None
    ) -> int:
        """Send a request, return its tag; its `ResponseReceived` or `StreamEnded` will carry `waiter`.

        Raises TypeError or `LocalProtocolError` for arguments that cannot be sent, `LimitExceeded` if
        `max_outstanding` are out, `ConnectionEnded` if nothing can be asked any more. Then nothing was
        sent.
        """
        if self.ours is not Half.OPEN or self.ended is not None or self.send_failure is not None:
            raise self.why_not()
        if len(self.waiters) >= self.max_outstanding:
            raise LimitExceeded(f"{self.max_outstanding} requests are without an answer: that is max_outstanding")
        try:
            tail = self._request_tails.get((channel, flags, rq_type))
        except TypeError:  # not hashable, and so no int
            tail = None
        if tail is None:
            tail = self._request_tail(channel, flags, rq_type)
        if type(payload) is not bytes:
            payload = check_payload(payload)
        tag = self._next_tags.get(channel, FIRST_TAG)
        head = packet_head(tag, tail, len(payload))
        if len(head) + len(payload) > self.max_packet_size:
            self._check_size(head, payload)
        self._next_tags[channel] = tag + 1
        self.waiters[(channel, tag) if channel else tag] = waiter
        self._send(head, payload)
        return tag

    def _request_tail(self, channel: int, flags: int, rq_type: int) -> bytes:
        """The fields behind the tag, which most requests have in common; checks the arguments."""
        check_uint("rq_type", rq_type, MAX_RQ_TYPE)
        check_uint("flags", flags, MAX_REQUEST_FLAGS)
        check_channel(channel)
        if len(self._request_tails) >= MAX_TAILS:
            self._request_tails.clear()
        tail = head_tail(channel, flags << 2 | FLAG_REQUEST, rq_type + 1)
        self._request_tails[channel, flags, rq_type] = tail
        return tail

    def forget(self, channel: int, tag: int) -> bool:
        """The waiter of a request gave up; false if it was answered or forgotten before."""
        key = tag if channel == 0 else (channel, tag)
        if key not in self.waiters:
            return False
        del self.waiters[key]
        return True

    def respond(self, channel: int, tag: int, ok: bool, flags: int = 0, payload: BytesLike = b"") -> bool:
        """Answer a request of the peer; false if it can no longer be sent.

        Raises TypeError or `LocalProtocolError` if the arguments cannot be sent, or if there is no such
        request, because it was answered before; then nothing was sent and the request still waits.
        """
        if type(flags) is not int or not 0 <= flags <= MAX_RESPONSE_FLAGS:
            check_uint("flags", flags, MAX_RESPONSE_FLAGS)
        if type(payload) is not bytes:
            payload = check_payload(payload)
        key = tag if channel == 0 else (channel, tag)
        if key not in self._inbound:
            if not self._may_answer:
                return False
            raise LocalProtocolError(f"no request with tag {tag} on channel {channel} waits for an answer")
        if self.send_failure is not None:
            self._inbound_octets -= self._inbound.pop(key)
            return False
        if ok and self.budget is not None and self.unsent_octets and self.budget.is_exhausted(self.owed_bytes):
            ok, flags, payload = False, 0, self._fitting(TOO_MUCH_FOR_ALL)
        usual = ok and not flags and not channel
        tail = _OK_TAIL if usual else head_tail(channel, flags << 3 | (4 if ok else 0), None)
        head = packet_head(tag, tail, len(payload))
        if len(head) + len(payload) > self.max_packet_size:
            self._check_size(head, payload)
        self._inbound_octets -= self._inbound.pop(key)
        self._unsent_replies += 1
        self._send(head, payload)
        if self._ending:
            self._end_when_nothing_is_owed()
        elif self._winding_down:
            self._end_when_all_is_done()
        return True

    def respond_failure(self, channel: int, tag: int, text: bytes) -> bool:
        """Answer "not ok" with as much of `text` as fits into a packet; otherwise as `respond`."""
        return self.respond(channel, tag, False, 0, self._fitting(text))

    def end_requests(self) -> None:
        """Send ERQ: no more requests of ours. A second call does nothing."""
        if self.ours is Half.OPEN and self.send_failure is None:
            self.ours = TRANSITIONS[self.ours, Act.ERQ]
            self._send(bytes(ERQ_PACKET), b"")

    def end(self) -> None:
        """Send ERQ now and EOF behind the last reply that is owed. A second call does nothing."""
        self._ending = True
        self.end_requests()
        self._answer_not_begun()
        self._end_when_nothing_is_owed()

    def wind_down(self) -> None:
        """Begin no more requests of the peer, but let what was begun finish, with requests of ours; then `end`.

        A request that comes meanwhile is answered in the end that it was not begun, or at once while the peer has
        requests of ours to answer, which may depend on that. A second call does nothing.
        """
        if not self._winding_down:
            self._winding_down = True
            self._end_when_all_is_done()

    def abandon(self, text: str) -> None:
        """Answer every request of the peer that still waits "not ok", with `text`."""
        payload = self._fitting(text.encode("utf-8", errors="replace"))
        self._answer_not_begun()
        for key in list(self._inbound):
            channel, tag = key if isinstance(key, tuple) else (0, key)
            self.respond(channel, tag, False, 0, payload)

    def data_to_send(self) -> list[bytes]:
        """Take what is to be written, in order; report it by `data_sent`."""
        unsent, self._unsent = self._unsent, []
        self._batch_octets = self.unsent_octets
        if self._unsent_replies or self._unsent_refusals:
            self._batch_replies += self._unsent_replies
            self._batch_refusals += self._unsent_refusals
            self._unsent_replies = self._unsent_refusals = 0
        return unsent

    def data_sent(self) -> None:
        """All that was taken is written, to its last octet."""
        self.unsent_octets -= self._batch_octets
        self._batch_octets = self._batch_replies = self._batch_refusals = 0

    def more_data_to_send(self) -> list[bytes]:
        """All that was taken is written: take what came meanwhile."""
        self.unsent_octets -= self._batch_octets
        self._batch_octets = self._batch_replies = self._batch_refusals = 0
        return self.data_to_send() if self._unsent else []

    # octets in, events out

    def receive(self, octets: BytesLike, events: list[Event] | None = None) -> list[Event]:
        """Take what the stream delivered, return what happened.

        The events are appended to `events`, if that is given, one by one as they come about: so whoever
        interrupts this call finds the event of every response that is not outstanding any more.
        """
        if events is None:
            events = []
        if self.ended is not None:
            if self.ended.clean:
                self._decoder.feed(octets)
            return events
        decoder = self._decoder
        outstanding = self.waiters
        try:
            for packet in decoder.feed(octets):
                is_request, channel, tag, flags, _, payload = packet
                if is_request:
                    self._receive_request(packet, events)
                    continue
                key = (channel, tag) if channel else tag
                if key in outstanding:
                    if self.theirs is not Half.OPEN and not flags & 1 and self._is_given_up(packet):
                        continue  # the end of the stream says so, and knows why
                    events.append(
                        _new_event(
                            ResponseReceived,
                            (channel, tag, flags & 1 == 1, flags >> 1, payload, outstanding[key]),
                        )
                    )
                    del outstanding[key]
                else:
                    self._receive_unexpected(packet)
            if decoder.fault is not None:
                raise decoder.fault
            self.octets_wanted = 0
            if decoder.needed:
                self.octets_wanted = decoder.octets_wanted
                self._check_incomplete_packet()
        except RemoteProtocolError as error:
            events.append(self._break(error, "the peer broke the protocol"))
        except LimitExceeded as error:
            events.append(self._break(error, "a limit was passed"))
        return events

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
            events: list[Event] = [PeerEndedRequests()] if self.theirs is Half.OPEN else []
            events.append(
                self._end_theirs(PeerClosed("the peer ended the connection (end of the stream)"), clean=True)
            )
        else:
            cause = cause or truncated or PeerClosed("the peer closed the stream without saying EOF")
            has_spoken = self._decoder.octets_decoded > 0
            if gone or not has_spoken or not isinstance(cause, PeerClosed | StreamTruncated):
                return self.fail(cause)
            events = [self._end_theirs(cause, clean=False)]
        self.end()
        return events

    def _truncation(self, cause: ConnectionEnded | None) -> StreamTruncated | None:
        """What is wrong if the stream ends now, inside a packet; a `cause` that is known is chained to it."""
        try:
            self._decoder.finish()
        except StreamTruncated as truncated:
            truncated.__traceback__ = None  # its frames hold the packet
            if cause is not None:
                truncated.__cause__ = cause.__cause__
                cause.__cause__ = truncated
            return truncated
        return None

    def fail(self, cause: ConnectionEnded) -> list[Event]:
        """The stream broke, or is given up: nothing is received or sent any more."""
        self.send_failed(cause)
        if self.ended is not None:
            return []
        return [self._end_theirs(cause, clean=False)]

    def send_failed(self, cause: BaseException) -> None:
        """Nothing can be written any more, though answers of the peer may still be received."""
        if self.send_failure is None:
            self.send_failure = cause
        self._inbound.clear()
        self._not_begun.clear()
        self._inbound_octets = 0
        self._unsent.clear()
        self.unsent_octets = 0
        self._unsent_replies = self._unsent_refusals = 0
        self._batch_octets = self._batch_replies = self._batch_refusals = 0

    def why_not(self) -> PacketwireError:
        """The exception for a request that `may_request` forbids."""
        if self.ended is not None:
            return self.ended.cause.for_waiter()
        if self.send_failure is not None:
            return ended_by(self.send_failure, f"nothing can be sent any more: {self.send_failure}")
        return ConnectionEnded("this side has ended its requests (ERQ), it cannot ask any more")

    # inside

    @property
    def _may_answer(self) -> bool:
        return self.ours is not Half.ENDED and self.send_failure is None

    def _send(self, head: bytes, payload: bytes) -> None:
        size = len(payload)
        if size <= JOIN_LIMIT:
            self._unsent.append(head + payload)
        else:
            self._unsent += head, payload
        self.unsent_octets += len(head) + size

    def _check_size(self, head: bytes, payload: bytes) -> None:
        size, _ = decode_varint(head, 0, len(head))  # the length field itself does not count
        if size > self.max_packet_size:
            raise LocalProtocolError(
                f"a packet of {size} octets, {len(payload)} of them payload, the others its tag, flags and type, "
                f"which count too, exceeds max_packet_size={self.max_packet_size}"
            )

    def _fitting(self, text: bytes) -> bytes:
        """As much of `text` as any response can carry; with none it is as short as its request was."""
        return text[: max(0, self.max_packet_size - MAX_HEAD_OCTETS)]

    def _receive_request(self, packet: Packet, events: list[Event]) -> None:
        _, channel, tag, flags, wire_rq_type, payload = packet
        if not wire_rq_type:
            self._receive_special(packet, events)
            return
        key = (channel, tag) if channel else tag
        inbound = self._inbound
        if self.theirs is not Half.OPEN:
            self._refuse(packet, REQUESTS_ENDED)
        elif (channel or not self.accepts_requests) and not (self.observed or channel in self.channels):
            self._refuse(packet, self.not_served(channel))
        elif key in inbound:
            self._refuse(packet, b"tag %d is in use on channel %d" % (tag, channel))
        elif len(inbound) + self._unsent_replies + self._batch_replies >= self.max_inbound:
            self._refuse(packet, b"too many requests: %d wait for their reply" % self.max_inbound)
        elif self._inbound_octets + len(payload) > self.max_inbound_octets and inbound:
            self._refuse(packet, b"too much to do: %d octets wait for their reply" % self._inbound_octets)
        elif self.budget is not None and self.budget.holds(self._inbound_octets + len(payload)):
            self._refuse(packet, TOO_MUCH_FOR_ALL)
        elif self.ours is not Half.ENDED:
            # also when nothing can be written any more: what the peer asked before it went is not lost
            inbound[key] = len(payload)
            self._inbound_octets += len(payload)
            if self._winding_down:
                self._put_off(key)
                return
            events.append(_new_event(RequestReceived, (channel, tag, wire_rq_type - 1, flags, payload)))

    def _receive_special(self, packet: Packet, events: list[Event]) -> None:
        if packet == EOF_PACKET:
            # what is owed is still sent; with nothing owed, our own EOF follows at once
            events.append(
                self._end_theirs(PeerClosed("the peer ended the connection (EOF)" + self._why()), clean=True)
            )
            self.end()
        elif packet == ERQ_PACKET:
            if self.theirs is Half.OPEN:
                events.append(PeerEndedRequests())
            self.theirs = TRANSITIONS[self.theirs, Act.ERQ]
        else:
            raise refuse("reserved-rq-type", packet=packet)

    def _receive_unexpected(self, packet: Packet) -> None:
        """A response that nobody waits for: late, or to a request that never was."""
        if not self._was_used(packet.channel, packet.tag):
            raise refuse("response-never-asked", bytes(packet), tag=packet.tag, channel=packet.channel)
        self.late_responses += 1

    def _is_given_up(self, packet: Packet) -> bool:
        """Whether the peer, which has announced its end, answers only that it will not do this request."""
        if packet.flags or packet.payload not in ENDINGS:
            return False
        self._given_up[packet.tag if packet.channel == 0 else (packet.channel, packet.tag)] = packet.payload
        return True

    def _was_used(self, channel: int, tag: int) -> bool:
        return FIRST_TAG <= tag < self._next_tags.get(channel, FIRST_TAG)

    def _check_incomplete_packet(self) -> None:
        """Refuse a packet by its head, before it is complete.

        Text that a login shell or a crash puts into the stream looks like a long packet, for which one
        could wait for ever; but in half of all cases its head reads as a response that was never asked for.
        """
        head = self._decoder.incomplete_head()
        if head is not None and not head.is_request and not self._was_used(head.channel, head.tag):
            quoted = self._decoder.partial
            raise refuse("response-never-asked", quoted, tag=head.tag, channel=head.channel)
        if (
            self.budget is not None
            and head is not None
            and head.is_request
            and head.rq_type
            and self.budget.holds(self._inbound_octets + self._decoder.bytes_kept)
        ):
            self._decoder.skip()
            self._refuse(head, TOO_MUCH_FOR_ALL)

    def _refuse(self, packet: Packet, text: bytes) -> None:
        if not self._may_answer:
            return  # the peer learns by our EOF, or by the broken stream, that it gets no answer
        refusals = self._unsent_refusals + self._batch_refusals
        if refusals >= self.max_refusals:
            raise LimitExceeded(f"{refusals} refused requests, and the peer does not read their answers")
        self._unsent_refusals += 1
        text = self._fitting(text)
        self._send(packet_head(packet.tag, head_tail(packet.channel, 0, None), len(text)), text)

    def _why(self) -> str:
        """Behind the text of the peer's end: what it said of requests that it gave up.

        All who wait are told the same, so that a request was not begun only if that is so for each of them.
        """
        if not self._given_up:
            return ""
        not_begun = all(self._given_up.get(key) == NOT_BEGUN for key in self.waiters)
        return f" with requests under way: {(NOT_BEGUN if not_begun else NOT_DONE).decode()}"

    def _put_off(self, key: _RequestKey) -> None:
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
        if self._may_answer and not self._inbound:
            self.ours = TRANSITIONS[self.ours, Act.EOF]
            self._send(bytes(EOF_PACKET), b"")

    def _end_theirs(self, cause: ConnectionEnded, *, clean: bool) -> StreamEnded:
        self.theirs = Half.ENDED
        lost = tuple(self.waiters.values())
        self.waiters.clear()
        if not clean:
            self._decoder = PacketDecoder(self.max_packet_size)  # a packet that never was whole can be large
        self.ended = StreamEnded(cause, lost, clean)
        return self.ended

    def _break(self, error: PacketwireError, what: str) -> StreamEnded:
        """End a connection with a peer that cannot be understood: it is told by EOF, and not heard again."""
        cause = ConnectionEnded(f"{what}: {error}")
        cause.__cause__ = error.with_traceback(None)  # its frames hold packets
        self._inbound.clear()
        self._not_begun.clear()
        self._inbound_octets = 0
        self.end()
        return self._end_theirs(cause, clean=False)


def _is_orderly(cause: ConnectionEnded | None) -> bool:
    """Whether a stream that ends for this cause was ended on purpose, as far as that can be known."""
    return (
        cause is None or isinstance(cause, PeerClosed) or (isinstance(cause, ChildExited) and cause.returncode == 0)
    )
