"""TLS: who is let in, what is carried, and every way in which it ends."""

from __future__ import annotations

import os
import queue
import re
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aio.blocking import BlockingConnection, BlockingServer
from packetwire import (
    AsyncPacketConnection,
    ConnectionEnded,
    LocalProtocolError,
    Packet,
    PacketConnection,
    PeerClosed,
    Responder,
    StreamTruncated,
    connect_to,
    serve,
)
from packetwire.server import Server
from packetwire.streams.open import open_stream
from packetwire.streams.tls import TlsStream, client_context, server_context, start_tls
from packetwire.testing import Faults, FaultyLink, connection_pair, stream_pair

from .certificates import Certificate, make_certificate
from .keyupdates import KeyUpdater

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("plain_streams")]

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
LIMIT = 30
"""Seconds for what does not take any."""
FOREVER = 1000
"""Seconds for what a test lets wait: the watchdog is earlier."""
PACKET = bytes(Packet(is_request=True, channel=0, tag=2, flags=0, rq_type=1, payload=b"payload"))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificate]:
    directory = tmp_path_factory.mktemp("certificates")
    return {name: make_certificate(directory, name) for name in ("server", "client", "stranger")}


@dataclass
class Contexts:
    """Settings for both sides, which trust each other."""

    client: ssl.SSLContext
    server: ssl.SSLContext
    demanding: ssl.SSLContext
    """That of a server that wants to see a certificate."""


def make_contexts(certificates: dict[str, Certificate], version: ssl.TLSVersion) -> Contexts:
    server, client = certificates["server"], certificates["client"]
    contexts = Contexts(
        client_context(server.certfile),
        server_context(server.certfile, server.keyfile),
        server_context(server.certfile, server.keyfile, client.certfile),
    )
    for context in contexts.client, contexts.server, contexts.demanding:
        context.minimum_version = context.maximum_version = version
    return contexts


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def contexts(request: pytest.FixtureRequest, certificates: dict[str, Certificate]) -> Contexts:
    """For each version of TLS."""
    return make_contexts(certificates, request.param)


@pytest.fixture
def tls13(certificates: dict[str, Certificate]) -> Contexts:
    return make_contexts(certificates, ssl.TLSVersion.TLSv1_3)


@pytest.fixture
def tls12(certificates: dict[str, Certificate]) -> Contexts:
    return make_contexts(certificates, ssl.TLSVersion.TLSv1_2)


made_by_servers: Any = PacketConnection
"""The class of what factories make."""


