"""A peer that ends its direction without EOF gets the replies that it is owed, over every stream, on both faces."""

from __future__ import annotations

import asyncio
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from packetwire import (
    AsyncPacketConnection,
    ConnectionEnded,
    LocalProtocolError,
    Packet,
    PacketConnection,
    PeerClosed,
    PeerEndedRequests,
    Responder,
    StreamEnded,
    StreamTruncated,
    aserve,
    connect_to,
    serve,
)
from packetwire.addresses import ExecAddress
from packetwire.bridge import Bridge
from packetwire.core.packets import PacketDecoder
from packetwire.streams.tls import client_context, server_context, start_tls

from .certificates import make_certificate
from .conftest import TRANSPORTS, Ends

pytestmark = pytest.mark.timeout(60)

FACES = ("threads", "asyncio")
LIMIT = 30
"""Seconds for what does not take any."""
REQUESTS = 20


def request(tag: int, payload: bytes) -> bytes:
    return bytes(Packet(is_request=True, channel=0, tag=tag, flags=0, rq_type=1, payload=payload))


ASKED = b"".join(request(tag, b"%d" % tag) for tag in range(2, 2 + REQUESTS))
ANSWERED = {tag: b"%d" % tag for tag in range(2, 2 + REQUESTS)}
ERQ, EOF = PacketConnection.ERQ_Packet, PacketConnection.EOF_Packet


# the other end, without packetwire


def ask_and_end(peer: Any, asked: bytes) -> None:
    """Send requests and end the direction."""
    if isinstance(peer, socket.socket):
        peer.sendall(asked)
        peer.shutdown(socket.SHUT_WR)
    else:
        os.write(peer[1], asked)
        os.close(peer[1])


def read_to_the_end(peer: Any) -> bytes:
    fd = peer.fileno() if isinstance(peer, socket.socket) else peer[0]
    found = b""
    while piece := os.read(fd, 65536):
        found += piece
    return found


def check_answers(received: bytes) -> None:
    """All requests are answered, and behind that comes EOF."""
    *others, last = PacketDecoder().feed(received)
    assert last == EOF
    assert others.count(ERQ) == 1
    responses = [packet for packet in others if packet != ERQ]
    assert {packet.tag: packet.payload for packet in responses} == ANSWERED
    assert all(packet.flags & 1 for packet in responses)


# this end


