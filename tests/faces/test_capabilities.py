"""How the two ends come to know what both understand, and what follows from that: modes, identity, ping, drain."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import packetwire
from packetwire import (
    AsyncHasPacketConnection,
    AsyncPacketConnection,
    BaseRequest,
    CapabilityMissing,
    ConnectionEnded,
    Draining,
    HasPacketConnection,
    LocalProtocolError,
    Packet,
    PacketConnection,
    PeerUnresponsive,
    ProtocolMismatch,
    RequestFailed,
    RequestTimeout,
)
from packetwire.core.hello import ANSWER, CONTROL_CHANNEL, HELLO, Feature, Hello, encode_hello
from packetwire.core.statuses import StatusCode, flags_of

from .conftest import WATCHDOG, Ends, Looped, until

MODES = ("auto", "require", "passive", "off")


def echo(rq_type: int, flags: int, payload: bytes) -> bytes:
    return payload


def ping(ends: Ends) -> Any:
    return ends.do(lambda: ends.conn.ping(WATCHDOG))


@pytest.mark.parametrize(("ours", "theirs"), list(itertools.product(MODES, MODES)))
def test_each_mode_against_each(ends: Ends, ours: str, theirs: str) -> None:
    """Requests pass both ways in any case; capabilities are there if both want them."""
    both = "off" not in (ours, theirs)
    if not both and "require" in (ours, theirs):
        pytest.skip("is refused: see below")
    ends.make(request_handler=echo, capabilities=ours, protocol="shop", protocol_version="1")
    asker = PacketConnection(ends._sockets[1], "asker", request_handler=echo, capabilities=theirs)
    opening = threading.Thread(target=asker.open)  # each may wait for the other
    ends._stack.callback(asker.close)
    opening.start()
    ends.open()
    opening.join(WATCHDOG)
    assert asker(1, b"one") == (True, 0, b"one")
    assert ends.call(2, b"two") == (True, 0, b"two")
    if both:
        asker.ping(WATCHDOG)
        ping(ends)
        assert asker.peer.protocol == "shop"
        assert asker.peer.software == f"packetwire {packetwire.__version__}"
        assert ends.conn.peer.software == asker.peer.software
        assert Feature.CANCEL in ends.conn.features & asker.features
        assert ends.conn.rtt.last > 0
    else:
        assert asker.peer is ends.conn.peer is None
        with pytest.raises(CapabilityMissing, match="ping"):
            ping(ends)


def test_an_opening_that_requires_them_fails_without(ends: Ends) -> None:
    ends.make(capabilities="require")
    ends.asker(request_handler=echo, capabilities="off")
    with pytest.raises(CapabilityMissing, match="it answered HELLO not ok"):
        ends.open()
    assert not ends.conn.is_open()


def test_a_passive_end_that_knows_nothing_yet(ends: Ends) -> None:
    ends.open(capabilities="passive")
    ends.asker(request_handler=echo)
    with pytest.raises(CapabilityMissing, match="has not said yet what it understands"):
        ping(ends)


def test_what_an_end_tells_of_its_service(ends: Ends) -> None:
    ends.open(description=b"a shop")
    asker = ends.asker(request_handler=echo)
    assert asker.describe(WATCHDOG) == b"a shop"
    with pytest.raises(RequestFailed, match="DESCRIBE not ok: .*this end does not describe itself"):
        ends.do(lambda: ends.conn.describe(WATCHDOG))
    with pytest.raises(TypeError, match="description must be bytes"):
        ends.conn.description = "a shop"


class Put(BaseRequest[bytes]):
    """Keeps a title."""

    def __bytes__(self) -> bytes:
        return b""


@pytest.mark.parametrize("describe", [True, False])
def test_a_request_map_describes_itself_if_it_shall(ends: Ends, describe: bool) -> None:
    kind = AsyncHasPacketConnection if isinstance(ends.face, Looped) else HasPacketConnection
    service = kind(ends._sockets[0], rq_type_map={7: Put}, describe=describe)
    asker = ends.asker()
    with ends.face.opened(service.conn):
        if describe:
            told = json.loads(asker.describe(WATCHDOG))
            assert told["name"] == kind.__name__
            assert told["requests"] == {"7": {"name": "Put", "payload": "bytes", "doc": "Keeps a title."}}
        else:
            with pytest.raises(RequestFailed):
                asker.describe(WATCHDOG)


def test_an_old_peer_describes_nothing(ends: Ends) -> None:
    ends.open(capabilities="off", description=b"a shop")
    asker = ends.asker(request_handler=echo)
    with pytest.raises(CapabilityMissing, match="describe: the peer has no capabilities"):
        asker.describe(WATCHDOG)


def test_a_mode_that_there_is_not(face: Any) -> None:
    with pytest.raises(LocalProtocolError, match="capabilities must be one of"):
        face.make(None, capabilities="on")
    with pytest.raises(TypeError, match="protocol must be a string"):
        face.make(None, protocol=5)
    for keepalive in (0, -1, "never"):
        with pytest.raises(LocalProtocolError, match="keepalive must be"):
            face.make(None, keepalive=keepalive)


def test_an_echo_of_what_is_sent_has_none(ends: Ends) -> None:
    """As `exec:cat` does."""
    ends.make()
    reflecting = threading.Thread(target=reflect, args=(ends._sockets[1],))
    reflecting.start()
    try:
        ends.open()
        with pytest.raises(CapabilityMissing, match="this stream returns what is sent"):
            ping(ends)
    finally:
        ends._sockets[1].shutdown(socket.SHUT_RDWR)
        reflecting.join(WATCHDOG)


def reflect(sock: socket.socket) -> None:
    try:
        while data := sock.recv(4096):
            sock.sendall(data)
    except OSError:
        pass


def test_the_name_of_another_protocol(ends: Ends) -> None:
    ends.open(protocol="store", protocol_version="2.1")
    asker = ends.asker(request_handler=echo, protocol="shop")
    with pytest.raises(ProtocolMismatch, match="the peer speaks 'shop' .*, this end 'store' 2.1"):
        for _ in range(100):
            ends.call(1)
    asker.ping(WATCHDOG)
    with pytest.raises(ProtocolMismatch):
        asker(1)


def test_required_and_another_protocol(ends: Ends) -> None:
    ends.make(protocol="store", capabilities="require")
    ends.asker(request_handler=echo, protocol="shop")
    with pytest.raises(ProtocolMismatch):
        ends.open()


def test_the_peer_is_asked_to_ask_no_more(ends: Ends) -> None:
    begun, release = threading.Event(), threading.Event()

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        begun.set()
        assert release.wait(WATCHDOG)
        return payload

    ends.open(request_handler=handler)
    asker = ends.asker(request_handler=echo)
    under_way = asker.submit(1, 0, b"under way")
    assert begun.wait(WATCHDOG)
    ends.do(lambda: ends.conn.drain_peer(WATCHDOG, cut_off=5.0, reason="for a test"))
    with pytest.raises(Draining, match="takes no more requests.*: for a test") as caught:
        asker(1)
    assert caught.value.begun is False
    with pytest.raises(Draining):
        asker.submit(1)
    with pytest.raises(Draining):
        list(asker.map([1]))
    release.set()
    assert under_way() == (True, 0, b"under way")
    assert ends.call(1, b"the other way") == (True, 0, b"the other way")


def waits_for_room(ends: Ends) -> bool:
    driver = ends.conn._driver
    return bool(driver.calls.waiting if isinstance(ends.conn, AsyncPacketConnection) else driver._bell.locks)


def test_a_request_that_waits_for_room_learns_that_none_is_taken_any_more(ends: Ends) -> None:
    release = threading.Event()

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        assert release.wait(WATCHDOG)
        return payload

    ends.open(max_outstanding=1)
    peer = ends.asker(request_handler=handler)
    errors: list[Draining] = []

    def ask() -> None:
        try:
            ends.call(2)
        except Draining as error:
            errors.append(error)

    asking = [threading.Thread(target=ends.call, args=(1,)), threading.Thread(target=ask)]
    asking[0].start()
    until(lambda: ends.conn.outstanding)
    asking[1].start()
    until(lambda: waits_for_room(ends))
    peer.drain_peer(WATCHDOG)
    asking[1].join(WATCHDOG)
    release.set()
    asking[0].join(WATCHDOG)
    assert [error.begun for error in errors] == [False]


def test_who_asks_all_the_same_is_refused(ends: Ends) -> None:
    ends.open(request_handler=echo)
    asker = ends.asker()
    ends.do(lambda: ends.conn.drain_peer(WATCHDOG))
    asker._driver.engine.barred = None
    ok, flags, text = asker(1)
    assert (ok, flags) == (False, flags_of(StatusCode.DRAINING, begun=False))
    assert b"draining" in text
    error = asker.failure(flags, text)
    assert (error.code, error.begun) == (StatusCode.DRAINING, False)


class AgreedPeer:
    """The other end without packetwire: it says HELLO, and then only what the test sends."""

    def __init__(self, ends: Ends, features: Feature = Feature.CANCEL, handler: Any = echo) -> None:
        self.peer = ends.peer()
        self._features = features
        ends.make(request_handler=handler, keepalive=0.2)
        agreeing = threading.Thread(target=self._agree)
        agreeing.start()
        ends.conn.capabilities = "require"
        ends.open()
        agreeing.join(WATCHDOG)
        ends.peer()  # so that its stream ends before the connection is closed

    def _agree(self) -> None:
        ask = self.peer.read()
        assert (ask.channel, ask.rq_type) == (CONTROL_CHANNEL, HELLO + 1)
        payload = ANSWER + encode_hello(Hello(features=self._features))
        self.peer.send(Packet(is_request=False, channel=1, tag=ask.tag, flags=1, payload=payload))


def test_a_peer_that_says_nothing_any_more(ends: Ends) -> None:
    peer = AgreedPeer(ends).peer
    with pytest.raises(PeerUnresponsive, match="it was asked for a sign of life, and sent nothing for 0.2 s"):
        ends.call(1, b"x")
    assert peer.read().payload == b"x"
    assert peer.read().channel == CONTROL_CHANNEL
    assert isinstance(ends.conn.ended, PeerUnresponsive)


def test_a_peer_that_answers_pings_may_take_its_time(ends: Ends) -> None:
    peer = AgreedPeer(ends).peer

    def answer_at_last() -> None:
        request = peer.read()
        for _ in range(4):
            asked = peer.read()
            assert asked.channel == CONTROL_CHANNEL
            peer.send(Packet(is_request=False, channel=1, tag=asked.tag, flags=1, payload=asked.payload))
        peer.send(Packet(is_request=False, channel=0, tag=request.tag, flags=1, payload=b"at last"))

    answering = threading.Thread(target=answer_at_last)
    answering.start()
    assert ends.call(1, b"x") == (True, 0, b"at last")
    answering.join(WATCHDOG)
    assert ends.conn.rtt.last > 0


def test_ping_within_a_time_limit(ends: Ends) -> None:
    AgreedPeer(ends)
    ends.conn.keepalive = None
    with pytest.raises(RequestTimeout, match="no answer to PING in time"):
        ends.do(lambda: ends.conn.ping(0.05))


def test_only_where_a_peer_can_vanish_is_it_asked_by_itself(ends: Ends) -> None:
    assert ends.make()._make_keepalive(False) is None
    assert ends.conn._make_keepalive(True) is not None
    assert ends.make(keepalive=None)._make_keepalive(True) is None
    assert ends.make(capabilities="off", keepalive=1.0)._make_keepalive(True) is None


@pytest.fixture
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        near = stack.enter_context(socket.create_connection(listener.getsockname()))
        far = stack.enter_context(listener.accept()[0])
        yield near, far


def test_no_thread_is_left_that_looked_after_peers(tcp: tuple[socket.socket, socket.socket]) -> None:
    near, far = tcp
    for _ in range(3):
        with PacketConnection(near, request_handler=echo), PacketConnection(far) as conn:
            conn.ping(WATCHDOG)
            while "packetwire-keepalive" not in [thread.name for thread in threading.enumerate()]:
                time.sleep(0.001)
        assert "packetwire-keepalive" not in [thread.name for thread in threading.enumerate()]


def test_a_reason_of_an_end_reaches_the_other_end(ends: Ends) -> None:
    ends.open(request_handler=echo, max_packet_size=200)
    asker = ends.asker(request_handler=echo)
    asker.ping(WATCHDOG)
    asker._driver.engine._peer_takes = asker._driver.engine._roomy = 1000
    with pytest.raises(ConnectionEnded, match="the limit is 200"):
        asker(1, bytes(300))


def test_what_the_peer_cannot_take_is_known_before(ends: Ends) -> None:
    ends.open(request_handler=echo, max_packet_size=100)
    asker = ends.asker()
    asker.ping(WATCHDOG)
    with pytest.raises(LocalProtocolError, match="exceeds the peer's max_packet_size=100"):
        asker(1, bytes(200))
    assert asker(1, b"x") == (True, 0, b"x")


def test_the_face_is_known(face: Any) -> None:
    assert face.make is (AsyncPacketConnection if isinstance(face, Looped) else PacketConnection)
