"""ICCP on a packet stream that an event loop drives."""

from __future__ import annotations

from packetwire.iccp.requests import ICCPPacketChannel
from packetwire.messaging.looppackets import LoopPacketChannel


class LoopICCPPacketChannel(LoopPacketChannel, ICCPPacketChannel):
    """The component, or controller, at the other end of an `AsyncPacketConnection`."""
