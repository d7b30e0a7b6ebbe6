"""Packets and notes of a capture in, the model of its report out: no input or output.

Strategy: an exchange is made when its request comes, or the first frame about it, and is counted and offered to
the sample when it ends. Only those that have not ended, and those in the sample, are kept. Frames are told from
requests once HELLO was asked on that connection, as in a dump.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from json import loads

from packetwire.capture import Kind, Record
from packetwire.cli.conversation import OPPOSITE, Conversations, Note, Seen, shown
from packetwire.cli.reporting.model import (
    Body,
    Cancel,
    ConnectionFigures,
    ErrorKey,
    Exchange,
    Extra,
    Outcome,
    Report,
    TypeFigures,
    TypeKey,
)
from packetwire.cli.reporting.sampling import Sample
from packetwire.cli.reporting.timeline import BACK, FORTH
from packetwire.core.fields import FieldError
from packetwire.core.frames import FRAME_CHANNEL, Frame, FrameType, decode_frame, decode_meta, decode_reason
from packetwire.core.hello import ANSWER, ASK, CONTROL_CHANNEL, DESCRIBE, HELLO, Feature, Hello, decode_hello
from packetwire.core.packet import EOF_PACKET, ERQ_PACKET
from packetwire.core.statuses import StatusCode, status_of
from packetwire.core.varint import decode_varint
from packetwire.errors import RemoteProtocolError

PREVIEW = 256
"""Bytes of a payload that are kept, at most."""
MAX_WAITING = 50_000
"""Exchanges that have not ended, of all connections; beyond that the oldest of the connection are given up."""
MAX_TYPES = 200
"""Request types with figures of their own; all others share theirs."""
MAX_ERRORS = 200
MAX_CONNECTIONS = 500
MAX_FAULTS = 100
MAX_REMARKS = 5
MAX_NAMES = 1000
MAX_SCHEMA_SIZE = 1 << 20
TEXT = 120
"""Characters of a text of the peer's that are kept of each error, name or key."""
MAX_METADATA = 8
"""Pairs of metadata of an exchange that are kept."""

Key = tuple[Kind, int, int]
"""(asker, channel, tag)"""


def report_of(records: Iterable[Record], conversations: Conversations | None = None) -> Report:
    """The report about these records. Raises `CommandFailed` if they pass a bound of `Conversations`."""
    conversations = conversations or Conversations()
    collector = Collector()
    for record in records:
        collector.add_all(conversations.add(record))
    collector.add_all(conversations.finish())
    return collector.finish()


class _Connection:
    """A connection of the capture, with the requests on it that have not ended."""

    def __init__(self, figures: ConnectionFigures) -> None:
        self.figures = figures
        self.pending: OrderedDict[Key, Exchange] = OrderedDict()  # of which the first can be had quickly
        self.has_agreed = False
        """Some end has asked HELLO, so channel 2 has frames."""
        self.hellos: dict[Kind, Hello] = {}

    @property
    def has_statuses(self) -> bool:
        """True if the flags of a response that is not ok are a status."""
        return len(self.hellos) == 2 and all(Feature.CANCEL in hello.features for hello in self.hellos.values())

    def credit_of(self, receiver: Kind) -> int:
        """The credit with which the bodies of requests to this end begin."""
        return (self.hellos.get(receiver) or _NOTHING_SAID).body_credit


_NOTHING_SAID = Hello()


