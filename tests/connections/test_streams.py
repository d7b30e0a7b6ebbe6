"""Streams of every form, also where the system lacks what is used on Linux; and what is no stream."""

from __future__ import annotations

import errno
import io
import os
import select
import socket
import threading

import pytest
from cs.buffer import CornuCopyBuffer

from packetwire import (
    ByteStream,
    ConnectionEnded,
    LocalProtocolError,
    Packet,
    PacketConnection,
    PeerClosed,
)
from packetwire.hosts.threads import driver, parking
from packetwire.hosts.threads.parking import Parked, PollParking
from packetwire.streams import fds, wakeup
from packetwire.streams.fds import FdReader, FdWriter
from packetwire.streams.open import open_stream
from packetwire.streams.sockets import SocketReader, SocketWriter

from . import test_calls, test_children, test_ends
from .conftest import TRANSPORTS

pytestmark = pytest.mark.timeout(60)


def reverse(rq_type, flags, payload):
    return flags, payload[::-1]


# the halves


@pytest.fixture(params=["pipe", "pipe without RWF_NOWAIT", "socket"])
def halves(request, monkeypatch):
    """A read half and a write half that are connected, and the descriptors behind them."""
    if request.param == "socket":
        a, b = socket.socketpair()
        reader, writer = SocketReader(a.fileno()), SocketWriter(b.fileno())
        yield reader, writer, a.fileno(), b.fileno()
        reader.close()
        writer.close()
        a.close()
        b.close()
        return
    if request.param != "pipe":
        monkeypatch.setattr(fds, "_RWF_NOWAIT", None)
    read_fd, write_fd = os.pipe()
    yield FdReader(read_fd), FdWriter(write_fd), read_fd, write_fd
    os.close(read_fd)
    os.close(write_fd)


def test_a_half_never_waits_and_leaves_the_blocking_mode_alone(halves):
    reader, writer, read_fd, write_fd = halves
    assert reader.try_read(100) is None
    assert writer.try_write([b"ab", memoryview(b"cd")]) in (2, 4)
    assert reader.try_read(100) in (b"ab", b"abcd")
    written = 0
    while taken := writer.try_write([bytes(50_000), bytes(50_000)]):
        written += taken
    assert writer.try_write([b"x"]) == 0
    read = 0
    while octets := reader.try_read(1 << 20):
        read += len(octets)
    assert read in (written, written + 2)
    assert os.get_blocking(read_fd)
    assert os.get_blocking(write_fd)


def test_a_descriptor_that_someone_else_made_non_blocking_works(fd_ends):
    for end in (fd_ends.a, fd_ends.b):
        for fd in end if isinstance(end, tuple) else [end.fileno()]:
            os.set_blocking(fd, False)
    a, _ = (
        PacketConnection(fd_ends.a),
        fd_ends.stack.enter_context(PacketConnection(fd_ends.b, request_handler=reverse)),
    )
    with a:
        assert a(1, os.urandom(1 << 20))[0]


def test_a_default_timeout_of_sockets_changes_nothing():
    socket.setdefaulttimeout(0.5)
    try:
        a, b = socket.socketpair()
        with PacketConnection(b, request_handler=reverse), PacketConnection(a) as conn:
            blocking = os.get_blocking(a.fileno())
            assert conn(1, os.urandom(1 << 20))[0]
            assert os.get_blocking(a.fileno()) == blocking
        a.close()
        b.close()
    finally:
        socket.setdefaulttimeout(None)


def test_tcp_nodelay_is_put_back():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        a = socket.create_connection(listener.getsockname())
        b, _ = listener.accept()
    with PacketConnection(b, request_handler=reverse), PacketConnection(a) as conn:
        assert conn(1)[0]
        assert a.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert not a.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    a.close()
    b.close()


# sources and sinks that are no descriptors


class ShortFile:
    """A file whose read returns an octet or two at a time, and whose write takes three."""

    def __init__(self, read_fd, write_fd):
        self._read_fd, self._write_fd = read_fd, write_fd
        self.flushed = 0

    def read(self, size):
        return os.read(self._read_fd, min(size, 2))

    def write(self, octets):
        return os.write(self._write_fd, octets[:3])

    def flush(self):
        self.flushed += 1


