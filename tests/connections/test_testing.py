"""What `packetwire.testing` offers to users' tests: pairs of connections, and a link with faults."""

from __future__ import annotations

import os
import random
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from packetwire import (
    ConnectionEnded,
    LocalProtocolError,
    PacketConnection,
    PeerClosed,
    RemoteProtocolError,
    RequestTimeout,
    StreamTruncated,
)
from packetwire.testing import RELAY_SIZE, Direction, Faults, FaultyLink, connection_pair, stream_pair

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("plain_streams")]

LIMIT = 30
"""Seconds for what does not take any."""
SOON = 0.05
"""Seconds after which a call shall give up that cannot be answered."""

ECHOING = {"request_handler": lambda rq_type, flags, payload: (flags, payload), "close_timeout": 2}
HASTY = {"close_timeout": 0.2}
REQUEST_OCTETS = 5 + 70
"""Octets of a request with a payload of 70."""


@pytest.fixture(params=["a_to_b", "b_to_a"])
def direction(request: pytest.FixtureRequest) -> str:
    """The direction that has the fault: that of the requests, or that of the responses."""
    return request.param


def link_with(direction: str, faults: Faults) -> FaultyLink:
    return FaultyLink(**{direction: faults})


def waiters(conn: PacketConnection, count: int) -> list[Callable[[], object]]:
    """Calls and submitted requests in as many threads; what collects the exception or the result of each."""
    outcomes: list[Any] = [None] * count

    def wait(index: int) -> None:
        try:
            if index % 2:
                outcomes[index] = conn(0, bytes(70), timeout=LIMIT)
            else:
                outcomes[index] = conn.submit(0, 0, bytes(70))(timeout=LIMIT)
        except Exception as error:
            outcomes[index] = error

    threads = [threading.Thread(target=wait, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()

    def collect(index: int) -> object:
        threads[index].join()
        return outcomes[index]

    return [lambda index=index: collect(index) for index in range(count)]


# pairs


@pytest.mark.parametrize("over", ["socketpair", "pipes"])
def test_a_pair_of_connections(over: str) -> None:
    with connection_pair(ECHOING, ECHOING, over=over) as (a, b):
        assert a(0, b"from a", 1, timeout=LIMIT) == (True, 1, b"from a")
        assert b(0, b"from b", 2, timeout=LIMIT) == (True, 2, b"from b")
        assert (a.name, b.name) == ("a", "b")
    assert a.closed
    assert b.closed
    assert str(a.ended) == str(b.ended) == "the peer ended the connection (EOF)"


def test_a_pair_over_something_unknown() -> None:
    with pytest.raises(LocalProtocolError, match="'socketpair', 'pipes' or two streams, got 'sockets'"):
        with connection_pair(over="sockets"):
            pass


def test_a_pair_of_streams_is_closed_when_a_test_fails() -> None:
    with pytest.raises(ZeroDivisionError), stream_pair("pipes") as ((recv, _), _):
        raise ZeroDivisionError
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(recv)


# what the octets of a link do


def all_octets(fd: int) -> bytes:
    octets = b""
    while read := os.read(fd, RELAY_SIZE):
        octets += read
    return octets


def send(fd: int, octets: bytes) -> None:
    assert os.write(fd, octets) == len(octets)


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="pipes here do not keep pieces apart")
def test_pieces() -> None:
    with FaultyLink(Faults(pieces=[1, 2, 3])) as link:
        send(link.a[1], b"abcdefghij")
        while link.a_to_b.passed < 10:
            select.select([link.b[0]], [], [])
        assert [os.read(link.b[0], 100) for _ in range(5)] == [b"a", b"bc", b"def", b"g", b"hi"]
        assert os.read(link.b[0], 100) == b"j"


def test_bits_are_flipped_where_they_are() -> None:
    with FaultyLink(Faults(flips={1: 0x01, 4: 0x80}, pieces=[2])) as link:
        send(link.a[1], b"abc")
        send(link.a[1], b"def")
        octets = b""
        while len(octets) < 6:
            octets += os.read(link.b[0], 100)
        assert octets == b"accd\xe5f"
        assert link.a_to_b.reached.is_set()


@pytest.mark.parametrize("place", [0, 1, 5])
def test_a_cut_ends_both_directions_behind_its_place(place: int) -> None:
    with FaultyLink(Faults(cut_at=place)) as link:
        try:
            os.write(link.a[1], b"abcdef")
        except BrokenPipeError:
            assert place == 0
        assert all_octets(link.b[0]) == b"abcdef"[:place]
        assert all_octets(link.a[0]) == b""
        for sender in link.a[1], link.b[1]:
            with pytest.raises(BrokenPipeError):
                os.write(sender, b"x")
        assert link.a_to_b.is_cut
        assert link.a_to_b.reached.is_set()


def test_what_is_delayed_is_taken_and_comes_later() -> None:
    with FaultyLink(Faults(delay_at=3)) as link:
        octets = random.Random(1).randbytes(10 * RELAY_SIZE)
        sender = threading.Thread(
            target=lambda: [send(link.a[1], octets[i : i + 1000]) for i in range(0, len(octets), 1000)]
        )
        sender.start()
        sender.join()
        assert os.read(link.b[0], 100) == octets[:3]
        assert link.a_to_b.reached.wait(LIMIT)
        assert link.a_to_b.passed == 3
        link.release()
        received = bytearray(octets[:3])
        while len(received) < len(octets):
            received += os.read(link.b[0], RELAY_SIZE)
        assert received == octets


def test_what_is_stalled_is_not_taken() -> None:
    with FaultyLink(Faults(stall_at=3)) as link:
        os.set_blocking(link.a[1], False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(link.a[1], bytes(4096))
        assert os.read(link.b[0], 100) == bytes(3)
        assert link.a_to_b.reached.wait(LIMIT)
        assert (link.a_to_b.taken, link.a_to_b.passed) == (3, 3)
        link.release()
        assert os.read(link.b[0], 100)


def test_a_link_without_faults_holds_little() -> None:
    with FaultyLink() as link:
        os.set_blocking(link.a[1], False)
        sent = 0
        while link.a_to_b.taken - link.a_to_b.passed < RELAY_SIZE:
            with suppress(BlockingIOError):
                sent += os.write(link.a[1], bytes(4096))
            assert sent < 10 * RELAY_SIZE


def test_an_end_that_is_closed_is_seen_at_the_other() -> None:
    with FaultyLink() as link:
        with subprocess.Popen(["echo", "from a child"], stdin=link.a[0], stdout=link.a[1]) as child:
            assert child.wait() == 0
        assert os.read(link.b[0], 100) == b"from a child\n"


def test_a_receiver_that_leaves_is_seen_by_the_sender() -> None:
    with FaultyLink() as link, open(os.devnull) as null:
        os.dup2(null.fileno(), link.b[0])
        with pytest.raises(BrokenPipeError):
            while True:
                os.write(link.a[1], b"x")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"pieces": [0]}, "a piece has from 1 to 4096 bytes, got 0"),
        ({"pieces": [5, 4097]}, "a piece has from 1 to 4096 bytes, got 4097"),
        ({"cut_at": -1}, "cut_at is the number of a byte, got -1"),
        ({"stall_at": -1}, "stall_at is the number of a byte, got -1"),
        ({"delay_at": -1}, "delay_at is the number of a byte, got -1"),
    ],
)
def test_faults_that_cannot_be(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(LocalProtocolError, match=text):
        Faults(**wrong)


# what connections make of it


@pytest.mark.parametrize("seed", range(5))
def test_pieces_of_any_size_change_nothing(seed: int) -> None:
    rng = random.Random(seed)
    sizes = [rng.choice([1, 2, 3, 17, 4096]) for _ in range(50)]
    payloads = [rng.randbytes(rng.choice([0, 1, 127, 128, 5000])) for _ in range(100)]
    with FaultyLink(Faults(pieces=sizes), Faults(pieces=sizes[::-1])) as link:
        with connection_pair(ECHOING, ECHOING, over=link.ends) as pair:
            for conn in pair:
                requests = ((0, payload) for payload in payloads)
                assert [reply[2] for reply in conn.map(requests, timeout=LIMIT)] == payloads


@pytest.mark.parametrize("place", range(REQUEST_OCTETS + 1))
def test_a_cut_ends_every_waiter(direction: str, place: int) -> None:
    with link_with(direction, Faults(cut_at=place)) as link:
        with connection_pair(HASTY, ECHOING | HASTY, over=link.ends) as (a, b):
            outcomes = [collect() for collect in waiters(a, 4)]
            errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
            assert errors
            assert all(isinstance(error, ConnectionEnded) for error in errors), errors
            assert len({id(error) for error in errors}) == len(errors), "each has its own"
            assert b.join(LIMIT)
            assert a.join(LIMIT)
        truncated = b if direction == "a_to_b" else a
        if 0 < place < REQUEST_OCTETS - 2:
            assert isinstance(truncated.ended, StreamTruncated)
        assert not a.outstanding


def test_a_stall_is_a_timeout_and_goes_on_after_it(direction: str) -> None:
    in_order = {**ECHOING, "handlers": "inline"}  # so the late response comes before the others
    with link_with(direction, Faults(stall_at=3)) as link, connection_pair(b=in_order, over=link.ends) as (a, _):
        with pytest.raises(RequestTimeout):
            a(0, bytes(70), timeout=SOON)
        assert getattr(link, direction).reached.wait(LIMIT)
        collected = waiters(a, 4)
        link.release()
        assert [collect() for collect in collected] == [(True, 0, bytes(70))] * 4
        assert a.late_responses == 1
        assert not a.outstanding


def test_a_stall_fills_the_bounds_and_no_more(direction: str) -> None:
    with link_with(direction, Faults(stall_at=3)) as link:
        with connection_pair({"max_unsent": 1 << 16}, ECHOING, over=link.ends) as (a, _):
            with pytest.raises(RequestTimeout, match="no room for one more request in time"):
                for _ in range(1025):
                    a.submit(0, 0, bytes(4000), timeout=SOON)
            link.release()
            assert a(0, b"on", timeout=LIMIT) == (True, 0, b"on")


def test_a_stall_that_lasts_until_the_close(direction: str) -> None:
    with link_with(direction, Faults(stall_at=3)) as link:
        with connection_pair(HASTY, ECHOING | HASTY, over=link.ends) as (a, _):
            result = a.submit(0, 0, bytes(70))
            assert getattr(link, direction).reached.wait(LIMIT)
        with pytest.raises(ConnectionEnded):
            result(timeout=LIMIT)


def test_what_is_delayed_arrives(direction: str) -> None:
    with link_with(direction, Faults(delay_at=3)) as link, connection_pair(b=ECHOING, over=link.ends) as (a, _):
        results = [a.submit(0, number, bytes(5000)) for number in range(100)]
        assert getattr(link, direction).reached.wait(LIMIT)
        assert not any(result.ready for result in results)
        link.release()
        assert [result(timeout=LIMIT)[1] for result in results] == list(range(100))


def test_a_flipped_bit_in_a_payload_is_not_seen() -> None:
    with FaultyLink(Faults(flips={10: 0x01})) as link, connection_pair(b=ECHOING, over=link.ends) as (a, _):
        assert a(0, bytes(70), timeout=LIMIT)[2] == bytes(6) + b"\x01" + bytes(63)


def test_a_flipped_bit_in_a_tag_of_a_response() -> None:
    with FaultyLink(b_to_a=Faults(flips={1: 0x40})) as link:
        with connection_pair(HASTY, ECHOING | HASTY, over=link.ends) as (a, _):
            for collect in waiters(a, 1):
                error = collect()
                assert isinstance(error, ConnectionEnded)
                assert isinstance(error.__cause__, RemoteProtocolError)
                assert error.__cause__.code == "response-never-asked"


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("bit", range(8))
def test_any_flipped_bit_of_a_head_ends_in_an_answer_or_an_error(direction: str, place: int, bit: int) -> None:
    with link_with(direction, Faults(flips={place: 1 << bit})) as link:
        with connection_pair(HASTY, ECHOING | HASTY, over=link.ends) as (a, _):
            try:
                ok, _, payload = a(0, bytes(70), timeout=SOON)
            except (ConnectionEnded, RequestTimeout):
                pass
            else:
                assert not ok or set(payload) <= {0, 1 << bit}
            link.cut()
            a.join(LIMIT)
        assert not a.outstanding


def test_cut_by_hand() -> None:
    with FaultyLink() as link, connection_pair(b=ECHOING, over=link.ends) as (a, b):
        assert a(0, timeout=LIMIT) == (True, 0, b"")
        link.cut()
        assert a.join(LIMIT)
        assert b.join(LIMIT)
        assert isinstance(a.ended, PeerClosed)
        assert isinstance(b.ended, PeerClosed)


def test_an_end_in_another_process() -> None:
    program = (
        "from packetwire import PacketConnection, stdio\n"
        "with PacketConnection(stdio(), request_handler=lambda rq_type, flags, payload: payload) as conn:\n"
        "    conn.join()\n"
    )
    with FaultyLink(Faults(pieces=[1])) as link:
        recv, send_fd = link.b
        with subprocess.Popen([sys.executable, "-c", program], stdin=recv, stdout=send_fd):
            with PacketConnection(link.a) as conn:
                assert conn(0, b"payload", timeout=LIMIT) == (True, 0, b"payload")


def test_a_direction_tells_what_it_did() -> None:
    with FaultyLink() as link, connection_pair(b=ECHOING, over=link.ends) as (a, _):
        a(0, bytes(70), timeout=LIMIT)
        assert isinstance(link.a_to_b, Direction)
        assert link.a_to_b.taken == link.a_to_b.passed == REQUEST_OCTETS - 1
        assert link.b_to_a.taken == link.b_to_a.passed > 70
        assert not link.a_to_b.reached.is_set()
