"""`HasPacketConnection`: an object with a connection whose requests are classes."""

from packetwire._sync.service import HasPacketConnection as HasPacketConnection
