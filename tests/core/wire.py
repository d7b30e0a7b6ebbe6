"""Single packets as a peer sends them, and those that an engine sends."""

from __future__ import annotations

from packetwire import Packet
from packetwire.core.engine import ConnectionEngine
from packetwire.core.packets import EOF_PACKET, ERQ_PACKET

from .golden import decode

ERQ, EOF = bytes(ERQ_PACKET), bytes(EOF_PACKET)


def request(tag: int, rq_type: int = 1, flags: int = 0, payload: bytes = b"", channel: int = 0) -> bytes:
    """`rq_type` as on the wire."""
    return bytes(Packet(is_request=True, channel=channel, tag=tag, flags=flags, rq_type=rq_type, payload=payload))


def response(tag: int, flags: int = 1, payload: bytes = b"", channel: int = 0) -> bytes:
    """`flags` as on the wire: bit 0 is "ok"."""
    return bytes(Packet(is_request=False, channel=channel, tag=tag, flags=flags, payload=payload))


def sent(engine: ConnectionEngine) -> bytes:
    """What the engine wants sent, written at once."""
    octets = b"".join(engine.data_to_send())
    engine.data_sent()
    return octets


def sent_packets(engine: ConnectionEngine) -> list[Packet]:
    return decode(sent(engine))
