"""The rules that every packet of the far end is held to, whatever a check is about.

Strategy: one ledger keeps the facts of one conversation that these rules need, of both directions. A
broken rule is noted by its name, and does not end the conversation: the check of that rule reports it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from packetwire.conformance.incoming import Incoming
from packetwire.conformance.steps import Got
from packetwire.core.fields import FieldError, decode_fields
from packetwire.core.frames import FRAME_CHANNEL, FrameType
from packetwire.core.hello import ANSWER, ASK, CONTROL_CHANNEL, DESCRIBE, DRAIN, HELLO, PING
from packetwire.core.varint import decode_varint

RESERVED_CHANNELS = range(3, 16)
FIRST_TAG = 2
MARK = b"\x80"


class Ledger:
    """The facts about one conversation, and the rules that were broken in it."""

    def __init__(self) -> None:
        self.broken: dict[str, str] = {}
        """Rule -> how it was broken first."""
        self.occasions: Counter[str] = Counter()
        """Rule -> how often it could have been broken."""
        self.unanswered: Counter[tuple[int, int]] = Counter()
        """(channel, tag) -> our requests that wait for a response."""
        self.we_said_hello = False
        self.peer_said_hello = False
        self.packets = 0
        """Packets that came."""
        self._ours = Incoming()
        self._next_tags: dict[int, int] = {}
        self._wants_progress: set[tuple[int, int]] = set()
        self._said_erq = False
        self._most: int | None = None
        """The largest packet that we take, as our HELLO says."""

    # what we do

    def send(self, data: bytes) -> None:
        """Note bytes that are sent, of which all that are packets count."""
        for got in self._ours.feed(data):
            self._note_sent(got)

    def _note_sent(self, got: Got) -> None:
        packet = got.packet
        if got.is_request:
            self.unanswered[packet.channel, packet.tag] += 1
        if packet.channel == CONTROL_CHANNEL and packet.payload.startswith((ASK, ANSWER)):
            self.we_said_hello = True
            self._most = _integer_in(packet.payload[len(ASK) :], 3)
        is_meta = packet.channel == FRAME_CHANNEL and packet.rq_type == FrameType.META + 1
        if is_meta and _integer_in(packet.payload, 4) is not None:
            self._wants_progress.add((packet.flags >> 1, packet.tag))

    # what they do

    def receive(self, got: Got) -> None:
        """Hold a packet to the rules."""
        self._form(got)
        self._size(got)
        if got.is_erq or got.is_eof:
            self._end(got)
        elif got.packet.is_request:
            self._request(got)
        else:
            self._response(got)
        self.packets += 1

    def malformed(self, fault: str) -> None:
        """Note that what came is no packet."""
        self._judge("well-formed", False, lambda: fault)

    def behind_eof(self, data: bytes) -> None:
        """Note that bytes came behind EOF."""
        self._judge("nothing-behind-eof", False, lambda: f"behind EOF came {data[:16].hex(' ')}")

    def truncated(self, partial: bytes) -> None:
        """Note that the stream ended in a packet."""
        self._judge("well-formed", False, lambda: f"the stream ended in a packet: {partial[:16].hex(' ')}")

    def end_regularly(self, *, eof: bool) -> None:
        """Note how the far end ended a conversation in which nobody did anything wrong."""
        self._judge("ends-by-eof", eof, lambda: "it ended the stream without EOF")

    def _judge(self, rule: str, is_kept: bool, how: Callable[[], str]) -> None:
        self.occasions[rule] += 1
        if not is_kept:
            self.broken.setdefault(rule, how())

    def _form(self, got: Got) -> None:
        raw, shortest = got.raw, bytes(got.packet)
        self._judge("well-formed", True, str)
        is_marked = raw == MARK + shortest
        special = got.is_erq or got.is_eof
        self._judge("mark", not is_marked or (self.packets == 0 and not special), lambda: _mark_text(got, special))
        has_zero = got.packet.channel == 0 and got.packet.wire_flags != _wire_flags(raw)
        self._judge("channel-zero", not has_zero, lambda: f"channel 0 is written out: {raw[:16].hex(' ')}")
        short = is_marked or raw == shortest or has_zero
        self._judge("shortest-form", short, lambda: f"{raw[:16].hex(' ')} for {shortest[:16].hex(' ')}")

    def _size(self, got: Got) -> None:
        if self._most is not None:
            size = _body_size(got.raw)
            self._judge("fits", size <= self._most, lambda: f"{size} bytes behind the length field")

    def _end(self, got: Got) -> None:
        if got.is_eof:
            self._judge("erq-before-eof", self._said_erq, lambda: "EOF came without ERQ")
            self._judge("nothing-behind-eof", True, str)
        else:
            self._judge("erq-once", not self._said_erq, lambda: "ERQ came twice")
            self._judge("request-after-erq", True, str)
            self._said_erq = True

    def _request(self, got: Got) -> None:
        packet = got.packet
        channel, tag, rq_type = packet.channel, packet.tag, packet.rq_type
        self._judge("reserved-rq-type", rq_type != 0, lambda: f"it is {got.raw[:16].hex(' ')}")
        self._judge("channels", channel not in RESERVED_CHANNELS, lambda: f"a request on channel {channel}")
        if channel == FRAME_CHANNEL:
            self._frame(got)
            return
        if channel == CONTROL_CHANNEL:
            self._control(got)
        else:
            self._judge("request-after-erq", not self._said_erq, lambda: f"request {channel}:{tag} came after ERQ")
        expected = self._next_tags.get(channel, FIRST_TAG)
        self._judge("tags", tag == expected, lambda: f"tag {tag} on channel {channel}, {expected} was its turn")
        self._next_tags[channel] = max(expected, tag + 1)

    def _control(self, got: Got) -> None:
        rq_type = (got.packet.rq_type or 0) - 1
        if rq_type == HELLO:
            asked = self.occasions["hello-once"]
            self._judge("hello-once", not asked, lambda: "it said HELLO twice")
            self.peer_said_hello = True
        elif rq_type in (PING, DRAIN, DESCRIBE):
            self._judge("frames-after-hello", self.we_said_hello, lambda: "a control request came before HELLO")

    def _frame(self, got: Got) -> None:
        packet = got.packet
        both = self.we_said_hello and self.peer_said_hello
        self._judge("frames-after-hello", both, lambda: "a frame came before both ends had said HELLO")
        if packet.rq_type == FrameType.PROGRESS + 1:
            about = (packet.flags >> 1, packet.tag)
            self._judge("progress", about in self._wants_progress, lambda: f"PROGRESS of {about[0]}:{about[1]}")

    def _response(self, got: Got) -> None:
        packet = got.packet
        key = (packet.channel, packet.tag)
        waits = self.unanswered[key] > 0 or bool(self._ours.fault)
        self._judge("one-response", waits, lambda: f"a response to {key[0]}:{key[1]}, which waits for none")
        if self.unanswered[key]:
            self.unanswered[key] -= 1
        if packet.channel == CONTROL_CHANNEL and packet.payload.startswith(ANSWER):
            self.peer_said_hello = True


def _mark_text(got: Got, special: bool) -> str:
    if special:
        return f"{'EOF' if got.is_eof else 'ERQ'} is marked"
    return f"a packet is marked that is not the first: {got.raw[:16].hex(' ')}"


def _wire_flags(raw: bytes) -> int:
    offset = 0
    for _ in range(2):
        _, offset = decode_varint(raw, offset, len(raw))
    return decode_varint(raw, offset, len(raw))[0]


def _body_size(raw: bytes) -> int:
    size, _ = decode_varint(raw, 0, len(raw))
    return size


def _integer_in(fields: bytes, wanted: int) -> int | None:
    """The integer in the first of these fields that has the wanted id, if there is one."""
    try:
        values = [value for number, value in decode_fields(fields, len(fields)) if number == wanted]
    except FieldError:
        return None
    return decode_varint(values[0], 0, len(values[0]))[0] if values else None
