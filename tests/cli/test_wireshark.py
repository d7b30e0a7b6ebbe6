"""The dissector for Wireshark, run by tshark: it finds in captures what our own decoder finds."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import struct
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from docs.pages import WIRE
from packetwire import Packet, PacketConnection, current_request
from packetwire.capture import HEADER, CaptureWriter, Kind, Record
from packetwire.cli.conversation import Conversations, Input, Seen
from packetwire.cli.pcap import MOST_DATA, checksum, pcap_of
from packetwire.core.frames import FRAME_CHANNEL, decode_frame
from packetwire.core.packet import EOF_PACKET
from packetwire.core.varint import encode_varint
from packetwire.testing import stream_pair

from .forked import packetwire, packetwire_text

TSHARK = shutil.which("tshark")
FIXTURES = Path(__file__).parents[2] / "fixtures"
SCRIPT = Path(__file__).parents[2] / "lib" / "packetwire" / "wireshark" / "packetwire.lua"
BEGIN = 1_700_000_000 * 10**9

needs_tshark = pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")
pytestmark = pytest.mark.timeout(60)

Fields = dict[str, list[str]]
"""Of a packet: name without that of the protocol -> the values of the fields that are called so."""


def golden(name: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads((FIXTURES / name).read_text())["items"]
    return items


def capture_of(*records: tuple[str, int, bytes]) -> bytes:
    """The capture with these (sign, connection, bytes), a millisecond after one another."""
    return HEADER + b"".join(
        bytes(Record(Kind(ord(sign)), connection, BEGIN + number * 10**6, data))
        for number, (sign, connection, data) in enumerate(records)
    )


# what tshark says


def dissected(capture: bytes, directory: Path, *options: str) -> list[tuple[str, Fields]]:
    """The packets that tshark finds in a capture, each with the address of its sender."""
    (directory / "capture").write_bytes(capture)
    written = packetwire("dump", directory / "capture", "--pcap", directory / "capture.pcap")
    assert (written.returncode, written.stdout, written.stderr) == (0, b"", b"")
    return read(directory / "capture.pcap", *options)


def read(pcap: Path, *options: str) -> list[tuple[str, Fields]]:
    argv = [str(TSHARK), "-2", "-r", str(pcap), "-X", f"lua_script:{SCRIPT}", "-T", "pdml", *options]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=50)
    assert "Lua" not in done.stderr, done.stderr
    return list(packets_in(done.stdout))


def packets_in(pdml: str) -> Iterator[tuple[str, Fields]]:
    for frame in ET.fromstring(pdml).iter("packet"):
        source = next((each.get("show", "") for each in frame.iter("field") if each.get("name") == "ip.src"), "")
        for proto in frame.findall("proto[@name='packetwire']"):
            fields: Fields = {}
            for each in proto.iter("field"):
                name = each.get("name", "").removeprefix("packetwire.")
                fields.setdefault(name, []).append(each.get("show", ""))
            yield source, fields


def one(fields: Fields, name: str) -> str:
    (value,) = fields[name]
    return value


def byte_strings(shown: Iterable[str]) -> list[bytes]:
    return [bytes.fromhex(each.replace(":", "")) for each in shown]


# what our decoder says


def seen_in(capture: bytes) -> list[Seen]:
    parts = iter([capture, b""])
    conversations = Conversations()
    found = [each for record in Input(lambda _: next(parts, b"")) for each in conversations.add(record)]
    return [each for each in found if isinstance(each, Seen)]


def compare(capture: bytes, directory: Path) -> list[Fields]:
    """See that both find the same packets with the same fields; returns those of tshark."""
    theirs = dissected(capture, directory)
    ours = seen_in(capture)
    assert len(theirs) == len(ours) > 0
    for (source, fields), seen in zip(theirs, ours, strict=True):
        assert (source == "192.0.2.1") is (seen.direction is Kind.BACK)
        compare_packet(fields, seen)
    return [fields for _, fields in theirs]


def compare_packet(fields: Fields, seen: Seen) -> None:
    packet = seen.packet
    assert int(one(fields, "tag")) == packet.tag
    assert int(one(fields, "channel")) == packet.channel
    assert int(one(fields, "flags"), 16) == packet.flags
    assert one(fields, "request") in ("01", "1", "00", "0")
    assert (int(one(fields, "request")) == 1) is packet.is_request
    assert byte_strings(fields.get("payload", [])) == ([packet.payload] if packet.payload else [])
    if seen.is_special:
        assert one(fields, "special") == ("EOF" if packet == EOF_PACKET else "ERQ")
        return
    assert "special" not in fields
    assert ("ok" in fields) is not packet.is_request
    if not packet.is_request:
        assert (int(one(fields, "ok")) == 1) is (packet.flags & 1 == 1)
        assert ("response_to" in fields) is (seen.request is not None)
    if packet.is_request or seen.request is not None:
        assert int(one(fields, "rq_type")) == seen.rq_type
    if packet.is_request and packet.channel == FRAME_CHANNEL:
        frame = decode_frame(packet.tag, packet.flags, int(one(fields, "rq_type")), packet.payload)
        assert int(one(fields, "frame.type")) == frame.kind
        assert int(one(fields, "frame.channel")) == frame.channel
        assert (int(one(fields, "frame.of_receiver")) == 1) is frame.of_receiver


@needs_tshark
def test_golden_streams(tmp_path: Path) -> None:
    records = []
    for number, item in enumerate(golden("cs_streams.json"), 1):
        records += [("+", number, b"")]
        records += [(">", number, bytes.fromhex(item["client_to_server"]))]
        records += [("<", number, bytes.fromhex(item["server_to_client"])), ("-", number, b"")]
    compare(capture_of(*records), tmp_path)


@needs_tshark
def test_packets_that_are_cut_and_long(tmp_path: Path) -> None:
    """Segments end anywhere, also in a length; the largest integers are kept."""
    stream = b"".join(
        bytes(Packet(is_request=True, channel=channel, tag=tag, flags=tag >> 3, rq_type=tag or 1, payload=payload))
        for channel, tag, payload in (
            (0, 2, bytes(300)),
            (16, (1 << 63) - 1, b"x"),
            (0, 3, bytes(3 * MOST_DATA)),
            (0, 4, b""),
        )
    )
    cuts = [*range(12), 290, 303, 304, 305, 306, 320, 324, 325, 326, 1000, len(stream) - 2, len(stream)]
    pieces = [(">", 1, stream[start:end]) for start, end in itertools.pairwise(cuts)]
    compare(capture_of(*pieces), tmp_path)


@needs_tshark
def test_the_conversation_with_capabilities_of_the_specification(tmp_path: Path) -> None:
    page = WIRE.read_text().partition("### A conversation with capabilities")[2]
    rows = re.findall(r"^\| ([AB]) \| `([0-9a-f ]+)` \|", page, re.MULTILINE)[:15]
    capture = capture_of(*[(">" if end == "A" else "<", 1, bytes.fromhex(octets)) for end, octets in rows])
    found = compare(capture, tmp_path)
    assert ["marked" in each for each in found[:2]] == [True, True]
    assert one(found[1], "control") == one(found[3], "control") == "HELLO"
    assert found[1]["field.name"] == ["version", "features"]
    assert byte_strings(found[1]["field.value"]) == [b"\x01", bytes.fromhex(rows[1][1])[-2:]]
    assert found[4]["field.name"] == ["milliseconds_left", "progress_interval"]
    assert one(found[7], "frame.code") == "1"
    assert (one(found[8], "status"), int(one(found[8], "begun"))) == ("CANCELLED", 1)
    assert one(found[9], "control") == "DRAIN"
    assert found[9]["field.name"] == ["milliseconds", "text"]


@needs_tshark
def test_a_live_connection(tmp_path: Path) -> None:
    """What two connections of ours say to each other: HELLO, META, PROGRESS, payloads in many segments."""

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        current_request().progress(b"half")
        return payload[::-1]

    with (
        stream_pair() as (ours, theirs),
        CaptureWriter(tmp_path / "live") as writer,
        PacketConnection(theirs, request_handler=handler) as server,
        PacketConnection(ours, capture=writer) as conn,
    ):
        assert conn(1, b"abc", timeout=30)[2] == b"cba"
        assert conn(2, bytes(200_000), 5, deadline=30.0, on_progress=lambda payload: None)[0]
        assert conn(3, b"", channel=16, timeout=30)[0] is False
        conn.ping(30)
        assert server.peer is not None
    found = compare((tmp_path / "live").read_bytes(), tmp_path)
    assert {one(each, "control") for each in found if "control" in each} >= {"HELLO", "PING"}
    assert {one(each, "frame.type") for each in found if "frame.type" in each} >= {"0", "6"}
    assert all(each["response_in"] for each in found if int(one(each, "channel")) == 16 and "ok" not in each)


def multipart(frames: Iterable[str]) -> bytes:
    return b"".join(encode_varint(len(frame) // 2) + bytes.fromhex(frame) for frame in frames)


def as_requests(frames: list[list[str]], types: list[int]) -> bytes:
    return b"".join(
        bytes(Packet(is_request=True, tag=tag, rq_type=rq_type + 1, payload=multipart(each)))
        for tag, (each, rq_type) in enumerate(zip(frames, types, strict=True), 2)
    )


@needs_tshark
def test_messages_of_fbsp_and_iccp(tmp_path: Path) -> None:
    from packetwire.fbsp.requests import message_of

    fbsp = [item["frames"] for item in golden("fbsp_messages.json") if "BUG" not in item["id"]]
    iccp = [item["frames"] for item in golden("iccp_messages.json") if "BUG" not in item["id"]]
    kinds = [int(frames[0][8:10], 16) >> 3 for frames in fbsp]
    capture = capture_of(
        (">", 1, as_requests(fbsp, kinds)), (">", 2, as_requests(iccp, [int(each[0], 16) for each in iccp]))
    )
    found = compare(capture, tmp_path)
    for frames, fields in zip(fbsp, found, strict=False):
        message = message_of(multipart(frames))
        assert int(one(fields, "fbsp.type")) == message.msg_type
        assert int(one(fields, "fbsp.flags"), 16) == message.flags
        assert byte_strings(fields["fbsp.token"]) == [message.token]
        assert byte_strings(fields.get("part", [])) == [bytes.fromhex(each) for each in frames[1:] if each]
    for frames, fields in zip(iccp, found[len(fbsp) :], strict=True):
        assert int(one(fields, "iccp.type")) == int(frames[0], 16)


@needs_tshark
def test_what_is_malformed_and_what_is_behind_eof(tmp_path: Path) -> None:
    capture = capture_of(
        (">", 1, b"\x03\x02\x02\x01\x03\x00\x02\x00later"),
        (">", 1, b"and later"),
        ("<", 1, b"\x02\x82\x80"),
        (">", 2, b"\x03\x05\x02\x00" + b"\xff" * 12),
    )
    found = [fields for _, fields in dissected(capture, tmp_path)]
    behind = [each for fields in found for each in fields.get("behind_eof", [])]
    assert byte_strings(behind) == [b"later", b"and later"]
    assert sum("malformed" in fields for fields in found) == 3


@needs_tshark
def test_other_ports_and_link_type_147(tmp_path: Path) -> None:
    request, response = b"\x05\x02\x02\x01hi", b"\x04\x02\x04HI"
    capture = capture_of((">", 1, request), ("<", 1, response))
    assert dissected(capture, tmp_path, "-o", "packetwire.ports:5000-5001") == []
    decoded = dissected(capture, tmp_path, "-o", "packetwire.ports:1", "-d", "tcp.port==49153,packetwire")
    assert [one(fields, "tag") for _, fields in decoded] == ["2", "2"]
    pieces = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 147)]
    pieces += [struct.pack("<IIII", 0, 0, len(each), len(each)) + each for each in (request, response)]
    (tmp_path / "user.pcap").write_bytes(b"".join(pieces))
    assert [one(fields, "tag") for _, fields in read(tmp_path / "user.pcap")] == ["2", "2"]


# without tshark


def test_the_script_is_installed_where_wireshark_looks_and_shown(tmp_path: Path) -> None:
    done = packetwire_text("wireshark", "--install", tmp_path / "plugins")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/plugins/packetwire.lua\n")
    assert (tmp_path / "plugins" / "packetwire.lua").read_bytes() == SCRIPT.read_bytes()
    assert packetwire("wireshark").stdout == SCRIPT.read_bytes()
    at_home = packetwire("wireshark", "--install", env={"HOME": str(tmp_path)})
    assert at_home.stdout.decode() == f"{tmp_path}/.local/lib/wireshark/plugins/packetwire.lua\n"
    (tmp_path / "file").touch()
    refused = packetwire_text("wireshark", "--install", tmp_path / "file")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)


def test_what_does_not_go_with_pcap(tmp_path: Path) -> None:
    (tmp_path / "capture").write_bytes(capture_of((">", 1, b"\x03\x02\x02\x01")))
    both = packetwire_text("dump", tmp_path / "capture", "--pcap", tmp_path / "out", "--summary")
    assert (both.returncode, both.stderr.count("\n")) == (2, 1)
    nowhere = packetwire_text("dump", tmp_path / "capture", "--pcap", tmp_path / "none" / "out")
    assert (nowhere.returncode, nowhere.stdout) == (1, "")
    assert "cannot write" in nowhere.stderr


def test_segments_are_those_of_tcp() -> None:
    """Sequence numbers count the bytes, and the ends; the checksums are right."""
    data = bytes(MOST_DATA + 1)
    records = [
        Record(Kind.BEGIN, 70_000, BEGIN),
        Record(Kind.FORTH, 70_000, BEGIN + 5, data),
        Record(Kind.BACK, 70_000, BEGIN + 6),
        Record(Kind.OVER, 70_000, BEGIN + 7),
    ]
    _, *frames = pcap_of(records)
    segments = [frame[16:] for frame in frames]
    assert [struct.unpack_from("!HHIIBB", each, 20)[2:] for each in segments] == [
        (0, 0, 0x50, 2),
        (0, 1, 0x50, 18),
        (1, 1, 0x50, 16),
        (1, 1, 0x50, 24),
        (1 + MOST_DATA, 1, 0x50, 24),
        (1, 2 + MOST_DATA, 0x50, 17),
        (2 + MOST_DATA, 2, 0x50, 17),
    ]
    assert segments[0][12:20] == bytes((10, 1, 0x11, 0x70, 192, 0, 2, 1))
    for each in segments:
        assert checksum(each[:20]) == 0
        assert checksum(each[12:20] + struct.pack("!BBH", 0, 6, len(each) - 20) + each[20:]) == 0
