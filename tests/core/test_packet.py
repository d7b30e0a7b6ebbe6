"""`Packet` as a value: what makes it, what it equals, how it is shown, copied and written."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
from cs.binary import BSUInt, SimpleBinary, flatten
from cs.buffer import CornuCopyBuffer

from packetwire import LocalProtocolError, Packet, PacketConnection
from packetwire.core.packets import EOF_PACKET, ERQ_PACKET, MAX_UINT

from .naming import plain

REQUEST = Packet(is_request=True, channel=3, tag=2, flags=5, rq_type=8, payload=b"abc")
RESPONSE = Packet(is_request=False, channel=3, tag=2, flags=5, payload=b"abc")


# construction


def test_the_constructor_of_the_reference() -> None:
    packet = Packet(is_request=True, channel=1, tag=2, flags=3, rq_type=4, payload=b"p")
    assert (packet.is_request, packet.channel, packet.tag) == (True, 1, 2)
    assert (packet.flags, packet.rq_type, packet.payload) == (3, 4, b"p")
    packet = Packet(is_request=False, channel=0, tag=1, flags=0, rq_type=None, payload=b"")
    assert packet.rq_type is None


def test_the_defaults() -> None:
    packet = Packet(is_request=0, tag=5)
    assert packet == Packet(is_request=False, channel=0, tag=5, flags=0, rq_type=None, payload=b"")
    assert packet.is_request is False


def test_eof_and_erq() -> None:
    assert bytes(EOF_PACKET).hex() == "03000200"
    assert bytes(ERQ_PACKET).hex() == "03010200"
    assert PacketConnection.EOF_Packet == EOF_PACKET
    assert PacketConnection.ERQ_Packet == ERQ_PACKET


def test_fields_go_by_name_only() -> None:
    with pytest.raises(TypeError):
        Packet(True, 0, 1, 2, 3, b"")  # type: ignore[misc]


FIELDS: dict[str, Any] = {"is_request": True, "channel": 0, "tag": 2, "flags": 0, "rq_type": 1, "payload": b""}

BAD_FIELDS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"rq_type": None}, LocalProtocolError, "a request needs an rq_type, got None"),
    ({"rq_type": -1}, LocalProtocolError, f"rq_type must be from 0 to {MAX_UINT}, got -1"),
    ({"is_request": False, "rq_type": -1}, LocalProtocolError, "rq_type .* got -1"),
    ({"channel": -1}, LocalProtocolError, "channel .* got -1"),
    ({"tag": -1}, LocalProtocolError, "tag .* got -1"),
    ({"flags": -1}, LocalProtocolError, "flags .* got -1"),
    ({"tag": MAX_UINT + 1}, LocalProtocolError, f"tag .* got {MAX_UINT + 1}"),
    ({"flags": (MAX_UINT >> 2) + 1}, LocalProtocolError, f"flags must be from 0 to {MAX_UINT >> 2}"),
    ({"tag": (1 << 128) - 1}, LocalProtocolError, f"tag .* got {(1 << 128) - 1}$"),
    ({"tag": 1 << 128}, LocalProtocolError, f"tag .* got 0x1{'0' * 29}…$"),
    ({"tag": -(10**5000)}, LocalProtocolError, "tag .* got -0x[0-9a-f]+…$"),
    ({"tag": "2"}, TypeError, "tag must be an int, got str: '2'"),
    ({"channel": 1.0}, TypeError, "channel must be an int, got float: 1.0"),
    ({"payload": "text"}, TypeError, "payload must be bytes-like, got str: 'text'"),
    ({"payload": 3}, TypeError, "payload must be bytes-like, got int: 3"),
]


@pytest.mark.parametrize(("fields", "error", "text"), BAD_FIELDS, ids=[plain(text) for *_, text in BAD_FIELDS])
def test_what_is_no_packet(fields: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Packet(**FIELDS | fields)


def test_the_payload_is_bytes_of_its_own() -> None:
    payload = bytearray(b"abc")
    packets = [Packet(**FIELDS | {"payload": given}) for given in (payload, memoryview(payload))]
    payload[:] = b"xyz"
    for packet in packets:
        assert packet.payload == b"abc"
        assert type(packet.payload) is bytes


# a frozen value


@pytest.mark.parametrize("name", [*FIELDS, "anything"])
def test_it_is_frozen(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(REQUEST, name, 1)
    with pytest.raises(AttributeError):
        delattr(REQUEST, name)


def assert_different(a: object, b: object) -> None:
    """By both operators, from both sides."""
    assert (a == b, b == a, a != b, b != a) == (False, False, True, True)


OTHERS = {"is_request": False, "channel": 4, "tag": 3, "flags": 6, "rq_type": 9, "payload": b"abcd"}


@pytest.mark.parametrize("name", FIELDS)
def test_requests_differ_in_any_field(name: str) -> None:
    assert_different(REQUEST, REQUEST._replace(**{name: OTHERS[name]}))


@pytest.mark.parametrize("name", ["channel", "tag", "flags", "payload"])
def test_responses_differ_in_any_field_but_rq_type(name: str) -> None:
    assert_different(RESPONSE, RESPONSE._replace(**{name: OTHERS[name]}))


def test_equal_packets() -> None:
    twin = Packet.from_bytes(bytes(REQUEST))
    assert twin is not REQUEST
    assert (twin == REQUEST, twin != REQUEST) == (True, False)
    assert hash(twin) == hash(REQUEST)


def test_different_packets_have_different_hashes() -> None:
    """Nearly always; otherwise sets and dictionaries of packets would be slow."""
    packets = [REQUEST._replace(tag=tag, payload=bytes(n)) for tag in range(10) for n in range(10)]
    assert len(set(map(hash, packets))) > 90


def test_responses_are_equal_whatever_their_rq_type() -> None:
    typed = RESPONSE._replace(rq_type=8)
    assert typed.rq_type == 8
    assert typed == RESPONSE
    assert hash(typed) == hash(RESPONSE)
    assert bytes(typed) == bytes(RESPONSE)
    assert len({typed, RESPONSE}) == 1


@pytest.mark.parametrize("other", [None, b"abc", (True, 3, 2, 5, 8, b"abc"), "packet"])
def test_nothing_else_is_equal(other: object) -> None:
    assert_different(REQUEST, other)


@pytest.mark.parametrize("packet", [REQUEST, RESPONSE, RESPONSE._replace(rq_type=8), EOF_PACKET])
def test_copies(packet: Packet) -> None:
    pickled = [pickle.loads(pickle.dumps(packet, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for twin in (copy.copy(packet), copy.deepcopy(packet), packet._replace(), *pickled):
        assert type(twin) is Packet
        assert twin._asdict() == packet._asdict()


def test_a_changed_copy_is_checked() -> None:
    assert REQUEST._replace(tag=9, payload=bytearray(b"x")) == Packet(
        is_request=True, channel=3, tag=9, flags=5, rq_type=8, payload=b"x"
    )
    with pytest.raises(LocalProtocolError, match=r"tag .* got -1"):
        REQUEST._replace(tag=-1)
    with pytest.raises((TypeError, ValueError), match="size"):  # Python 3.13 made it a TypeError
        REQUEST._replace(size=1)
    with pytest.raises(ValueError, match="longer"):
        Packet._make([*REQUEST, "one too many"])


def test_a_subclass_makes_its_own_kind() -> None:
    class MyPacket(Packet):
        pass

    packet = MyPacket.from_bytes(bytes(REQUEST))
    assert type(packet) is MyPacket
    assert packet == REQUEST


# text


def test_repr() -> None:
    assert repr(REQUEST) == str(REQUEST)
    assert repr(REQUEST) == "Packet(is_request=True,channel=3,tag=2,flags=0x05,rq_type=8,payload=b'abc')"
    assert repr(RESPONSE) == "Packet(is_request=False,channel=3,tag=2,flags=0x05,payload=b'abc')"


def test_repr_of_a_long_payload_is_short() -> None:
    assert repr(RESPONSE._replace(payload=b"x" * 16)).endswith(f"payload=b'{'x' * 16}')")
    assert repr(RESPONSE._replace(payload=b"x" * 17)).endswith(f"payload=b'{'x' * 16}'...)")
    assert repr(RESPONSE._replace(payload=bytes(range(65, 91)))).endswith("payload=b'ABCDEFGHIJKLMNOP'...)")
    assert len(repr(RESPONSE._replace(payload=bytes(1 << 20)))) < 200


def test_log() -> None:
    lines: list[str] = []

    def log(text: str, *args: object) -> None:
        lines.append(text % args)

    file = io.BytesIO()
    REQUEST.write(file, log=log)
    list(Packet.scan(CornuCopyBuffer([file.getvalue()]), log=log))
    assert lines == [f"==> WRITE {REQUEST}, flush=False", f"<== PARSE {REQUEST}"]


# octets


class Flushed(io.BytesIO):
    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


@pytest.mark.parametrize("flush", [True, False])
def test_write_flushes_if_asked(flush: bool) -> None:
    file = Flushed()
    assert REQUEST.write(file, flush) == len(REQUEST)
    assert file.getvalue() == bytes(REQUEST)
    assert file.flushes == flush


def test_write_does_not_flush_unless_asked() -> None:
    file = Flushed()
    REQUEST.write(file)
    assert file.flushes == 0


def test_write_to_a_file_that_takes_nothing() -> None:
    class Full:
        def write(self, octets: object) -> None:
            return None

        def flush(self) -> None:
            raise AssertionError("nothing was written")

    with pytest.raises(BlockingIOError, match="took none of 5 bytes"):
        REQUEST.write(Full(), flush=True)


def test_a_large_packet_is_not_copied_again_and_again_while_it_is_written() -> None:
    """A file that takes little at a time gets views, not copies, of what is left."""

    class Little:
        def __init__(self) -> None:
            self.kinds: set[type] = set()

        def write(self, octets: Any) -> int:
            self.kinds.add(type(octets))
            return min(100, len(octets))

        def flush(self) -> None: ...

    file = Little()
    packet = REQUEST._replace(payload=bytes(1000))
    assert packet.write(file) == len(packet)
    assert file.kinds == {bytes, memoryview}


def test_in_the_transcription_of_a_binary_class() -> None:
    class Envelope(SimpleBinary):  # type: ignore[misc]
        number: int
        packet: Packet

        def transcribe(self) -> Any:
            yield BSUInt.transcribe_value(self.number)
            yield self.packet

        @classmethod
        def parse(cls, bfr: CornuCopyBuffer) -> Any:
            return cls(number=BSUInt.parse_value(bfr), packet=Packet.parse(bfr))

    envelope = Envelope(number=300, packet=REQUEST)
    octets = b"".join(flatten(envelope))
    assert octets == b"\x82\x2c" + bytes(REQUEST)
    assert Envelope.from_bytes(octets).packet == REQUEST


def test_parse_takes_one_packet_from_the_buffer() -> None:
    bfr = CornuCopyBuffer([bytes(REQUEST)[:3], bytes(REQUEST)[3:] + bytes(RESPONSE) + b"\x05"])
    assert Packet.parse(bfr) == REQUEST
    assert bfr.offset == len(REQUEST)
    assert Packet.parse(bfr) == RESPONSE
    with pytest.raises(EOFError):
        Packet.parse(bfr)


def test_parse_at_the_end_of_the_buffer() -> None:
    with pytest.raises(EOFError):
        Packet.parse(CornuCopyBuffer([]))
    assert list(Packet.scan(CornuCopyBuffer([]))) == []


def test_parse_bytes_returns_the_offset_behind() -> None:
    octets = bytes(REQUEST) + bytes(RESPONSE)
    packet, offset = Packet.parse_bytes(octets)
    assert (packet, offset) == (REQUEST, len(REQUEST))
    assert Packet.parse_bytes(octets, offset) == (RESPONSE, len(octets))
    assert Packet.parse_bytes(bytearray(octets), offset=offset)[0] == RESPONSE


@pytest.mark.parametrize(("offset", "length"), [(0, 0), (0, 7), (1000, None), (8, None), (0, -1)])
def test_parse_bytes_of_too_few_octets(offset: int, length: int | None) -> None:
    with pytest.raises(EOFError, match=f"inside the packet at offset {offset}"):
        Packet.parse_bytes(bytes(REQUEST), offset, length)


def test_items_of_a_buffer_may_be_larger_than_an_octet() -> None:
    octets = bytes(REQUEST)
    assert len(octets) == 8
    assert Packet.from_bytes(memoryview(octets).cast("Q")) == REQUEST
    assert Packet.parse_bytes(memoryview(octets * 2).cast("H"), 8) == (REQUEST, 16)
    with pytest.raises(ValueError, match="8 bytes of unparsed data at offset 8"):
        Packet.from_bytes(memoryview(octets * 2).cast("Q"))


def test_parse_bytes_before_the_beginning() -> None:
    with pytest.raises(ValueError, match="offset must be 0 or more, got -1"):
        Packet.parse_bytes(bytes(REQUEST), -1)


def test_from_bytes_takes_the_whole() -> None:
    assert Packet.from_bytes(bytes(REQUEST)) == REQUEST
    with pytest.raises(ValueError, match=r"4 bytes of unparsed data at offset 8: b'\\x03\\x00\\x02\\x00'"):
        Packet.from_bytes(bytes(REQUEST) + bytes(EOF_PACKET))
    with pytest.raises(EOFError):
        Packet.from_bytes(b"")
    with pytest.raises(ValueError, match="1000000 bytes of unparsed data") as caught:
        Packet.from_bytes(bytes(REQUEST) + bytes(1_000_000))
    assert len(str(caught.value)) < 2000