def test_files_that_read_and_write_short():
    ends = TRANSPORTS["pipes"]()
    file = ShortFile(*ends.a)
    with PacketConnection(ends.b, request_handler=reverse), PacketConnection((file, file)) as a:
        for i in range(20):
            payload = b"%d" % i * 50
            assert a(1, payload) == (True, 0, payload[::-1])
    assert file.flushed
    ends.close_a()
    ends.close_b()


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_an_iterable_of_bytes(chunk):
    octets = b"".join(
        bytes(Packet(is_request=True, tag=tag, rq_type=1, payload=b"ab")) for tag in range(2, 20)
    ) + bytes(PacketConnection.EOF_Packet)
    chunks = [octets[i : i + chunk] for i in range(0, len(octets), chunk)]
    for recv in (chunks, iter(chunks), (c for c in [b"", *chunks]), CornuCopyBuffer(chunks)):
        read_fd, write_fd = os.pipe()
        with PacketConnection((recv, write_fd), request_handler=reverse) as conn:
            assert conn.join_recv(20)
        os.close(write_fd)
        with open(read_fd, "rb") as file:
            replies = list(Packet.scan(CornuCopyBuffer([file.read()])))
        assert sorted(p.tag for p in replies if not p.is_request) == list(range(2, 20))


def test_a_recorded_stream_in_a_regular_file(tmp_path):
    (tmp_path / "in").write_bytes(
        bytes(Packet(is_request=True, tag=2, rq_type=1, payload=b"ab")) + bytes(PacketConnection.EOF_Packet)
    )
    recv, send = os.open(tmp_path / "in", os.O_RDONLY), os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    with PacketConnection((recv, send), request_handler=reverse) as conn:
        assert conn.join_recv(20)
    os.close(recv)
    os.close(send)
    assert Packet(is_request=False, tag=2, flags=1, payload=b"ba") in list(
        Packet.scan(CornuCopyBuffer([(tmp_path / "out").read_bytes()]))
    )


def test_a_source_that_fails_says_so():
    def chunks():
        yield bytes(Packet(is_request=False, tag=2, flags=1))
        raise ArithmeticError("the source is broken")

    read_fd, write_fd = os.pipe()
    with PacketConnection((chunks(), write_fd)) as conn, pytest.raises(ConnectionEnded) as caught:
        while True:
            conn(1)
    assert "the source is broken" in str(caught.value) or "never used" in str(caught.value)
    os.close(read_fd)
    os.close(write_fd)


def test_a_sink_that_fails_says_so():
    read_fd, write_fd = os.pipe()
    file = open(write_fd, "wb", closefd=False)
    os.close(read_fd)
    recv, other = os.pipe()
    with PacketConnection((recv, file)) as conn:
        with pytest.raises(ConnectionEnded) as caught:
            conn(1)
        assert isinstance(caught.value.__cause__, BrokenPipeError)
    with pytest.raises(BrokenPipeError):
        file.close()
    for fd in (recv, other, write_fd):
        os.close(fd)


def test_devices():
    with open("/dev/null", "r+b", buffering=0) as null:
        with PacketConnection((null.fileno(), null.fileno())) as conn, pytest.raises(PeerClosed):
            conn(1)
    with open("/dev/full", "wb", buffering=0) as full:
        recv, send = os.pipe()
        with PacketConnection((recv, full.fileno())) as conn, pytest.raises(ConnectionEnded) as caught:
            conn(1)
        assert caught.value.__cause__.errno == errno.ENOSPC
        os.close(recv)
        os.close(send)


def test_a_terminal():
    import tty

    main, other = os.openpty()
    tty.setraw(main)
    tty.setraw(other)
    with PacketConnection(other, request_handler=reverse), PacketConnection(main) as conn:
        assert conn(1, b"ab" * 1000)[2] == b"ba" * 1000
    os.close(main)
    os.close(other)


# what is no stream


@pytest.mark.parametrize(
    ("recv_send", "error", "named"),
    [
        (None, TypeError, "recv_send must be .* got NoneType"),
        ("unix:/socket", TypeError, "got str: 'unix:/socket'"),
        ((1, 2, 3), TypeError, "recv_send must be"),
        (-1, LocalProtocolError, "recv .*-1"),
        (True, LocalProtocolError, "recv .*True"),
        ((9999, 9999), OSError, "recv=9999 is not an open"),
        ((0, object()), TypeError, "send must be .* got object"),
        ((object(), 1), TypeError, "recv must be .* got object"),
        (("text", 1), TypeError, "recv must be .* 'text'"),
        ((io.StringIO(), 1), TypeError, "recv must be a binary file, got one for text, .*`stdio"),
        ((0, io.StringIO()), TypeError, "send must be a binary file, got one for text, .*`buffer`"),
        (lambda: None, TypeError, "got NoneType"),
        (lambda: (0, 1, "close"), TypeError, "third item .* 'close'"),
        (lambda: lambda: None, TypeError, "another callable"),
    ],
)
def test_what_is_no_stream_is_named(recv_send, error, named):
    conn = PacketConnection(recv_send)
    with pytest.raises(error, match=named):
        conn.open()
    assert not conn.is_open()


