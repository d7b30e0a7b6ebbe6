"""What the cells differ in."""

from __future__ import annotations

FACES = {
    "threads-threads": ("threads", "threads"),
    "threads-asyncio": ("threads", "asyncio"),
    "asyncio-threads": ("asyncio", "threads"),
    "asyncio-asyncio": ("asyncio", "asyncio"),
    "uvloop-uvloop": ("uvloop", "uvloop"),
}
ZMQ_SOCKETS = {"zmq+pair": ("pair", "pair"), "zmq+router": ("router", "dealer")}
"""What is served on and what connects, by the transport's first word."""
ZMQ_ENDPOINTS = ["ipc", "tcp", "inproc"]
ZMQ_TRANSPORTS = [f"{sockets}-{endpoint}" for sockets in ZMQ_SOCKETS for endpoint in ZMQ_ENDPOINTS]
TRANSPORTS = ["pipes", "socketpair", "unix", "tcp", "files", "buffers", "tls", "child", "ssh", *ZMQ_TRANSPORTS]
LEFT_TO_ALL_CELLS = [
    *("unix", "buffers"),  # which other tests here are about
    *("zmq+pair-ipc", "zmq+pair-inproc", "zmq+router-tcp", "zmq+router-inproc"),
]
"""Transports of which nothing is in the short selection."""
ASKING = ["a-asks-b", "b-asks-a", "both-ask"]
