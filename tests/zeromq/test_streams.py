"""Connections over PAIR and DEALER/ROUTER, over each kind of endpoint, with each face."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from aio.blocking import BlockingConnection
from packetwire import ConnectionEnded, LocalProtocolError, PacketConnection, PeerClosed, Responder, StreamTruncated
from packetwire.streams.zmq import open_dealer, open_pair
from packetwire.streams.zmqrouter import ZmqListener

from .conftest import WAIT, RawDealer, accepted, echo, read_all, readable

pytestmark = pytest.mark.timeout(60)

OPEN = {"dealer-router": open_dealer, "pair-pair": open_pair}
FACES = {"threads": PacketConnection, "asyncio": BlockingConnection}


@pytest.fixture(params=OPEN)
def sockets(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def listener(listening: Callable[..., ZmqListener], endpoint: str, sockets: str) -> ZmqListener:
    return listening(endpoint, pair=sockets == "pair-pair")


@pytest.fixture(params=["threads-threads", "asyncio-threads", "threads-asyncio"])
def faces(request: pytest.FixtureRequest) -> list[Any]:
    return [FACES[name] for name in request.param.split("-")]


@pytest.fixture
def connected(listener: ZmqListener, sockets: str, faces: list[Any]) -> Iterator[Callable[..., Any]]:
    """Opens a connection at both ends: `(a, b)`; closed, a first, by its `with`."""

    class Connected:
        def __init__(self, **b_settings: Any) -> None:
            self.a = faces[0](lambda: OPEN[sockets](listener.endpoint), "a", request_handler=echo)
            self.b_settings = {"request_handler": echo, **b_settings}

        def __enter__(self) -> Any:
            self.a.open()
            self.b = faces[1](accepted(listener), "b", **self.b_settings).open()
            return self.a, self.b

        def __exit__(self, exc_type: Any, *_: Any) -> None:
            closing = threading.Thread(target=self.b.close)
            closing.start()
            self.a.close()
            closing.join()

    return Connected


def test_echo_in_both_directions(connected: Any) -> None:
    with connected() as (a, b):
        for asker in a, b:
            for payload in b"", b"x", bytes(range(256)) * 100:
                assert asker(1, payload, 5, timeout=20) == (True, 5, payload)


def test_many_in_flight(connected: Any) -> None:
    with connected() as (a, b):
        payloads = [b"%d" % i for i in range(2000)]
        for asker in a, b:
            replies = list(asker.map(((1, payload) for payload in payloads), window=256, timeout=20))
            assert [payload for _, _, payload in replies] == payloads


def test_megabytes_which_no_queue_holds(connected: Any) -> None:
    with connected() as (a, b):
        bulk = bytes(range(256)) * 4096 * 12
        for asker in a, b:
            assert asker(1, bulk, timeout=30)[2] == bulk


def test_a_stream_behind_a_stream(connected: Any) -> None:
    for _ in range(3):
        with connected() as (a, b):
            assert a(1, b"again", timeout=5)[2] == b"again"
        assert isinstance(a.ended, PeerClosed)
        assert isinstance(b.ended, PeerClosed)


@pytest.mark.parametrize("faces", [list(FACES.values())[:1] * 2], ids=["threads-threads"])
def test_streams_behind_streams_when_the_listener_is_late(connected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads the last frame of one peer when the next has connected, often over a link of the same number."""
    at_its_time, delays = ZmqListener._see_to_all, random.Random(1)

    def late(listener: ZmqListener) -> float | None:
        listener._lock.release()
        time.sleep(delays.random() * 0.02)
        listener._lock.acquire()
        return at_its_time(listener)

    monkeypatch.setattr(ZmqListener, "_see_to_all", late)
    for i in range(40):
        with connected() as (a, _):
            assert a(1, b"%d" % i, timeout=20)[2] == b"%d" % i


def test_who_waits_is_told_when_the_other_side_drops_everything(connected: Any) -> None:
    never = Responder()
    with connected(request_handler=lambda *_: never, close_timeout=0.0) as (a, b):
        waiting = a.submit(1)
        assert b.join(0.01) is False
        b.close(0.0)
        outcome: Any
        try:
            outcome = waiting(timeout=20)
        except ConnectionEnded:
            outcome = None
        assert outcome is None or outcome[0] is False


