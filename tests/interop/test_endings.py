"""How a connection with the reference ends: ERQ and EOF, said or implied, and a reference that is killed."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from exchange import ECHO, HOLD, RELEASE, Exchange
from reference_process import ReferencePeer, peer_argv

from packetwire import (
    ConnectionEnded,
    Packet,
    PacketConnection,
    PeerClosed,
    PeerEndedRequests,
    StreamEnded,
)
from packetwire.core.events import Event

pytestmark = pytest.mark.timeout(60, func_only=True)


EARLY = bytes(1000)
"""The reference queues 16 packets and buffers 8 KiB: once it submitted 40 of these, most are in the stream."""


class Events:
    """The events of a connection but for its requests and responses."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, event: Any) -> None:
        if isinstance(event, PeerEndedRequests | StreamEnded):
            self.seen.append(event)

    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.seen]


def test_we_close_first(reference: ReferencePeer) -> None:
    with reference.serving(), PacketConnection(reference.recv_send) as conn:
        assert conn(ECHO, b"x") == (True, 0, b"x")
    assert conn.closed
    assert isinstance(conn.ended, PeerClosed)


def test_the_reference_closes_first(reference: ReferencePeer) -> None:
    events = Events()
    with PacketConnection(reference.recv_send, request_handler=Exchange(), on_event=events) as conn:
        reference.ask("open", False)
        assert reference.ask("call", ECHO, 0, b"x") == (True, 0, b"x")
        reference.ask("close")
        assert conn.join_recv(10)
        with pytest.raises(PeerClosed):
            conn(ECHO)
    assert events.names() == ["PeerEndedRequests", "StreamEnded"]
    assert events.seen[-1].clean


def test_nothing_is_said_but_the_end(reference: ReferencePeer) -> None:
    with reference.serving(), PacketConnection(reference.recv_send) as conn:
        pass
    assert isinstance(conn.ended, PeerClosed)


def test_we_say_erq_and_eof(reference: ReferencePeer) -> None:
    exchange = Exchange()
    with reference.serving(), PacketConnection(reference.recv_send, request_handler=exchange) as conn:
        assert conn(ECHO, b"x") == (True, 0, b"x")
        for _ in range(2):
            conn.send_erq()
        with pytest.raises(ConnectionEnded, match="ERQ"):
            conn(ECHO, b"y")
        for _ in range(2):
            conn.send_eof()
        assert conn.join_recv(10)


def test_the_reference_says_erq_and_eof(reference: ReferencePeer) -> None:
    events = Events()
    with PacketConnection(reference.recv_send, request_handler=Exchange(), on_event=events) as conn:
        reference.ask("open", True)
        assert reference.ask("call", ECHO, 0, b"x") == (True, 0, b"x")
        for _ in range(2):
            reference.ask("send_erq")
        reference.ask("send_eof")
        assert conn.join_recv(10)
        reference.ask("close")
    assert events.names() == ["PeerEndedRequests", "StreamEnded"]


def test_after_our_erq_the_reference_still_asks(reference: ReferencePeer) -> None:
    with PacketConnection(reference.recv_send, request_handler=Exchange()) as conn:
        reference.ask("open", True)
        conn.send_erq()
        assert reference.ask("call", ECHO, 1, b"x") == (True, 1, b"x")
        reference.ask("close")


def test_after_its_erq_the_reference_still_serves(reference: ReferencePeer) -> None:
    with PacketConnection(reference.recv_send, request_handler=Exchange()) as conn:
        reference.ask("open", True)
        reference.ask("send_erq")
        assert conn(ECHO, b"x", 1) == (True, 1, b"x")
        reference.ask("close")


def test_we_refuse_a_request_after_erq(reference: ReferencePeer) -> None:
    with PacketConnection(reference.recv_send, request_handler=Exchange()):
        reference.ask("open", True)
        reference.ask("send_erq")
        assert reference.ask("call", ECHO, 0, b"x") == (False, 0, b"requests no longer allowed")
        reference.ask("close")


