"""Channels over an `AsyncPacketConnection`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from packetwire.messaging.looped import LoopChannel
from packetwire.messaging.packets import PacketChannel
from packetwire.messaging.session import Session


class LoopPacketChannel(LoopChannel, PacketChannel):
    """The peer at the other end of a packet connection that an event loop drives.

    Mixed in before the `PacketChannel` of a protocol.
    """

    connection: Any
    """An `AsyncPacketConnection`."""

    def _submit(self, rq_type: int, flags: int, payload: bytes, key: Hashable) -> None:
        self.connection.submit(rq_type, flags, payload, channel=self.number)

    async def drain(self, session: Session | None) -> None:
        if self.connection.is_open():
            await self.connection.drain()
