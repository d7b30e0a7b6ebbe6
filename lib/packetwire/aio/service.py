"""`AsyncHasPacketConnection`: an object with a connection in an event loop, whose requests are classes."""

from packetwire._async.service import AsyncHasPacketConnection as AsyncHasPacketConnection
