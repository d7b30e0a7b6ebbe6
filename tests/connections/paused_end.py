"""One end of a connection, in a process of its own that a test stops and lets go on.

    python -m tests.connections.paused_end FACE serve|connect|stdio KEEPALIVE [ADDRESS [CERTFILE KEYFILE]]

It says where it serves, `up` when both ends have said what they understand, and what ended each connection: a line
of JSON each, on standard error, as standard output may carry packets.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from typing import Any

from packetwire import AsyncPacketConnection, PacketConnection, StreamEnded, aserve, connect_to, serve, stdio
from packetwire.streams.tls import client_context, server_context

ECHO, WAIT, PID = range(3)

over = threading.Event()


def report(**what: Any) -> None:
    os.write(2, (json.dumps(what) + "\n").encode())


def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
    if rq_type == WAIT:
        over.wait()
    return b"%d" % os.getpid() if rq_type == PID else payload


def on_event(event: Any) -> None:
    if isinstance(event, StreamEnded):
        report(ended=type(event.cause).__name__, text=str(event.cause))


async def run_looped(how: str, settings: dict[str, Any], address: str, tls: dict[str, Any]) -> None:
    if how == "serve":
        async with await aserve(address, lambda stream: AsyncPacketConnection(stream, **settings), **tls) as server:
            report(address=str(server.address))
            await asyncio.to_thread(sys.stdin.read)
        return
    async with AsyncPacketConnection(connect_to(address, **tls) if address else stdio(), **settings) as conn:
        if how == "connect":
            await conn(ECHO)
            await conn.ping()  # from then on both know that the other understands it
            report(up=True)
            report(answered=(await conn(WAIT))[0])
            report(answered=(await conn(ECHO))[0])
        else:
            conn.submit(WAIT)  # so that something is awaited of the other end
        await conn.join()


def run_threaded(how: str, settings: dict[str, Any], address: str, tls: dict[str, Any]) -> None:
    if how == "serve":
        with serve(address, lambda stream: PacketConnection(stream, **settings), **tls) as server:
            report(address=str(server.address))
            sys.stdin.read()
        return
    with PacketConnection(connect_to(address, **tls) if address else stdio(), **settings) as conn:
        if how == "connect":
            conn(ECHO)
            conn.ping()  # from then on both know that the other understands it
            report(up=True)
            report(answered=conn(WAIT)[0])
            report(answered=conn(ECHO)[0])
        else:
            conn.submit(WAIT)  # so that something is awaited of the other end
        conn.join()


def main() -> None:
    face, how, seconds, address, *certificate = [*sys.argv[1:], ""][: max(4, len(sys.argv) - 1)]
    settings = {
        "request_handler": handler,
        "on_event": on_event,
        "close_timeout": 0.1,
        "keepalive": None if seconds == "none" else float(seconds),
    }
    tls: dict[str, Any] = {}
    if certificate and how == "serve":
        tls = {"ssl_context": server_context(*certificate)}
    elif certificate:
        tls = {"ssl_context": client_context(certificate[0]), "server_name": "localhost"}
    try:
        if face == "threads":
            run_threaded(how, settings, address, tls)
        else:
            asyncio.run(run_looped(how, settings, address, tls))
    except Exception as error:
        report(failed=repr(error))
    os._exit(0)  # whatever waits


if __name__ == "__main__":
    main()
