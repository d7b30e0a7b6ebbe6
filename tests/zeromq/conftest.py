"""Endpoints of each kind, listeners, and a check that nothing is left behind."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq
from tests.leftovers import open_fds, threads_since

from packetwire.streams.zmqpeers import PeerStream
from packetwire.streams.zmqrouter import ZmqListener

HERE = Path(__file__).parent
WITHOUT_SOCKETS = {"test_peers.py", "test_frames.py", "test_patience.py"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What opens sockets takes half a minute: it is left to `-m long`."""
    here = f"{HERE}/"
    for item in items:
        # quicker than a comparison of paths, as this is asked of each test
        if str(item.path).startswith(here) and item.path.name not in WITHOUT_SOCKETS:
            item.add_marker(pytest.mark.long)


WAIT = 20.0
"""Seconds that nothing here takes unless it hangs."""


def echo(rq_type: int, flags: int, payload: bytes) -> tuple[int, bytes]:
    return flags, payload


@pytest.fixture(params=["ipc", "tcp", "inproc"])
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return endpoint_of(request.param, tmp_path)


@pytest.fixture(params=["ipc", "tcp"])
def linked_endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """One whose peers are seen to come and go."""
    return endpoint_of(request.param, tmp_path)


def endpoint_of(kind: str, tmp_path: Path) -> str:
    if kind == "tcp":
        return "tcp://127.0.0.1:*"
    return f"ipc://{tmp_path}/zmq" if kind == "ipc" else "inproc://packetwire-test"


@pytest.fixture
def listening() -> Iterator[Callable[..., ZmqListener]]:
    with ExitStack() as opened:

        def listen(*args: Any, **kw: Any) -> ZmqListener:
            listener = ZmqListener(*args, **kw)
            opened.callback(listener.close)
            return listener

        yield listen


def accepted(listener: ZmqListener) -> PeerStream:
    """The next peer's stream."""
    assert readable(listener), "nobody came"
    return listener.accept()[0]


def readable(polled: Any, seconds: float = WAIT) -> bool:
    fd = polled if isinstance(polled, int) else polled.fileno()
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def await_limit(listener: ZmqListener) -> None:
    """Until so much came for the first who is not accepted that its stream is full, or was given up for that."""
    while not listener._waiting:
        pass
    stream = next(iter(listener._waiting))
    while not (stream.incoming.is_full or stream.incoming._error):
        assert stream.incoming.has_data or readable(stream.read_fd)


def read_all(stream: Any, size: int | None = None) -> bytes:
    """What a stream brings up to its end, or until there are `size` bytes."""
    data = b""
    while size is None or len(data) < size:
        assert readable(stream.read_fd), f"nothing behind {data!r:.100}"
        got = stream.try_read(65536)
        if got == b"":
            assert size is None, "the stream has ended"
            break
        data += got or b""
    return data


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """After the test no thread, socket or descriptor is left."""
    terminate()
    threads, fds = set(threading.enumerate()), open_fds()
    yield
    terminate()
    assert threads_since(threads) == set()
    assert open_fds() - fds == set()


def terminate() -> None:
    """Wait until ZMQ has let go of everything, which it never does while a socket is open."""
    ending = threading.Thread(target=zmq.Context.instance().term, daemon=True)
    ending.start()
    ending.join(WAIT)
    assert not ending.is_alive(), "a ZMQ socket is still open"


class RawDealer:
    """A peer that sends and gets what it likes."""

    def __init__(self, endpoint: str, identity: bytes | None = None) -> None:
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.reconnect_ivl = -1
        if identity is not None:
            self.socket.setsockopt(zmq.IDENTITY, identity)
        self.socket.connect(endpoint)

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self.socket.send(frame)

    def receive(self) -> bytes:
        assert self.socket.poll(WAIT * 1000), "nothing came"
        return self.socket.recv()

    def __enter__(self) -> RawDealer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close(0)
