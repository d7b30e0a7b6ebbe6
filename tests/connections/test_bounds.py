"""What is bounded, and that memory does not grow with the number of requests ever made."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import tracemalloc

import pytest

from packetwire import ConnectionEnded, Packet, PacketConnection, RequestTimeout, Responder

from .test_ends import ERQ, RawPeer, response

pytestmark = pytest.mark.timeout(120)

MEGABYTE = 1 << 20


def megabyte():
    """One of its own: zeros would have no memory until they are written to, and random octets take time."""
    return b"x" * MEGABYTE


def resident():
    """Octets of memory that this process has."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.long
def test_200_000_requests_are_submitted_before_the_first_result_is_collected(fd_connect):
    a, _ = fd_connect(b={"request_handler": lambda rq_type, flags, payload: flags})
    results = [a.submit(1, i) for i in range(200_000)]
    assert all(result() == (True, i, b"") for i, result in enumerate(results))
    assert a.outstanding == 0


@pytest.mark.long
def test_memory_does_not_grow_while_callers_time_out(fd_ends):
    peer = RawPeer(fd_ends)
    ended = threading.Event()

    def swallow():
        while ERQ not in peer.read():
            pass
        ended.set()

    reader = threading.Thread(target=swallow)
    with PacketConnection(fd_ends.a, close_timeout=0.1) as a:
        reader.start()

        def time_out(times):
            for _ in range(times):
                with pytest.raises(RequestTimeout):
                    a(1, timeout=0)

        tracemalloc.start()
        time_out(1000)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        time_out(100_000)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert a.outstanding == 0
        assert after - before < 512 << 10
    reader.join(20)
    assert ended.is_set()


@pytest.mark.long
@pytest.mark.timeout(400)  # half a minute on two processors, but what compiles beside it leaves it a fifth of them
@pytest.mark.parametrize(("ends", "handlers"), [("pipes", 4), ("socketpair", "inline")])
def test_ten_thousand_times_open_call_close_leaves_nothing(ends, handlers):
    """In a process of its own, whose memory no other test has filled and emptied before."""
    subprocess.run([sys.executable, "-m", "tests.connections.openings", ends, str(handlers)], check=True)


@pytest.mark.parametrize("how", ["submits", "calls", "map"])
def test_a_gigabyte_offered_to_a_peer_that_does_not_read(fd_ends, how):
    """Each of them waits when there is no more room, or has its time limit."""
    before = resident()
    with PacketConnection(fd_ends.a, close_timeout=0) as a:

        def ask(timeout):
            with pytest.raises((RequestTimeout, ConnectionEnded)):
                a(1, megabyte(), timeout=timeout)

        if how == "submits":
            with pytest.raises(RequestTimeout, match="bytes unsent"):
                for _ in range(1000):
                    a.submit(1, 0, megabyte(), timeout=0.1)
        elif how == "map":
            with pytest.raises(RequestTimeout):
                list(a.map(((1, megabyte()) for _ in range(1000)), window=1000, timeout=0.1))
        else:
            for _ in range(1000):
                ask(0)
        assert resident() - before < 64 * MEGABYTE


def test_submit_waits_at_max_outstanding(fd_ends):
    responders = []

    def handler(rq_type, flags, payload):
        responders.append(Responder())
        return responders[-1]

    with (
        PacketConnection(fd_ends.b, request_handler=handler),
        PacketConnection(fd_ends.a, max_outstanding=3) as a,
    ):
        results = [a.submit(1) for _ in range(3)]
        with pytest.raises(RequestTimeout, match="3 of 3 unanswered"):
            a.submit(1, timeout=0.02)
        with pytest.raises(RequestTimeout):
            a(1, timeout=0)
        while len(responders) < 3:
            pass
        threading.Timer(0.02, responders[0].respond).start()
        results.append(a.submit(1, timeout=20))
        while len(responders) < 4:
            pass
        for responder in responders[1:]:
            responder.respond()
        assert [result()[0] for result in results] == [True] * 4


def test_handlers_wait_while_the_peer_does_not_take_their_replies(fd_ends):
    ran = []
    peer = RawPeer(fd_ends)

    def handler(rq_type, flags, payload):
        ran.append(1)
        return bytes(500_000)

    with PacketConnection(fd_ends.a, request_handler=handler, close_timeout=20) as a:
        peer.send(b"".join(bytes(Packet(is_request=True, tag=tag, rq_type=1)) for tag in range(2, 52)))
        octets = len(peer.read_octets(500_000))
        assert len(ran) < 20
        while octets < 50 * 500_000:
            octets += len(peer.read())
        assert len(ran) == 50
        peer.send(bytes(PacketConnection.EOF_Packet))
        a.join(20)


def test_inline_handlers_run_one_at_a_time_also_if_one_had_to_wait_for_room(fd_ends):
    peer = RawPeer(fd_ends)
    began, second_began, release, fourth_came = [], threading.Event(), threading.Event(), threading.Event()

    def handler(rq_type, flags, payload):
        began.append(flags)
        if flags == 2:
            second_began.set()
            release.wait(20)
        return bytes(MEGABYTE) if flags == 1 else None

    def on_event(event):
        if getattr(event, "flags", 0) == 4:
            fourth_came.set()

    def ask(*numbers):
        peer.send(b"".join(bytes(Packet(is_request=True, tag=n + 1, rq_type=1, flags=n)) for n in numbers))

    settings = {"handlers": "inline", "max_unsent": 1, "close_timeout": 20}
    with PacketConnection(fd_ends.a, request_handler=handler, on_event=on_event, **settings) as a:
        ask(1, 2)
        peer.read_octets(MEGABYTE)
        assert second_began.wait(20)
        ask(3, 4)
        assert fourth_came.wait(20)
        assert began == [1, 2]
        release.set()
        peer.send(bytes(PacketConnection.EOF_Packet))
        a.join(20)
    assert began == [1, 2, 3, 4]


def test_an_oversized_packet_ends_the_connection_before_it_is_read(fd_ends):
    peer = RawPeer(fd_ends)
    with PacketConnection(fd_ends.a, max_packet_size=1000) as a:
        result = a.submit(1)
        peer.send(response(2, bytes(2000))[:6])
        with pytest.raises(ConnectionEnded, match="announces 2002 bytes.*the limit is 1000"):
            result()


def test_a_packet_may_be_as_large_as_allowed(fd_ends):
    with (
        PacketConnection(fd_ends.b, request_handler=lambda t, f, p: len(p).to_bytes(4, "big")),
        PacketConnection(fd_ends.a) as a,
    ):
        payload = os.urandom(1 << 20) * 60
        assert int.from_bytes(a(1, payload)[2], "big") == len(payload)
