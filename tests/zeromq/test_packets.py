"""Packets one per message: a client, a proxy, and workers of which any may answer."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zmq

from packetwire import ConnectionEnded, LimitExceeded, LocalProtocolError, Packet, RequestTimeout, Responder
from packetwire.zmqpackets import PacketClient

from .conftest import WAIT, RawDealer, echo
from .packet_faces import FACES, Face, end_loops

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=FACES, ids=lambda face: face.name)
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    yield request.param
    end_loops()


class Proxy:
    """ZeroMQ's own, in a thread, with a context of its own."""

    def __init__(self, directory: Path) -> None:
        self.front, self.back = f"ipc://{directory}/front", f"ipc://{directory}/back"
        self.context = zmq.Context()
        router, dealer = self.context.socket(zmq.ROUTER), self.context.socket(zmq.DEALER)
        router.linger = dealer.linger = 0
        dealer.sndhwm = 1
        router.bind(self.front)
        dealer.bind(self.back)

        def run() -> None:
            with router, dealer, pytest.raises(zmq.ContextTerminated):
                zmq.proxy(router, dealer)

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def close(self) -> None:
        self.context.term()
        self.thread.join()


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    running = Proxy(tmp_path)
    yield running
    running.close()


def test_any_worker_answers(face: Face, proxy: Proxy) -> None:
    answered: dict[str, int] = {"first": 0, "second": 0}

    def answers(name: str) -> object:
        def handle(rq_type: int, flags: int, payload: bytes) -> tuple[int, bytes]:
            answered[name] += 1
            return flags + rq_type, payload

        return handle

    with (
        face.worker(proxy.back, answers("first"), handlers=1),
        face.worker(proxy.back, answers("second"), handlers=1),
        face.client(proxy.front) as client,
    ):
        while not all(answered.values()):  # both are there
            client(0, idempotent=True, timeout=WAIT)
        futures = [client.submit(3, 4, b"%d" % i) for i in range(500)]
        assert [future.result(WAIT) for future in futures] == [(True, 7, b"%d" % i) for i in range(500)]
        assert min(answered.values()) > 50


class Turns:
    """Counts the turns of a client's thread and what wakes it, and holds it before one of them."""

    def __init__(self, client: PacketClient) -> None:
        self.turns = self.wake_ups = 0
        self.held, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        post: Any = client._post
        tick, wake = post._tick, post._wakeup.set

        def held_tick() -> float | None:
            self.turns += 1
            if not self.go_on.is_set():
                self.held.set()
                assert self.go_on.wait(WAIT)
            pause: float | None = tick()
            return pause

        def count() -> None:
            self.wake_ups += 1
            wake()

        post._tick, post._wakeup.set = held_tick, count
        self._post = post

    def hold(self) -> None:
        self.go_on.clear()
        self._post.wake()
        assert self.held.wait(WAIT)
        self.turns = self.wake_ups = 0


def test_one_wake_up_and_one_turn_for_many() -> None:
    context = zmq.Context()
    with context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.bind("inproc://many")
        with PacketClient("inproc://many", context=context) as client:
            turns = Turns(client)
            turns.hold()
            futures = [client.submit(1, 0, b"%d" % number) for number in range(60)]
            turns.go_on.set()
            asked = [router.recv_multipart() for _ in futures]
            assert turns.wake_ups == 1
            turns.held.clear()
            turns.hold()
            for route, data in asked:
                packet = Packet.from_bytes(data)
                answer = Packet(is_request=False, tag=packet.tag, flags=1, payload=packet.payload)
                router.send_multipart([route, bytes(answer)])
            turns.go_on.set()
            assert [future.result(WAIT)[2] for future in futures] == [b"%d" % number for number in range(60)]
            assert turns.turns <= 2