@pytest.mark.parametrize("face", FACES.values(), ids=FACES)
def test_a_link_that_is_lost_ends_the_stream(
    listening: Callable[..., ZmqListener], linked_endpoint: str, face: Any
) -> None:
    """A ROUTER that vanishes: plain, so that it says nothing."""
    router = zmq.Context.instance().socket(zmq.ROUTER)
    router.linger = 0
    router.bind(linked_endpoint)
    endpoint = router.getsockopt_string(zmq.LAST_ENDPOINT)
    try:
        with face(lambda: open_dealer(endpoint), "a", close_timeout=0.1) as conn:
            waiting = conn.submit(1, 0, b"")
            assert router.recv_multipart()[1] == b""
            identity, data = router.recv_multipart()
            assert data
            router.send_multipart([identity, b""])
            router.close(20_000)
            with pytest.raises(StreamTruncated, match="link to the ZMQ peer was lost"):
                waiting(timeout=20)
    finally:
        router.close(0)


def test_a_link_that_is_lost_before_anything_came(linked_endpoint: str) -> None:
    router = zmq.Context.instance().socket(zmq.ROUTER)
    try:
        router.bind(linked_endpoint)
        stream = open_dealer(router.getsockopt_string(zmq.LAST_ENDPOINT))
        try:
            router.close(0)
            assert read_all(stream) == b""
            assert stream.is_cut_off
        finally:
            stream.close()
    finally:
        router.close(0)


def test_what_came_before_the_link_was_lost_is_read(
    listening: Callable[..., ZmqListener], linked_endpoint: str, sockets: str
) -> None:
    listener = listening(linked_endpoint, pair=sockets == "pair-pair")
    stream = OPEN[sockets](listener.endpoint)
    try:
        peer = accepted(listener)
        for number in range(20):
            assert peer.try_write([b"%02d" % number]) == 2
        peer.end_write()
        peer.close()
        listener.close()
        assert stream._link._monitor.poll(WAIT * 1000), "the link is lost"
        assert read_all(stream) == b"".join(b"%02d" % number for number in range(20))
        assert not stream.is_cut_off
    finally:
        stream.close()


def test_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(ConnectionRefusedError, match="nobody answers there"):
        open_dealer(f"ipc://{tmp_path}/nobody")


def test_somebody_who_does_not_speak_zmq() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(TimeoutError):
            open_dealer(f"tcp://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)


def test_no_room_is_told_and_room_again(listening: Callable[..., ZmqListener], endpoint: str) -> None:
    """From raw stream to raw stream, in both directions: nobody reads, until the writer has no room."""
    listener = listening(endpoint)
    ours = open_dealer(listener.endpoint)
    theirs = accepted(listener)
    chunk = bytes(65536)
    try:
        for writer, reader in (ours, theirs), (theirs, ours):
            written = 0
            while written < 1 << 26 and (taken := writer.try_write([chunk])):
                written += taken
            if written == 1 << 26:
                continue  # a listener receives for its streams, up to its own bound
            read = len(read_all(reader, written))
            while not (taken := writer.try_write([chunk])):
                assert readable(writer.write_fd)
            read += len(read_all(reader, taken))
            assert read == written + taken
    finally:
        ours.close()
        theirs.close()


def test_what_is_before_the_first_boundary_belongs_to_nobody() -> None:
    router = zmq.Context.instance().socket(zmq.ROUTER)
    router.bind("inproc://old-frames")
    stream = open_dealer("inproc://old-frames", identity=b"again")
    try:
        identity, _ = router.recv_multipart()
        for frame in b"of the stream before", b"", b"", b"ours", b"":
            router.send_multipart([identity, frame])
        assert read_all(stream) == b"ours"
    finally:
        stream.close()
        router.close(0)


def test_a_message_of_several_frames_is_no_stream(
    listening: Callable[..., ZmqListener], linked_endpoint: str
) -> None:
    listener = listening(linked_endpoint)
    with RawDealer(listener.endpoint) as raw:
        raw.send(b"", b"\x02")
        stream = accepted(listener)
        with PacketConnection(stream, "b", close_timeout=0.1) as conn:
            raw.socket.send_multipart([b"one", b"two", b"three"])
            assert conn.join_recv(20)
            with pytest.raises(ConnectionEnded, match="not one frame"):
                conn(1)


@pytest.mark.parametrize("face", FACES)
def test_half_close_has_no_use(listener: ZmqListener, sockets: str, face: str) -> None:
    conn = FACES[face](lambda: OPEN[sockets](listener.endpoint), half_close=True)
    with pytest.raises(LocalProtocolError, match="half_close=True is for pipes and sockets"), conn:
        pass
