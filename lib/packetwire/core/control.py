"""The channels that the engine serves by itself: control requests, and frames.

Strategy: an ordinary request never comes here. The decisions are made in `capabilities`; this knows the packets.
The engine is an argument everywhere, as a reference to it would be a cycle, which keeps what a dropped connection
holds until the garbage collector comes.
"""

from __future__ import annotations

from typing import Any, Protocol

from packetwire.core.bodies import Bodies
from packetwire.core.capabilities import Capabilities
from packetwire.core.events import (
    CancelReceived,
    ControlAnswered,
    Event,
    PeerCapabilities,
    PeerDrains,
    ProgressReceived,
)
from packetwire.core.fields import FieldError
from packetwire.core.frames import (
    FRAME_CHANNEL,
    RULES,
    Frame,
    FrameType,
    decode_frame,
    decode_meta,
    decode_reason,
    encode_frame,
    encode_reason,
)
from packetwire.core.hello import (
    CONTROL_CHANNEL,
    DESCRIBE,
    DRAIN,
    HELLO,
    MAX_PING_SIZE,
    MAX_REASON,
    PING,
    Feature,
    decode_drain,
)
from packetwire.core.packet import FLAG_REQUEST, MAX_HEAD_BYTES, head_tail
from packetwire.core.packetcodec import Fields, Key
from packetwire.core.pieces import Collected, Pieces
from packetwire.core.refusals import refuse
from packetwire.core.requestcontext import RequestContext
from packetwire.core.state import Half
from packetwire.core.statuses import UNKNOWN_STATUS, Status, StatusCode, flags_of, status_of
from packetwire.core.varint import BytesLike
from packetwire.errors import Draining, PacketwireError

MAX_UNFINISHED = 1024
"""Requests that META announced and that have not come; they are counted now and then, so it may be twice that."""

MAX_UNSENT_DESCRIBING = 1 << 20
"""Bytes that may wait to be sent while this end still answers DESCRIBE."""

_NOBODY = object()
"""In place of a waiter, which may be None."""

_TAILS = {kind: head_tail(CONTROL_CHANNEL, FLAG_REQUEST, kind + 1) for kind in (HELLO, PING, DRAIN, DESCRIBE)}


class Engine(Protocol):
    """The rest of the engine: what control requests and frames need of it."""

    theirs: Half
    now: float
    barred: PacketwireError | None
    waiters: dict[Key, Any]
    unsent: list[bytes]
    unsent_octets: int
    pieces: Pieces

    @property
    def may_request(self) -> bool:
        """Nothing has ended yet."""
        ...

    @property
    def most_payload(self) -> int:
        """Bytes that the payload of a response may have."""
        ...

    def control_tag(self) -> int:
        """A tag for a control request."""
        ...

    def request_control(self, tag: int, tail: bytes, payload: bytes) -> None:
        """Send a control request."""
        ...

    def answer_control(self, tag: int, ok: bool, payload: bytes, *, behind_requests: bool = False) -> None:
        """Answer a control request, maybe not before all requests that were sent have left."""
        ...

    def send_frame(self, frame: bytes) -> bool:
        """Send a frame; false if nothing can be sent any more."""
        ...

    def limit_sent(self, max_packet_size: int) -> None:
        """The peer takes no larger packets."""
        ...

    def owes(self, channel: int, tag: int) -> bool:
        """A request of the peer waits for its answer."""
        ...

    def peer_is_known(self) -> None:
        """It has become known what the peer understands."""
        ...

    def has_drained(self, ok: bool) -> None:
        """The peer knows that it shall ask no more, or does not want to know it."""
        ...

    def check_frame(self, frame: bytes, payload: bytes) -> None:
        """Raise `LocalProtocolError` if a frame is larger than a packet may be."""
        ...

    def was_used(self, key: Key) -> bool:
        """A request of ours has, or had, this key."""
        ...

    def receive_piece(self, key: Key, piece: bytes, *, of_peer: bool) -> None:
        """A piece of a payload has come."""
        ...

    def take_back(self, key: Key) -> bool:
        """A request that is given up does not leave any more."""
        ...

    def announce_bodies(self, key: Key, context: RequestContext) -> None:
        """A request with bodies is to come."""
        ...

    def cancel_bodies(self, key: Key) -> None:
        """The peer gave a request up."""
        ...

    def give_up_bodies(self, key: Key) -> None:
        """This end gives a request up."""
        ...

    def bodies_now(self) -> Bodies:
        """All bodies."""
        ...