@pytest.fixture(autouse=True, params=["threads", "asyncio"])
def face(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test runs on both faces: with asyncio, connections and servers are in loops that run in threads."""
    if request.param == "asyncio":
        here = sys.modules[__name__]
        monkeypatch.setattr(here, "PacketConnection", BlockingConnection)
        monkeypatch.setattr("packetwire.testing.PacketConnection", BlockingConnection)
        monkeypatch.setattr(here, "serve", BlockingServer)
        monkeypatch.setattr(here, "made_by_servers", AsyncPacketConnection)
    return str(request.param)


whatever_the_face = pytest.mark.parametrize("face", ["threads"], indirect=True)
"""There is no connection in it."""


def echo(rq_type: int, flags: int, payload: bytes) -> Any:
    if rq_type == 1:
        raise KeyError(payload)
    return flags, payload


def echoing(recv_send: Any) -> Any:
    return made_by_servers(recv_send, request_handler=echo, close_timeout=2)


def client(server: Server, context: ssl.SSLContext, **connection: Any) -> PacketConnection:
    return PacketConnection(
        connect_to(server.address, ssl_context=context), "client", close_timeout=2, **connection
    )


def is_answered(conn: PacketConnection) -> bool:
    return conn(0, b"payload", 5, timeout=LIMIT) == (True, 5, b"payload")


@contextmanager
def both_sides(contexts: Contexts, ours: Any, theirs: Any) -> Iterator[tuple[TlsStream, TlsStream]]:
    """The TLS streams of two ends that are connected, driven by one thread; client first."""
    near = TlsStream(open_stream(ours), contexts.client, server_side=False, server_name="localhost")
    far = TlsStream(open_stream(theirs), contexts.server, server_side=True)
    try:
        while near.try_handshake() + far.try_handshake():
            pass
        yield near, far
    finally:
        near.close()
        far.close()


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    with stream_pair() as ends:
        yield ends


# what is carried


def test_a_client_is_served(contexts: Contexts) -> None:
    made = []

    def factory(recv_send: Any) -> PacketConnection:
        made.append(echoing(recv_send))
        return made[-1]

    with serve("tls:localhost:0", factory, ssl_context=contexts.server) as server:
        assert re.fullmatch(r"tls:localhost:[1-9]\d*", str(server.address))
        with client(server, contexts.client) as conn:
            assert is_answered(conn)
            assert conn(1, b"key", timeout=LIMIT) == (False, 0, b"KeyError: b'key'")
        while server.connections:
            time.sleep(0.001)  # the watchdog is what ends it otherwise
        assert str(made[0].ended) == str(conn.ended) == "the peer ended the connection (EOF)"
    assert server.failure is None


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_the_name_can_be_a_number(tls13: Contexts, host: str) -> None:
    with serve(f"tls:{host}:0", echoing, ssl_context=tls13.server) as server:
        with client(server, tls13.client) as conn:
            assert is_answered(conn)


def test_a_connection_can_be_opened_again(tls13: Contexts) -> None:
    with serve("tls:localhost:0", echoing, ssl_context=tls13.server) as server:
        conn = client(server, tls13.client)
        for _ in range(3):
            with conn:
                assert is_answered(conn)


@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, 65536, 1 << 20, 5_000_001])
def test_payloads_of_all_sizes(tls13: Contexts, size: int) -> None:
    payload = bytes(range(251)) * (size // 251 + 1)
    with serve("tls:localhost:0", echoing, ssl_context=tls13.server) as server:
        with client(server, tls13.client) as conn:
            assert conn(0, payload[:size], timeout=LIMIT)[2] == payload[:size]


def test_many_in_flight_both_ways_at_once(contexts: Contexts) -> None:
    asked: queue.Queue[bool] = queue.Queue()

    def ask_many(conn: PacketConnection) -> None:
        sizes = [size % 40 * 1000 for size in range(500)]
        replies = conn.map(((0, bytes(size)) for size in sizes), timeout=LIMIT)
        asked.put([len(payload) for _, _, payload in replies] == sizes)

    with stream_pair() as (ours, theirs), both_sides(contexts, ours, theirs) as ends, ExitStack() as stack:
        conns = stack.enter_context(
            connection_pair({"request_handler": echo}, {"request_handler": echo}, over=ends)
        )
        for conn in conns * 3:
            stack.enter_context(running(partial(ask_many, conn)))
        assert [asked.get() for _ in conns * 3] == [True] * 6


@pytest.mark.parametrize("over", ["socketpair", "pipes"])
def test_over_any_stream(contexts: Contexts, over: str) -> None:
    with stream_pair(over) as (ours, theirs):
        with (
            both_sides(contexts, ours, theirs) as ends,
            connection_pair(b={"request_handler": echo}, over=ends) as (
                a,
                _,
            ),
        ):
            assert is_answered(a)


def test_over_a_child(contexts: Contexts, certificates: dict[str, Certificate]) -> None:
    program = (
        "import sys; from packetwire import *; from packetwire.streams.tls import *\n"
        "tls = start_tls(stdio(), server_context(*sys.argv[1:]), server_side=True)\n"
        "with PacketConnection(tls, request_handler=lambda rq_type, flags, payload: (flags, payload)) as conn:\n"
        "    conn.join()\n"
    )
    server = certificates["server"]
    spawned = subprocess.Popen(
        [sys.executable, "-c", program, server.certfile, server.keyfile],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with spawned, PacketConnection(lambda: start_tls(spawned, contexts.client, server_name="localhost")) as conn:
        assert is_answered(conn)


def test_pieces_of_one_octet(contexts: Contexts) -> None:
    with FaultyLink(Faults(pieces=[1]), Faults(pieces=[1, 2])) as link, opened(link, contexts) as (a, _):
        assert a(0, bytes(5000), timeout=LIMIT)[2] == bytes(5000)


@whatever_the_face
def test_what_comes_with_the_handshake_is_not_left_behind(
    tls12: Contexts, sockets: tuple[socket.socket, socket.socket]
) -> None:
    near = TlsStream(open_stream(sockets[0]), tls12.client, server_side=False, server_name="localhost")
    far = TlsStream(open_stream(sockets[1]), tls12.server, server_side=True)
    try:
        assert near.try_handshake()
        assert far.try_handshake()
        assert near.try_handshake()
        assert not far.try_handshake(), "the server is the last to write"
        assert far.try_write([b"at once"]) == 7
        assert not near.try_handshake()
        assert near.leading_octets == b"at once"
        assert near.try_read(100) is None
    finally:
        near.close()
        far.close()


@whatever_the_face
def test_octets_are_written_when_their_ciphertext_has_gone(
    contexts: Contexts, sockets: tuple[socket.socket, socket.socket]
) -> None:
    sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    octets = bytes(range(256)) * 2000
    buffers = [octets[:5], octets[5:300_000], octets[300_000:300_001], octets[300_001:]]
    with both_sides(contexts, *sockets) as (near, far):
        written = received = 0
        refused = 0
        while written < len(octets):
            left = memoryview(octets)[written:]
            taken = near.try_write([left] if written else buffers)
            written += taken
            refused += not taken
            while (got := far.try_read(65536)) is not None:
                assert got == octets[received : received + len(got)]
                received += len(got)
            assert received >= written, "what counts as written has left"
        assert received == len(octets)
        assert refused


@whatever_the_face
def test_the_peer_changes_its_keys(tls13: Contexts, certificates: dict[str, Certificate]) -> None:
    server = certificates["server"]
    command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", server.certfile, "-key", server.keyfile]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as far:
        assert far.stdin
        assert far.stdout
        try:
            port = int(until(far.stdout.fileno(), rb"ACCEPT \S+:(\d+)\n"))
            near = connect_to(f"tls:127.0.0.1:{port}", ssl_context=tls13.client)()
            try:
                until(far.stdout.fileno(), rb"Secure Renegotiation IS ()")
                for number in b"123":
                    far.stdin.write(b"to us %c\n" % number)
                    assert read_line(near) == b"to us %c\n" % number
                    assert near.try_write([b"to them %c\n" % number]) == 10
                    until(far.stdout.fileno(), rb"(to them %c\n)" % number)
                    far.stdin.write(b"K\n")
                    wait_readable(near)
                    assert near.try_read(100) is None, "it is for the keys only"
            finally:
                near.close()
        finally:
            far.kill()


def test_a_client_that_asks_for_new_keys_without_end(tls13: Contexts, caplog: pytest.LogCaptureFixture) -> None:
    """It costs much more to answer than to ask, and the answers would be kept for it."""
    with serve("tls:localhost:0", echoing, ssl_context=tls13.server) as server:
        with raw_client(server) as sock, closing(KeyUpdater(sock)) as attacker:
            with pytest.raises((ConnectionError, BrokenPipeError)):
                while True:
                    sock.sendall(attacker.updates(500))
            with client(server, tls13.client) as conn:
                assert is_answered(conn)
    assert "its connection was ended: " in caplog.text
    assert "TLS: the peer asks for new keys, or a new handshake, again and again" in caplog.text


@whatever_the_face
def test_answers_about_keys_that_are_not_read_are_bounded(
    tls13: Contexts, sockets: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packetwire.streams.tls.MOST_UNSENT_ANSWERS", 20_000)
    stream = TlsStream(open_stream(sockets[1]), tls13.server, server_side=True)
    sockets[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with running(lambda: stream.shake_hands(LIMIT)):
        attacker = KeyUpdater(sockets[0])
    with closing(attacker), closing(stream):
        with pytest.raises(ConnectionError, match="TLS: the peer asks for new keys"):
            while True:
                sockets[0].sendall(attacker.updates(50, b"data"))
                assert all_plaintext(stream, 200) == b"data" * 50


@whatever_the_face
def test_new_keys_now_and_then(tls13: Contexts, sockets: tuple[socket.socket, socket.socket]) -> None:
    """Whoever also sends data, and reads, may do that as often as it likes."""
    stream = TlsStream(open_stream(sockets[1]), tls13.server, server_side=True)
    with running(lambda: stream.shake_hands(LIMIT)):
        attacker = KeyUpdater(sockets[0])
    with closing(attacker), closing(stream):
        for _ in range(50):
            sockets[0].sendall(attacker.updates(100, b"data"))
            assert all_plaintext(stream, 400) == b"data" * 100
            assert sockets[0].recv(1 << 16)


def until(fd: int, pattern: bytes) -> bytes:
    """Read until there is something that matches; its group."""
    read = b""
    while not (match := re.search(pattern, read)):
        octets = os.read(fd, 1)
        assert octets, read
        read += octets
    return match[1]


def wait_readable(stream: TlsStream) -> None:
    poller = select.poll()
    poller.register(stream.read_fd, select.POLLIN)
    poller.poll()


def read_line(stream: TlsStream) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        wait_readable(stream)
        octets = stream.try_read(100)
        assert octets != b""
        line += octets or b""
    return line


# who is let in


def test_a_client_shows_its_certificate(contexts: Contexts, certificates: dict[str, Certificate]) -> None:
    names = []

    def factory(recv_send: TlsStream) -> PacketConnection:
        certificate: Any = recv_send.ssl_object.getpeercert()
        names.append(dict(pair for (pair,) in certificate["subject"])["commonName"])
        return echoing(recv_send)

    own = certificates["client"]
    context = client_context(certificates["server"].certfile, own.certfile, own.keyfile)
    with serve("tls:localhost:0", factory, ssl_context=contexts.demanding) as server:
        with client(server, context) as conn:
            assert is_answered(conn)
    assert names == ["client"]


def ask(server: Server, context: ssl.SSLContext) -> None:
    with client(server, context) as conn:
        conn(0, timeout=LIMIT)


@pytest.mark.parametrize("own", [None, "stranger"])
def test_a_client_without_the_right_certificate(
    contexts: Contexts, certificates: dict[str, Certificate], own: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    if own:
        contexts.client.load_cert_chain(certificates[own].certfile, certificates[own].keyfile)
    with serve("tls:localhost:0", echoing, ssl_context=contexts.demanding) as server:
        with pytest.raises((ConnectionEnded, OSError), match="TLS.*: the peer refused, its alert is '.*'"):
            ask(server, contexts.client)
    assert "a client was not let in: the TLS handshake failed: " in caplog.text
    reason = "certificate verify failed: self-signed certificate" if own else "peer did not return a certificate"
    assert reason in caplog.text.replace("self signed", "self-signed")
    assert server.failure is None


def test_a_server_that_is_not_trusted(contexts: Contexts, caplog: pytest.LogCaptureFixture) -> None:
    with serve("tls:localhost:0", echoing, ssl_context=contexts.server) as server:
        with pytest.raises(ConnectionError, match="certificate verify failed: self.signed") as caught:
            with PacketConnection(connect_to(server.address)):
                pass
    assert str(caught.value).startswith(f"{server.address}: the TLS handshake failed: ")
    assert "the peer refused, its alert is 'unknown ca'" in caplog.text


def test_a_server_with_another_name(contexts: Contexts) -> None:
    with serve("tls:localhost:0", echoing, ssl_context=contexts.server) as server:
        connect = connect_to(server.address, ssl_context=contexts.client, server_name="example.org")
        with pytest.raises(ConnectionError, match="certificate is not valid for 'example.org'"):
            connect()
        right = connect_to(
            f"tls:127.0.0.1:{server.address.port}", ssl_context=contexts.client, server_name="localhost"
        )
        with PacketConnection(right) as conn:
            assert is_answered(conn)


def test_no_version_in_common(tls12: Contexts, tls13: Contexts) -> None:
    with serve("tls:localhost:0", echoing, ssl_context=tls12.server) as server:
        with pytest.raises(ConnectionError, match="the peer refused, its alert is 'protocol version'"):
            ask(server, tls13.client)


@whatever_the_face
def test_a_server_that_does_not_speak_tls(tls13: Contexts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connect = connect_to(f"tls:127.0.0.1:{listening.getsockname()[1]}", ssl_context=tls13.client)

        def greet() -> None:
            with listening.accept()[0] as sock:
                sock.sendall(b"220 mail.example.org ESMTP\r\n")
                assert sock.recv(1)

        with running(greet), pytest.raises(ConnectionError, match="does not speak TLS: it began with b'220 mail"):
            connect()


def test_a_server_of_packets_without_tls(tls13: Contexts) -> None:
    with serve("tcp:127.0.0.1:0", echoing) as server:
        address = str(server.address).replace("tcp", "tls")
        with pytest.raises(ConnectionError, match=f"{address}: the peer does not speak TLS: it began with b'"):
            connect_to(address, ssl_context=tls13.client)()


def test_a_client_that_does_not_speak_tls(tls13: Contexts, caplog: pytest.LogCaptureFixture) -> None:
    with serve("tls:127.0.0.1:0", echoing, ssl_context=tls13.server) as server:
        with PacketConnection(connect_to(str(server.address).replace("tls", "tcp")), close_timeout=2) as conn:
            with pytest.raises(ConnectionEnded):
                conn(0, b"payload", timeout=LIMIT)
        with client(server, tls13.client) as conn:
            assert is_answered(conn)
    assert f"a client was not let in: the peer does not speak TLS: it began with {PACKET!r}" in caplog.text


@pytest.mark.parametrize(("greeting", "how"), [(b"", "without a word of"), (b"\x16\x03", "in the middle of")])
def test_a_client_that_leaves_in_the_handshake(
    tls13: Contexts, caplog: pytest.LogCaptureFixture, greeting: bytes, how: str
) -> None:
    with serve("tls:127.0.0.1:0", echoing, ssl_context=tls13.server) as server:
        with raw_client(server) as sock:
            sock.sendall(greeting)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100) == b""
    assert f"the peer closed the stream {how} the TLS handshake" in caplog.text


def raw_client(server: Server) -> socket.socket:
    sock, _, _ = connect_to(str(server.address).replace("tls", "tcp"))()
    sock.settimeout(LIMIT)
    return sock


@pytest.mark.parametrize("greeting", [b"", b"\x16\x03\x01"])
def test_a_client_that_does_not_go_on_is_ended_and_hinders_nobody(
    tls13: Contexts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, greeting: bytes
) -> None:
    monkeypatch.setitem(start_tls.__kwdefaults__, "timeout", 1.0)
    with serve("tls:127.0.0.1:0", echoing, ssl_context=tls13.server) as server:
        with raw_client(server) as silent, raw_client(server) as other:
            silent.sendall(greeting)
            other.sendall(greeting)
            with client(server, tls13.client) as conn:
                assert is_answered(conn)
                assert silent.recv(100) == other.recv(100) == b""
                assert is_answered(conn)
    came = f"it began with {greeting!r}" if greeting else "it sent nothing"
    assert f"the peer did not end the TLS handshake within 1 s; {came}" in caplog.text


@whatever_the_face
def test_a_server_that_does_not_go_on(tls13: Contexts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"tls:127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(TimeoutError, match=f"{address}: the peer did not end the TLS handshake within 0.* s"):
            connect_to(address, ssl_context=tls13.client, timeout=0.1)()


def test_a_server_stops_while_a_client_shakes_hands(tls13: Contexts) -> None:
    with serve("tls:127.0.0.1:0", echoing, ssl_context=tls13.server, drain_timeout=FOREVER) as server:
        silent = raw_client(server)
        with client(server, tls13.client) as conn:
            assert is_answered(conn)  # so the first one was accepted too
        assert server.connections
    with silent:
        assert silent.recv(100) == b""


def test_a_client_too_many(tls13: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    owed = Responder()

    def owing(recv_send: Any) -> PacketConnection:
        return made_by_servers(recv_send, request_handler=lambda *request: owed, close_timeout=2)

    with serve("tls:127.0.0.1:0", owing, ssl_context=tls13.server, max_connections=1) as server:
        with client(server, tls13.client) as conn:
            result = conn.submit(0)
            while not server.connections or all(one.is_settled for one in server._sessions):
                pass
            with pytest.raises(ConnectionError):
                ask(server, tls13.client)
            owed.respond(b"late")
            assert result(timeout=LIMIT) == (True, 0, b"late")


def test_a_factory_that_fails(tls13: Contexts, caplog: pytest.LogCaptureFixture) -> None:
    def factory(recv_send: Any) -> PacketConnection:
        raise RuntimeError("no store")

    with serve("tls:127.0.0.1:0", factory, ssl_context=tls13.server) as server:
        with pytest.raises(PeerClosed):
            ask(server, tls13.client)
    assert "no store" in caplog.text


# how it ends


@contextmanager
def running(function: Callable[[], object]) -> Iterator[threading.Thread]:
    """Run it in a thread, which has ended afterwards."""
    thread = threading.Thread(target=function)
    thread.start()
    try:
        yield thread
    finally:
        thread.join()


@contextmanager
def opened(
    link: FaultyLink, contexts: Contexts, timeout: float = LIMIT
) -> Iterator[tuple[PacketConnection, PacketConnection]]:
    """Connections at both ends of a link, by TLS; only the first one asks."""
    made: list[TlsStream] = []
    failed: list[OSError] = []

    def shake_hands() -> None:
        try:
            made.append(start_tls(link.b, contexts.server, server_side=True, timeout=timeout))
        except OSError as error:
            failed.append(error)

    with ExitStack() as stack:
        with running(shake_hands), cutting(link):
            near = start_tls(link.a, contexts.client, server_name="localhost", timeout=timeout)
        stack.callback(near.close)
        if failed:
            raise failed[0]
        arguments: dict[str, Any] = {"close_timeout": 2}
        ends = near, made[0]
        a, b = stack.enter_context(connection_pair(arguments, {"request_handler": echo, **arguments}, over=ends))
        yield a, b


@contextmanager
def cutting(link: FaultyLink) -> Iterator[None]:
    """If one end fails the other one has nobody to wait for."""
    try:
        yield
    except BaseException:
        link.cut()
        raise


def handshake_octets(contexts: Contexts) -> tuple[int, int]:
    """How many octets each direction takes for opening and one request."""
    with FaultyLink() as link, opened(link, contexts) as (a, _):
        assert is_answered(a)
        return link.a_to_b.passed, link.b_to_a.passed


@pytest.mark.parametrize("direction", ["a_to_b", "b_to_a"])
def test_a_cut_anywhere_ends_everything(contexts: Contexts, direction: str) -> None:
    total = handshake_octets(contexts)[direction == "b_to_a"]
    for place in {*range(0, total, total // 25), total - 1}:
        with FaultyLink(**{direction: Faults(cut_at=place)}) as link:
            with pytest.raises((ConnectionEnded, OSError)):
                with opened(link, contexts) as (a, _):
                    a(0, bytes(70), timeout=LIMIT)
            assert link.a_to_b.is_cut or link.b_to_a.is_cut


@pytest.mark.parametrize("direction", ["a_to_b", "b_to_a"])
def test_damage_anywhere_is_seen(contexts: Contexts, direction: str) -> None:
    total = handshake_octets(contexts)[direction == "b_to_a"]
    for place in range(0, total - 100, total // 25):
        with FaultyLink(**{direction: Faults(flips={place: 0x04})}) as link:
            with pytest.raises((ConnectionEnded, OSError)):
                # who waits for the rest of a record that has become longer gives up in time
                with opened(link, contexts, timeout=0.2) as (a, _):
                    # later it is complete when more has come
                    a(0, bytes(20000), timeout=LIMIT)
            assert link.a_to_b.reached.is_set() or link.b_to_a.reached.is_set()


def test_an_octet_that_was_damaged(contexts: Contexts) -> None:
    to_a = handshake_octets(contexts)[1]
    with FaultyLink(b_to_a=Faults(flips={to_a + 300: 0x01})) as link, opened(link, contexts) as (a, b):
        with pytest.raises(ConnectionEnded, match="reading failed: TLS: .*bad record mac"):
            a(0, bytes(3000), timeout=LIMIT)
        assert b.join(LIMIT)
        assert "the peer refused, its alert is 'bad record mac'" in str(b.ended)


def respond(octets: bytes) -> bytes:
    """The response to the first request of a connection."""
    return bytes(Packet(is_request=False, channel=0, tag=2, flags=1, rq_type=None, payload=octets))


def all_plaintext(stream: TlsStream, size: int) -> bytes:
    read = b""
    while len(read) < size:
        read += stream.try_read(size) or b""
    return read


def test_the_end_of_the_stream_without_close_notify(
    contexts: Contexts, sockets: tuple[socket.socket, socket.socket]
) -> None:
    with both_sides(contexts, *sockets) as (near, far), PacketConnection(near, close_timeout=1) as conn:
        result = conn.submit(0, 0, b"payload")
        assert all_plaintext(far, len(PACKET)) == PACKET
        sockets[1].shutdown(socket.SHUT_WR)
        with pytest.raises(StreamTruncated, match="without a close_notify of TLS: it was cut off") as caught:
            result(timeout=LIMIT)
        assert caught.value.__cause__ is None


def test_the_end_of_the_stream_in_a_packet(
    contexts: Contexts, sockets: tuple[socket.socket, socket.socket]
) -> None:
    with both_sides(contexts, *sockets) as (near, far), PacketConnection(near, close_timeout=1) as conn:
        result = conn.submit(0, 0, b"payload")
        assert far.try_write([respond(b"half")[:5]]) == 5
        sockets[1].shutdown(socket.SHUT_WR)
        with pytest.raises(StreamTruncated, match="without a close_notify") as caught:
            result(timeout=LIMIT)
        assert "the stream ended inside a packet, after 5 of 7 bytes" in str(caught.value.__cause__)


@pytest.mark.parametrize("octets", [b"", respond(b"half")[:5], respond(b"whole")])
def test_close_notify_ends_the_connection_though_the_socket_stays_open(
    contexts: Contexts, sockets: tuple[socket.socket, socket.socket], octets: bytes
) -> None:
    with both_sides(contexts, *sockets) as (near, far), PacketConnection(near, close_timeout=1) as conn:
        result = conn.submit(0, 0, b"payload")
        assert all_plaintext(far, len(PACKET)) == PACKET
        assert far.try_write([octets]) == len(octets)
        far.end_write()
        if octets == respond(b"whole"):
            assert result(timeout=LIMIT) == (True, 0, b"whole")
        assert conn.join(LIMIT)
        assert isinstance(conn.ended, PeerClosed | StreamTruncated)
        with pytest.raises(ConnectionEnded):
            conn(0, timeout=LIMIT)


INSIDE_A_PACKET = [respond(b"half")[:5], respond(b"whole") + respond(b"half")[:1]]


@pytest.mark.parametrize("reads", ["the caller", "a worker"])
@pytest.mark.parametrize("octets", INSIDE_A_PACKET)
@pytest.mark.parametrize("over", ["socketpair", "pipes", "tcp"])
def test_close_notify_inside_a_packet(contexts: Contexts, over: str, octets: bytes, reads: str) -> None:
    """It comes with the bytes before it, and nothing becomes readable any more."""
    with (
        ends_over(over) as (ours, theirs),
        both_sides(contexts, ours, theirs) as (near, far),
        PacketConnection(near, close_timeout=1) as conn,
    ):
        results = [conn.submit(0, 0, b"payload") for _ in range(2)]
        assert all_plaintext(far, len(PACKET) * 2) == PACKET + PACKET.replace(b"\2", b"\3", 1)
        send_together(far, octets)
        if reads == "a worker":
            assert conn.join(LIMIT)
        with pytest.raises(StreamTruncated, match="the stream ended inside a packet, after"):
            results[-1](timeout=LIMIT)
        assert isinstance(conn.ended, StreamTruncated)


@contextmanager
def ends_over(over: str) -> Iterator[Any]:
    """Two connected ends."""
    if over != "tcp":
        with stream_pair(over) as ends:
            yield ends
        return
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with ours, theirs:
        yield ours, theirs


def send_together(stream: TlsStream, octets: bytes) -> None:
    """Send octets and close_notify in one piece."""
    stream._records.encrypt(memoryview(octets))
    stream.end_write()


def test_close_notify_inside_a_packet_right_behind_the_handshake(tls13: Contexts) -> None:
    with stream_pair() as (ours, theirs):
        far = TlsStream(open_stream(theirs), tls13.client, server_side=False, server_name="localhost")
        near = TlsStream(open_stream(ours), tls13.server, server_side=True)
        far.try_handshake()
        near.try_handshake()
        far.try_handshake()
        send_together(far, PACKET[:5])
        while near.try_handshake():
            pass
        with PacketConnection(near, request_handler=echo, close_timeout=1) as conn:
            assert conn.join(LIMIT)
            assert isinstance(conn.ended, StreamTruncated)
        far.close()


def test_close_says_close_notify(contexts: Contexts, sockets: tuple[socket.socket, socket.socket]) -> None:
    with both_sides(contexts, *sockets) as (near, far):
        with PacketConnection(far, request_handler=echo), PacketConnection(near) as conn:
            assert is_answered(conn)
    record = sockets[1].recv(4096)
    alert, application_data = 0x15, 0x17
    # since TLS 1.3 it looks like data: a head, the two octets of the alert, its kind, 16 octets that seal it
    assert record[0] == alert or (record[0], len(record)) == (application_data, 5 + 2 + 1 + 16)


# settings


@whatever_the_face
def test_files_that_cannot_be_used(certificates: dict[str, Certificate], tmp_path: Path) -> None:
    own, other = certificates["server"], certificates["client"]
    empty = tmp_path / "empty.pem"
    empty.touch()
    for make, text in (
        (lambda: client_context("absent.pem"), "the CA certificates .* absent.pem: No such file"),
        (lambda: client_context(empty), "the CA certificates .* from .*empty.pem: no certificate or crl found"),
        (
            lambda: server_context("absent.pem"),
            "certificate and its key cannot be read from absent.pem: No such file",
        ),
        (lambda: server_context(own.certfile), "certificate and its key .*server.pem: "),
        (lambda: server_context(own.certfile, other.keyfile), "server.pem, .*client-key.pem: key values mismatch"),
        (lambda: server_context(own.certfile, own.keyfile, empty), "the CA certificates .* from .*empty.pem: "),
    ):
        with pytest.raises(OSError, match=text):
            make()
    with pytest.raises(LocalProtocolError, match="a key without its certificate: "):
        client_context(keyfile=own.keyfile)


def test_a_context_for_the_wrong_side(tls13: Contexts) -> None:
    with pytest.raises(LocalProtocolError, match="this ssl_context is not for connecting: "):
        connect_to("tls:localhost:1", ssl_context=tls13.server)
    with pytest.raises(LocalProtocolError, match="this ssl_context is not for serving: "):
        serve("tls:localhost:0", echoing, ssl_context=tls13.client)


def test_a_context_where_it_has_no_use(tls13: Contexts) -> None:
    for wrong in {"ssl_context": tls13.client}, {"server_name": "localhost"}:
        with pytest.raises(LocalProtocolError, match="tcp:localhost:1 has no use for .*: only tls: has"):
            connect_to("tcp:localhost:1", **wrong)
    with pytest.raises(LocalProtocolError, match="tcp:localhost:0 has no use for an ssl_context"):
        serve("tcp:localhost:0", echoing, ssl_context=tls13.server)
    with pytest.raises(LocalProtocolError, match="tls:localhost:0 needs an ssl_context with a certificate"):
        serve("tls:localhost:0", echoing)


def test_a_server_without_a_certificate(
    caplog: pytest.LogCaptureFixture, certificates: dict[str, Certificate]
) -> None:
    bare = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with serve("tls:localhost:0", echoing, ssl_context=bare) as server:
        with pytest.raises(ConnectionError, match="the peer refused, its alert is 'handshake failure'"):
            ask(server, client_context(certificates["server"].certfile))
    assert "no shared cipher; has the ssl_context a certificate?" in caplog.text


def test_contexts_of_ones_own_are_without_renegotiation(certificates: dict[str, Certificate]) -> None:
    ours, theirs = ssl.create_default_context(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    for context in ours, theirs:
        context.options &= ~ssl.OP_NO_RENEGOTIATION
    connect_to("tls:localhost:1", ssl_context=ours)
    with serve("tls:localhost:0", echoing, ssl_context=theirs):
        pass
    assert ours.options & theirs.options & ssl.OP_NO_RENEGOTIATION


@whatever_the_face
def test_ssl_is_imported_by_its_users_only() -> None:
    program = (
        "import sys; from packetwire import connect_to, serve; from packetwire.testing import connection_pair\n"
        "connect_to('tls:localhost:1'), connect_to('tcp:localhost:1')\n"
        "sys.exit('ssl' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