def test_many_threads_and_clients(face: Face, proxy: Proxy) -> None:
    with (
        face.worker(proxy.back, echo, channels={16: echo, 17: echo}),
        face.client(proxy.front) as one,
        face.client(proxy.front) as other,
        ThreadPoolExecutor(8) as pool,
    ):

        def ask(i: int) -> bytes:
            return (one, other)[i % 2](1, b"%d" % i, channel=(0, 16, 17)[i % 3], timeout=WAIT)[2]

        assert list(pool.map(ask, range(400))) == [b"%d" % i for i in range(400)]


@pytest.mark.parametrize("timeout", [math.inf, 1e10, 25 * 86_400.0])
def test_a_long_time_limit_is_none(face: Face, proxy: Proxy, timeout: float) -> None:
    with face.worker(proxy.back, echo) as worker, face.client(proxy.front, timeout=timeout) as client:
        assert client(0, b"x")[2] == client(0, b"x", timeout=timeout)[2] == b"x"
        assert client.submit(0, 0, b"x", timeout=timeout, idempotent=True).result()[2] == b"x"
        worker.close(timeout)
        assert worker.join(timeout)


@pytest.mark.parametrize(("timeout", "error"), [(math.nan, LocalProtocolError), ("5", TypeError)])
def test_a_wrong_time_limit(face: Face, proxy: Proxy, timeout: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="timeout must be a number of seconds"):
        face.client(proxy.front, timeout=timeout)
    with face.worker(proxy.back, echo) as worker, face.client(proxy.front) as client:
        with pytest.raises(error, match="timeout must be a number of seconds"):
            client(0, timeout=timeout)
        with pytest.raises(error, match="timeout must be a number of seconds"):
            worker.close(timeout)
        with pytest.raises(error, match="timeout must be a number of seconds"):
            worker.join(timeout)


def test_channels_that_nobody_serves(face: Face, proxy: Proxy) -> None:
    def told(rq_type: int, flags: int, payload: bytes, *, channel: int) -> bytes:
        return b"%d" % channel

    with face.worker(proxy.back, told, channels={16: told}), face.client(proxy.front) as client:
        assert [client(0, channel=channel, timeout=WAIT)[2] for channel in (0, 16)] == [b"0", b"16"]
        assert client(0, channel=17, timeout=WAIT) == (False, 0, b"channel 17 is not served")
        for channel in (1, 15):
            with pytest.raises(LocalProtocolError, match="channels 1 to 15 are reserved"):
                client(0, channel=channel)
        with zmq.Context() as context, context.socket(zmq.DEALER) as older:  # it sends what ours does not
            older.rcvtimeo = int(WAIT * 1000)
            older.connect(proxy.front)
            older.send(bytes(Packet(is_request=True, channel=1, tag=2, rq_type=1)))
            refusal = Packet(is_request=False, channel=1, tag=2, payload=b"channels 1 to 15 are reserved")
            assert Packet.from_bytes(older.recv()) == refusal


def test_an_exception_and_a_deferred_result(face: Face, proxy: Proxy) -> None:
    responders: list[Responder] = []

    def handle(rq_type: int, flags: int, payload: bytes) -> object:
        if rq_type == 1:
            raise ValueError("no such thing")
        responders.append(Responder())
        if rq_type == 3:
            responders[-1].respond(b"deferred")
        return responders[-1] if rq_type else object()

    with face.worker(proxy.back, handle), face.client(proxy.front) as client:
        assert client(1, timeout=WAIT) == (False, 0, b"ValueError: no such thing")
        assert client(3, timeout=WAIT) == (True, 0, b"deferred")
        ok, _, text = client(0, timeout=WAIT)
        assert (ok, text[:10]) == (False, b"TypeError:")


def test_a_request_that_is_lost_ends_in_a_timeout(face: Face, proxy: Proxy) -> None:
    with RawDealer(proxy.back) as swallower, face.client(proxy.front, timeout=0.2) as client:
        with pytest.raises(RequestTimeout, match="no response in time"):
            client(1)
        assert swallower.socket.recv_multipart()[-1] == bytes(Packet(is_request=True, tag=2, rq_type=2))
        assert not swallower.socket.poll(0), "sent once: nobody said that it may be performed twice"


