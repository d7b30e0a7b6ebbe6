"""docs/wire.md against the library: its examples and its tables."""

from __future__ import annotations

import re

import pytest

from packetwire import Packet, PacketConnection, RequestReceived, errors
from packetwire.capture import HEADER, MAX_RECORD, CaptureDecoder, Kind
from packetwire.core import engine as bounds
from packetwire.core.engine import NOT_BEGUN, NOT_DONE, TOO_MUCH_FOR_ALL, ConnectionEngine
from packetwire.core.packets import DEFAULT_MAX_PACKET_SIZE, MAX_UINT, decode_varint, encode_varint
from packetwire.core.refusals import REFUSALS
from packetwire.core.requests import response_parts
from packetwire.core.state import TRANSITIONS, Act, Half
from packetwire.error_text import ERROR_TEXT_LIMIT
from packetwire.face import DEFAULT_CLOSE_TIMEOUT, DEFAULT_MAX_UNSENT

from .pages import WIRE, tables

TEXT = WIRE.read_text()
TABLES = tables(WIRE)
PACKETS_HEAD = "|octets|kind|channel|tag|flags|rq_type|payload|"


def packet_of(row: list[str]) -> Packet:
    _, kind, channel, tag, flags, rq_type, payload = row
    return Packet(
        is_request={"request": True, "response": False}[kind],
        channel=int(channel),
        tag=int(tag),
        flags=int(flags),
        rq_type=int(rq_type) if rq_type else None,
        payload=bytes.fromhex(payload),
    )


def packet_rows(section: str) -> list[list[str]]:
    """The rows of examples in one of the two tables: those in the shortest form, and those that are not."""
    shortest, others = TEXT.split("These are not in the shortest form")
    part = {"shortest": shortest, "others": others}[section]
    return [row for row in TABLES[PACKETS_HEAD] if f"| `{row[0]}` | {row[1]} |" in part]


@pytest.mark.parametrize(("number", "octets"), TABLES["|integer|octets|"])
def test_integers(number: str, octets: str) -> None:
    encoded = bytes.fromhex(octets)
    assert encode_varint(int(number)) == encoded
    assert decode_varint(encoded, 0, len(encoded)) == (int(number), len(encoded))


def test_the_largest_integer_is_an_example() -> None:
    assert str(MAX_UINT) in [number for number, _ in TABLES["|integer|octets|"]]


@pytest.mark.parametrize("row", packet_rows("shortest"), ids=lambda row: row[0])
def test_packets(row: list[str]) -> None:
    octets = bytes.fromhex(row[0])
    assert bytes(packet_of(row)) == octets
    assert Packet.from_bytes(octets) == packet_of(row)


@pytest.mark.parametrize("row", packet_rows("others"), ids=lambda row: row[0])
def test_packets_that_are_accepted_only(row: list[str]) -> None:
    octets = bytes.fromhex(row[0])
    assert Packet.from_bytes(octets) == packet_of(row)
    assert bytes(packet_of(row)) != octets


def test_every_example_is_tried() -> None:
    assert len(packet_rows("shortest")) + len(packet_rows("others")) == len(TABLES[PACKETS_HEAD])


def test_the_special_packets() -> None:
    special = {"EOF": PacketConnection.EOF_Packet, "ERQ": PacketConnection.ERQ_Packet}
    rows = TABLES["|packet|tag|octets|meaning|"]
    assert {name: Packet.from_bytes(bytes.fromhex(octets)) for name, _, octets, _ in rows} == special
    assert {name: int(tag) for name, tag, _, _ in rows} == {name: packet.tag for name, packet in special.items()}


def test_the_ranges_of_the_numbers() -> None:
    def shown(number: int) -> str:
        return f"2<sup>{number.bit_length()}</sup> − {(1 << number.bit_length()) - number}"  # noqa: RUF001

    assert f"from 0 to {shown(bounds.MAX_REQUEST_FLAGS)}, and the request type" in " ".join(TEXT.split())
    assert f"is from 0 to {shown(bounds.MAX_RQ_TYPE)}." in TEXT
    assert f"from 0 to\n{shown(bounds.MAX_RESPONSE_FLAGS)}." in TEXT


def test_results() -> None:
    assert response_parts(None) == (0, b"")
    assert response_parts(5) == (5, b"")
    assert response_parts(b"octets") == (0, b"octets")
    assert response_parts("é\ud800") == (0, "é&#55296;".encode())
    assert response_parts((5, b"octets")) == (5, b"octets")
    assert response_parts((5, "text")) == (5, b"text")
    with pytest.raises(TypeError):
        response_parts(1.5)
    assert f"as much as {ERROR_TEXT_LIMIT:,} characters" in " ".join(TEXT.split())


def refusal(engine: ConnectionEngine, *received: Packet) -> str:
    """The text with which the last of these packets is refused."""
    engine.receive(b"".join(map(bytes, received)))
    *_, response = PacketsOf(engine)
    assert (response.is_request, response.tag, response.flags) == (False, received[-1].tag, 0)
    return response.payload.decode()


def overdue(**settings: int) -> str:
    """The text of a refusal while a short reply waits to be written."""
    engine = ConnectionEngine(**settings)
    engine.receive(bytes(Packet(is_request=True, tag=2, rq_type=1)))
    engine.respond(0, 2, True, 0, b"x")
    return engine.overdue.decode()


