"""Places at a server: full houses, who gives way, who may come in, and what the log says about it."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from packetwire import (
    ConnectionEnded,
    LocalProtocolError,
    Packet,
    PacketConnection,
    PeerClosed,
    connect_to,
    serve,
)
from packetwire.streams.credentials import peer_uid

from .bridges import MODULES, bridging
from .serving import FACES, LIMIT, Serving, serving

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("plain_streams")]

ENDED = bytes(PacketConnection.ERQ_Packet) + bytes(PacketConnection.EOF_Packet)
A_REQUEST = bytes(Packet(is_request=True, channel=0, tag=2, flags=0, rq_type=1, payload=b"x"))
ITS_RESPONSE = bytes(Packet(is_request=False, channel=0, tag=2, flags=1, payload=b"x"))


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def path(tmp_path: Any) -> str:
    return f"{tmp_path}/socket"


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, path: str) -> str:
    return f"unix:{path}" if request.param == "unix" else "tcp:127.0.0.1:0"


def echo(rq_type: int, flags: int, payload: bytes) -> Any:
    return flags, payload


def raw_client(address: str) -> socket.socket:
    """A connected socket without a connection."""
    sock: socket.socket
    sock, _, _ = connect_to(address)()
    sock.settimeout(LIMIT)
    return sock


def answered(address: str) -> socket.socket:
    """A raw client that has asked once and got its response."""
    sock = raw_client(address)
    sock.sendall(A_REQUEST)
    assert read(sock, len(ITS_RESPONSE)) == ITS_RESPONSE
    return sock


def read(sock: socket.socket, size: int) -> bytes:
    octets = b""
    while len(octets) < size and (got := sock.recv(size - len(octets))):
        octets += got
    return octets


def read_all(sock: socket.socket) -> bytes:
    octets = b""
    with suppress(ConnectionResetError):
        while got := sock.recv(4096):
            octets += got
    return octets


def is_open(sock: socket.socket) -> bool:
    """Whether nothing has come to a client that expects nothing."""
    return not select.select([sock], [], [], 0)[0]


def ask(address: str) -> None:
    with PacketConnection(connect_to(address), close_timeout=2) as conn:
        assert conn(1, b"x", timeout=LIMIT) == (True, 0, b"x")


def wait_until(condition: Callable[[], object]) -> None:
    """The watchdog is what ends it otherwise."""
    while not condition():
        time.sleep(0.001)


# full houses


@pytest.mark.parametrize("sent", [b"", A_REQUEST[:3], b"\xff"], ids=["nothing", "half a packet", "half a length"])
def test_clients_that_complete_no_packet_keep_nobody_out(
    face: str, address: str, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(face, address, echo, {"max_connections": 8}) as server, ExitStack() as idle:
        silent = []
        for _ in range(8):
            silent.append(idle.enter_context(raw_client(server.address)))
            silent[-1].sendall(sent)
        for _ in range(3):
            ask(server.address)
        assert read_all(silent[0]) == ENDED, "the oldest one gave its place, and was told"
    assert "gives its place to a new client: it has completed nothing for" in caplog.text
    assert "all max_connections=8 places are taken" in caplog.text
    assert {record.levelno for record in caplog.records if "gives its place" in record.message} == {logging.WARNING}


def test_nobody_is_ended_while_places_are_free(face: str, address: str) -> None:
    with serving(face, address, echo, {"max_connections": 3}) as server:
        with raw_client(server.address) as silent, answered(server.address) as idle:
            for _ in range(10):
                ask(server.address)
                wait_until(lambda: server.connections == 2)
            assert is_open(silent)
            assert is_open(idle)


def test_the_longest_idle_one_gives_way_where_all_have_been_served(face: str, address: str) -> None:
    with serving(face, address, echo, {"max_connections": 3}) as server, ExitStack() as clients:
        first, second, third = (clients.enter_context(answered(server.address)) for _ in range(3))
        second.sendall(A_REQUEST)
        assert read(second, len(ITS_RESPONSE)) == ITS_RESPONSE
        ask(server.address)
        assert read_all(first) == ENDED
        assert is_open(second)
        assert is_open(third)


def test_who_has_said_nothing_goes_before_who_is_idle(face: str, address: str) -> None:
    with serving(face, address, echo, {"max_connections": 2}) as server:
        with answered(server.address) as idle, raw_client(server.address) as silent:
            ask(server.address)
            assert read_all(silent) == ENDED
            assert is_open(idle)


@contextmanager
def held(face: str) -> Iterator[tuple[Callable[..., Any], threading.Event]]:
    """A handler that runs in a thread and waits for the event, and that."""
    release = threading.Event()

    def handler(rq_type: int, flags: int, payload: bytes) -> Any:
        assert release.wait(LIMIT)
        return flags, payload

    try:
        yield handler, release
    finally:
        release.set()


def test_whoever_is_owed_a_response_stays(face: str, address: str, caplog: pytest.LogCaptureFixture) -> None:
    with (
        held(face) as (handler, release),
        serving(face, address, handler, {"max_connections": 2}) as server,
        raw_client(server.address) as one,
        raw_client(server.address) as other,
    ):
        for sock in (one, other):
            sock.sendall(A_REQUEST)
        wait_until(lambda: len(server.made) == 2 and all(conn._driver is not None for conn in server.made))
        wait_until(lambda: all(conn._driver.engine.owed for conn in server.made))
        with raw_client(server.address) as third:
            assert read_all(third) == ENDED
        release.set()
        for sock in (one, other):
            assert read(sock, len(ITS_RESPONSE)) == ITS_RESPONSE
    assert "1 clients turned away, as max_connections=2 are connected" in caplog.text


def test_whoever_owes_a_response_stays(face: str, address: str) -> None:
    """The server has called it back, and it takes its time."""
    with serving(face, address, echo, {"max_connections": 1}) as server, answered(server.address) as slow:
        (conn,) = server.made
        if face == "threads":
            conn.submit(7)
        else:
            server._call(lambda: conn.submit(7).add_done_callback(lambda future: future.exception()))
        assert slow.recv(100)
        with raw_client(server.address) as second:
            assert read_all(second) == ENDED
        assert is_open(slow)


def test_silent_clients_keep_nobody_out_where_the_system_has_nothing_left(
    face: str, address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def check_descriptors_left(number: int) -> None:
        if server.connections >= 4:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with serving(face, address, echo, {}) as server, ExitStack() as opened:
        monkeypatch.setattr("packetwire.admission.check_descriptors_left", check_descriptors_left)
        idle = opened.enter_context(answered(server.address))
        silent = [opened.enter_context(raw_client(server.address)) for _ in range(3)]
        wait_until(lambda: server.connections == 4)
        for _ in range(3):
            ask(server.address)
        assert read_all(silent[0]) == ENDED, "the oldest one gave its place, and was told"
        assert is_open(idle), "who was served may wait for something, as long as it likes"
    assert "the system has nothing left for others: [Errno 24]" in caplog.text


def test_a_flood_of_silent_clients_does_not_keep_a_new_one_out(face: str, address: str) -> None:
    with serving(face, address, echo, {"max_connections": 4}) as server:
        over = threading.Event()

        def flood() -> None:
            with ExitStack() as clients:
                while not over.is_set():
                    clients.enter_context(raw_client(server.address))
                    time.sleep(0.01)

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            for _ in range(5):
                ask(server.address)
        finally:
            over.set()
            thread.join(LIMIT)


def test_a_tls_handshake_that_does_not_come_gives_way(face: str, tmp_path: Any) -> None:
    from packetwire.streams.tls import client_context, server_context

    from .certificates import make_certificate

    made = make_certificate(tmp_path, "server")
    limits = {"max_connections": 2, "ssl_context": server_context(made.certfile, made.keyfile)}
    with serving(face, "tls:localhost:0", echo, limits) as server, ExitStack() as clients:
        plain = server.address.replace("tls:", "tcp:")
        silent = [clients.enter_context(raw_client(plain)) for _ in range(2)]
        connect = connect_to(server.address, ssl_context=client_context(made.certfile))
        with PacketConnection(connect, close_timeout=2) as conn:
            assert conn(1, b"x", timeout=LIMIT) == (True, 0, b"x")
        assert read_all(silent[0]) == b""


# places of one address


def test_places_of_one_address(face: str, caplog: pytest.LogCaptureFixture) -> None:
    limits = {"max_per_address": 2}
    with held(face) as (handler, release), serving(face, "tcp:127.0.0.1:0", handler, limits) as server:
        with raw_client(server.address) as one, raw_client(server.address) as other:
            for sock in (one, other):
                sock.sendall(A_REQUEST)
            wait_until(lambda: len(server.made) == 2 and all(conn._driver is not None for conn in server.made))
            wait_until(lambda: all(conn._driver.engine.owed for conn in server.made))
            with raw_client(server.address) as third:
                assert read_all(third) == ENDED
            release.set()
            for sock in (one, other):
                assert read(sock, len(ITS_RESPONSE)) == ITS_RESPONSE
        wait_until(lambda: server.connections == 0)
        ask(server.address)
    assert "a client was turned away: all max_per_address=2 places of 127.0.0.1 are taken" in caplog.text


def test_within_one_address_silent_clients_give_way_too(face: str) -> None:
    with serving(face, "tcp:127.0.0.1:0", echo, {"max_per_address": 1}) as server:
        with raw_client(server.address) as silent:
            wait_until(lambda: server.connections)
            (session,) = server.server._sessions
            session.came -= 1.0
            ask(server.address)
            assert read_all(silent) == ENDED


def test_unix_sockets_have_no_address(face: str, path: str) -> None:
    with serving(face, f"unix:{path}", echo, {"max_per_address": 1}) as server:
        with answered(server.address), answered(server.address):
            assert server.connections == 2


# users


def test_the_system_tells_who_connects() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert peer_uid(one) == os.geteuid()


def test_users_that_are_allowed(face: str, path: str) -> None:
    with serving(face, f"unix:{path}", echo, {"allow_uids": {os.geteuid()}}) as server:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        ask(server.address)


def test_users_that_are_not_allowed(face: str, path: str, caplog: pytest.LogCaptureFixture) -> None:
    stranger = os.geteuid() + 1
    with serving(face, f"unix:{path}", echo, {"allow_uids": [stranger]}) as server:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o666, "the others have to get as far as being asked"
        with raw_client(server.address) as sock:
            assert read_all(sock) == ENDED
        with PacketConnection(connect_to(server.address), close_timeout=2) as conn:
            with pytest.raises(PeerClosed):
                conn(1, timeout=LIMIT)
        assert server.made == []
    assert f"a client of user {os.geteuid()} was turned away, who is not in allow_uids" in caplog.text


@pytest.mark.parametrize(
    ("address", "uids", "error", "text"),
    [
        ("tcp:127.0.0.1:0", {0}, LocalProtocolError, "tcp:127.0.0.1:0 has no use for allow_uids: only unix: has"),
        ("unix:{}", 0, TypeError, "allow_uids must be the numbers of users"),
        ("unix:{}", "root", TypeError, "allow_uids must be the numbers of users"),
        ("unix:{}", ["root"], TypeError, "got 'root'"),
        ("unix:{}", [True], TypeError, "got True"),
        ("unix:{}", [-1], LocalProtocolError, "-1 is not a user id"),
    ],
)
def test_users_that_make_no_sense(
    face: str, path: str, address: str, uids: Any, error: type[Exception], text: str
) -> None:
    with (
        pytest.raises(error, match=text),
        serving(face, address.format(path), echo, {"allow_uids": uids}),
    ):
        pass
    assert not os.path.lexists(path)


@pytest.mark.parametrize("limits", [{"max_connections": 0}, {"max_per_address": 0}])
def test_places_that_make_no_sense(face: str, path: str, limits: dict[str, int]) -> None:
    (name,) = limits
    with (
        pytest.raises(LocalProtocolError, match=f"{name} must be 1 or more, got 0"),
        serving(face, f"unix:{path}", echo, limits),
    ):
        pass


# the log


EXPOSED = "whoever reaches this address may use the service"


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", 1), ("[::]", 1), ("127.0.0.1", 0), ("localhost", 0)])
def test_a_plain_address_that_others_can_reach_is_warned_about_once(
    face: str, host: str, warned: int, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(face, f"tcp:{host}:0", echo, {}) as server:
        for _ in range(3):
            ask(server.address.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]"))
    records = [record for record in caplog.records if EXPOSED in record.message]
    assert [record.levelno for record in records] == [logging.WARNING] * warned


def test_a_unix_socket_is_not_warned_about(face: str, path: str, caplog: pytest.LogCaptureFixture) -> None:
    with serving(face, f"unix:{path}", echo, {}) as server:
        ask(server.address)
    assert caplog.records == []


FAULTS = {
    "oversize": (b"\xff\xff\xff\xff\xff\x7f\x02\x02\x01", "packet"),
    "another protocol": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "protocol"),
    "a response to nothing": (ITS_RESPONSE, "never"),
}


@pytest.mark.parametrize(("sent", "word"), FAULTS.values(), ids=FAULTS)
def test_why_a_connection_was_ended_is_in_the_log(
    face: str, address: str, sent: bytes, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(face, address, echo, {}) as server, raw_client(server.address) as bad:
        bad.sendall(sent)
        assert read_all(bad) == ENDED
        wait_until(lambda: server.connections == 0)
    (record,) = [one for one in caplog.records if "its connection was ended" in one.message]
    assert record.levelno == logging.WARNING
    assert word in record.message
    assert "client" in record.message


def test_many_faults_are_counted(face: str, address: str, caplog: pytest.LogCaptureFixture) -> None:
    with serving(face, address, echo, {}) as server:
        for _ in range(50):
            with raw_client(server.address) as bad:
                bad.sendall(FAULTS["oversize"][0])
                assert read_all(bad) == ENDED
        wait_until(lambda: server.connections == 0)
    assert len([one for one in caplog.records if "its connection was ended" in one.message]) <= 10


def test_a_factory_that_fails_again_and_again_is_logged_with_measure(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    def factory(stream: Any) -> PacketConnection:
        raise KeyError("no such store")

    with serve(address, factory) as server:
        for _ in range(50):
            with raw_client(str(server.address)) as sock:
                assert read_all(sock) == b""
    records = [one for one in caplog.records if "could not be served: KeyError('no such store')" in one.message]
    assert 1 <= len(records) <= 10
    assert records[0].exc_info
    assert len(caplog.text) < 50_000


def test_a_client_that_vanishes_is_no_warning(face: str, address: str, caplog: pytest.LogCaptureFixture) -> None:
    with serving(face, address, echo, {}) as server:
        with raw_client(server.address) as sock:
            sock.sendall(A_REQUEST[:3])
            wait_until(lambda: server.connections)
        wait_until(lambda: server.connections == 0)
    assert [one.message for one in caplog.records if one.levelno >= logging.WARNING] == []


# the bridge


@contextmanager
def bridged(face: str, path: str, **options: Any) -> Iterator[tuple[str, Serving]]:
    with (
        serving(face, f"unix:{path}.far", echo, {}) as far,
        bridging(face, f"unix:{path}", far.address, **options) as bridge,
    ):
        yield str(bridge.address), far


def test_silent_clients_of_a_bridge_keep_nobody_out(face: str, path: str, caplog: pytest.LogCaptureFixture) -> None:
    with bridged(face, path, max_clients=4) as (address, _), ExitStack() as clients:
        silent = [clients.enter_context(raw_client(address)) for _ in range(4)]
        for _ in range(3):
            ask(address)
        assert read_all(silent[0]) == b""
    assert "gives its place to a new client" in caplog.text


def test_a_bridge_that_stops_waits_for_no_tls_handshake(
    face: str, path: str, tmp_path: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from packetwire.streams.tls import server_context

    from .certificates import make_certificate

    made = make_certificate(tmp_path, "server")
    monkeypatch.setattr(f"{MODULES[face]}.END_SECONDS", LIMIT)
    context = server_context(made.certfile, made.keyfile)
    with bridging(face, "tls:127.0.0.1:0", f"unix:{path}", ssl_context_a=context) as bridge:
        with raw_client(str(bridge.address).replace("tls:", "tcp:")) as silent:
            wait_until(lambda: bridge.clients)
            bridge.stop()
            assert read_all(silent) == b""
            bridge.thread.join(LIMIT)
            assert not bridge.thread.is_alive()
    assert caplog.text == ""


def test_clients_of_a_bridge_that_are_not_answered_give_way_after_a_while(
    face: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packetwire.bridging.UNANSWERED_SECONDS", 0.01)
    with bridged(face, path, max_clients=2) as (address, _), ExitStack() as clients:
        for _ in range(2):
            clients.enter_context(raw_client(address)).sendall(A_REQUEST[:3])
        ask(address)


def test_idle_clients_of_a_bridge_give_way_after_a_while(
    face: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packetwire.bridging.IDLE_SECONDS", 0.01)
    with bridged(face, path, max_clients=2) as (address, _), ExitStack() as clients:
        first = clients.enter_context(answered(address))
        second = clients.enter_context(answered(address))
        ask(address)
        assert read_all(first) == b""
        assert is_open(second)


def test_a_bridge_for_users(face: str, path: str) -> None:
    with bridged(face, path, allow_uids={os.geteuid() + 1}) as (address, _), raw_client(address) as sock:
        assert read_all(sock) == b""
    with bridged(face, path, allow_uids={os.geteuid()}) as (address, _):
        ask(address)


def test_a_bridge_with_places_of_one_address(face: str, path: str) -> None:
    with serving(face, f"unix:{path}", echo, {}) as far:
        with bridging(face, "tcp:127.0.0.1:0", far.address, max_per_address=1) as bridge:
            with answered(str(bridge.address)) as first, raw_client(str(bridge.address)) as second:
                assert read_all(second) == b""
                assert is_open(first)


def test_an_ended_connection_says_why_it_gave_way(address: str) -> None:
    """The service, whose own calls it concerns, is told more than the client."""
    with serving("threads", address, echo, {"max_connections": 1}) as server, raw_client(server.address) as silent:
        ask(server.address)
        assert read_all(silent) == ENDED
        ended = server.made[0].ended
        assert type(ended) is ConnectionEnded
        assert "gave its place to another one" in str(ended)
