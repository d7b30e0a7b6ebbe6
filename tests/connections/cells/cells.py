"""What the cells differ in."""

from __future__ import annotations

FACES = {
    "threads-threads": ("threads", "threads"),
    "threads-asyncio": ("threads", "asyncio"),
    "asyncio-threads": ("asyncio", "threads"),
    "asyncio-asyncio": ("asyncio", "asyncio"),
    "uvloop-uvloop": ("uvloop", "uvloop"),
}
TRANSPORTS = ["pipes", "socketpair", "unix", "tcp", "files", "buffers", "tls", "child", "ssh"]
ASKING = ["a-asks-b", "b-asks-a", "both-ask"]
