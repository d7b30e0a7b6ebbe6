"""Packets one per message: what is refused before it is sent, and what ends at its peer's expense only."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from packetwire import ConnectionEnded, LimitExceeded, LocalProtocolError, Packet
from packetwire.core.packets import DEFAULT_MAX_PACKET_SIZE
from packetwire.zmqpackets import PacketClient, PacketWorker

from .conftest import WAIT, echo
from .packet_faces import FACES, Face, end_loops

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    yield request.param
    end_loops()


@contextmanager
def router(endpoint: str) -> Iterator[tuple[zmq.Socket[bytes], str]]:
    """A ROUTER that does what the test says, in the place of the proxy, and where it is reached."""
    sock = zmq.Context.instance().socket(zmq.ROUTER)
    with sock:
        sock.linger = 0
        sock.ipv6 = "[" in endpoint
        sock.bind(endpoint)
        yield sock, sock.last_endpoint.decode()


@contextmanager
def proxied(directory: Path) -> Iterator[tuple[str, str]]:
    """Where clients and workers of ZeroMQ's own proxy connect to."""
    front, back = f"ipc://{directory}/front", f"ipc://{directory}/back"
    context = zmq.Context()
    clients, workers = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    clients.linger = workers.linger = 0
    clients.bind(front)
    workers.bind(back)

    def run() -> None:
        with clients, workers, pytest.raises(zmq.ContextTerminated):
            zmq.proxy(clients, workers)

    thread = threading.Thread(target=run)
    thread.start()
    yield front, back
    context.term()
    thread.join()


def receive(sock: zmq.Socket[bytes]) -> list[bytes]:
    assert sock.poll(WAIT * 1000), "nothing came"
    return sock.recv_multipart()


def test_requests_that_cannot_be_sent(face: Face, tmp_path: Path) -> None:
    with face.client(f"ipc://{tmp_path}/nobody", timeout=WAIT) as client:
        with pytest.raises(LocalProtocolError, match="rq_type must be 0 or more, got -1"):
            client.submit(-1)
        with pytest.raises(LimitExceeded, match=f"a packet has at most {DEFAULT_MAX_PACKET_SIZE} bytes"):
            client.submit(1, payload=bytes(DEFAULT_MAX_PACKET_SIZE))
        with pytest.raises(TypeError, match="payload must be bytes-like"):
            client.submit(1, payload="text")  # type: ignore[arg-type]
        assert len(client._pending) == 0


def test_closing_again_does_nothing(face: Face, tmp_path: Path) -> None:
    client = face.client(f"ipc://{tmp_path}/nobody")
    worker = face.worker(f"ipc://{tmp_path}/nobody", echo)
    for _ in range(2):
        client.close()
        worker.close()
    assert worker.join(0)


def test_over_ipv6(face: Face) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("there is no IPv6 here")
    with router("tcp://[::1]:*") as (sock, endpoint), face.client(endpoint) as client:
        future = client.submit(7, payload=b"x", timeout=WAIT)
        identity, data = receive(sock)
        request = Packet.from_bytes(data)
        assert (request.rq_type, request.payload) == (8, b"x")
        sock.send_multipart([identity, bytes(Packet(is_request=False, tag=request.tag, flags=1, payload=b"y"))])
        assert future.result(WAIT) == (True, 0, b"y")


def test_what_is_no_response_is_dropped(face: Face, tmp_path: Path) -> None:
    with router(f"ipc://{tmp_path}/router") as (sock, endpoint), face.client(endpoint) as client:
        future = client.submit(1, timeout=WAIT)
        identity, data = receive(sock)
        tag = Packet.from_bytes(data).tag
        for message in (
            b"",
            b"\xff" * 12,
            bytes(Packet(is_request=False, tag=tag)) + b"more",
            bytes(Packet(is_request=True, tag=tag, rq_type=1)),
        ):
            sock.send_multipart([identity, message])
        sock.send_multipart([identity, bytes(Packet(is_request=False, tag=tag, flags=1, payload=b"at last"))])
        assert future.result(WAIT) == (True, 0, b"at last")


def test_a_future_that_was_cancelled_gets_no_response(face: Face, tmp_path: Path) -> None:
    with router(f"ipc://{tmp_path}/router") as (sock, endpoint), face.client(endpoint) as client:
        given_up, waited_for = client.submit(1, timeout=WAIT), client.submit(2, timeout=WAIT)
        assert given_up.cancel()
        for _ in range(2):
            identity, data = receive(sock)
            sock.send_multipart([identity, bytes(Packet(is_request=False, tag=Packet.from_bytes(data).tag))])
        assert waited_for.result(WAIT) == (False, 0, b"")
        assert given_up.cancelled()


def test_a_client_may_be_closed_by_what_it_calls(tmp_path: Path) -> None:
    """The callback of a future runs in the thread of the socket, which cannot wait for itself."""
    closed = threading.Event()
    with router(f"ipc://{tmp_path}/router") as (sock, endpoint), PacketClient(endpoint) as client:

        def close(future: Any) -> None:
            client.close()
            closed.set()

        future = client.submit(1, timeout=WAIT)
        other = client.submit(2, timeout=WAIT)
        future.add_done_callback(close)
        identity, data = receive(sock)
        sock.send_multipart([identity, bytes(Packet(is_request=False, tag=Packet.from_bytes(data).tag, flags=1))])
        assert closed.wait(WAIT)
        with pytest.raises(ConnectionEnded, match="this client was closed"):
            other.result(WAIT)
        client._post._thread.join(WAIT)
        assert not client._post._thread.is_alive()


def test_a_handler_may_close_its_worker(tmp_path: Path) -> None:
    """Its thread is one of those that `close` waits for, but for itself."""
    with proxied(tmp_path) as (front, back), PacketClient(front) as client:

        def handle(rq_type: int, flags: int, payload: bytes) -> bytes:
            worker.close(timeout=0)
            return b"too late"

        worker = PacketWorker(back, handle, handlers=1)
        future = client.submit(1, timeout=WAIT)
        assert worker.join(WAIT)
        worker.close()
        assert not future.done()
