"""What a peer that is no libzmq may send: it costs a bounded amount, and the others are served meanwhile."""

from __future__ import annotations

import errno
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import pytest
import zmq
from tests.leftovers import open_fds

from packetwire import PacketConnection
from packetwire.streams import zmqpeers, zmqrouter
from packetwire.streams.curve import CurveServer, curve_keys
from packetwire.streams.zmq import open_dealer, open_pair
from packetwire.streams.zmqrouter import ZmqListener
from packetwire.zmq.links import Links
from packetwire.zmq.reading import Discarding
from packetwire.zmq.sockets import close_monitored, owned_socket
from tools.attacks.rawzmtp import RawPeer, frame, ready
from tools.attacks.victim import ROOT, Victim
from tools.attacks.zmtp import (
    EMPTY,
    EMPTY_MORE,
    empty_frames,
    frames_of_a_stranger,
    heartbeats_and_reset,
    is_served,
    messages_of_empty_frames,
    run,
    silent_identities,
    streams_with_bytes,
)
from tools.attacks.zmtp import endpoint_of as endpoint_of_victim

from .conftest import WAIT, RawDealer, accepted, await_limit, echo, endpoint_of, read_all, readable

pytestmark = pytest.mark.timeout(120)

ROUTER, PAIR = "zmq+router:tcp://127.0.0.1:*", "zmq+pair:tcp://127.0.0.1:*"
FBSP = "tcp://127.0.0.1:*"
QUICK = 5.0
"""Seconds that no call of an innocent client takes, also on a machine that has much else to do."""


# beside an innocent client


@pytest.mark.parametrize(
    ("attack", "count"),
    [
        (empty_frames, 1000),
        (empty_frames, 100_000),
        (streams_with_bytes, 20_000),
        (messages_of_empty_frames, 5),
        (silent_identities, 365),
    ],
)
@pytest.mark.parametrize(
    ("kind", "endpoint"), [("serve", ROUTER), ("aserve", ROUTER), ("serve", PAIR), ("fbsp", FBSP)]
)
def test_the_victim_survives_and_serves_the_others(kind: str, endpoint: str, attack: Any, count: int) -> None:
    with Victim(kind, endpoint) as victim:
        opens = attack is not silent_identities  # which take all places
        outcome = run(victim, attack, count, with_innocent=endpoint is not PAIR, opens=opens)
        assert outcome.after is not None
        assert outcome.served_after
        assert outcome.after.memory < outcome.before.memory + (64 << 20)
        if not (endpoint is PAIR and attack is silent_identities):  # libzmq keeps links to a PAIR that has a peer
            assert outcome.after.descriptors < outcome.before.descriptors + 32
        if outcome.report is not None:
            assert (outcome.report.failed, outcome.report.openings_failed, outcome.report.error) == (0, 0, "")
            assert outcome.report.worst_call < QUICK
    assert victim.status == 0


@pytest.mark.parametrize("attack", [frames_of_a_stranger, heartbeats_and_reset])
def test_with_keys_no_frame_of_a_stranger_gets_in(attack: Any) -> None:
    """The only thing that helps against messages without an end, and against faults of libzmq."""

    def attacking(endpoint: str, kind: bytes, count: int) -> None:
        with suppress(OSError):  # the victim hangs up
            attack(endpoint, kind, count)

    with Victim("curve", "tcp://127.0.0.1:*") as victim:
        outcome = run(victim, attacking, 200)
        assert outcome.after is not None
        assert outcome.after.peak_memory < outcome.before.peak_memory + (8 << 20)
        assert outcome.served_after
        assert outcome.report is not None
        assert (outcome.report.failed, outcome.report.openings_failed, outcome.report.error) == (0, 0, "")
    assert victim.status == 0


@pytest.mark.parametrize("mechanism", [b"NULL", b"PLAIN", b"CURVE"])
def test_a_stranger_is_hung_up_on_before_its_frames_count(
    listening: Callable[..., ZmqListener], linked_endpoint: str, mechanism: bytes
) -> None:
    listener = listening(linked_endpoint, curve=CurveServer(curve_keys()[1], [curve_keys()[0]]))
    with RawPeer(listener.endpoint, mechanism=mechanism, shakes_hands=False) as peer:
        peer.send(ready(b"DEALER") + EMPTY + frame(b"x") + EMPTY_MORE * 1000)
        assert peer.is_closed(WAIT)
    assert not readable(listener, 0)


