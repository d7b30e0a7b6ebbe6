"""FBSP on a packet stream that an event loop drives."""

from __future__ import annotations

from packetwire.fbsp.requests import FBSPPacketChannel
from packetwire.messaging.looppackets import LoopPacketChannel


class LoopFBSPPacketChannel(LoopPacketChannel, FBSPPacketChannel):
    """The FBSP peer at the other end of an `AsyncPacketConnection`."""