class Collector:
    """Packets and notes in, a report out."""

    def __init__(self) -> None:
        self._report = Report()
        self._timeline = self._report.timeline
        self._sample = Sample()
        self._open: dict[int, _Connection] = {}
        self._waiting = 0
        self._serial = 0

    def add_all(self, happenings: Iterable[Seen | Note]) -> None:
        """Take what a record brought."""
        for happening in happenings:
            if isinstance(happening, Seen):
                self._add_packet(happening)
            else:
                self._add_note(happening)

    def finish(self) -> Report:
        """The report, once all has come."""
        report = self._report
        for connection in list(self._open):
            self._leave(connection, None)
        report.exchanges = self._sample.chosen()
        report.exchange_count = self._serial
        return report

    # packets

    def _add_packet(self, seen: Seen) -> None:
        number, when, direction, packet, *_ = seen
        is_request, channel, tag, flags, wire_rq_type, payload = packet
        size = len(payload)
        side = FORTH if direction is Kind.FORTH else BACK
        conn = self._open.get(number) or self._begin(number, when)
        timeline = self._timeline
        span = timeline.span_of(when)
        timeline.packets[side][span] += 1
        timeline.sizes[side][span] += size
        conn.figures.packets[side] += 1
        conn.figures.sizes[side] += size
        if not is_request:
            self._add_response(conn, seen, span)
        elif channel == FRAME_CHANNEL and conn.has_agreed and wire_rq_type:
            self._add_frame(conn, seen)
        elif wire_rq_type or packet not in (EOF_PACKET, ERQ_PACKET):
            exchange = self._requested(conn, (direction, channel, tag), (wire_rq_type or 0) - 1, flags, when)
            _add_to_request(exchange, payload)
            conn.figures.requests[side] += 1
            if channel == CONTROL_CHANNEL and exchange.rq_type == HELLO and payload.startswith(ASK):
                conn.has_agreed = True
                _learn(conn, direction, payload[len(ASK) :])
        elif packet == EOF_PACKET:
            conn.figures.ended[side] = True
        timeline.note_under_way(span, self._waiting)

    def _requested(self, conn: _Connection, key: Key, rq_type: int, flags: int, when: int) -> Exchange:
        """The exchange of a request that has come."""
        exchange = conn.pending.get(key)
        if exchange is not None:
            if exchange.is_announced:
                exchange.is_announced = False
                exchange.rq_type, exchange.flags, exchange.time = rq_type, flags, when
                self._figures_of(exchange).requests += 1
                return exchange
            self._end(conn, key, exchange, Outcome.SUPERSEDED, when)
        exchange = self._expect(conn, key, rq_type, flags, when)
        self._figures_of(exchange).requests += 1
        return exchange

    def _expect(self, conn: _Connection, key: Key, rq_type: int, flags: int, when: int) -> Exchange:
        """A new exchange, which waits to be ended."""
        asker, channel, tag = key
        exchange = Exchange(self._serial, conn.figures.number, asker, channel, tag, rq_type, flags, when)
        self._serial += 1
        conn.pending[key] = exchange
        self._waiting += 1
        if self._waiting > MAX_WAITING:
            oldest = next(iter(conn.pending))
            self._end(conn, oldest, conn.pending[oldest], Outcome.FORGOTTEN, when)
        return exchange

    def _add_response(self, conn: _Connection, seen: Seen, span: int) -> None:
        _, when, direction, packet, *_ = seen
        _, channel, tag, flags, _, payload = packet
        key = (OPPOSITE[direction], channel, tag)
        exchange = conn.pending.get(key)
        if exchange is None or exchange.is_announced:
            self._report.strays += 1
            return
        _add_to_response(exchange, payload)
        exchange.response_flags = flags >> 1
        if flags & 1:
            outcome = Outcome.OK
            if channel == CONTROL_CHANNEL:
                self._add_answer(conn, direction, exchange, payload)
        else:
            outcome = Outcome.FAILED
            exchange.status = _status_words(flags >> 1) if conn.has_statuses else ""
            self._timeline.failures[span] += 1
        self._end(conn, key, exchange, outcome, when)

    def _add_answer(self, conn: _Connection, direction: Kind, exchange: Exchange, payload: bytes) -> None:
        """Learn from the response to a control request."""
        if exchange.rq_type == HELLO and payload.startswith(ANSWER):
            _learn(conn, direction, payload[len(ANSWER) :])
        elif exchange.rq_type == DESCRIBE:
            for rq_type, name in _names_in(payload):
                if len(self._report.names) < MAX_NAMES:
                    self._report.names.setdefault((exchange.asker, rq_type), name)

    # frames

    def _add_frame(self, conn: _Connection, seen: Seen) -> None:
        _, when, direction, packet, *_ = seen
        try:
            frame = decode_frame(packet.tag, packet.flags, (packet.rq_type or 0) - 1, packet.payload)
            asker = OPPOSITE[direction] if frame.of_receiver else direction
            key = (asker, frame.channel, frame.tag)
            exchange = conn.pending.get(key)
            if exchange is None:
                if frame.kind is not FrameType.META and (frame.kind is not FrameType.PIECE or frame.of_receiver):
                    return  # it has ended meanwhile
                exchange = self._expect(conn, key, 0, 0, when)
                exchange.is_announced = True
            extra = exchange.extra or Extra()
            exchange.extra = extra
            if frame.kind is FrameType.CANCEL and exchange.is_announced:
                self._end(conn, key, exchange, Outcome.TAKEN_BACK, when)
            else:
                _FRAMES[frame.kind](conn, exchange, extra, frame, when)
        except RemoteProtocolError as error:
            self._add_fault(conn, seen.connection, chr(direction), shown(f"malformed: {error}"))

    # ends

    def _end(self, conn: _Connection, key: Key, exchange: Exchange, outcome: Outcome, when: int | None) -> None:
        """End an exchange, and count it."""
        del conn.pending[key]
        self._waiting -= 1
        exchange.end = when
        exchange.outcome = outcome
        self._report.outcomes[outcome] += 1
        figures = self._figures_of(exchange)
        figures.request_bytes += exchange.request_size
        if outcome is Outcome.OK:
            figures.answered += 1
        elif outcome is Outcome.FAILED:
            figures.answered += 1
            figures.failed += 1
            conn.figures.failed += 1
            self._add_error(exchange)
        else:
            figures.unanswered += not exchange.is_announced
            conn.figures.unanswered += not exchange.is_announced
        latency = exchange.latency
        if latency is not None:
            figures.response_bytes += exchange.response_size
            figures.latencies.add(latency)
        if exchange.extra is not None:
            self._count_extra(exchange, exchange.extra, figures)
        self._sample.offer(exchange)

    def _figures_of(self, exchange: Exchange) -> TypeFigures:
        """The figures of its type; what was only announced has no type, and is counted with none."""
        types = self._report.types
        if exchange.is_announced:
            return TypeFigures()
        key: TypeKey = (exchange.asker, exchange.channel, exchange.rq_type)
        figures = types.get(key)
        if figures is None:
            figures = types.setdefault(key if len(types) < MAX_TYPES else None, TypeFigures())
        return figures

    def _add_error(self, exchange: Exchange) -> None:
        errors = self._report.errors
        text = shown(exchange.response[:TEXT].decode("utf-8", "replace"))
        key: ErrorKey = (exchange.asker, exchange.channel, exchange.rq_type, exchange.status, text)
        if key not in errors and len(errors) >= MAX_ERRORS:
            key = None
        errors[key] = errors.get(key, 0) + 1

    def _count_extra(self, exchange: Exchange, extra: Extra, figures: TypeFigures) -> None:
        if extra.cancel is not None:
            figures.cancelled += 1
            self._count_cancel(exchange)
        for body in exchange.bodies:
            self._count_body(body, exchange, figures)

    def _count_cancel(self, exchange: Exchange) -> None:
        cancels = self._report.cancels
        cancels.cancels += 1
        if exchange.outcome is Outcome.OK:
            cancels.answered_ok += 1
        elif exchange.outcome is not Outcome.FAILED:
            cancels.unanswered += 1
        elif exchange.status.startswith(StatusCode.CANCELLED.name):
            cancels.answered_cancelled += 1
        else:
            cancels.answered_otherwise += 1

    def _count_body(self, body: Body, exchange: Exchange, figures: TypeFigures) -> None:
        is_sent = exchange.extra is not None and body is exchange.extra.sent
        if exchange.outcome is Outcome.OK and not is_sent and body.stopped is None:
            body.is_whole = True  # the response says so
        totals = self._report.bodies
        totals.bodies += body.chunks > 0
        totals.whole += body.is_whole and body.chunks > 0
        from_first = (exchange.asker is Kind.FORTH) is is_sent
        totals.sizes[FORTH if from_first else BACK] += body.sent
        totals.waits += body.waits
        totals.waited += body.waited
        totals.longest = max(totals.longest, body.longest)
        totals.waiting += exchange.outcome is Outcome.UNANSWERED and body.waits_since is not None
        figures.body_bytes += body.sent

    # connections

    def _add_note(self, note: Note) -> None:
        if note.sign == "+":
            self._leave(note.connection, note.time)
            self._begin(note.connection, note.time).figures.text = note.text
            return
        if note.sign == "-":
            conn = self._open.get(note.connection)
            if conn is not None:
                conn.figures.over = note.text.removeprefix("over").removeprefix(": ")
                self._timeline.span_of(note.time)
                self._leave(note.connection, note.time)
            return
        conn = self._open.get(note.connection) or self._begin(note.connection, note.time)
        if note.fault:
            self._add_fault(conn, note.connection, note.sign, note.text)
            return
        conn.figures.ended[FORTH if note.sign == ">" else BACK] = True
        if note.text != "ends its direction" and len(conn.figures.remarks) < MAX_REMARKS:
            conn.figures.remarks.append(f"{note.sign} {note.text}")

    def _add_fault(self, conn: _Connection, number: int, sign: str, text: str) -> None:
        report = self._report
        report.fault_count += 1
        conn.figures.fault = conn.figures.fault or f"{sign} {text}"
        if len(report.faults) < MAX_FAULTS:
            report.faults.append(f"connection {number} {sign} {text}")

    def _begin(self, number: int, when: int) -> _Connection:
        self._timeline.span_of(when)
        figures = ConnectionFigures(number, when)
        self._report.connection_count += 1
        if len(self._report.connections) < MAX_CONNECTIONS:
            self._report.connections.append(figures)
        conn = self._open[number] = _Connection(figures)
        return conn

    def _leave(self, number: int, when: int | None) -> None:
        """End a connection, and all that waits on it; None if the capture ends before it."""
        conn = self._open.pop(number, None)
        if conn is None:
            return
        for key, exchange in list(conn.pending.items()):
            self._end(conn, key, exchange, Outcome.UNANSWERED, None)
        figures, report = conn.figures, self._report
        figures.end = when
        said = [conn.hellos.get(kind, _NOTHING_SAID).software or "" for kind in (Kind.FORTH, Kind.BACK)]
        figures.software = [shown(software)[:TEXT] for software in said]
        for side in FORTH, BACK:
            report.packets[side] += figures.packets[side]
            report.sizes[side] += figures.sizes[side]