def test_sockets_that_are_no_streams_are_named():
    with (
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        pytest.raises(LocalProtocolError, match="stream socket"),
    ):
        open_stream(datagrams)
    datagrams.close()
    with pytest.raises(LocalProtocolError, match="closed socket"):
        open_stream(datagrams)


def test_a_descriptor_that_is_closed_under_the_connection(fd_ends):
    with PacketConnection(fd_ends.a, close_timeout=0.2) as a:
        fd_ends.close_a()
        with pytest.raises(ConnectionEnded):
            a(1)


def test_a_byte_stream_of_the_users_own():
    ends = TRANSPORTS["pipes"]()
    closed = []
    with PacketConnection(ends.b, request_handler=reverse):
        stream = ByteStream(FdReader(ends.a[0]), FdWriter(ends.a[1]), lambda: closed.append(1))
        with PacketConnection(lambda: stream) as conn:
            assert conn(1, b"ab")[2] == b"ba"
            stream_closed_early = list(closed)
        assert (stream_closed_early, closed) == ([], [1])
        stream.close()
        assert closed == [1]
    ends.close_a()
    ends.close_b()


# systems without epoll, eventfd, pidfd and RWF_NOWAIT


@pytest.fixture
def portable(monkeypatch):
    """As if the system had only poll and pipes."""
    monkeypatch.delattr(os, "eventfd")
    monkeypatch.setattr(fds, "_RWF_NOWAIT", None)
    monkeypatch.delattr(os, "pidfd_open")
    monkeypatch.delattr(os, "waitid")
    monkeypatch.setattr(driver, "open_parking", PollParking)


@pytest.mark.usefixtures("portable")
class TestPortable:
    """The essentials once more, without what only Linux has."""

    def test_calls(self, connect):
        test_calls.test_many_in_flight_keep_their_replies_apart(connect)

    def test_megabytes(self, fd_connect):
        test_calls.test_both_ends_send_megabytes_at_once(fd_connect)

    def test_nesting(self, fd_connect):
        test_calls.test_call_backs_nest_a_hundred_deep(fd_connect, 2)

    def test_threads(self, fd_connect):
        test_calls.test_sixteen_threads_share_a_connection(fd_connect)

    def test_timeout(self, fd_connect):
        test_calls.test_timeout_forgets_the_request_and_drops_the_late_response(fd_connect)

    def test_a_sleeping_handler(self, fd_connect):
        test_calls.test_a_sleeping_handler_delays_no_other(fd_connect)

    def test_closing_in_one_thread(self, fd_ends):
        test_ends.test_two_ends_in_one_thread_close_in_either_order(fd_ends)

    def test_pending_requests(self, fd_ends):
        test_ends.test_the_peer_closes_with_requests_pending(fd_ends)

    def test_a_peer_that_stops_reading(self, fd_ends):
        test_ends.test_a_peer_that_stops_reading_stops_nobody_for_ever(fd_ends)

    def test_a_broken_pipe(self):
        test_ends.test_a_broken_pipe_is_reported_even_if_the_other_direction_stays_open()

    def test_a_dead_child(self):
        test_children.test_a_child_that_is_no_peer_is_quoted("raise SystemExit('at start')", None, "at start")

    def test_a_grandchild(self):
        test_children.test_a_grandchild_that_holds_the_pipes_does_not_hide_the_childs_end()


@pytest.mark.parametrize("make", [parking.EpollParking, PollParking])
def test_parking(make):
    read_fd, write_fd = os.pipe()
    place = make(read_fd)
    assert place.park(0.0) == Parked.TIMEOUT
    os.write(write_fd, b"x")
    assert place.park(0.0) == Parked.TIMEOUT  # not armed
    place.arm()
    assert place.park(5.0) == Parked.READABLE
    assert place.park(0.0) == Parked.TIMEOUT  # armed for one event only
    place.arm()
    place.disarm()
    assert place.park(0.0) == Parked.TIMEOUT
    place.wake()
    place.wake()
    assert place.park(5.0) == Parked.WOKEN
    place.arm()
    assert place.park(5.0) == Parked.READABLE
    out = []
    threads = [threading.Thread(target=lambda: out.append(place.park(None))) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(out) < 4:
        place.wake()
    for thread in threads:
        thread.join(20)
    assert out == [Parked.WOKEN] * 4
    place.close()
    place.close()
    place.wake()  # does nothing
    os.close(read_fd)
    os.close(write_fd)


def test_a_wakeup():
    signal = wakeup.Wakeup()
    poller = select.poll()
    poller.register(signal.fileno(), select.POLLIN)
    assert not poller.poll(0)
    for _ in range(70_000):
        signal.set()
    assert poller.poll(0)
    signal.clear()
    assert not poller.poll(0)
    signal.close()
    signal.close()
    signal.set()
    signal.clear()
