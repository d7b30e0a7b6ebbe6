"""What was recorded of the reference, as one table of cases for the encoder, the decoder and the engine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packetwire import Packet, PacketDecoder

FIXTURES = Path(__file__).parents[2] / "fixtures"

PAYLOAD_RULES = {"byte i = (i*7+3)&255": bytes((i * 7 + 3) & 255 for i in range(256))}
"""The payloads that are described instead of listed: rule -> the octets that repeat."""


@dataclass(frozen=True)
class PacketCase:
    """The fields of a packet, and its octets: all of them, or their digest, number and beginning."""

    id: str
    fields: dict[str, Any]
    octets: bytes | None
    sha256: str
    size: int
    head: bytes

    @property
    def packet(self) -> Packet:
        return Packet(**self.fields)

    def check_encoded(self, octets: bytes) -> None:
        assert len(octets) == self.size, self.id
        assert octets[: len(self.head)] == self.head, self.id
        assert hashlib.sha256(octets).hexdigest() == self.sha256, self.id

    @property
    def wire(self) -> bytes:
        """The octets to decode; where only their digest was recorded, ours if they have it."""
        if self.octets is not None:
            return self.octets
        octets = bytes(self.packet)
        self.check_encoded(octets)
        return octets


@dataclass(frozen=True)
class StreamCase:
    """Both directions of one connection of the reference, whole."""

    id: str
    client_to_server: bytes
    server_to_client: bytes

    def sides(self) -> list[tuple[str, bytes, bytes]]:
        """(role, what it sent, what it received)"""
        return [
            ("client", self.client_to_server, self.server_to_client),
            ("server", self.server_to_client, self.client_to_server),
        ]


def load_items(name: str) -> list[dict[str, Any]]:
    """The items of a file in fixtures/, checked to be there and to be different."""
    items = json.loads((FIXTURES / name).read_text())["items"]
    assert items
    assert len({item["id"] for item in items}) == len(items)
    return items


def packet_case(item: dict[str, Any]) -> PacketCase:
    octets = None
    if item["kind"] == "packet":
        payload = bytes.fromhex(item["payload"])
        octets = head = bytes.fromhex(item["hex"])
        digest, size = hashlib.sha256(octets).hexdigest(), len(octets)
    else:
        length = item["payload_len"]
        payload = (PAYLOAD_RULES[item["payload_rule"]] * (length // 256 + 1))[:length]
        digest, size, head = item["sha256"], item["total_len"], bytes.fromhex(item["head_hex"])
    fields = {name: item[name] for name in ("is_request", "channel", "tag", "flags")}
    fields |= {"rq_type": item["wire_rq_type"], "payload": payload}
    return PacketCase(item["id"], fields, octets, digest, size, head)


def stream_case(item: dict[str, Any]) -> StreamCase:
    return StreamCase(item["id"], bytes.fromhex(item["client_to_server"]), bytes.fromhex(item["server_to_client"]))


def decode(octets: bytes) -> list[Packet]:
    """The packets of a whole stream."""
    decoder = PacketDecoder()
    packets = decoder.feed(octets)
    decoder.finish()
    assert not decoder.trailing
    return packets


PACKETS = [packet_case(item) for item in load_items("cs_packets.json")]
STREAMS = [stream_case(item) for item in load_items("cs_streams.json")]
DIRECTIONS = [octets for case in STREAMS for _, octets, _ in case.sides()]
"""The octets of every recorded direction."""
