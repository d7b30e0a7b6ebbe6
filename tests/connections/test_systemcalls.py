"""The system calls of reading, writing and waiting: one contract for what is compiled and for Python."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import packetwire
from packetwire import twins
from packetwire.streams import systemcalls
from sources import plain

pytestmark = pytest.mark.timeout(60)

BUILDS = {"in use": systemcalls, "plain": plain("streams.systemcalls")}
SIZES = [1, 65_536, 65_537, 1 << 20]
needs_nowait = pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="the system has no RWF_NOWAIT")
needs_epoll = pytest.mark.skipif(not hasattr(select, "epoll"), reason="the system has no epoll")


@pytest.fixture(params=BUILDS.values(), ids=BUILDS)
def calls(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = socket.socketpair()
    with a, b:
        yield a, b


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    fds = os.pipe()
    yield fds
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass


def test_what_is_compared_is_what_it_says() -> None:
    assert Path(str(BUILDS["plain"].__file__)).suffix == ".py"
    assert (Path(str(systemcalls.__file__)).suffix == ".py") is (packetwire.compiled is not True)
    assert "streams.systemcalls" in twins.MODULES


Made = tuple[Any, Any, Callable[[], None], Callable[[], None]]
"""What reads, what writes, and what closes the other end of each."""


def of_socket(calls: ModuleType, pair: Any, pipe: Any) -> Made:
    a, b = pair
    made = calls.SocketCalls(b), calls.SocketCalls(a)
    return made[0].recv, made[1].send, a.close, b.close


def of_descriptor(
    calls: ModuleType, pair: Any, pipe: Any
) -> tuple[Any, Any, Callable[[], None], Callable[[], None]]:
    made = calls.DescriptorCalls(pipe[0]), calls.DescriptorCalls(pipe[1])
    return made[0].read, made[1].write, lambda: os.close(pipe[1]), lambda: os.close(pipe[0])


BOTH = pytest.mark.parametrize("made_by", [of_socket, pytest.param(of_descriptor, marks=needs_nowait)])


@BOTH
@pytest.mark.parametrize("size", SIZES)
def test_all_that_is_written_is_read(
    calls: ModuleType, pair: Any, pipe: Any, made_by: Callable[..., Any], size: int
) -> None:
    read, write, end, _ = made_by(calls, pair, pipe)
    assert read(size) is None
    data = os.urandom(size)
    left, got = memoryview(data), b""
    while len(got) < size:
        if left:
            left = left[write([left]) :]
        piece = read(size)
        assert piece is None or (type(piece) is bytes and 0 < len(piece) <= size)
        got += piece or b""
    assert got == data
    end()
    assert read(size) == b""
    assert read(size) == b""


@BOTH
@pytest.mark.parametrize("size", SIZES)
def test_what_is_read_into_a_buffer(
    calls: ModuleType, pair: Any, pipe: Any, made_by: Callable[..., Any], size: int
) -> None:
    read, write, end, _ = made_by(calls, pair, pipe)
    read_into = getattr(read.__self__, f"{read.__name__}_into")
    data = os.urandom(size)
    left, buffer, got = memoryview(data), bytearray(size), 0
    assert read_into(buffer) is None
    while got < size:
        if left:
            left = left[write([left]) :]
        got += read_into(memoryview(buffer)[got:]) or 0
    assert buffer == data
    end()
    assert read_into(buffer) == 0
    with pytest.raises((TypeError, BufferError)):
        read_into(b"that cannot be written to")


@BOTH
def test_no_room_and_then_all_of_it(calls: ModuleType, pair: Any, pipe: Any, made_by: Callable[..., Any]) -> None:
    read, write, _, _ = made_by(calls, pair, pipe)
    block, taken = b"x" * 100_000, 0
    while count := write([block]):
        taken += count
    assert write([b"y"]) in (0, 1)  # some kinds keep room for little
    got = 0
    while piece := read(1 << 20):
        got += len(piece)
    assert got - taken in (0, 1)
    assert write([b"z"]) == 1


@BOTH
@pytest.mark.parametrize("count", [2, 63, 64, 65, 255, 256, 257, 1000])
def test_many_buffers(calls: ModuleType, pair: Any, pipe: Any, made_by: Callable[..., Any], count: int) -> None:
    read, write, _, _ = made_by(calls, pair, pipe)
    buffers: list[bytes | memoryview] = [b"%d," % i for i in range(count)]
    buffers[1] = memoryview(b"%d," % 1)
    taken = write(buffers)
    whole = b"".join(buffers)
    assert 0 < taken <= len(whole)
    assert taken == len(b"".join(buffers[: min(count, 64)])) or taken >= len(b"".join(buffers[:256]))
    assert read(1 << 20) == whole[:taken]


@BOTH
def test_an_end_that_nobody_reads_is_an_error(
    calls: ModuleType, pair: Any, pipe: Any, made_by: Callable[..., Any]
) -> None:
    _, write, _, end = made_by(calls, pair, pipe)
    end()
    with pytest.raises(BrokenPipeError):
        write([b"x"])


@BOTH
@pytest.mark.parametrize("buffers", [["text"], [5], [b"x", None], 7])
def test_what_cannot_be_written_is_an_error(
    calls: ModuleType, pair: Any, pipe: Any, made_by: Callable[..., Any], buffers: Any
) -> None:
    read, write, _, _ = made_by(calls, pair, pipe)
    with pytest.raises(TypeError):
        write(buffers)
    assert read(10) is None


def test_a_connection_that_was_reset(calls: ModuleType) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as sock, server.accept()[0] as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            reader = calls.SocketCalls(sock)
            with pytest.raises(ConnectionResetError):
                while reader.recv(10) is None:
                    select.select([sock], [], [], 30)


def test_a_socket_that_was_detached_is_not_used_any_more(calls: ModuleType, pair: Any) -> None:
    a, _ = pair
    alias = socket.socket(fileno=a.fileno())
    made = calls.SocketCalls(alias)
    made.detach()
    made.detach()
    for call in (lambda: made.recv(10), lambda: made.send([b"x"]), lambda: made.recv(1 << 20)):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EBADF
    assert a.send(b"still open") == 10


def test_whose_socket_it_is_is_looked_at_before_each_call(calls: ModuleType, pair: Any) -> None:
    a, b = pair
    looked: list[int] = []

    def check() -> None:
        looked.append(1)
        if len(looked) > 3:
            raise OSError(errno.EBADF, "it is gone")

    own, other = a.fileno, b.fileno
    for number, expected in (own, 0), (None, 3), (other, 3):
        looked.clear()
        made = calls.SocketCalls(a, number, check)
        assert made.recv(10) is None
        assert made.recv_into(bytearray(10)) is None
        assert made.send([b"x"]) == 1
        assert len(looked) == expected
    for call in (lambda: made.recv(10), lambda: made.recv_into(bytearray(10)), lambda: made.send([b"x"])):
        with pytest.raises(OSError, match="it is gone"):
            call()


@needs_nowait
def test_what_cannot_be_asked_not_to_wait_says_so(calls: ModuleType, tmp_path: Path) -> None:
    terminal, user = os.openpty()
    try:
        with pytest.raises(OSError) as caught:
            calls.DescriptorCalls(user).read(10)
        assert caught.value.errno in {errno.EOPNOTSUPP, errno.EINVAL, errno.ESPIPE}
    finally:
        os.close(terminal)
        os.close(user)


@needs_nowait
def test_a_descriptor_that_was_closed(calls: ModuleType) -> None:
    read_fd, write_fd = os.pipe()
    made = calls.DescriptorCalls(read_fd)
    os.close(read_fd)
    os.close(write_fd)
    for call in (lambda: made.read(10), lambda: made.write([b"x"])):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EBADF
    made.drop()


def test_waiting_for_one_to_be_readable_or_for_the_other(calls: ModuleType, pair: Any, pipe: Any) -> None:
    a, b = pair
    poll = calls.ReadPoll(b.fileno(), pipe[0])
    assert poll.wait(0) == 0
    assert poll.wait(0.5) == 0
    a.send(b"x")
    assert poll.wait(None) == calls.READABLE
    os.write(pipe[1], b"x")
    assert poll.wait(1e9) == calls.READABLE | calls.WOKEN
    b.recv(1)
    assert poll.wait(30_000.0) == calls.WOKEN
    os.read(pipe[0], 1)
    a.close()
    assert poll.wait(None) == calls.READABLE  # its end is something to read


def test_another_thread_runs_while_one_waits(calls: ModuleType, pair: Any, pipe: Any) -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(calls.ReadPoll(pair[1].fileno(), pipe[0]).wait(None)))
    thread.start()
    os.write(pipe[1], b"x")
    thread.join(30)
    assert found == [calls.WOKEN]


@needs_epoll
def test_one_event_for_each_time_that_it_is_armed(calls: ModuleType, pair: Any, pipe: Any) -> None:
    a, b = pair
    with select.epoll() as epoll:
        epoll.register(b.fileno(), select.EPOLLONESHOT)
        epoll.register(pipe[0], select.EPOLLIN)
        made = calls.EpollSet(epoll, b.fileno())
        a.send(b"x")
        assert made.wait(0.0) == 0
        made.arm()
        assert made.wait(None) == calls.READABLE
        assert made.wait(0.001) == 0
        made.arm()
        made.disarm()
        assert made.wait(0.0) == 0
        os.write(pipe[1], b"x")
        assert made.wait(30.0) == calls.WOKEN
        epoll.unregister(b.fileno())
        with pytest.raises(FileNotFoundError):
            made.arm()
        made.close()
    for call in (made.arm, made.disarm, lambda: made.wait(0.0)):
        with pytest.raises(ValueError, match="closed epoll"):
            call()


def test_whether_a_descriptor_is_that_file(calls: ModuleType, pipe: Any, tmp_path: Path) -> None:
    found = os.fstat(pipe[0])
    assert calls.is_that_file(pipe[0], found.st_dev, found.st_ino)
    assert not calls.is_that_file(pipe[0], found.st_dev, found.st_ino + 1)
    assert not calls.is_that_file(pipe[0], found.st_dev + 1, found.st_ino)
    assert not calls.is_that_file(-1, found.st_dev, found.st_ino)
    os.close(pipe[0])
    assert not calls.is_that_file(pipe[0], found.st_dev, found.st_ino)
