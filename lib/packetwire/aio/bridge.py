"""`AsyncBridge`: bytes from one address to another and back, in an event loop."""

from packetwire._async.bridge import AsyncBridge

__all__ = ["AsyncBridge"]