@pytest.mark.parametrize("transport", ["unix socket"])
def test_the_reference_refuses_a_request_after_erq(reference: ReferencePeer) -> None:
    sock = reference.recv_send
    sock.setblocking(True)
    with reference.serving(), sock.makefile("rwb") as stream:
        request = Packet(is_request=True, channel=0, tag=2, flags=0, rq_type=ECHO + 1, payload=b"x")
        stream.write(bytes(PacketConnection.ERQ_Packet) + bytes(request))
        stream.flush()
        refused = Packet(
            is_request=False, channel=0, tag=2, flags=0, rq_type=None, payload=b"requests no longer allowed"
        )
        assert stream.read(len(bytes(refused))) == bytes(refused)
        stream.write(bytes(PacketConnection.EOF_Packet))
        stream.flush()
        assert stream.read(8) == bytes(PacketConnection.ERQ_Packet) + bytes(PacketConnection.EOF_Packet)


def test_replies_to_us_after_our_erq(reference: ReferencePeer) -> None:
    with PacketConnection(reference.recv_send) as conn:
        reference.ask("open", True)
        results = [conn.submit(HOLD, number, b"held") for number in range(3)]
        conn.send_erq()
        reference.ask("release")
        assert [result() for result in results] == [(True, number, b"held") for number in range(3)]
        reference.tell("close")
    reference.answer()


def test_our_close_waits_for_replies(reference: ReferencePeer) -> None:
    with reference.serving(), PacketConnection(reference.recv_send) as conn:
        results = [conn.submit(HOLD, number, b"held") for number in range(3)]
        conn.submit(RELEASE)
    assert [result() for result in results] == [(True, number, b"held") for number in range(3)]


def test_replies_to_the_reference_after_its_erq(reference: ReferencePeer) -> None:
    exchange = Exchange()
    events = Events()
    with PacketConnection(reference.recv_send, request_handler=exchange, on_event=events):
        reference.ask("open", False)
        reference.ask("submit", [(HOLD, number, b"held") for number in range(3)])
        reference.ask("send_erq")
        reference.tell("collect")
        exchange.gate.set()
        responses, _ = reference.answer()
        assert responses == [(True, number, b"held") for number in range(3)]
        reference.ask("close")


def test_our_close_sends_what_we_owe(reference: ReferencePeer) -> None:
    exchange = Exchange()
    with PacketConnection(reference.recv_send, request_handler=exchange):
        reference.ask("open", False)
        reference.ask("submit", [(HOLD, number, b"held") for number in range(3)] + [(RELEASE, 0, b"")])
        assert exchange.gate.wait(10)
        reference.tell("collect")
        reference.tell("close")
    responses, _ = reference.answer()
    assert responses == [(True, number, b"held") for number in range(3)] + [(True, 0, b"")]


def test_the_streams_can_be_used_again(reference: ReferencePeer) -> None:
    conn = PacketConnection(reference.recv_send)
    for number in range(3):
        with reference.serving(), conn:
            assert conn(ECHO, b"%d" % number) == (True, 0, b"%d" % number)
        assert conn.closed


def test_the_reference_is_ahead_in_using_the_streams_again(reference: ReferencePeer) -> None:
    erq_seen, read_on = threading.Event(), threading.Event()

    def stop_reading_at_erq(event: Event) -> None:
        if isinstance(event, PeerEndedRequests):
            erq_seen.set()
            read_on.wait(20)

    conn = PacketConnection(reference.recv_send, request_handler=Exchange(), on_event=stop_reading_at_erq)
    with conn:
        reference.ask("open", False)
        reference.ask("send_erq")
        assert erq_seen.wait(10)
        conn.send_eof()
        reference.ask("close")
        reference.ask("open", False)
        reference.ask("submit", [(ECHO, number, EARLY) for number in range(40)])
        read_on.set()
        assert conn.join_recv(10)
    with conn:
        assert reference.ask("collect")[0] == [(True, number, EARLY) for number in range(40)]
        reference.ask("close")


def test_the_reference_is_killed(python: Path, transport: str) -> None:
    peer = ReferencePeer(python, transport)
    try:
        with PacketConnection(peer.recv_send) as conn:
            peer.ask("open", True)
            results = [conn.submit(HOLD) for _ in range(100)]
            peer.process.send_signal(signal.SIGKILL)
            for result in results:
                with pytest.raises(ConnectionEnded):
                    result(timeout=10)
        assert peer.process.wait(10) == -signal.SIGKILL
    finally:
        peer.close()


def test_the_reference_as_a_child(python: Path) -> None:
    with PacketConnection.spawn(peer_argv(python, "pipes", "serve")) as conn:
        results = [conn.submit(ECHO, number, b"payload") for number in range(64)]
        assert [result() for result in results] == [(True, number, b"payload") for number in range(64)]
    assert isinstance(conn.ended, PeerClosed)