class Control:
    """Channels 1 and 2 of one connection, for one life of it."""

    def __init__(self, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self.contexts: dict[Key, RequestContext] = {}
        """The peer's requests, without a reply or still to come, of which it has said more than the request."""
        self.reports: dict[Key, bytes] = {}
        """Frames with the progress of the peer's requests that are to be sent."""
        self.has_reported = False
        """There was progress to send, ever."""
        self.reason = ""
        """The peer's last word on why it ends the connection."""
        self.cancelled = 0
        """The peer's requests that it gave up while they were under way."""
        self.leaves_nothing = False
        """The peer drains, so it ends only when all that it has begun is answered."""
        self._hello_key: Key | None = None  # of our HELLO, until it is answered
        self._asked: dict[Key, tuple[int, object]] = {}  # other control requests, until they are answered
        self._uncounted = 0  # META frames since the requests that have not come were counted

    def serves(self, key: Key) -> bool:
        """The request, or response, with this key is for `receive`, or `take_response`."""
        return isinstance(key, tuple) and key[0] in (CONTROL_CHANNEL, FRAME_CHANNEL)

    def hear(self, data: BytesLike) -> None:
        """Look for the mark in what the peer sends first."""
        if self.capabilities.listens:
            self.capabilities.hear(bytes(data[:2]))

    def say_hello(self, engine: Engine) -> bool:
        """Behind all that was received: ask the peer, if it welcomes that. Returns whether that may still come."""
        if self.capabilities.missing is not None:
            engine.peer_is_known()
        if engine.theirs is not Half.OPEN:
            return False
        if self.capabilities.wants_to_ask:
            self.ask(engine)
        return self.capabilities.is_open

    def ask(self, engine: Engine) -> None:
        """Say HELLO, unless that was done, or nothing can be asked any more."""
        if not engine.may_request:
            return
        payload = self.capabilities.ask()
        if payload is not None:
            tag = engine.control_tag()
            self._hello_key = CONTROL_CHANNEL, tag  # first this, as the answer may come at once
            engine.request_control(tag, _TAILS[HELLO], payload)
            self.capabilities.has_spoken = True  # only now: a frame of another thread must not leave before it

    def receive(self, engine: Engine, packet: Fields, events: list[Event]) -> None:
        """A control request, which is answered, or a frame, which is not.

        Raises `RemoteProtocolError` for a frame that is malformed, or not agreed.
        """
        key, flags, wire_rq_type, payload = packet
        assert isinstance(key, tuple)
        channel, tag = key
        rq_type = wire_rq_type - 1
        if channel == FRAME_CHANNEL:
            self._receive_frame(engine, decode_frame(tag, flags, rq_type, payload), events)
        elif rq_type == HELLO:
            is_news = self.capabilities.peer is None
            ok, answer = self.capabilities.answer(payload)
            engine.answer_control(tag, ok, answer)
            if ok:
                self.capabilities.has_spoken = True
                if is_news:
                    self._agree(engine, events)
        elif rq_type == PING and len(payload) <= MAX_PING_SIZE:
            engine.answer_control(tag, True, payload)
        elif rq_type == PING:
            engine.answer_control(tag, False, b"a PING of more than %d bytes" % MAX_PING_SIZE)
        elif rq_type == DRAIN:
            self._receive_drain(engine, tag, payload, events)
        elif rq_type == DESCRIBE:
            engine.answer_control(tag, *self._description(engine))
        else:
            engine.answer_control(tag, False, b"unknown control request %d" % rq_type)

    def _description(self, engine: Engine) -> tuple[bool, bytes]:
        """(ok, payload) of the answer to DESCRIBE."""
        description = self.capabilities.description
        if description is None:
            return False, b"this end does not describe itself"
        if engine.unsent_octets > MAX_UNSENT_DESCRIBING:  # else a few bytes could ask for many
            return False, b"too much to do: %d bytes wait to be sent" % engine.unsent_octets
        if len(description) > engine.most_payload:
            return False, b"its description has %d bytes, more than a packet may have" % len(description)
        return True, description

    def _receive_drain(self, engine: Engine, tag: int, payload: bytes, events: list[Event]) -> None:
        try:
            milliseconds, text = decode_drain(payload)
        except FieldError as error:
            engine.answer_control(tag, False, f"malformed DRAIN: {error}".encode())
            return
        self.reason = text
        self.leaves_nothing = milliseconds != 0
        if engine.barred is None:
            said = f": {text}" if text else ""
            engine.barred = Draining(f"the peer takes no more requests, this one was not sent{said}")
        engine.answer_control(tag, True, b"", behind_requests=True)
        events.append(PeerDrains(milliseconds, text))

    def send(self, engine: Engine, rq_type: int, payload: bytes, waiter: object) -> Key:
        """Send a control request, return its key; `waiter` is told of its answer, if it is not None."""
        tag = engine.control_tag()
        key = CONTROL_CHANNEL, tag
        self._asked[key] = rq_type, waiter  # first this, as the answer may come at once
        engine.request_control(tag, _TAILS[rq_type], payload)
        return key

    def forget(self, key: Key) -> bool:
        """Nobody waits for the answer to a control request any more; false if it came before, or the end did."""
        return self._asked.pop(key, None) is not None

    def take_waiters(self) -> list[Any]:
        """At the end: those who wait for an answer to a control request."""
        asked, self._asked = self._asked, {}
        return [waiter for _, waiter in asked.values() if waiter is not None]

    def take_response(self, engine: Engine, packet: Fields, events: list[Event]) -> bool:
        """False if it is no response to a control request that still waits for one."""
        if packet[0] != self._hello_key:
            return self._take_answer(engine, packet, events)
        self._hello_key = None
        if self.capabilities.take_answer(packet[1] & 1 == 1, packet[3]):
            self._agree(engine, events)
        elif self.capabilities.missing is not None:
            engine.peer_is_known()
        return True

    def _take_answer(self, engine: Engine, packet: Fields, events: list[Event]) -> bool:
        asked = self._asked.pop(packet[0], None)
        if asked is None:
            return False
        rq_type, waiter = asked
        if rq_type == DRAIN:
            engine.has_drained(packet[1] & 1 == 1)
        if waiter is not None:
            events.append(ControlAnswered(packet[1] & 1 == 1, packet[3], waiter))
        return True

    def _receive_frame(self, engine: Engine, frame: Frame, events: list[Event]) -> None:
        if self.capabilities.peer is None:
            raise refuse("frame-before-hello", tag=frame.tag)
        if not self.capabilities.have(RULES[frame.kind].feature):
            raise refuse("frame-not-agreed", kind=frame.kind.name, tag=frame.tag)
        key: Key = (frame.channel, frame.tag) if frame.channel else frame.tag
        if frame.kind is FrameType.META:
            self._receive_meta(engine, key, frame)
        elif frame.kind is FrameType.CANCEL:
            self._receive_cancel(engine, key, frame, events)
        elif frame.kind is FrameType.PROGRESS:
            waiter = engine.waiters.get(key, _NOBODY)
            if waiter is not _NOBODY:
                events.append(ProgressReceived(frame.channel, frame.tag, frame.payload, waiter))
            else:
                self._check_used(engine, key, frame)
        else:
            self._check_bulk(key, frame)
            if frame.kind is FrameType.PIECE:
                self._receive_piece(engine, key, frame)
            else:
                engine.bodies_now().receive(engine, key, frame)

    def _check_bulk(self, key: Key, frame: Frame) -> None:
        most = self.capabilities.own.max_piece
        if len(frame.payload) > most:
            problem = f"{len(frame.payload)} bytes in one {frame.kind.name}, the limit is {most}"
            raise refuse("bad-frame", problem=problem, tag=frame.tag)
        if self.serves(key):
            raise refuse("bad-frame", problem=f"{frame.kind.name} about channel {frame.channel}", tag=frame.tag)

    def _check_used(self, engine: Engine, key: Key, frame: Frame) -> None:
        """Refuse a frame about a request of this end that never was."""
        if not engine.was_used(key):
            raise refuse("response-never-asked", tag=frame.tag, channel=frame.channel)

    def _receive_piece(self, engine: Engine, key: Key, frame: Frame) -> None:
        if not frame.of_receiver:
            if engine.owes(frame.channel, frame.tag):
                raise refuse("bad-frame", problem="PIECE about a request that is whole", tag=frame.tag)
            engine.receive_piece(key, frame.payload, of_peer=True)
        elif key in engine.waiters:
            engine.receive_piece(key, frame.payload, of_peer=False)
        else:
            self._check_used(engine, key, frame)
            engine.pieces.forget(key, of_peer=False)  # its caller has given up

    def lose_piece(self, engine: Engine, packet: Fields) -> None:
        """A packet that was received is lost: if it is a piece, that payload is not whole."""
        key, flags, wire_rq_type, _ = packet
        if isinstance(key, tuple) and key[0] == FRAME_CHANNEL and wire_rq_type == FrameType.PIECE + 1:
            channel, tag = flags >> 1, key[1]
            table = engine.pieces.responses if flags & 1 else engine.pieces.requests
            collected = table.setdefault((channel, tag) if channel else tag, Collected())
            engine.pieces.drop(collected, b"interrupted while it was read")

    @property
    def most_in_piece(self) -> int:
        """Bytes of one piece that this end sends, at most."""
        own, peer = self.capabilities.own, self.capabilities.peer
        assert peer is not None
        most = min(own.max_packet_size, peer.max_packet_size) - MAX_HEAD_BYTES
        return max(1, min(own.max_piece, peer.max_piece, most))

    def _receive_meta(self, engine: Engine, key: Key, frame: Frame) -> None:
        meta = decode_meta(frame)
        if engine.owes(frame.channel, frame.tag):
            return  # it comes too late to mean anything
        self._uncounted += 1
        if self._uncounted >= MAX_UNFINISHED:
            self._uncounted = 0  # only now and then, as it takes long
            if self._unfinished(engine) >= MAX_UNFINISHED:
                raise refuse("too-many-unfinished", kind="META", tag=frame.tag, limit=MAX_UNFINISHED)
        context = self.contexts[key] = RequestContext(meta, engine.now)
        if (meta.has_body or meta.response_credit is not None) and self.capabilities.have(Feature.BODIES):
            engine.announce_bodies(key, context)

    def _unfinished(self, engine: Engine) -> int:
        """Requests of which the peer has said something, and that have not come."""
        contexts = list(self.contexts.items())
        return sum(not (each.is_dropped or engine.owes(*channel_and_tag(key))) for key, each in contexts)

    def _receive_cancel(self, engine: Engine, key: Key, frame: Frame, events: list[Event]) -> None:
        code, text = decode_reason(frame)
        if not engine.owes(frame.channel, frame.tag):
            # its answer has crossed the frame, or it has not come and never will
            self.contexts.pop(key, None)
            engine.pieces.forget(key, of_peer=True)
            engine.cancel_bodies(key)
            return
        context = self.contexts.setdefault(key, RequestContext())
        is_news = context.cancelled is None
        if is_news:
            context.cancelled = code, text  # first this: its handler, which the end of a body wakes, asks why
            self.cancelled += 1
        engine.cancel_bodies(key)
        if not engine.owes(frame.channel, frame.tag):
            self.contexts.pop(key, None)  # another thread has answered it just now
        elif is_news:
            events.append(CancelReceived(frame.channel, frame.tag, code, text))

    def report(self, engine: Engine, channel: int, tag: int, payload: bytes, now: float) -> bool:
        """Keep the progress of a request to be sent, unless the peer does not want it now.

        Raises `LocalProtocolError` if it is larger than a packet may be.
        """
        key: Key = (channel, tag) if channel else tag
        context = self.contexts.get(key)
        if (
            context is None
            or not self.capabilities.have(Feature.PROGRESS)
            or not engine.owes(channel, tag)
            or not context.may_report(now)
        ):
            return False
        frame = encode_frame(FrameType.PROGRESS, channel, tag, payload, of_receiver=True)
        engine.check_frame(frame, payload)
        self.has_reported = True
        self.reports[key] = frame
        engine.unsent.append(b"")  # so that whoever writes finds that there is something
        return True

    def take_reports(self) -> list[bytes]:
        """The frames of the progress that is to be sent, which is then forgotten."""
        frames = []
        while self.reports:
            try:
                frames.append(self.reports.popitem()[1])
            except KeyError:  # all were forgotten just now
                break
        return frames

    def cancel(self, engine: Engine, channel: int, tag: int, code: StatusCode, text: str) -> bool:
        """Tell the peer that a request of ours is given up; false if that cannot be told."""
        if not self.capabilities.have(Feature.CANCEL):
            return False
        key: Key = (channel, tag) if channel else tag
        engine.give_up_bodies(key)
        engine.take_back(key)
        reason = encode_reason(code, text[:MAX_REASON])
        return engine.send_frame(encode_frame(FrameType.CANCEL, channel, tag, reason))

    def status_of(self, flags: int) -> Status:
        """The status that the flags of a refusal of the peer stand for."""
        return status_of(flags) if self.capabilities.have(Feature.CANCEL) else UNKNOWN_STATUS

    def flags_of(self, code: StatusCode, *, begun: bool) -> int:
        """The application flags of a refusal: the peer's, if it knows them."""
        return flags_of(code, begun=begun) if self.capabilities.have(Feature.CANCEL) else 0

    def _agree(self, engine: Engine, events: list[Event]) -> None:
        peer = self.capabilities.peer
        assert peer is not None
        engine.limit_sent(peer.max_packet_size)
        mismatch = self.capabilities.mismatch()
        if mismatch is not None and engine.barred is None:
            engine.barred = mismatch
        events.append(PeerCapabilities(peer, self.capabilities.features))
        engine.peer_is_known()


def channel_and_tag(key: Key) -> tuple[int, int]:
    """The channel and the tag in a key."""
    return (0, key) if isinstance(key, int) else key
