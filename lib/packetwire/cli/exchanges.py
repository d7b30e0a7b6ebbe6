"""Requests of a capture that are more than two packets: payloads in pieces are joined, bodies followed.

Strategy: what `Conversations` has seen goes through here. A frame about pieces or bodies is taken out, and what it
says comes out in its place. Other frames stay as they are, and so does all that came before an end said HELLO: it
may be anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from packetwire.capture import Kind
from packetwire.cli.conversation import MAX_HELD, MAX_WAITING, OPPOSITE, Note, Seen
from packetwire.cli.failure import EXIT_FAILED, CommandFailed
from packetwire.core.frames import FRAME_CHANNEL, Frame, FrameType, decode_frame, decode_meta, decode_reason
from packetwire.core.hello import CONTROL_CHANNEL, HELLO
from packetwire.core.pieces import Collected, Pieces
from packetwire.errors import RemoteProtocolError

WHOLE, STOPPED, CUT_OFF = "whole", "STOP", "cut off"
"""How a body has ended."""


@dataclass(slots=True, eq=False)
class Body:
    """A body in a capture."""

    number: int
    """From 1, in the order in which they begin in the file."""
    connection: int
    direction: Kind
    """The way its bytes go."""
    channel: int
    tag: int
    rq_type: int | None
    """Channel, tag and type are those of its request."""
    of_response: bool
    began: int
    size: int = 0
    ended: int = 0
    end: str = ""
    """WHOLE, STOPPED or CUT_OFF; empty while it goes on."""
    reason: str = ""
    """More about that."""


class BodyBytes(NamedTuple):
    """Some bytes of a body."""

    body: Body
    data: bytes


class BodyOver(NamedTuple):
    """Nothing more comes of a body."""

    body: Body


Happening: TypeAlias = "Seen | Note | BodyBytes | BodyOver"


class _Counted(Collected):
    __slots__ = ("count",)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0


@dataclass(slots=True)
class _Exchange:
    """A request that has a body, or takes one: as far as it has begun, and may still come."""

    sends: bool
    takes: bool
    rq_type: int | None = None
    request: Body | None = None
    response: Body | None = None


@dataclass(slots=True)
class _Agreed:
    """A connection of which an end has said HELLO."""

    exchanges: dict[tuple[Kind, int, int], _Exchange] = field(default_factory=dict)
    """By whose request it is, its channel and its tag."""
    pieces: dict[Kind, Pieces] = field(default_factory=lambda: {kind: Pieces() for kind in OPPOSITE})
    """By the way they go."""
    in_pieces: int = 0
    """Payloads of which pieces have come, but not the packet."""


class Exchanges:
    """Packets and notes in, the same with whole payloads and bodies out. Raises `CommandFailed` beyond a bound."""

    def __init__(self) -> None:
        self.bodies = 0
        """How many there were."""
        self.frames = dict.fromkeys(OPPOSITE, 0)
        """Those that were taken out."""
        self._connections: dict[int, _Agreed] = {}
        self._held = 0
        self._open = 0

    def have_agreed(self, connection: int) -> bool:
        """Some end has said HELLO, so channel 2 has frames."""
        return connection in self._connections

    def has_body(self, seen: Seen) -> bool:
        """True for a request that has a body, or takes one."""
        return self._find(seen.connection, seen.direction, seen.packet.channel, seen.packet.tag) is not None

    def add(self, happening: Seen | Note) -> Iterable[Happening]:
        """The happenings that this one makes."""
        agreed = self._connections.get(happening.connection)
        if isinstance(happening, Note):
            if agreed is None or happening.sign not in "+-":
                return (happening,)
            return self._leave(happening)
        packet = happening.packet
        if agreed is None:
            if packet.is_request and packet.channel == CONTROL_CHANNEL and happening.rq_type == HELLO:
                self._connections[happening.connection] = _Agreed()
            return (happening,)
        if not packet.is_request or packet.channel != FRAME_CHANNEL or happening.is_special:
            if not agreed.exchanges and not agreed.in_pieces:
                return (happening,)  # as most are
            return self._asked(agreed, happening) if packet.is_request else self._answered(agreed, happening)
        try:
            frame = decode_frame(packet.tag, packet.flags, happening.rq_type or 0, packet.payload)
            return list(self._frame(agreed, happening, frame))
        except RemoteProtocolError:
            return (happening._replace(is_frame=True),)

    def finish(self, when: int) -> Iterator[BodyOver]:
        """The bodies that are not over at the end of the file."""
        for agreed in self._connections.values():
            for exchange in agreed.exchanges.values():
                yield from _over(exchange, when, CUT_OFF, "FILE ends")

    def _find(self, connection: int, asker: Kind, channel: int, tag: int) -> _Exchange | None:
        agreed = self._connections.get(connection)
        return None if agreed is None else agreed.exchanges.get((asker, channel, tag))

    def _leave(self, note: Note) -> Iterator[Happening]:
        """A connection is over, or another one begins with its number."""
        agreed = self._connections.pop(note.connection)
        for exchange in agreed.exchanges.values():
            yield from _over(exchange, note.time, CUT_OFF, "the connection ended")
        self._open -= len(agreed.exchanges)
        self._held -= sum(pieces.held for pieces in agreed.pieces.values())
        yield note

    # packets

    def _asked(self, agreed: _Agreed, seen: Seen) -> Iterator[Happening]:
        packet = seen.packet
        exchange = agreed.exchanges.get((seen.direction, packet.channel, packet.tag))
        if exchange is not None:
            exchange.rq_type = seen.rq_type
        yield self._joined(agreed, seen, seen.direction)

    def _answered(self, agreed: _Agreed, seen: Seen) -> Iterator[Happening]:
        packet = seen.packet
        exchange = agreed.exchanges.pop((OPPOSITE[seen.direction], packet.channel, packet.tag), None)
        if exchange is not None:
            self._open -= 1
            is_ok = bool(packet.flags & 1)
            if exchange.request is not None:
                yield from _end(exchange.request, seen.time, CUT_OFF, "the response came first")
            if exchange.response is not None:
                end, reason = (WHOLE, "") if is_ok else (CUT_OFF, "the response is not ok")
                yield from _end(exchange.response, seen.time, end, reason)
        yield self._joined(agreed, seen, seen.direction)

    def _joined(self, agreed: _Agreed, seen: Seen, direction: Kind) -> Seen:
        """The packet, with all of its payload."""
        pieces, packet = agreed.pieces[direction], seen.packet
        found = pieces.requests if packet.is_request else pieces.responses
        collected = found.pop((packet.channel, packet.tag), None)
        if not isinstance(collected, _Counted):
            return seen
        self._held -= collected.size
        agreed.in_pieces -= 1
        payload = pieces.join(collected, packet.payload)
        return seen._replace(packet=packet._replace(payload=payload), pieces=collected.count)

    # frames

    def _frame(self, agreed: _Agreed, seen: Seen, frame: Frame) -> Iterator[Happening]:
        asker = OPPOSITE[seen.direction] if frame.of_receiver else seen.direction
        exchange = agreed.exchanges.get((asker, frame.channel, frame.tag))
        if frame.kind is FrameType.META:
            self._announced(agreed, seen, frame)
        elif frame.kind is FrameType.CANCEL:
            yield from self._cancelled(agreed, seen, frame, exchange)
        elif frame.kind is FrameType.STOP and exchange is not None:
            yield from self._stopped(exchange, seen, frame)
            return
        if frame.kind not in _TAKEN_OUT:
            yield seen._replace(is_frame=True)
            return
        self.frames[seen.direction] += 1
        if frame.kind is FrameType.PIECE:
            self._collect(agreed, seen, frame)
        elif exchange is not None and (body := self._body(exchange, seen, frame)) is not None:
            if frame.kind is FrameType.DATA:
                body.size += len(frame.payload)
                yield BodyBytes(body, frame.payload)
            elif frame.kind is FrameType.END:
                yield from _end(body, seen.time, WHOLE, "")

    def _announced(self, agreed: _Agreed, seen: Seen, frame: Frame) -> None:
        meta = decode_meta(frame)
        if not meta.has_body and meta.response_credit is None:
            return
        key = seen.direction, frame.channel, frame.tag
        exchange = _Exchange(meta.has_body, meta.response_credit is not None)
        self._open += key not in agreed.exchanges
        agreed.exchanges[key] = exchange
        if self._open > MAX_WAITING:
            raise CommandFailed(f"more than {MAX_WAITING} requests with bodies at the same time", EXIT_FAILED)

    def _cancelled(
        self, agreed: _Agreed, seen: Seen, frame: Frame, exchange: _Exchange | None
    ) -> Iterator[BodyOver]:
        if exchange is not None:
            yield from _over(exchange, seen.time, CUT_OFF, "CANCEL")
        pieces, key = agreed.pieces[seen.direction], (frame.channel, frame.tag)
        if key in pieces.requests:  # its packet will not come, and no response
            self._held -= pieces.requests[key].size
            agreed.in_pieces -= 1
            pieces.forget(key, of_peer=True)
            self._open -= agreed.exchanges.pop((seen.direction, *key), None) is not None

    def _body(self, exchange: _Exchange, seen: Seen, frame: Frame) -> Body | None:
        """The body that DATA or END is about; None if that crossed a STOP, or makes no sense."""
        if frame.kind is FrameType.CREDIT:
            return None
        body = exchange.response if frame.of_receiver else exchange.request
        if body is None and (exchange.takes if frame.of_receiver else exchange.sends):
            self.bodies += 1
            body = Body(
                self.bodies, seen.connection, seen.direction, frame.channel, frame.tag, exchange.rq_type,
                frame.of_receiver, seen.time,
            )  # fmt: skip
            if frame.of_receiver:
                exchange.response = body
            else:
                exchange.request = body
        return None if body is None or body.end else body

    def _stopped(self, exchange: _Exchange, seen: Seen, frame: Frame) -> Iterator[Happening]:
        """About a request of its sender, it is about the body of the response, and the other way round."""
        code, text = decode_reason(frame)
        body = exchange.request if frame.of_receiver else exchange.response
        if frame.of_receiver:
            exchange.sends = False
        else:
            exchange.takes = False
        if body is None or body.end:
            yield seen
            return
        self.frames[seen.direction] += 1
        yield from _end(body, seen.time, STOPPED, f"code {code}" + (f" {text!r:.100}" if text else ""))

    def _collect(self, agreed: _Agreed, seen: Seen, frame: Frame) -> None:
        pieces = agreed.pieces[seen.direction]
        found = pieces.responses if frame.of_receiver else pieces.requests
        key = frame.channel, frame.tag
        collected = found.get(key)
        if not isinstance(collected, _Counted):
            collected = found[key] = _Counted()
            agreed.in_pieces += 1
        if len(found) > MAX_WAITING:
            raise CommandFailed(f"pieces of more than {MAX_WAITING} payloads at the same time", EXIT_FAILED)
        collected.count += bool(frame.payload)
        pieces.add(collected, frame.payload)
        self._held += len(frame.payload)
        if self._held > MAX_HELD:
            raise CommandFailed(f"more than {MAX_HELD} bytes of payloads that do not end", EXIT_FAILED)


_TAKEN_OUT = frozenset({FrameType.PIECE, FrameType.DATA, FrameType.END, FrameType.CREDIT})


def _over(exchange: _Exchange, when: int, end: str, reason: str) -> Iterator[BodyOver]:
    """End both bodies of a request."""
    exchange.sends = exchange.takes = False
    for body in exchange.request, exchange.response:
        if body is not None:
            yield from _end(body, when, end, reason)


def _end(body: Body, when: int, end: str, reason: str) -> Iterator[BodyOver]:
    """End a body, unless it has ended."""
    if not body.end:
        body.ended, body.end, body.reason = when, end, reason
        yield BodyOver(body)