class Handlers:
    """Ways to answer, of which none is ready before `gate` is set."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self._threads: list[threading.Thread] = []

    def join(self) -> None:
        """Wait for the threads that have answered."""
        for thread in self._threads:
            thread.join()

    def worker(self, rq_type: int, flags: int, payload: bytes) -> bytes:
        assert self.gate.wait(LIMIT)
        return payload

    def deferred(self, rq_type: int, flags: int, payload: bytes) -> Responder:
        responder = Responder()

        def answer() -> None:
            assert self.gate.wait(LIMIT)
            responder.respond(payload)

        self._threads.append(threading.Thread(target=answer, daemon=True))
        self._threads[-1].start()
        return responder

    async def coroutine(self, rq_type: int, flags: int, payload: bytes) -> bytes:
        while not self.gate.is_set():
            await asyncio.sleep(0.001)
        return payload


WAYS = [
    ("threads", "worker", {}),
    ("threads", "deferred", {}),
    ("threads", "deferred", {"handlers": "inline"}),
    ("asyncio", "worker", {}),
    ("asyncio", "deferred", {}),
    ("asyncio", "deferred", {"handlers": "inline"}),
    ("asyncio", "coroutine", {}),
]


class Running:
    """A connection that is open, in whichever face; `ended` is put there when nothing more is received."""

    def __init__(self) -> None:
        self.ended: queue.Queue[ConnectionEnded | None] = queue.Queue()
        self.failure: BaseException | None = None


@contextmanager
def opened(face: str, recv_send: Any, **settings: Any) -> Iterator[Running]:
    """A connection, in a thread of its own, that closes when nothing more is received."""
    running = Running()

    def with_threads() -> None:
        with PacketConnection(recv_send, **settings) as conn:
            conn.join()
            running.ended.put(conn.ended)

    async def in_a_loop() -> None:
        async with AsyncPacketConnection(recv_send, **settings) as conn:
            await conn.join()
            running.ended.put(conn.ended)

    def run() -> None:
        try:
            asyncio.run(in_a_loop()) if face == "asyncio" else with_threads()
        except BaseException as error:
            running.failure = error
            running.ended.put(None)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield running
    finally:
        thread.join()


@contextmanager
def closing(ends: Ends) -> Iterator[Any]:
    """The far end; both are closed."""
    peer = ends.b
    own = None
    if not isinstance(peer, socket.socket):
        peer = own = tuple(os.dup(fd) for fd in peer)
        ends.close_b()
        ends.stack.close()
    try:
        yield peer
    finally:
        if own is not None:
            os.close(own[0])
        else:
            ends.close_b()
            ends.stack.close()


@pytest.mark.parametrize(("face", "way", "settings"), WAYS)
@pytest.mark.parametrize("incomplete", [b"", request(99, b"incomplete")[:-1]])
@pytest.mark.parametrize("transport", ["pipes", "socketpair", "tcp"])
def test_replies_that_are_owed_are_written(
    transport: str, face: str, way: str, settings: dict[str, Any], incomplete: bytes
) -> None:
    ends = TRANSPORTS[transport]()
    handlers = Handlers()
    settings = settings | {"request_handler": getattr(handlers, way), "close_timeout": LIMIT}
    with closing(ends) as peer:
        if isinstance(peer, socket.socket):
            peer.setblocking(True)
        with opened(face, made(ends), **settings) as conn:
            ask_and_end(peer, ASKED + incomplete)
            ended = conn.ended.get()
            assert type(ended) is (StreamTruncated if incomplete else PeerClosed)
            handlers.gate.set()
            check_answers(read_to_the_end(peer))
    handlers.join()


def made(ends: Ends) -> Callable[[], Any]:
    """A `recv_send` that hands an end over to the connection, which closes it."""
    recv, send = ends.a if isinstance(ends.a, tuple) else (ends.a, ends.a)
    return lambda: (recv, send, ends.close_a)


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("transport", ["pipes", "socketpair", "tcp"])
def test_with_half_close_that_end_is_clean(transport: str, face: str) -> None:
    ends = TRANSPORTS[transport]()
    handlers = Handlers()
    events: list[Any] = []
    with closing(ends) as peer:
        if isinstance(peer, socket.socket):
            peer.setblocking(True)
        with opened(
            face,
            made(ends),
            request_handler=handlers.worker,
            half_close=True,
            on_event=events.append,
            close_timeout=LIMIT,
        ) as conn:
            ask_and_end(peer, ASKED)
            ended = conn.ended.get()
            assert type(ended) is PeerClosed
            assert "end of the stream" in str(ended)
            handlers.gate.set()
            check_answers(read_to_the_end(peer))
    erq, end = events[-2:]
    assert type(erq) is PeerEndedRequests
    assert type(end) is StreamEnded
    assert end.clean


SERVICE = """
import asyncio, sys, time
from packetwire import *

def handler(rq_type, flags, payload):
    time.sleep(0.05)
    return payload

async def main():
    async with AsyncPacketConnection(stdio(), request_handler=handler) as conn:
        await conn.join()

if sys.argv[1] == "asyncio":
    asyncio.run(main())
elif sys.argv[1] == "threads":
    with PacketConnection(stdio(), request_handler=handler) as conn:
        conn.join()
else:
    serve("stdio:", lambda stream: PacketConnection(stream, request_handler=handler)).wait()