# descriptors


def test_streams_that_wait_have_no_descriptors(listening: Callable[..., ZmqListener], tmp_path: Any) -> None:
    listener = listening(endpoint_of("ipc", tmp_path))
    with ExitStack() as opened:
        first = opened.enter_context(RawPeer(listener.endpoint, identity=b"first"))
        first.send(EMPTY)
        assert readable(listener)
        before = len(open_fds())
        for number in range(20):
            peer = opened.enter_context(RawPeer(listener.endpoint, identity=b"%d" % number))
            peer.send(EMPTY)
            assert peer.receive_frame() == (0, b""), "its stream has begun"
        assert len(open_fds()) - before == 2 * 20, "a link has two ends, and both are here"
        for stream in [accepted(listener) for _ in range(21)]:
            stream.close()


def test_who_has_sent_something_is_accepted_before_those_that_say_nothing(
    listening: Callable[..., ZmqListener], tmp_path: Any
) -> None:
    listener = listening(endpoint_of("ipc", tmp_path))
    with ExitStack() as opened:
        for name in b"silent", b"silent, too":
            peer = opened.enter_context(RawPeer(listener.endpoint, identity=name))
            peer.send(EMPTY)
            assert peer.receive_frame() == (0, b""), "its stream has begun"
        peer = opened.enter_context(RawPeer(listener.endpoint, identity=b"asking"))
        peer.send(EMPTY + frame(b"a request"))
        while not any(stream.incoming.has_data for stream in list(listener._waiting)):
            time.sleep(0.001)
        streams = [accepted(listener) for _ in range(3)]
        assert [stream.identity for stream in streams] == [b"asking", b"silent", b"silent, too"]
        for stream in streams:
            stream.close()


