"""Packets as objects, for whoever looks at them, and all names around them."""

from __future__ import annotations

from typing import Any

from packetwire.core.packet import EOF_PACKET as EOF_PACKET
from packetwire.core.packet import ERQ_PACKET as ERQ_PACKET
from packetwire.core.packet import FLAG_CHANNEL as FLAG_CHANNEL
from packetwire.core.packet import FLAG_REQUEST as FLAG_REQUEST
from packetwire.core.packet import MAX_HEAD_BYTES as MAX_HEAD_BYTES
from packetwire.core.packet import Packet as Packet
from packetwire.core.packet import WritableFile as WritableFile
from packetwire.core.packet import check_payload as check_payload
from packetwire.core.packet import check_uint as check_uint
from packetwire.core.packet import head_tail as head_tail
from packetwire.core.packet import packet_head as packet_head
from packetwire.core.packetcodec import CHUNK_SIZE as CHUNK_SIZE
from packetwire.core.packetcodec import RESPONSE, Fields, PacketReader
from packetwire.core.settings import DEFAULT_MAX_PACKET_SIZE as DEFAULT_MAX_PACKET_SIZE
from packetwire.core.varint import MAX_UINT as MAX_UINT
from packetwire.core.varint import MAX_VARINT_BYTES as MAX_VARINT_BYTES
from packetwire.core.varint import BytesLike as BytesLike
from packetwire.core.varint import decode_varint as decode_varint
from packetwire.core.varint import encode_varint as encode_varint


class PacketDecoder(PacketReader):
    """Bytes in, packets out, whatever the chunks that the bytes come in.

    `feed` returns the packets that are complete; `finish` says that nothing more comes. The EOF packet is
    the last one of a stream: what follows it is not decoded but kept in `trailing`.
    `max_packet_size` counts the bytes that follow the length field.
    """

    def __init__(self, max_packet_size: int = DEFAULT_MAX_PACKET_SIZE) -> None:
        super().__init__(max_packet_size)  # said here for `help`, which knows nothing of what is compiled

    def feed(self, octets: BytesLike) -> list[Packet]:  # type: ignore[override]
        """Take bytes, return the packets that they complete.

        Raises `RemoteProtocolError` if they break a rule of the format. If packets came before the fault
        these are returned first: the exception is then in `fault`, and the next call raises it.
        """
        return [packet_of(fields) for fields in super().feed(octets)]

    def incomplete_head(self) -> Packet | None:  # type: ignore[override]
        """The fields of the packet that has begun, without payload; None until they have all arrived."""
        fields = super().incomplete_head()
        return None if fields is None else packet_of(fields)


def packet_of(fields: Fields) -> Packet:
    """The packet that has these fields."""
    key, flags, wire_rq_type, payload = fields
    channel, tag = (0, key) if isinstance(key, int) else key
    rq_type = None if wire_rq_type == RESPONSE else wire_rq_type
    packet: Packet = _new_packet(Packet, (rq_type is not None, channel, tag, flags, rq_type, payload))
    return packet


_new_packet: Any = tuple.__new__
"""Without a check of the fields, which were decoded."""