"""


@pytest.mark.parametrize("how", [*FACES, "serve"])
def test_a_service_over_standard_input_and_output(how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVICE, how], input=ASKED, capture_output=True, timeout=LIMIT, check=True
    )
    check_answers(done.stdout)
    assert done.stderr == b""


@contextmanager
def serving(face: str, address: str, handler: Any, **settings: Any) -> Iterator[Any]:
    """A server in whichever face; yields its address."""
    if face == "threads":
        with serve(
            address,
            lambda stream: PacketConnection(stream, request_handler=handler, close_timeout=LIMIT),
            **settings,
        ) as server:
            yield server.address
        return
    ready: queue.Queue[Any] = queue.Queue()

    async def main() -> None:
        stop = asyncio.Event()
        async with await aserve(
            address,
            lambda stream: AsyncPacketConnection(stream, request_handler=handler, close_timeout=LIMIT),
            **settings,
        ) as server:
            ready.put((server.address, asyncio.get_running_loop(), stop))
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    at, loop, stop = ready.get()
    try:
        yield at
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def connected(address: Any) -> socket.socket:
    sock: socket.socket = connect_to(address)()[0]
    return sock


@pytest.mark.parametrize("bridged", [False, True])
@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_a_server_and_a_bridge(tmp_path: Any, kind: str, face: str, bridged: bool) -> None:
    handlers = Handlers()
    address = f"unix:{tmp_path}/server" if kind == "unix" else "tcp:127.0.0.1:0"
    with serving(face, address, handlers.worker) as at:
        with bridge_to(at, f"unix:{tmp_path}/bridge" if kind == "tcp" else "tcp:127.0.0.1:0", bridged) as entry:
            with connected(entry) as peer:
                ask_and_end(peer, ASKED)
                handlers.gate.set()
                check_answers(read_to_the_end(peer))


@contextmanager
def bridge_to(address: Any, entry: str, bridged: bool) -> Iterator[Any]:
    if not bridged:
        yield address
        return
    with Bridge(entry, address) as bridge:
        thread = threading.Thread(target=bridge.run)
        thread.start()
        try:
            yield bridge.address
        finally:
            bridge.stop()
            thread.join()


def test_a_bridge_to_a_child(tmp_path: Any) -> None:
    argv = (sys.executable, "-c", SERVICE, "threads")
    with bridge_to(ExecAddress(argv), f"unix:{tmp_path}/bridge", True) as entry, connected(entry) as peer:
        ask_and_end(peer, ASKED)
        check_answers(read_to_the_end(peer))


# over TLS the same is owed, but the option has no use


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_certificate(tmp_path_factory.mktemp("certificates"), "server")


@pytest.mark.parametrize("face", FACES)
def test_over_tls_a_peer_that_says_close_notify_gets_its_replies(face: str, certificate: Any) -> None:
    handlers = Handlers()
    context = server_context(certificate.certfile, certificate.keyfile)
    with serving(face, "tls:localhost:0", handlers.worker, ssl_context=context) as at:
        with socket.create_connection(("localhost", at.port)) as sock:
            peer = start_tls(sock, client_context(certificate.certfile), server_name="localhost")
            assert peer.try_write([ASKED]) == len(ASKED)
            peer._records.close()
            peer._outgoing.flush()
            handlers.gate.set()
            decoder, packets = PacketDecoder(), []
            while not decoder.ended:
                octets = peer.try_read(65536)
                assert octets != b"", "the stream ended before EOF"
                packets += decoder.feed(octets or b"")
            peer.close()
    assert {p.tag: p.payload for p in packets if p not in (ERQ, EOF)} == ANSWERED


@pytest.mark.parametrize("face", FACES)
def test_half_close_over_tls_is_refused(face: str, certificate: Any) -> None:
    context = server_context(certificate.certfile, certificate.keyfile)
    with serving(face, "tls:localhost:0", Handlers().worker, ssl_context=context) as at:
        connect = connect_to(at, ssl_context=client_context(certificate.certfile))
        with opened(face, connect, half_close=True) as conn:
            assert conn.ended.get() is None
    assert isinstance(conn.failure, LocalProtocolError)
    assert "half_close=True is for pipes and sockets" in str(conn.failure)


def test_half_close_over_asyncios_tls_is_refused(certificate: Any) -> None:
    context = server_context(certificate.certfile, certificate.keyfile)

    async def main(at: Any) -> None:
        def connect() -> Any:
            return asyncio.open_connection("localhost", at.port, ssl=client_context(certificate.certfile))

        with pytest.raises(LocalProtocolError, match="half_close=True is for pipes and sockets"):
            await AsyncPacketConnection(connect, half_close=True).open()

    with serving("threads", "tls:localhost:0", Handlers().worker, ssl_context=context) as at:
        asyncio.run(main(at))


# peers that are gone altogether


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_handlers_do_not_run_on_for_a_peer_that_closed_both_directions(tmp_path: Any, kind: str) -> None:
    """With coroutines, which can be cancelled; the time limit of `close` is far away."""
    cancelled: queue.Queue[bytes] = queue.Queue()

    async def handler(rq_type: int, flags: int, payload: bytes) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.put(payload)

    address = f"unix:{tmp_path}/server" if kind == "unix" else "tcp:127.0.0.1:0"
    with serving("asyncio", address, handler) as at:
        with connected(at) as peer:
            peer.sendall(ASKED)
        assert {cancelled.get() for _ in range(REQUESTS)} == set(ANSWERED.values())


@pytest.mark.parametrize("half_close", [False, True])
def test_over_a_pair_of_asyncios_streams(half_close: bool) -> None:
    handlers = Handlers()

    async def main() -> None:
        over = asyncio.Event()

        async def serve_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            settings = {"half_close": half_close, "close_timeout": LIMIT}
            conn = AsyncPacketConnection((reader, writer), request_handler=handlers.worker, **settings)  # type: ignore[arg-type]
            async with conn:
                await conn.join()
                assert type(conn.ended) is PeerClosed
                handlers.gate.set()
            writer.close()
            over.set()

        async with await asyncio.start_server(serve_client, "127.0.0.1", 0) as server:
            with socket.create_connection(server.sockets[0].getsockname()) as peer:
                ask_and_end(peer, ASKED)
                check_answers(await asyncio.to_thread(read_to_the_end, peer))
            await over.wait()

    asyncio.run(main())
