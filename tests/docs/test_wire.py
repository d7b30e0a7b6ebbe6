"""docs/wire.md against the library: its examples and its tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from packetwire import Packet, PacketConnection, RequestReceived, errors
from packetwire.capture import HEADER, MAX_RECORD, CaptureDecoder, Kind
from packetwire.connectionbase import FEATURES
from packetwire.core import engine as bounds
from packetwire.core.bodies import CallBodies
from packetwire.core.capabilities import Capabilities, Mode
from packetwire.core.control import MAX_UNFINISHED
from packetwire.core.engine import (
    BODIES_UNTAKEN,
    BODY_LOST,
    DRAINING,
    NOT_BEGUN,
    NOT_DONE,
    TOO_MUCH_FOR_ALL,
    ConnectionEngine,
)
from packetwire.core.fields import MAX_METADATA_SIZE, decode_fields
from packetwire.core.frames import (
    FRAME_CHANNEL,
    MAX_META_SIZE,
    RULES,
    FrameType,
    Meta,
    decode_frame,
    encode_frame,
    encode_meta,
)
from packetwire.core.hello import (
    ANSWER,
    ASK,
    CONTROL_CHANNEL,
    DESCRIBE,
    DRAIN,
    HELLO,
    MAX_HELLO_SIZE,
    MAX_PING_SIZE,
    MAX_REASON,
    PING,
    Feature,
    Hello,
    decode_drain,
    decode_hello,
    encode_drain,
    encode_hello,
)
from packetwire.core.keepalive import DEFAULT_KEEPALIVE, IDLE_KEEPALIVE, STALL_SECONDS
from packetwire.core.lanes import LONG_PIECE, MAX_IN_PIECES, PIECES_ABOVE, SHORT_PIECE
from packetwire.core.owed import OwedRequests
from packetwire.core.packets import DEFAULT_MAX_PACKET_SIZE, MAX_UINT, decode_varint, encode_varint
from packetwire.core.receivingbody import MAX_WINDOW, POOL
from packetwire.core.refusals import REFUSALS
from packetwire.core.requests import response_parts
from packetwire.core.sendingbody import LEAST_CREDIT
from packetwire.core.state import TRANSITIONS, Act, Half
from packetwire.core.statuses import NOT_BEGUN as STATUS_NOT_BEGUN
from packetwire.core.statuses import StatusCode
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
        refusal(little, request(2, b"abc"), request(3, b"d")).replace("3 bytes", f"{octets} bytes"),
        overdue(max_inbound_octets=3).replace("4 bytes", f"{octets + 1} bytes"),
        BODIES_UNTAKEN.decode(),
        TOO_MUCH_FOR_ALL.decode(),
        DRAINING.decode(),
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


# capabilities


def test_control_requests() -> None:
    rows = TABLES["|octets|controlrequestorresponse|"]
    packets = [Packet.from_bytes(bytes.fromhex(row[0])) for row in rows]
    assert [bytes(packet) for packet in packets] == [bytes.fromhex(row[0]) for row in rows]
    ask, answer, ping, pong, drain, drained, describe, described, last = packets
    assert (ask.channel, ask.rq_type, ask.payload[:4]) == (CONTROL_CHANNEL, HELLO + 1, ASK)
    assert (answer.channel, answer.flags, answer.payload[:4]) == (CONTROL_CHANNEL, 1, ANSWER)
    assert decode_hello(ask.payload[4:]) == decode_hello(answer.payload[4:]) == Hello(features=Feature(127))
    assert (ping.channel, ping.rq_type, pong.tag) == (CONTROL_CHANNEL, PING + 1, ping.tag)
    assert (drain.channel, drain.rq_type, drained.tag) == (CONTROL_CHANNEL, DRAIN + 1, drain.tag)
    assert decode_drain(drain.payload) == (30_000, "")
    assert (describe.channel, describe.rq_type, described.tag) == (CONTROL_CHANNEL, DESCRIBE + 1, describe.tag)
    assert (last.rq_type, last.payload) == (DRAIN + 1, encode_drain(0, "why"))
    kinds = TABLES["|type|controlrequest|towhom|payload|payloadoftheresponse|"]
    assert {name: int(number) for number, name, *_ in kinds} == {
        "HELLO": HELLO,
        "PING": PING,
        "DRAIN": DRAIN,
        "DESCRIBE": DESCRIBE,
    }
    engine = engine_of(SERVED, b"{}")
    engine.receive(b"".join(bytes.fromhex(row[0]) for row in rows if "response" not in row[1]))
    answers = list(PacketsOf(engine))
    assert [(packet.tag, packet.flags) for packet in answers] == [(2, 1), (3, 1), (4, 1), (6, 1), (5, 1)]
    assert bytes(described) in map(bytes, answers)


def engine_of(features: Feature, description: bytes | None = None) -> ConnectionEngine:
    return ConnectionEngine(capabilities=Capabilities(Mode.AUTO, Hello(features=features), description))


SERVED = (
    Feature.CANCEL
    | Feature.META
    | Feature.BODIES
    | Feature.PIECES
    | Feature.PROGRESS
    | Feature.DRAIN
    | Feature.DESCRIBE
    | Feature.REQUEST_IDS
)


def test_the_features_of_connections() -> None:
    assert FEATURES == SERVED
    (said,) = re.findall(r"packetwire says the features (.*)\.", TEXT)
    assert sum(map(int, re.findall(r"\d+", said))) == SERVED


def test_the_fields_of_drain() -> None:
    numbers = [int(number) for number, _, _ in TABLES["|id|value|withoutit|"]]
    assert numbers == [number for number, _ in decode_fields(encode_drain(1, "why"), MAX_HELLO_SIZE)]
    assert f"at most {MAX_REASON} characters" in TEXT
    assert f"at most {MAX_PING_SIZE} octets, comes back" in TEXT


def test_the_times_of_keepalive() -> None:
    text = " ".join(TEXT.split())
    assert f"for {DEFAULT_KEEPALIVE:g} seconds while it waits for something, or for {IDLE_KEEPALIVE:g} s" in text
    assert f"for {DEFAULT_KEEPALIVE:g} seconds more" in text
    assert f"waits for it for {STALL_SECONDS:g} seconds" in text


def test_a_payload_in_pieces() -> None:
    rows = [row for row in TABLES["|octets|packet|"] if "7" in row[1]]
    engine = engine_of(SERVED)
    engine.receive(bytes.fromhex(TABLES["|octets|controlrequestorresponse|"][0][0]))
    (request,) = engine.receive(b"".join(bytes.fromhex(octets) for octets, _ in rows))
    assert request == RequestReceived(0, 7, 3, 0, b"abcdef")
    text = " ".join(TEXT.split())
    assert f"a payload of more than {PIECES_ABOVE} octets in pieces: PIECEs of {SHORT_PIECE} octets if" in text
    assert f"else of {LONG_PIECE}, or of what both ends" in text
    assert f"the last {SHORT_PIECE} octets or fewer" in text
    assert f"At most {MAX_IN_PIECES} payloads are in pieces at a time" in text
    assert f"at {MAX_UNFINISHED} it is the error `too-many-unfinished`" in text
    assert f"beyond {bounds.DEFAULT_MAX_INBOUND_OCTETS} a receiver drops" in text


def test_the_conversation_with_bodies() -> None:
    features = SERVED | Feature.BODIES
    a, b = engine_of(features), engine_of(features)
    a.ask_capabilities()
    for source, sink in ((a, b), (b, a)):
        sink.receive(b"".join(source.data_to_send()))
        source.data_sent()
    bodies = CallBodies()
    a.ask_with(Meta(has_body=True, response_credit=a.first_credit), 7, 0, b"hi", 0, None, bodies)
    assert bodies.request is not None
    bodies.request.write(b"abc")
    bodies.request.finish()
    happened = [("A", bytes(packet)) for packet in PacketsOf(a)]
    b.receive(b"".join(octets for _, octets in happened))
    body = b.contexts[2].response_body
    assert body is not None
    body.write(b"xyz")
    b.respond(0, 2, True, 0, b"done")
    happened += [("B", bytes(packet)) for packet in PacketsOf(b)]
    assert happened == [(end, bytes.fromhex(octets)) for end, octets, _ in TABLES["|sender|octets|withbodies|"]]
    text = " ".join(TEXT.split())
    assert f"with less than {LEAST_CREDIT} octets of credit" in text
    assert f"up to {MAX_WINDOW} octets while" in text
    assert f"by {POOL} octets altogether" in text
    assert BODY_LOST.decode() in text


def test_requests_that_are_announced() -> None:
    assert f"at {MAX_UNFINISHED} it is the error `too-many-unfinished`" in " ".join(TEXT.split())


def test_the_conversation_with_capabilities() -> None:
    a, b = engine_of(SERVED), engine_of(SERVED)
    happened: list[tuple[str, bytes]] = []

    def carry(sender: str) -> None:
        source, sink = (a, b) if sender == "A" else (b, a)
        data, begin = b"".join(source.data_to_send()), 0
        source.data_sent()
        while begin < len(data):
            _, end = Packet.parse_bytes(data, begin)
            happened.append((sender, data[begin:end]))
            begin = end
        sink.receive(data)

    a.request(0, payload=b"hi")
    carry("A")
    b.respond(0, 2, True, 0, b"HI")
    carry("B")
    a.ask_with(Meta(milliseconds_left=2500, progress_interval=50), 7, 0, b"", 0, None)
    carry("A")
    b.report(0, 3, b"x", 1.0)
    carry("B")
    a.cancel(0, 3)
    carry("A")
    b.refuse(0, 3, b"cancelled", StatusCode.CANCELLED, begun=True)
    carry("B")
    b.wind_down(30_000)
    for sender in "BABA":
        carry(sender)
    assert happened == [(end, bytes.fromhex(octets)) for end, octets, _ in TABLES["|end|octets|packet|"]]
    assert str(a.ended and a.ended.cause) == "the peer ended the connection (EOF): the server stops"
    assert b.ended is not None


def test_the_statuses_of_refusals() -> None:
    documented = {text: int(flags) for text, flags in TABLES["|text|flags|"]}

    def refused(*received: Packet, drains: bool = False, **settings: Any) -> tuple[str, int]:
        """The text and flags with which the last of these packets is refused."""
        engine = ConnectionEngine(capabilities=Capabilities(Mode.AUTO, Hello(features=SERVED)), **settings)
        ask = Packet.from_bytes(bytes.fromhex(TABLES["|octets|controlrequestorresponse|"][0][0]))
        engine.receive(bytes(ask))
        if drains:
            engine.drain(None, "", None)
            engine.receive(bytes(Packet(is_request=False, channel=CONTROL_CHANNEL, tag=2, flags=1)))
        engine.receive(b"".join(map(bytes, received)))
        *_, response = PacketsOf(engine)
        assert (response.is_request, response.tag, response.flags & 1) == (False, received[-1].tag, 0)
        return response.payload.decode(), response.flags >> 1

    request = Packet(is_request=True, tag=5, rq_type=1)
    busy, flags = refused(request, max_inbound=0)
    assert busy.startswith("too many requests")
    found = dict(
        [
            refused(request, drains=True),
            refused(request, accepts_requests=False),
            refused(Packet(is_request=True, channel=16, tag=2, rq_type=1), channels=()),
            refused(PacketConnection.ERQ_Packet, request),
            refused(request, request),
            ("a bound is reached", flags),
        ]
    )
    found |= dict(owed_refusals())
    assert found == documented


def owed_refusals() -> Iterator[tuple[str, int]]:
    """How requests that stand in a queue are refused."""
    for frame, now in ((encode_frame(FrameType.CANCEL, 0, 2, b"\1"), 0.0), (b"", 9.0)):
        engine = engine_of(SERVED)
        owed = OwedRequests(engine, lambda function: function())
        meta = encode_frame(FrameType.META, 0, 2, encode_meta(Meta(milliseconds_left=1)))
        ask = bytes.fromhex(TABLES["|octets|controlrequestorresponse|"][0][0])
        engine.receive(ask + meta + bytes(Packet(is_request=True, tag=2, rq_type=1)) + frame)
        assert not owed.may_begin(2, now)
        *_, response = PacketsOf(engine)
        yield response.payload.decode(), response.flags >> 1


def test_the_mark_of_the_example() -> None:
    capabilities = Capabilities(Mode.AUTO, Hello())
    engine = ConnectionEngine(capabilities=capabilities)
    (marked,) = re.findall(r"`(80 05 [^`]*)` is the first request", TEXT)
    assert len(engine.receive(bytes.fromhex(marked))) == 1
    assert capabilities.is_marked


def test_the_fields_of_hello() -> None:
    rows = TABLES["|id|value|ifabsent|"]
    absent = {int(number): default for number, _, default in rows}
    default = Hello()
    said = [default.max_packet_size, default.body_credit, default.max_bodies, default.max_piece]
    assert [absent[number] for number in (3, 5, 6, 7)] == [str(number) for number in said]
    everything = Hello(
        features=Feature(1), max_packet_size=1, max_inbound=1, body_credit=1, max_bodies=1, max_piece=1024,
        protocol="p", protocol_version="1", schema_hash=bytes(8), software="s", epoch=bytes(8),
        client_id=bytes(16), metadata={"key": b""},
    )  # fmt: skip
    fields = decode_fields(encode_hello(everything), MAX_HELLO_SIZE)
    assert [number for number, _ in fields] == list(absent)
    assert f"`{ASK.decode()}`" in TEXT
    assert f"at\nmost {MAX_HELLO_SIZE} octets" in TEXT
    assert f"{MAX_METADATA_SIZE} octets of keys and values" in TEXT


def test_the_features() -> None:
    assert [int(bit) for _, bit in TABLES["|feature|bit|"]] == [feature.value for feature in Feature]


def test_the_types_of_frames() -> None:
    rows = TABLES["|type|frame|aboutarequestofits|feature|payload|"]
    for (kind, rule), (number, name, about, feature, _) in zip(RULES.items(), rows, strict=True):
        assert (kind, kind.name, rule.feature) == (int(number), name, int(feature))
        assert about.split(", ") == ["sender"] * rule.of_sender + ["receiver"] * rule.of_receiver


@pytest.mark.parametrize("row", TABLES["|octets|frame|channel|tag|aboutarequestofits|payload|"], ids=str)
def test_the_examples_of_frames(row: list[str]) -> None:
    octets, name, channel, tag, about, payload = row
    packet = Packet.from_bytes(bytes.fromhex(octets))
    assert packet.channel == FRAME_CHANNEL
    assert packet.rq_type is not None
    frame = decode_frame(packet.tag, packet.flags, packet.rq_type - 1, packet.payload)
    assert (frame.kind.name, frame.channel, frame.tag) == (name, int(channel), int(tag))
    assert frame.of_receiver == (about == "receiver")
    assert frame.payload == bytes.fromhex(payload)


def test_the_fields_of_meta() -> None:
    meta = Meta(
        milliseconds_left=1, has_body=True, response_credit=1, progress_interval=1, trace_context=bytes(26),
        trace_state=b"", request_id=(bytes(8), 1), takes_typed_errors=True, metadata={"key": b""},
    )  # fmt: skip
    fields = decode_fields(encode_meta(meta), MAX_META_SIZE)
    assert [number for number, _ in fields] == [int(number) for number, _ in TABLES["|id|value|"]]
    assert f"at most {MAX_META_SIZE} octets" in TEXT


def test_the_status_codes() -> None:
    rows = TABLES["|code|name|therequest|"]
    assert [(int(code), name) for code, name, _ in rows] == [(code.value, code.name) for code in StatusCode]
    assert f"{STATUS_NOT_BEGUN} is\nadded" in TEXT