class PacketsOf(list[Packet]):
    """What an engine has to send."""

    def __init__(self, engine: ConnectionEngine) -> None:
        octets, offset = b"".join(engine.data_to_send()), 0
        engine.data_sent()
        while offset < len(octets):
            packet, offset = Packet.parse_bytes(octets, offset)
            self.append(packet)


def test_the_texts_of_refusals() -> None:
    def request(tag: int, payload: bytes = b"") -> Packet:
        return Packet(is_request=True, tag=tag, rq_type=1, payload=payload)

    def on(channel: int) -> Packet:
        return Packet(is_request=True, channel=channel, tag=2, rq_type=1)

    documented = [text for text, _ in TABLES["|text|why|"]]
    octets = bounds.DEFAULT_MAX_INBOUND_OCTETS
    few = ConnectionEngine(max_inbound=1)
    little = ConnectionEngine(max_inbound_octets=3)
    assert documented == [
        refusal(ConnectionEngine(accepts_requests=False), request(2)),
        refusal(ConnectionEngine(), on(15)),
        refusal(ConnectionEngine(channels=()), on(16)),
        refusal(ConnectionEngine(), PacketConnection.ERQ_Packet, request(2)),
        refusal(ConnectionEngine(), request(5), request(5)),
        refusal(few, request(2), request(3)).replace("1 wait", f"{bounds.DEFAULT_MAX_INBOUND} wait"),
        refusal(little, request(2, b"abc"), request(3, b"d")).replace("3 octets", f"{octets} octets"),
        overdue(max_inbound_octets=3).replace("4 octets", f"{octets + 1} octets"),
        TOO_MUCH_FOR_ALL.decode(),
        NOT_BEGUN.decode(),
        NOT_DONE.decode(),
    ]


def test_the_conversation() -> None:
    a, b = ConnectionEngine(), ConnectionEngine()
    happened: list[tuple[str, bytes]] = []

    def carry(sender: str) -> list[object]:
        source, sink = (a, b) if sender == "A" else (b, a)
        packets = PacketsOf(source)
        happened.extend((sender, bytes(packet)) for packet in packets)
        return sink.receive(b"".join(map(bytes, packets)))

    for rq_type, payload, ok, answer in (0, b"hi", True, b"HI"), (7, b"", False, b"nope"):
        a.request(rq_type, 0, payload)
        (event,) = carry("A")
        assert isinstance(event, RequestReceived)
        b.respond(event.channel, event.tag, ok, 0, answer)
        carry("B")
    a.end()
    carry("A")
    carry("B")
    assert happened == [(end, bytes.fromhex(octets)) for end, octets, _ in TABLES["|from|octets|meaning|"]]
    assert a.ended is not None
    assert b.ended is not None


def test_the_table_of_states() -> None:
    rows = TABLES["|state|whatissent|nextstate|"]
    assert {(Half(before), Act(act)): Half(after) for before, act, after in rows} == TRANSITIONS
    assert len(rows) == len(TRANSITIONS)


def test_the_errors() -> None:
    assert [code for code, _ in TABLES["|code|whathascome|"]] == list(REFUSALS)


def test_the_bounds() -> None:
    rows = TABLES["|bound|default|beyondit|"]
    assert [int(default) for _, default, _ in rows] == [
        DEFAULT_MAX_PACKET_SIZE,
        DEFAULT_MAX_PACKET_SIZE,
        bounds.DEFAULT_MAX_OUTSTANDING,
        DEFAULT_MAX_UNSENT,
        bounds.DEFAULT_MAX_INBOUND,
        bounds.DEFAULT_MAX_INBOUND_OCTETS,
        bounds.DEFAULT_MAX_INBOUND_OCTETS,
        bounds.DEFAULT_MAX_REFUSALS,
    ]
    beyond = " ".join(text for _, _, text in rows)
    assert set(re.findall(r"`([\w-]+)`", beyond)) <= set(REFUSALS) | set(errors.__all__)
    assert f"packetwire's is {DEFAULT_CLOSE_TIMEOUT:.0f} seconds" in TEXT


def test_the_first_tag() -> None:
    assert f"on each channel from {bounds.FIRST_TAG} upwards by 1" in TEXT


def test_the_records_of_a_capture() -> None:
    rows = [bytes.fromhex(octets) for octets, _ in TABLES["|record|meaning|"]]
    found = CaptureDecoder().feed(HEADER + b"".join(rows))
    assert [bytes(record) for record in found] == rows
    assert [record.sign for record in found] == ["+", ">", "<", ">", "-"]
    assert [(record.time - found[0].time) / 1e6 for record in found] == [0, 1, 1.5, 2, 3]
    assert Packet.from_bytes(found[1].octets) == packet_of(TABLES[PACKETS_HEAD][0])


def test_the_kinds_and_the_bound_of_a_capture() -> None:
    kinds = {int(octet, 16): sign for octet, sign, _ in TABLES["|kind||octets|"]}
    assert kinds == {int(kind): chr(kind) for kind in Kind}
    assert TEXT.count(str(MAX_RECORD)) >= 3
