"""`AsyncPool`, `AsyncReconnecting` and `AsyncSupervised`: the same in an event loop."""

from packetwire._async.pool import AsyncPool, AsyncReconnecting, AsyncSupervised

__all__ = ["AsyncPool", "AsyncReconnecting", "AsyncSupervised"]