def _add_to_request(exchange: Exchange, payload: bytes) -> None:
    exchange.request_size += len(payload)
    room = PREVIEW - len(exchange.request)
    if room > 0:
        exchange.request += payload[:room]


def _add_to_response(exchange: Exchange, payload: bytes) -> None:
    exchange.response_size += len(payload)
    room = PREVIEW - len(exchange.response)
    if room > 0:
        exchange.response += payload[:room]


def _learn(conn: _Connection, speaker: Kind, fields: bytes) -> None:
    """Note what an end says of itself, the first time."""
    try:
        conn.hellos.setdefault(speaker, decode_hello(fields))
    except FieldError:
        pass  # its peer has answered that


def _status_words(flags: int) -> str:
    code, begun = status_of(flags)
    if code is StatusCode.NONE:
        return "" if begun is None else "not begun"
    return code.name + (", not begun" if begun is False else "")


def _names_in(schema: bytes) -> Iterable[tuple[int, str]]:
    """(request type, name) of the methods in a schema; none if it is not one."""
    if len(schema) > MAX_SCHEMA_SIZE:
        return
    try:
        found = loads(schema)
    except (ValueError, RecursionError):
        return
    methods = found.get("methods") if isinstance(found, dict) else None
    for name, method in methods.items() if isinstance(methods, dict) else ():
        number = method.get("number") if isinstance(method, dict) else None
        if isinstance(number, int):
            yield number, shown(name)[:TEXT]


