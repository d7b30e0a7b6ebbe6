"""How connections end: in order, cut off, or broken; every request is accounted for."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

import packetwire
from packetwire import (
    BaseRequest,
    ConnectionEnded,
    HasPacketConnection,
    LimitExceeded,
    Packet,
    PacketConnection,
    PeerClosed,
    RemoteProtocolError,
    RequestReceived,
    RequestTimeout,
    Responder,
    StreamEnded,
    StreamTruncated,
)
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.open import open_stream
from packetwire.testing import connection_pair

from .conftest import TRANSPORTS, Ends

pytestmark = pytest.mark.timeout(60)


def reverse(rq_type, flags, payload):
    return flags, payload[::-1]


def response(tag, payload=b""):
    return bytes(Packet(is_request=False, tag=tag, flags=1, payload=payload))


def count(results):
    """How many gave a response and how many an exception; none may do neither."""
    outcomes = {"responses": 0, "exceptions": 0}
    for result in results:
        try:
            result(timeout=20)
            outcomes["responses"] += 1
        except RequestTimeout:
            raise
        except ConnectionEnded:
            outcomes["exceptions"] += 1
    return outcomes["responses"], outcomes["exceptions"]


class RawPeer:
    """The other end without packetwire: plain reads and writes that a test decides on."""

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        if isinstance(ends.b, tuple):
            self._recv, self._send = ends.b
        else:
            self._recv = self._send = ends.b.fileno()

    def send(self, octets: bytes) -> None:
        while octets:
            octets = octets[os.write(self._send, octets) :]

    def read(self) -> bytes:
        return os.read(self._recv, 65536)

    def read_until(self, marker: bytes) -> bytes:
        octets = b""
        while marker not in octets:
            octets += self.read()
        return octets

    def read_octets(self, count: int) -> bytes:
        octets = bytearray()
        while len(octets) < count:
            octets += self.read()
        return bytes(octets)

    def close(self) -> None:
        self._ends.close_b()


EOF = bytes(PacketConnection.EOF_Packet)
ERQ = bytes(PacketConnection.ERQ_Packet)


# in order


def test_with_opens_and_closes_and_counts(ends):
    a = PacketConnection(ends.a, "a")
    b = PacketConnection(ends.b, "b", request_handler=reverse)
    assert not a.closed
    assert not a.is_open()
    with pytest.raises(ConnectionEnded, match="never opened"):
        a(1)
    with b, a, a:
        with a:
            assert a(1, b"ab")[2] == b"ba"
        assert a(1, b"ab")[2] == b"ba"
        assert not a.closed
    assert a.closed
    assert b.closed
    with pytest.raises(ConnectionEnded, match="is closed"):
        a.submit(1)
    a.close()
    a.join()
    a.join_recv()


class EndedMeanwhile(BaseRequest):
    """While it is written as bytes, the other user of the connection goes."""

    def __init__(self, leave):
        self.leave = leave

    def __bytes__(self):
        self.leave()
        return b"ab"


def test_a_request_opens_the_connection_though_another_user_goes_just_then(fd_ends):
    with PacketConnection(fd_ends.b, "b", request_handler=reverse):
        client = HasPacketConnection(fd_ends.a, "a", rq_type_map={1: EndedMeanwhile})
        conn = client.conn.open()
        assert client.conn_do_remote(EndedMeanwhile(conn.close)) == (0, b"ba")
    assert conn.closed


class Interloper:
    """A lock of a connection; just before its first user has it, another thread opens the connection."""

    def __init__(self, conn):
        self.lock, self.conn = conn._opening, conn
        self.waiting = True

    def __enter__(self):
        if self.waiting:
            self.waiting = False
            opener = threading.Thread(target=self.conn.open)
            opener.start()
            opener.join()
        return self.lock.__enter__()

    def __exit__(self, *exc_info):
        return self.lock.__exit__(*exc_info)


def test_whoever_opens_it_while_its_last_user_goes_finds_the_former_opening_closed():
    notes = []

    def connect():
        ours, theirs = socket.socketpair()
        notes.append("open")
        peer = PacketConnection(theirs, "peer", request_handler=reverse).open()

        def close():
            peer.close()
            ours.close()
            theirs.close()
            notes.append("close")

        return ours, ours, close

    conn = PacketConnection(connect)
    with conn:
        conn(1, b"ab")
        conn._opening = Interloper(conn)
    assert notes == ["open", "close", "open"]
    assert conn(1, b"ab")[2] == b"ba"
    conn.close()
    assert notes == ["open", "close"] * 2


def test_what_is_owed_is_waited_for(ends):
    gate = threading.Event()
    started = threading.Event()

    def handler(rq_type, flags, payload):
        started.set()
        gate.wait(20)
        return payload

    b = PacketConnection(ends.b, "b", request_handler=handler)
    a = PacketConnection(ends.a, "a")
    with b:
        with a:
            results = [a.submit(1, payload=b"%d" % i) for i in range(6)]
            started.wait(20)
            threading.Timer(0.05, gate.set).start()
        assert [result() for result in results] == [(True, 0, b"%d" % i) for i in range(6)]


def test_erq_and_eof_may_be_sent_by_hand_and_again(ends):
    a, b = PacketConnection(ends.a, "a"), PacketConnection(ends.b, "b", request_handler=reverse)
    with a, b:
        assert a(1, b"ab")[0]
        a.send_erq()
        a.send_erq()
        with pytest.raises(ConnectionEnded, match="ERQ"):
            a(1)
        a.send_eof()
        a.send_eof()
        assert b.join_recv(20)
        assert a.join(20)
    assert isinstance(a.ended, PeerClosed)


def test_an_eof_by_hand_leaves_behind_the_reply_that_is_owed(fd_ends):
    responder = Responder()
    peer = RawPeer(fd_ends)
    called = threading.Event()

    def handler(rq_type, flags, payload):
        called.set()
        return responder

    with PacketConnection(fd_ends.a, "a", request_handler=handler) as a:
        peer.send(bytes(Packet(is_request=True, tag=2, rq_type=1)))
        assert called.wait(20)
        peer_sees = []
        threading.Timer(0.05, lambda: responder.respond(b"late")).start()
        a.send_eof()
        peer_sees.append(peer.read_until(EOF))
        peer.send(EOF)
    assert b"".join(peer_sees) == ERQ + response(2, b"late") + EOF


def test_two_ends_in_one_thread_close_in_either_order(ends):
    a = PacketConnection(ends.a, "a", close_timeout=20)
    b = PacketConnection(ends.b, "b", close_timeout=20, request_handler=reverse)
    with a, b:
        assert a(1)[0]
    assert (a.ended.args, b.ended.args) == (a.ended.args, a.ended.args)
    assert isinstance(a.ended, PeerClosed)
    a.open()
    b.open()
    assert a(1, b"xy")[2] == b"yx"
    a.close()
    b.close()
    assert isinstance(b.ended, PeerClosed)


def test_a_stream_carries_one_connection_after_another(ends):
    for number in range(5):
        with (
            PacketConnection(ends.a, f"a{number}", close_timeout=20) as a,
            PacketConnection(ends.b, f"b{number}", close_timeout=20, request_handler=reverse),
        ):
            results = [a.submit(1, payload=b"%d" % i) for i in range(10, 40)]
            assert [r()[2] for r in results] == [(b"%d" % i)[::-1] for i in range(10, 40)]
        assert a.trailing_octets == b""


def test_a_buffer_takes_the_octets_behind_the_eof_back():
    ends = TRANSPORTS["buffers"]()
    with ends.stack:
        os.write(ends.b[1].fileno(), EOF + EOF + b"more")
        for _ in range(2):
            with PacketConnection(ends.a, close_timeout=20) as conn:
                assert conn.join_recv(20)
            assert conn.trailing_octets == b""
        assert ends.a[0].take(4) == b"more"
    ends.close_a()
    ends.close_b()


def test_trailing_octets_are_given_to_another_connection(fd_ends):
    peer = RawPeer(fd_ends)
    peer.send(EOF + response(2, b"next")[:3])
    with PacketConnection(fd_ends.a, "first") as first:
        first.join_recv(20)
    assert first.trailing_octets == response(2, b"next")[:3]
    second = PacketConnection(fd_ends.a, "second", leading_octets=first.trailing_octets)
    peer.send(response(2, b"next")[3:])
    with pytest.raises(ConnectionEnded), second:
        # a response before the request: proof that the octets were put together
        second.join_recv(20)
        raise second.ended


def test_a_reopened_connection_goes_on_with_its_own_trailing_octets(fd_ends):
    peer = RawPeer(fd_ends)
    request = bytes(Packet(is_request=True, tag=2, rq_type=1, payload=b"ab"))
    peer.send(EOF + request + EOF)
    conn = PacketConnection(fd_ends.a, request_handler=reverse)
    with conn:
        conn.join_recv(20)
    peer.read_until(EOF)
    with conn:
        conn.join_recv(20)
    assert response(2, b"ba")[:1] in peer.read_until(EOF)


def test_after_the_peers_eof_requests_are_refused_at_once(fd_ends):
    peer = RawPeer(fd_ends)
    with PacketConnection(fd_ends.a) as a:
        lost = a.submit(1)
        peer.send(ERQ + EOF)
        with pytest.raises(PeerClosed, match="EOF"):
            lost()
        for call in (lambda: a(1), lambda: a.submit(1)):
            with pytest.raises(PeerClosed, match="EOF"):
                call()


def test_replies_owed_are_sent_after_the_peers_eof(fd_ends):
    peer = RawPeer(fd_ends)
    responder = Responder()
    with PacketConnection(fd_ends.a, request_handler=lambda *rq: responder) as a:
        peer.send(bytes(Packet(is_request=True, tag=2, rq_type=1)) + ERQ + EOF)
        assert a.join_recv(20)
        responder.respond(b"owed")
        assert peer.read_until(EOF) == ERQ + response(2, b"owed") + EOF


def test_a_connection_made_by_a_callable_is_made_anew_and_closed_once():
    made, closed = [], []

    def connect():
        ends = TRANSPORTS["socketpair"]()
        server = PacketConnection(ends.b, request_handler=reverse)
        made.append(server.open())

        def shutdown():
            closed.append(a.ended)
            ends.close_a()
            server.close()
            ends.close_b()

        return ends.a, ends.a, shutdown

    a = PacketConnection(connect)
    for number in range(3):
        with a:
            with a:
                assert a(1, b"ab")[2] == b"ba"
            assert len(closed) == number
        assert len(made) == len(closed) == number + 1
    assert all(isinstance(ended, PeerClosed) for ended in closed)  # both directions had ended


def test_the_order_of_a_callable_is_recv_send_close():
    recv, other_send = os.pipe()
    other_recv, send = os.pipe()
    with PacketConnection((other_recv, other_send), request_handler=reverse):
        with PacketConnection(lambda: (recv, send, None)) as a:
            assert a(1, b"ab")[2] == b"ba"
    for fd in (recv, other_send, other_recv, send):
        os.close(fd)


# cut off and broken


def test_the_stream_is_cut_at_every_octet(fd_ends):
    transport = TRANSPORTS["pipes" if isinstance(fd_ends.a, tuple) else "socketpair"]
    transcript = b"".join(response(tag, b"%d" % tag * tag) for tag in range(2, 12)) + ERQ + EOF
    boundaries = {0}
    while max(boundaries) < len(transcript):
        boundaries.add(Packet.parse_bytes(transcript, max(boundaries))[1])
    for cut in range(len(transcript) + 1):
        ends = transport()
        peer = RawPeer(ends)
        with PacketConnection(ends.a) as a:
            results = [a.submit(1) for _ in range(10)]
            peer.read_octets(40)  # a socket that is closed with octets unread is reset
            peer.send(transcript[:cut])
            peer.close()
            responses, exceptions = count(results)
            assert a.join(20)
            expected = sum(1 for boundary in boundaries if 0 < boundary <= min(cut, len(transcript) - 8))
            assert (responses, exceptions) == (expected, 10 - expected)
            assert type(a.ended) is (PeerClosed if cut in boundaries else StreamTruncated)
        ends.close_a()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0",
        b"\xff" * 20,
        b"Welcome to the machine\n",
        b"\x02\x09\x04",
        b"\x03\x05\x02\x00",
        b"\xff\xff\xff\xff\x7f",
    ],
    ids=repr,
)
def test_garbage_ends_the_connection_with_the_octets_quoted(fd_ends, garbage):
    peer = RawPeer(fd_ends)
    with PacketConnection(fd_ends.a) as a:
        results = [a.submit(1) for _ in range(2)]
        peer.send(response(2) + garbage)
        assert a.join(20)
        assert count(results)[0] >= 1
        with pytest.raises(ConnectionEnded) as caught:
            a(1)
        assert isinstance(caught.value.__cause__, RemoteProtocolError)
    # the peer is told that it is over
    assert peer.read_until(EOF).endswith(ERQ + EOF)


def test_the_peer_closes_with_requests_pending(fd_ends):
    peer = RawPeer(fd_ends)
    with PacketConnection(fd_ends.a) as a:
        results = [a.submit(1) for _ in range(100)]
        peer.send(response(2) + response(5))
        peer.close()
        assert count(results) == (2, 98)
        with pytest.raises(ConnectionEnded) as caught:
            a(1)
    assert caught.value is not a.ended  # every caller has an exception of its own


def test_a_peer_that_stops_reading_stops_nobody_for_ever(fd_ends):
    with PacketConnection(fd_ends.a, close_timeout=0.2) as a:
        with pytest.raises(RequestTimeout, match="bytes unsent"):
            for _ in range(100):
                a.submit(1, payload=bytes(100_000), timeout=0.1)
        with pytest.raises(RequestTimeout):
            a(1, timeout=0.01)


def test_a_peer_that_sends_requests_and_never_reads(fd_ends):
    peer = RawPeer(fd_ends)

    def flood():
        octets = b"".join(
            bytes(Packet(is_request=True, tag=tag, rq_type=1, payload=b"x")) for tag in range(2, 100_000)
        )
        with contextlib.suppress(OSError):
            peer.send(octets)

    sender = threading.Thread(target=flood)
    with PacketConnection(fd_ends.a, request_handler=lambda *rq: bytes(10_000), close_timeout=0.2) as a:
        sender.start()
        # the connection ends by itself when it has refused too often
        assert a.join_recv(50)
        with pytest.raises(ConnectionEnded) as caught:
            a(1)
        assert isinstance(caught.value.__cause__, LimitExceeded)
    fd_ends.close_a()
    sender.join()


def test_a_broken_pipe_is_reported_even_if_the_other_direction_stays_open():
    recv, peer_send = os.pipe()
    peer_recv, send = os.pipe()
    os.close(peer_recv)
    with PacketConnection((recv, send)) as a:
        with pytest.raises(ConnectionEnded) as caught:
            a(1)
        assert isinstance(caught.value.__cause__, BrokenPipeError)
    for fd in (recv, peer_send, send):
        os.close(fd)


def test_a_reset_is_reported(fd_ends):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mine = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with PacketConnection(mine) as a:
        waiting = a.submit(1)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.close()
        with pytest.raises(ConnectionEnded) as caught:
            waiting()
        assert isinstance(caught.value.__cause__, ConnectionResetError)
    mine.close()


def test_stream_ended_is_the_last_event_and_comes_once(fd_ends):
    seen = []
    peer = RawPeer(fd_ends)
    with PacketConnection(fd_ends.a, on_event=seen.append) as a:
        peer.send(b"\0")
        a.join(20)
    assert [type(event) for event in seen] == [StreamEnded]


# closing while things go on


@pytest.mark.parametrize("trouble", ["asleep", "silent", "flooded", "not reading"])
def test_close_ends_within_its_bound_whatever_goes_on(fd_ends, trouble):
    peer = RawPeer(fd_ends)
    gate = threading.Event()
    a = PacketConnection(fd_ends.a, request_handler=lambda *rq: gate.wait(30) and b"", handlers=2)
    a.open()
    results = []
    if trouble == "asleep":
        peer.send(b"".join(bytes(Packet(is_request=True, tag=tag, rq_type=1)) for tag in range(2, 12)))
    elif trouble == "silent":
        results = [a.submit(1) for _ in range(10)]
    elif trouble == "flooded":
        peer.send(bytes(Packet(is_request=True, tag=2, rq_type=1, payload=bytes(60_000)))[:30_000])
        results = [a.submit(1)]
    else:
        with contextlib.suppress(RequestTimeout):
            while True:
                results.append(a.submit(1, payload=bytes(200_000), timeout=0.05))
    a.close(timeout=0.3)
    assert a.closed
    assert count(results) == (0, len(results))
    gate.set()
    for thread in threading.enumerate():
        if thread.name.startswith(a.name) and thread is not threading.current_thread():
            thread.join(20)


def test_threads_that_wait_are_woken_by_close(fd_ends):
    a = PacketConnection(fd_ends.a, "closing").open()
    ended = []

    def wait():
        try:
            a(1)
        except ConnectionEnded as error:
            ended.append(error)

    threads = [threading.Thread(target=wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    while a.outstanding < 8:
        pass
    a.close(timeout=0.1)
    for thread in threads:
        thread.join(20)
    assert len({id(error) for error in ended}) == 8


def test_close_from_a_handler_ends_the_connection(fd_ends):
    a = PacketConnection(fd_ends.a, "a", request_handler=lambda *rq: a.close(timeout=1)).open()
    with PacketConnection(fd_ends.b, "b") as b:
        b.submit(1)
        assert b.join_recv(20)
    for thread in threading.enumerate():
        if thread.name.startswith("a-"):
            thread.join(20)
    assert a.closed


@pytest.mark.timeout(20)
def test_close_where_a_reader_has_gone_and_no_other_may_read_yet():
    """As in a signal handler between the two: whoever it has interrupted reads no more before it returns."""
    with connection_pair() as (a, b):
        a(0)
        a._driver._parking.disarm()
        a.close(60)
        assert b.join(20)


def test_an_exception_in_the_with_block_does_not_wait_for_answers(fd_ends):
    with pytest.raises(ZeroDivisionError), PacketConnection(fd_ends.a, close_timeout=0.1) as a:
        result = a.submit(1)
        raise ZeroDivisionError
    with pytest.raises(ConnectionEnded):
        result()


# interruptions


class InterruptedStream(ByteStream):
    """Raises KeyboardInterrupt right after octets were taken, as a Ctrl-C at that moment would."""

    def __init__(self, recv_send):
        inner = open_stream(recv_send)
        super().__init__(inner.reader, inner.writer)
        self.interrupts = 0
        self.try_read = self.read_and_raise

    def read_and_raise(self, size):
        octets = self.reader.try_read(size)
        if octets:
            self.interrupts += 1
            raise KeyboardInterrupt
        return octets


def test_an_interruption_between_taking_and_feeding_octets_ends_the_connection(fd_ends):
    peer = RawPeer(fd_ends)
    stream = InterruptedStream(fd_ends.a)
    with PacketConnection(stream, close_timeout=0.2) as a:
        others = [a.submit(1) for _ in range(3)]
        peer.send(response(2) + response(3))
        with pytest.raises((KeyboardInterrupt, ConnectionEnded)):
            a(1)
        assert count(others) == (0, 3)
        assert stream.interrupts == 1
        with pytest.raises(ConnectionEnded, match="interrupted while reading"):
            a(1)


def sleeps(thread):
    """Whether the thread sleeps in its poll: a signal just before would not end that.

    One that waits for the interpreter's lock sleeps, too, wherever it is.
    """
    try:
        stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
        waits_for = Path(f"/proc/self/task/{thread.native_id}/wchan").read_text()
    except OSError:  # no Linux
        return True
    return stat.rpartition(")")[2].split()[0] == "S" and "futex" not in waits_for


def test_ctrl_c_in_a_waiting_call_leaves_the_connection_usable(fd_ends):
    def handler(rq_type, flags, payload):
        if rq_type == 1:
            main = threading.main_thread()
            where = "__call__" if packetwire.compiled is True else "wait"  # what is compiled has no frame
            while sys._current_frames()[main.ident].f_code.co_name != where or not sleeps(main):
                pass  # not yet in its poll
            signal.pthread_kill(main.ident, signal.SIGINT)
            return Responder()
        return payload

    # without HELLO, which may be what it reads when the signal comes
    with (
        PacketConnection(fd_ends.b, "b", request_handler=handler, close_timeout=0.2, capabilities="off"),
        PacketConnection(fd_ends.a, "a", close_timeout=0.2, capabilities="off") as a,
    ):
        for _ in range(20):
            with pytest.raises(KeyboardInterrupt):
                a(1)
            assert a(2, b"on") == (True, 0, b"on")
            assert a.outstanding == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_connection_cannot_be_used_in_a_forked_child(fd_ends):
    with PacketConnection(fd_ends.b, "b", request_handler=reverse), PacketConnection(fd_ends.a, "a") as a:
        assert a(1, b"ab")[2] == b"ba"
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                a(1, timeout=5)
            except ConnectionEnded as error:
                status = 0 if "fork" in str(error) else 2
            finally:
                a.close()
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert a(1, b"ab")[2] == b"ba"


def test_closing_while_a_worker_is_being_started(fd_ends, monkeypatch):
    start, closing = threading.Thread.start, threading.Event()
    held = queue.SimpleQueue()

    def slow_start(thread):
        if thread.name == "b-worker" and not closing.is_set() and len(b._driver._workers.threads) > 1:
            held.put(thread)
            assert closing.wait(20)
        start(thread)

    b = PacketConnection(fd_ends.b, "b", request_handler=lambda *request: closing.wait(20), close_timeout=0.1)
    with PacketConnection(fd_ends.a, "a", close_timeout=0.1) as a:
        b.open()
        monkeypatch.setattr(threading.Thread, "start", slow_start)
        a.submit(1)
        thread = held.get(timeout=20)
        closer = threading.Thread(target=b.close)
        start(closer)
        while not b._driver._workers.stopping:
            pass
        closing.set()
        closer.join(20)
        assert not closer.is_alive()
        for worker in {thread, *b._driver._workers.threads}:
            worker.join(20)  # one was in the handler: close leaves it to that
    assert b.closed


@pytest.mark.parametrize("round_", range(100))
def test_eof_leaves_though_another_thread_is_writing_while_there_is_no_time(round_):
    taken, answered = queue.SimpleQueue(), threading.Event()

    def take(event):
        if isinstance(event, RequestReceived):
            responder = a.take(event)
            taken.put(None)
            responder.respond(b"")
            answered.set()

    ends = socket.socketpair()
    a = PacketConnection(ends[0], "a", on_event=take)
    with ends[0], ends[1], PacketConnection(ends[1], "b", close_timeout=5) as b:
        a.open()
        b.submit(1)
        taken.get(timeout=20)
        a.close(0.0)
        assert b.join_recv(10)
        assert answered.wait(20)