def test_who_cannot_be_accepted_waits_on(
    listening: Callable[..., ZmqListener], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*args: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    listener = listening(endpoint)
    with RawDealer(listener.endpoint) as raw:
        raw.send(b"", b"it waits")
        assert readable(listener)
        for name in "Wakeup", "PollSet":
            with monkeypatch.context() as patched:
                patched.setattr(zmqpeers, name, none_left)
                for _ in range(3):
                    with pytest.raises(OSError, match="Too many open files"):
                        listener.accept()
        stream = accepted(listener)
        assert read_all(stream, 8) == b"it waits"
        stream.close()


def test_who_waits_can_be_told_without_descriptors(
    listening: Callable[..., ZmqListener], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = listening(endpoint)
    with RawDealer(listener.endpoint) as raw:
        raw.send(b"")
        assert readable(listener)
        monkeypatch.delattr(zmqpeers, "Wakeup")
        assert listener.turn_away()
        assert not listener.turn_away()
        assert [raw.receive() for _ in range(3)] == [b"", zmqpeers.THE_END, b""]


@pytest.mark.parametrize(("kind", "endpoint"), [("serve", "zmq+router:ipc://{}/s"), ("fbsp", "ipc://{}/s")])
def test_more_links_than_descriptors_do_not_end_the_process(kind: str, endpoint: str, tmp_path: Any) -> None:
    """libzmq aborts at an ipc endpoint that has no descriptor for who comes."""
    with Victim(kind, endpoint.format(tmp_path), descriptors=64) as victim:
        silent_identities(endpoint_of_victim(victim.address), b"DEALER", 100, pause=0.02)
        assert victim.is_alive
        assert victim.usage_at_rest(30).descriptors <= 30
        assert is_served(victim)
    assert victim.status == 0


# places


def test_one_peer_has_few_streams_that_wait(listening: Callable[..., ZmqListener], endpoint: str) -> None:
    most = zmqrouter.MAX_WAITING_OF_ONE
    listener = listening(endpoint)
    with RawDealer(listener.endpoint) as greedy, RawDealer(listener.endpoint) as modest:
        for number in range(3 * most):
            greedy.send(b"", b"%d" % number, b"")
        for _ in range(most + 1):
            greedy.receive()
        modest.send(b"", b"modest")
        assert modest.receive() == b""
        streams = [accepted(listener) for _ in range(most + 1)]
        assert not readable(listener, 0)
        assert read_all(streams[-1], 6) == b"modest"
        assert [read_all(stream) for stream in streams[:-1]] == [b"%d" % number for number in range(most)]
        for stream in streams:
            stream.close()


def test_streams_that_nothing_came_for_are_forgotten(listening: Callable[..., ZmqListener], endpoint: str) -> None:
    listener = listening(endpoint)
    with RawDealer(listener.endpoint) as raw:
        raw.send(*[b""] * 100, b"", b"the last one")
        assert [raw.receive() for _ in range(51)] == [b""] * 51
        stream = accepted(listener)
        assert read_all(stream, 12) == b"the last one"
        assert not readable(listener, 0)
        stream.close()


def test_what_is_sent_before_there_is_a_place_is_bounded(
    listening: Callable[..., ZmqListener], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody has to wait for long for a stream that nobody reads yet."""
    monkeypatch.setattr(zmqrouter, "STALL_LIMIT", 0.05)
    monkeypatch.setattr(zmqpeers, "WAITING_LIMIT", 100_000)
    listener = listening(endpoint)
    with ExitStack() as opened:
        eager = [opened.enter_context(RawDealer(listener.endpoint)) for _ in range(4)]
        for raw in eager:
            raw.send(b"", *[bytes(10_000)] * 8)
            assert raw.receive() == b""
        last = opened.enter_context(RawDealer(listener.endpoint))
        last.send(b"", b"")
        assert last.receive() == b""
        kept, reasons = 0, []
        for _ in range(5):
            with closing(accepted(listener)) as stream:
                try:
                    while data := stream.try_read(1 << 20):
                        kept += len(data)
                except OSError as error:
                    reasons.append(str(error))
        assert kept <= 100_000
        assert len(reasons) >= 2
        assert all("before there was a place" in reason for reason in reasons)


# frames that are no stream's


@pytest.fixture(params=[("DEALER", open_dealer), ("PAIR", open_pair)], ids=["router", "pair"])
def served(request: pytest.FixtureRequest, listening: Callable[..., ZmqListener], linked_endpoint: str) -> Any:
    kind, connect = request.param
    listener = listening(linked_endpoint, pair=kind == "PAIR")
    return listener, kind.encode(), lambda: connect(listener.endpoint)


@pytest.mark.parametrize(
    "sent",
    [EMPTY * 2000, EMPTY_MORE * 2000 + EMPTY, (EMPTY_MORE + EMPTY) * 2000],
    ids=["boundaries", "one message", "messages"],
)
def test_who_sends_what_is_no_stream_is_cut_off(served: Any, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    listener, kind, connect = served
    with caplog.at_level(logging.WARNING, "packetwire"):
        with RawPeer(listener.endpoint, kind) as peer:
            peer.send(sent)
            assert peer.is_closed(WAIT)
        with PacketConnection(connect) as client:
            stream = accepted(listener)
            while stream.is_cut_off or stream.incoming.is_over:
                stream.close()  # one of the attacker's
                stream = accepted(listener)
            with PacketConnection(stream, request_handler=echo):
                assert client(1, b"served", timeout=WAIT) == (True, 0, b"served")
    assert caplog.text.count("a link is cut") == 1
    assert len(caplog.records) < 20, "one peer does not fill the log"


def test_few_such_frames_are_no_offence(listening: Callable[..., ZmqListener], linked_endpoint: str) -> None:
    """A peer may have one stream after the other, for ever, if each is accepted."""
    listener = listening(linked_endpoint)
    with RawDealer(listener.endpoint) as raw:
        for _ in range(zmqrouter.MAX_WASTED):
            raw.send(b"", b"x", b"")
            stream = accepted(listener)
            assert read_all(stream) == b"x"
            stream.close()
            assert [raw.receive() for _ in range(3)] == [b""] * 3, "begun, nothing said, ended"


def test_a_message_of_many_frames_is_thrown_away_in_slices() -> None:
    context: Any = zmq.Context.instance()
    with context.socket(zmq.PAIR) as ours, context.socket(zmq.PAIR) as theirs:
        ours.bind("inproc://slices")
        theirs.connect("inproc://slices")
        theirs.send_multipart([b""] * 10)
        theirs.send(b"behind")
        rest = Discarding(ours)
        assert rest.is_done
        assert ours.recv(copy=False).more
        rest.begin()
        assert not rest.go_on(5)
        assert rest.count == 5
        assert rest.go_on(5)
        assert rest.count == 9
        assert rest.go_on(5), "nothing is left"
        assert ours.recv() == b"behind"


# a PAIR and those who come while it has a peer

SURPLUS = """
import sys, time
from packetwire.streams import zmqsockets
from packetwire.messaging import Protocol
from packetwire.messaging.zmq import PairChannel
from packetwire.streams.zmqrouter import ZmqListener
from tools.attacks.rawzmtp import RawPeer, frame

zmqsockets.HEARTBEAT_INTERVAL = 0.05
if sys.argv[1] == "stream":
    user = ZmqListener("tcp://127.0.0.1:*", pair=True)
    endpoint = user.endpoint
else:
    user = PairChannel(Protocol(), heartbeat=0.05)
    endpoint = user.bind("tcp://127.0.0.1:*")
    user.start()
with RawPeer(endpoint, b"PAIR"):
    for _ in range(5):
        with RawPeer(endpoint, b"PAIR") as surplus:
            surplus.send(frame())
            time.sleep(0.1)
    time.sleep(0.5)
print("alive", flush=True)
"""


@pytest.mark.parametrize("user", ["stream", "channel"])
def test_a_pair_survives_those_who_come_while_it_has_a_peer(user: str) -> None:
    """libzmq would end the process at a heartbeat over a link that it does not read."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SURPLUS, user],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert (ended.returncode, ended.stdout) == (0, "alive\n")


def test_what_a_peer_that_is_gone_has_sent_does_not_keep_others_waiting(
    listening: Callable[..., ZmqListener], linked_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of it is lost, though nobody reads it yet."""
    monkeypatch.setattr(zmqrouter, "STALL_LIMIT", 1000.0)
    monkeypatch.setattr(zmqpeers, "QUEUE_LIMIT", 1 << 16)
    listener = listening(linked_endpoint)
    sent = bytes(8 * 65536)
    with RawPeer(listener.endpoint) as peer:
        peer.send(EMPTY)
        deaf = accepted(listener)
        assert peer.receive_frame() == (0, b""), "what it has not read would have the system reset the link"
        peer.send(frame(bytes(65536)) * 8)
        while not deaf.incoming.is_full:
            assert readable(deaf.read_fd)
        peer.socket.shutdown(socket.SHUT_RDWR)
    with (
        closing(deaf),
        PacketConnection(lambda: open_dealer(listener.endpoint)) as client,
        PacketConnection(accepted(listener), request_handler=echo),
    ):
        assert client(1, b"served", timeout=WAIT) == (True, 0, b"served")
        assert read_all(deaf) == sent
        assert deaf.is_cut_off


def test_nor_does_what_came_before_it_was_accepted(
    listening: Callable[..., ZmqListener], linked_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zmqrouter, "STALL_LIMIT", 1000.0)
    monkeypatch.setattr(zmqpeers, "QUEUE_LIMIT", 1 << 16)
    listener = listening(linked_endpoint)
    with (
        PacketConnection(lambda: open_dealer(listener.endpoint)) as client,
        PacketConnection(accepted(listener), request_handler=echo),
    ):
        with RawPeer(listener.endpoint) as peer:
            peer.send(EMPTY)
            assert peer.receive_frame() == (0, b""), "what it has not read would have the system reset the link"
            peer.send(frame(bytes(65536)) * 8)
            await_limit(listener)
            peer.socket.shutdown(socket.SHUT_RDWR)
        assert client(1, b"served", timeout=WAIT) == (True, 0, b"served")
        with closing(accepted(listener)) as stream:
            assert read_all(stream) == bytes(8 * 65536)
            assert stream.is_cut_off


def test_what_one_that_is_gone_has_sent_is_bounded_until_it_is_accepted(
    listening: Callable[..., ZmqListener], linked_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zmqrouter, "STALL_LIMIT", 1000.0)
    monkeypatch.setattr(zmqpeers, "WAITING_LIMIT", 2 * 65536)
    listener = listening(linked_endpoint)
    with (
        PacketConnection(lambda: open_dealer(listener.endpoint)) as client,
        PacketConnection(accepted(listener), request_handler=echo),
    ):
        with RawPeer(listener.endpoint) as peer:
            peer.send(EMPTY)
            assert peer.receive_frame() == (0, b""), "what it has not read would have the system reset the link"
            peer.send(frame(bytes(65536)) * 8)
            await_limit(listener)
            peer.socket.shutdown(socket.SHUT_RDWR)
        assert client(1, b"served", timeout=WAIT) == (True, 0, b"served")
        with closing(accepted(listener)) as stream:
            assert read_all(stream, 2 * 65536) == bytes(2 * 65536)
            with pytest.raises(OSError, match="before there was a place"):
                stream.try_read(1)


def test_who_gets_the_number_of_an_offender_that_is_gone_is_not_cut_off(
    listening: Callable[..., ZmqListener], linked_endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What the offender sent is read when its link is gone already, and the number of that is another peer's."""
    listener = listening(linked_endpoint)
    before = len(open_fds())
    with listener._lock:
        with RawPeer(listener.endpoint) as offender:
            offender.send(EMPTY_MORE * 3000 + EMPTY)
        while len(open_fds()) > before:
            pass  # until ZMQ has read all, and let go of the link
        heir = RawPeer(listener.endpoint)
    with heir:
        heir.send(EMPTY)
        assert heir.receive_frame() == (0, b"")
        accepted(listener).close()
        heir.send(EMPTY + EMPTY)
        assert heir.receive_frame() == (0, b""), "it is not cut off"
    assert "a link is" not in caplog.text


# cutting a link


@pytest.fixture
def bound(tmp_path: Any) -> Iterator[Any]:
    sock = owned_socket(zmq.Context.instance(), zmq.ROUTER)
    links = Links(sock, lambda event, value: None)
    sock.bind(endpoint_of("ipc", tmp_path))
    yield sock, links
    close_monitored(sock, links.monitor, 0)


def arrived(sock: Any, links: Links) -> Any:
    """The link of the next frame."""
    assert sock.poll(WAIT * 1000)
    sock.recv()
    received = sock.recv(copy=False)
    links.watch()
    return links.of(received)


def test_a_link_is_cut(bound: Any, tmp_path: Any) -> None:
    sock, links = bound
    with RawPeer(endpoint_of("ipc", tmp_path)) as peer, RawPeer(endpoint_of("ipc", tmp_path)) as other:
        before = open_fds()
        peer.send(frame(b"x"))
        link = arrived(sock, links)
        assert links.cut(link)
        assert peer.is_closed(WAIT)
        assert not open_fds() - before
        assert links.monitor.poll(WAIT * 1000)
        links.watch()
        assert links.take_lost() == [link]
        assert not links.cut(link)
        other.send(frame(b"y"))
        assert arrived(sock, links) != link


def test_a_link_with_the_number_of_one_that_is_gone_is_not_cut(bound: Any, tmp_path: Any) -> None:
    sock, links = bound
    endpoint = endpoint_of("ipc", tmp_path)
    for _ in range(20):
        with RawPeer(endpoint) as peer:
            peer.send(frame(b"x"))
            old = arrived(sock, links)
        while not links.is_gone(old):
            assert links.monitor.poll(WAIT * 1000)
            links.watch()
        with RawPeer(endpoint) as reborn:
            reborn.send(frame(b"y"))
            new = arrived(sock, links)
            assert not links.cut(old)
            reborn.send(frame(b"z"))
            assert arrived(sock, links) == new


def test_what_has_no_link_is_not_cut(bound: Any) -> None:
    _, links = bound
    assert not links.cut(None)
    assert not links.cut((1 << 20, 1))