def test_an_idempotent_request_is_sent_to_another_worker(face: Face, proxy: Proxy) -> None:
    with RawDealer(proxy.back) as swallower, face.client(proxy.front, attempts=100) as client:
        future = client.submit(1, 0, b"again", timeout=WAIT, idempotent=True)
        assert swallower.socket.poll(WAIT * 1000)
        with face.worker(proxy.back, echo):
            assert future.result(WAIT) == (True, 0, b"again")


def test_a_late_response_is_counted_and_dropped(face: Face, proxy: Proxy) -> None:
    with RawDealer(proxy.back) as worker, face.client(proxy.front) as client:
        with pytest.raises(RequestTimeout):
            client(1, timeout=0.05)
        *envelope, request = worker.socket.recv_multipart()
        second = client.submit(2, timeout=WAIT)
        *envelope, _ = worker.socket.recv_multipart()
        for tag in Packet.from_bytes(request).tag, 3:
            worker.socket.send_multipart([*envelope, bytes(Packet(is_request=False, tag=tag, flags=1))])
        assert second.result(WAIT) == (True, 0, b"")
        assert client.late_responses == 1


def test_what_is_no_packet_harms_nobody(face: Face, proxy: Proxy) -> None:
    with face.worker(proxy.back, echo), face.client(proxy.front) as client, RawDealer(proxy.front) as raw:
        request = bytes(Packet(is_request=True, tag=2, rq_type=1, payload=b"x"))
        for data in b"", b"\xff" * 12, request[:-1], request + b"more", bytes(Packet(is_request=False, tag=2)):
            raw.send(data)
        for _ in range(20):
            assert client(1, b"fine", timeout=WAIT)[2] == b"fine"


def test_room_for_requests_is_bounded(face: Face, tmp_path: Path) -> None:
    with face.client(f"ipc://{tmp_path}/nobody", max_pending=2, timeout=WAIT) as client:
        waiting = [client.submit(1) for _ in range(2)]
        with pytest.raises(RequestTimeout, match="no room"):
            client(1, timeout=0.01)
        with pytest.raises(RequestTimeout if face.name == "threads" else LimitExceeded, match="no room"):
            client.submit(1, timeout=0.01)
    for future in waiting:
        with pytest.raises(ConnectionEnded, match="was closed"):
            future.result(WAIT)
    with pytest.raises(ConnectionEnded, match="is closed"):
        client.submit(1)


def test_a_worker_answers_what_it_has_begun(face: Face, proxy: Proxy) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def handle(rq_type: int, flags: int, payload: bytes) -> bytes:
        begun.set()
        go_on.wait(WAIT)
        return b"done"

    with face.client(proxy.front) as client:
        worker = face.worker(proxy.back, handle)
        future = client.submit(1, timeout=WAIT)
        assert begun.wait(WAIT)
        closing = threading.Thread(target=worker.close)
        closing.start()
        assert not worker.join(0)
        go_on.set()
        assert future.result(WAIT) == (True, 0, b"done")
        closing.join()
        assert worker.join(0)


def test_what_makes_no_sense(face: Face) -> None:
    with pytest.raises(LocalProtocolError):
        face.client("inproc://x", attempts=0)
    with pytest.raises(LocalProtocolError):
        face.worker("inproc://x", echo, handlers=0)
    with pytest.raises(OSError, match="nothing://"):
        face.client("nothing://x")


def test_the_example(tmp_path: Path) -> None:
    import subprocess
    import sys

    example = Path(__file__).parents[2] / "docs" / "examples" / "zmq_workers.py"
    command = [sys.executable, str(example), "--requests", "8", "--size", "10"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=55, env=os.environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split("|")[1].strip() for line in done.stdout.splitlines()] == ["workers", "---:", "1", "2", "4"]