# frames


def _meta(conn: _Connection, exchange: Exchange, extra: Extra, frame: Frame, when: int) -> None:
    if not exchange.is_announced:
        return  # its request has come already
    meta = decode_meta(frame)
    extra.milliseconds_left = meta.milliseconds_left
    extra.metadata = {shown(key)[:TEXT]: value[:TEXT] for key, value in list(meta.metadata.items())[:MAX_METADATA]}
    extra.sent = extra.received = None
    if meta.has_body:
        extra.sent = Body(conn.credit_of(OPPOSITE[exchange.asker]), meta.body_size)
    if meta.response_credit is not None:
        extra.received = Body(meta.response_credit)


def _piece(conn: _Connection, exchange: Exchange, extra: Extra, frame: Frame, when: int) -> None:
    extra.pieces += 1
    if frame.of_receiver:
        _add_to_response(exchange, frame.payload)
    elif exchange.is_announced:
        _add_to_request(exchange, frame.payload)


def _data(conn: _Connection, exchange: Exchange, extra: Extra, frame: Frame, when: int) -> None:
    body = extra.received if frame.of_receiver else extra.sent
    if body is not None:
        body.add_data(len(frame.payload), when)


def _end(conn: _Connection, exchange: Exchange, extra: Extra, frame: Frame, when: int) -> None:
    if extra.sent is not None:
        extra.sent.is_whole = True


def _credit(conn: _Connection, exchange: Exchange, extra: Extra, frame: Frame, when: int) -> None:
    body = extra.sent if frame.of_receiver else extra.received
    size, behind = decode_varint(frame.payload, 0, len(frame.payload))
    if body is not None and behind > 0:
        body.add_credit(size, when)


def _cancel(conn: _Connection, exchange: Exchange, extra: Extra, frame: Frame, when: int) -> None:
    if extra.cancel is None:
        code, text = decode_reason(frame)
        extra.cancel = Cancel(when, code, shown(text)[:TEXT])


def _progress(conn: _Connection, exchange: Exchange, extra: Extra, frame: Frame, when: int) -> None:
    extra.progress += 1


def _stop(conn: _Connection, exchange: Exchange, extra: Extra, frame: Frame, when: int) -> None:
    body = extra.sent if frame.of_receiver else extra.received
    if body is not None and body.stopped is None:
        code, text = decode_reason(frame)
        body.stopped = f"code {code}" + (f": {shown(text)[:TEXT]}" if text else "")


_FRAMES: dict[FrameType, Callable[[_Connection, Exchange, Extra, Frame, int], None]] = {
    FrameType.META: _meta,
    FrameType.PIECE: _piece,
    FrameType.DATA: _data,
    FrameType.END: _end,
    FrameType.CREDIT: _credit,
    FrameType.CANCEL: _cancel,
    FrameType.PROGRESS: _progress,
    FrameType.STOP: _stop,
}
