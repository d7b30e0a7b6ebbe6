"""packetwire used as programs use the reference: what they rely on beyond the API pages."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import pytest
from cs.binary import BinaryMultiValue, BinarySingleValue, BSData, BSString, BSUInt, SimpleBinary
from cs.buffer import CornuCopyBuffer

from packetwire import (
    DEFAULT_PACKET_GRACE,
    BaseRequest,
    ConnectionEnded,
    HasPacketConnection,
    Packet,
    PacketConnection,
    PacketConnectionRecv,
    PacketConnectionRecvSend,
    PacketConnectionSend,
    PeerClosed,
    PeerEndedRequests,
    RequestFailed,
)
from packetwire.core.events import Event

pytestmark = pytest.mark.timeout(60)


# packets


@pytest.mark.parametrize("is_request", [False, True])
def test_a_packet_is_what_its_octets_say(is_request: bool) -> None:
    numbers = 0, 1, 12, 128, 300
    for channel, tag, flags, payload in product(numbers, numbers, (0, 1, 15, 140), (b"", b"some")):
        packet = Packet(
            is_request=is_request,
            channel=channel,
            tag=tag,
            flags=flags,
            rq_type=0 if is_request else None,
            payload=payload,
        )
        octets = bytes(packet)
        assert Packet.parse_bytes(octets) == (packet, len(octets))
        assert Packet.parse_bytes(octets + b"behind") == (packet, len(octets))


def test_equality_looks_at_rq_type_in_requests_only() -> None:
    def packet(is_request: bool, rq_type: int | None) -> Packet:
        return Packet(is_request=is_request, channel=0, tag=5, flags=0, rq_type=rq_type, payload=b"")

    assert packet(False, None) == packet(False, 3)
    assert packet(True, 2) != packet(True, 3)


# connections over what they are given


class Wiring(NamedTuple):
    """Two streams in opposite directions."""

    client_recv: Any
    client_send: Any
    server_recv: Any
    server_send: Any


class ShortReads:
    """A file to read from that has nothing but a `read` that returns what is there."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def read(self, size: int) -> bytes:
        return self._sock.recv(size)


class KeptUntilFlush:
    """A file to write to that has nothing but `write` and `flush`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._kept = bytearray()

    def write(self, octets: bytes) -> int:
        self._kept += octets
        return len(octets)

    def flush(self) -> None:
        kept, self._kept = self._kept, bytearray()
        self._sock.sendall(kept)


def pipes(opened: ExitStack) -> Wiring:
    client_recv, server_send = os.pipe()
    server_recv, client_send = os.pipe()
    wiring = Wiring(client_recv, client_send, server_recv, server_send)
    for fd in wiring:
        opened.callback(os.close, fd)
    return wiring


def one_way_sockets(opened: ExitStack) -> Wiring:
    socks = [opened.enter_context(sock) for _ in range(2) for sock in socket.socketpair()]
    client_recv, server_send, server_recv, client_send = [sock.fileno() for sock in socks]
    return Wiring(client_recv, client_send, server_recv, server_send)


def one_socket_for_both(opened: ExitStack) -> Wiring:
    client, server = [opened.enter_context(sock).fileno() for sock in socket.socketpair()]
    return Wiring(client, client, server, server)


def tcp(opened: ExitStack) -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = opened.enter_context(socket.create_connection(listener.getsockname()))
        server = opened.enter_context(listener.accept()[0])
    return client, server


def socket_files(opened: ExitStack) -> Wiring:
    client, server = tcp(opened)
    return Wiring(ShortReads(client), KeptUntilFlush(client), ShortReads(server), KeptUntilFlush(server))


def buffered_files(opened: ExitStack) -> Wiring:
    files = [sock.makefile(mode) for sock in tcp(opened) for mode in ("rb", "wb")]
    return Wiring(*[opened.enter_context(file) for file in files])


WIRINGS = {
    make.__name__: make for make in (pipes, one_way_sockets, one_socket_for_both, socket_files, buffered_files)
}


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """What a test opened, to be closed after it."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(params=WIRINGS)
def wiring(request: pytest.FixtureRequest, opened: ExitStack) -> Wiring:
    """The streams between a client and a server, of each kind."""
    return WIRINGS[request.param](opened)


def reverse(rq_type: int, flags: int, payload: bytes) -> tuple[int, bytes]:
    return 0x21, payload[::-1]


def payload_only(flags: int, payload: bytes) -> bytes:
    return payload


@contextmanager
def both_ends(wiring: Wiring) -> Iterator[tuple[PacketConnection, PacketConnection]]:
    """A client and a server in one thread, which for that reason say every end themselves."""
    with PacketConnection((wiring.client_recv, wiring.client_send), "client") as client:
        assert not client.requests_allowed
        with PacketConnection(
            (wiring.server_recv, wiring.server_send), "server", request_handler=reverse
        ) as server:
            assert server.requests_allowed
            try:
                yield client, server
            finally:
                for end in client, server:
                    end.send_erq()
                    end.send_eof()
        assert server.closed
        server.join()
    assert client.closed
    client.join()


def test_nothing_but_the_ends(wiring: Wiring) -> None:
    with both_ends(wiring) as (client, server):
        pass
    assert isinstance(client.ended, PeerClosed)
    assert isinstance(server.ended, PeerClosed)


def test_one_request_after_the_other(wiring: Wiring) -> None:
    with both_ends(wiring) as (client, _):
        for _ in range(16):
            result = client.submit(1, 0x45, bytes((7, 8)), decode_response=payload_only, channel=0)
            assert result() == (True, 0x21, bytes((8, 7)))


def test_many_requests_collected_in_any_order(wiring: Wiring) -> None:
    with both_ends(wiring) as (client, _):
        submitted = []
        for number in range(1500):
            data = b"request %d" % number
            flags = random.randrange(1 << 16)
            submitted.append((client.submit(0, flags, data, decode_response=payload_only, channel=0), data))
        random.shuffle(submitted)
        for result, data in submitted:
            assert result() == (True, 0x21, data[::-1])


def test_ends_that_nobody_says(wiring: Wiring) -> None:
    client = PacketConnection((wiring.client_recv, wiring.client_send))
    server = PacketConnection((wiring.server_recv, wiring.server_send), request_handler=reverse)
    with client, server:
        assert client(0, b"ab") == (True, 0x21, b"ba")
    assert isinstance(client.ended, PeerClosed)
    assert isinstance(server.ended, PeerClosed)


def test_what_is_given_is_neither_closed_nor_changed(opened: ExitStack) -> None:
    wiring = pipes(opened)
    before = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in wiring]
    with both_ends(wiring) as (client, _):
        assert client(0, b"ab") == (True, 0x21, b"ba")
    assert [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in wiring] == before
    os.write(wiring.client_send, b"after")
    assert os.read(wiring.server_recv, 100) == b"after"


def test_the_streams_serve_one_connection_after_the_other(wiring: Wiring) -> None:
    for number in range(3):
        with both_ends(wiring) as (client, _):
            data = b"pass %d" % number
            result = client.submit(0, 0x21, data, decode_response=payload_only, channel=0)
            assert result() == (True, 0x21, data[::-1])


def test_a_connection_can_be_opened_again(opened: ExitStack) -> None:
    wiring = pipes(opened)
    client = PacketConnection((wiring.client_recv, wiring.client_send))
    server = PacketConnection((wiring.server_recv, wiring.server_send), request_handler=reverse)
    assert not client.closed
    assert not server.closed
    for _ in range(3):
        with client, server:
            assert not client.closed
            assert server.requests_allowed
            with client:  # counted
                assert client(0, b"ab") == (True, 0x21, b"ba")
            assert client(0, b"cd") == (True, 0x21, b"dc")
        assert client.closed
        assert server.closed
        client.join()
        server.join_recv()


class StreamHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        with PacketConnection((self.rfile, self.wfile), request_handler=reverse) as conn:
            conn.join_recv()


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = False


@pytest.fixture
def server_address() -> Iterator[tuple[str, int]]:
    """Where a threading socket server serves connections over its `rfile` and `wfile`."""
    with Server(("127.0.0.1", 0), StreamHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address
        server.shutdown()
        thread.join()


def test_the_files_of_a_stream_request_handler(server_address: tuple[str, int]) -> None:
    with socket.create_connection(server_address) as sock, PacketConnection(sock) as conn:
        results = [conn.submit(0, 0, b"%d" % number) for number in range(100)]
        assert [result() for result in results] == [(True, 0x21, (b"%d" % number)[::-1]) for number in range(100)]


class Connector:
    """A `recv_send` that connects at each opening, and notes what it is asked for."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.notes: list[str] = []
        self.on_close: Callable[[], None] = lambda: None

    def __call__(self) -> tuple[int, int, Callable[[], None]]:
        sock = socket.create_connection(self._address)
        self.notes.append("open")

        def close() -> None:
            self.on_close()
            self.notes.append("close")
            sock.close()

        return sock.fileno(), sock.fileno(), close


def test_a_callable_is_called_at_each_opening(server_address: tuple[str, int]) -> None:
    connector = Connector(server_address)
    conn = PacketConnection(connector)
    assert connector.notes == []
    for _ in range(3):
        with conn, conn:
            assert conn(0, b"ab") == (True, 0x21, b"ba")
    assert connector.notes == ["open", "close"] * 3


def test_its_close_runs_when_both_directions_have_ended(server_address: tuple[str, int]) -> None:
    connector = Connector(server_address)
    conn = PacketConnection(connector)
    ends = []
    connector.on_close = lambda: ends.append(conn.ended)
    with conn:
        result = conn.submit(0, 0, b"ab")
    assert [type(end) for end in ends] == [PeerClosed]
    assert result.ready


# results


def test_a_callback_for_the_state_done(opened: ExitStack) -> None:
    wiring = pipes(opened)
    gate, called = threading.Event(), threading.Event()
    calls = []

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        gate.wait(10)
        return payload

    def callback(result: Any, transition: Any) -> None:
        calls.append((result, transition.new_state, result()))
        called.set()

    client = PacketConnection((wiring.client_recv, wiring.client_send))
    with client, PacketConnection((wiring.server_recv, wiring.server_send), request_handler=handler):
        result = client.submit(0, 0, b"x")
        result.fsm_callback("DONE", callback)
        assert calls == []
        gate.set()
        assert called.wait(10)
        result.fsm_callback("DONE", callback)
    assert calls == [(result, "DONE", (True, 0, b"x"))] * 2


# request classes


class Add(BaseRequest, BinaryMultiValue("Add", {"kind": BSUInt, "data": BSData})):
    """Fields named in the header of the class."""

    def fulfil(self, store: Store) -> bytes:
        if self.kind != store.kind:
            raise ValueError(f"kind {self.kind}, expected {store.kind}")
        key = f"key-{len(store.chunks)}"
        store.chunks[key] = bytes(self.data)
        return key.encode()

    def decode_response_payload(self, flags: int, payload: bytes) -> str:
        return payload.decode()


class KeyField(BinarySingleValue, value_type=str):
    """A key of the store."""

    @staticmethod
    def parse_value(bfr: CornuCopyBuffer) -> str:
        return BSString.parse_value(bfr)

    @staticmethod
    def transcribe_value(value: str) -> Any:
        return BSString.transcribe_value(value)


class Get(BaseRequest, KeyField, value_type=str):
    """A field class, with a constructor of its own that does not mention flags."""

    def __init__(self, key: str) -> None:
        super().__init__(value=key)

    def fulfil(self, store: Store) -> Any:
        data = store.chunks.get(self.value)
        return 0 if data is None else (1, data)

    def decode_response_payload(self, flags: int, payload: bytes) -> bytes | None:
        return payload if flags else None


class Length(BaseRequest, BinaryMultiValue("Length", {})):
    """No fields."""

    def fulfil(self, store: Store) -> bytes:
        return bytes(BSUInt(len(store.chunks)))

    def decode_response_payload(self, flags: int, payload: bytes) -> int:
        return BSUInt.value_from_bytes(payload)


class Keys(BaseRequest, SimpleBinary):
    """Its flags are a property, its payload depends on them, and no constructor of `BaseRequest` is called."""

    def __init__(self, *, start: str | None = None, after: bool = False) -> None:
        SimpleBinary.__init__(self, start=start, after=after)

    @property
    def flags(self) -> int:
        return self.after | (self.start is not None) << 1

    @classmethod
    def from_request_payload(cls, flags: int, payload: bytes) -> Keys:
        bfr = CornuCopyBuffer([payload])
        return cls(after=bool(flags & 1), start=BSString.parse_value(bfr) if flags & 2 else None)

    def transcribe(self) -> Iterator[Any]:
        if self.start is not None:
            yield BSString.transcribe_value(self.start)

    def fulfil(self, store: Store) -> str:
        keys = sorted(store.chunks)
        if self.start is not None:
            keys = [key for key in keys if key > self.start or (key == self.start and not self.after)]
        return " ".join(keys)

    def decode_response_payload(self, flags: int, payload: bytes) -> list[str]:
        return payload.decode().split()


@dataclass
class Flush(BaseRequest):
    """A dataclass, which never calls the constructor of `BaseRequest`."""

    everything: bool = False

    def __bytes__(self) -> bytes:
        return b"all" if self.everything else b""

    @classmethod
    def from_bytes(cls, octets: bytes) -> Flush:
        return cls(octets == b"all")

    def fulfil(self, store: Store) -> None:
        store.flushed.append(self.everything)


class Answer(BaseRequest, BSString, value_type=str):
    """Answered with what the server's `answers` has under that name; decoded to the types that came."""

    def fulfil(self, store: Store) -> Any:
        return store.answers[self.value]

    def decode_response_payload(self, flags: int, payload: bytes) -> tuple[Any, ...]:
        return type(flags), flags, type(payload), payload


class Unserved(BaseRequest, BSString, value_type=str):
    """It has no `fulfil`."""


@dataclass
class AskBack(BaseRequest):
    """Asks for the length of the one who asked, when it may."""

    def __bytes__(self) -> bytes:
        return b""

    @classmethod
    def from_bytes(cls, octets: bytes) -> AskBack:
        return cls()

    def fulfil(self, store: Store) -> str:
        store.asked.set()
        store.may_ask_back.wait(20)
        try:
            with store.conn:
                return f"length {store.conn_do_remote(Length())}"
        except ConnectionEnded:
            return "too late"


RQ_TYPES = {0: Add, 1: Get, 2: Length, 3: Keys, 4: Flush, 5: Answer, 6: Unserved, 7: AskBack}


class Store(HasPacketConnection):
    """Chunks by key: a server of them, and a client of the peer's."""

    kind = 3

    def __init__(self, recv_send: PacketConnectionRecvSend, name: str = "store", **packet_kw: Any) -> None:
        HasPacketConnection.__init__(self, recv_send, name, rq_type_map=RQ_TYPES, **packet_kw)
        self.chunks: dict[str, bytes] = {}
        self.flushed: list[bool] = []
        self.answers: dict[str, Any] = {}
        self.asked = threading.Event()
        self.may_ask_back = threading.Event()


@pytest.fixture
def stores(opened: ExitStack) -> tuple[Store, Store]:
    """A client and a server."""
    wiring = pipes(opened)
    client = Store((wiring.client_recv, wiring.client_send), "client", trace_log=None)
    server = Store((wiring.server_recv, wiring.server_send), "server", trace_log=None)
    for store in client, server:
        opened.enter_context(store.conn)
    return client, server


def test_each_kind_of_request_class(stores: tuple[Store, Store]) -> None:
    client, server = stores
    keys = [client.conn_do_remote(Add(kind=3, data=b"chunk %d" % number)) for number in range(5)]
    assert keys == [f"key-{number}" for number in range(5)]
    assert client.conn_do_remote(Get("key-2")) == b"chunk 2"
    assert client.conn_do_remote(Get("no such key")) is None
    assert client.conn_do_remote(Length()) == 5
    assert client.conn_do_remote(Keys()) == keys
    assert client.conn_do_remote(Keys(start="key-3")) == ["key-3", "key-4"]
    assert client.conn_do_remote(Keys(start="key-3", after=True)) == ["key-4"]
    assert client.conn_do_remote(Flush(everything=True)) == (0, b"")
    assert server.flushed == [True]


def test_both_ends_are_stores(stores: tuple[Store, Store]) -> None:
    for here, there in stores, stores[::-1]:
        here.conn_do_remote(Add(kind=3, data=b"chunk"))
        assert list(there.chunks.values()) == [b"chunk"]


def test_a_request_asks_back(stores: tuple[Store, Store]) -> None:
    client, server = stores
    server.may_ask_back.set()
    for _ in range(10):
        assert client.conn_submit(AskBack())() == (True, 0, b"length 0")


def test_a_request_asks_back_while_its_connection_closes(opened: ExitStack) -> None:
    wiring = pipes(opened)
    server = Store((wiring.server_recv, wiring.server_send), "server")

    def ask_back_after_erq(event: Event) -> None:
        if isinstance(event, PeerEndedRequests):
            server.may_ask_back.set()

    client = Store((wiring.client_recv, wiring.client_send), "client", on_event=ask_back_after_erq)
    with client.conn:
        with server.conn:
            result = client.conn_submit(AskBack())
            assert server.asked.wait(10)
        assert result() == (True, 0, b"too late")
        assert server.conn.closed


def test_flags_given_to_the_constructor(stores: tuple[Store, Store]) -> None:
    request = Add(flags=9, kind=3, data=b"chunk")
    assert request.flags == 9
    assert Add(kind=3, data=b"chunk").flags == 0
    assert Add.from_request_payload(9, bytes(request)).flags == 9
    assert stores[0].conn_submit(request)() == (True, 0, b"key-0")


def test_what_a_binary_class_has_is_not_shadowed() -> None:
    for name in "parse", "from_bytes", "parse_bytes":
        assert getattr(Get, name).__func__ is getattr(KeyField, name).__func__
    assert Get.transcribe is KeyField.transcribe
    assert Get.__bytes__ is KeyField.__bytes__


@pytest.mark.parametrize(
    ("answer", "flags", "payload"),
    [
        (True, 1, b""),
        ((True, bytearray(b"octets")), 1, b"octets"),
        (memoryview(b"octets"), 0, b"octets"),
        ("text", 0, b"text"),
    ],
)
def test_decoding_gets_an_int_and_bytes(
    stores: tuple[Store, Store], answer: Any, flags: int, payload: bytes
) -> None:
    client, server = stores
    server.answers["it"] = answer
    assert client.conn_do_remote(Answer("it")) == (int, flags, bytes, payload)


def test_a_connection_survives_failed_requests(stores: tuple[Store, Store]) -> None:
    client, server = stores
    for failing in Add(kind=4, data=b"chunk"), Answer("none"), Unserved("x"):
        with pytest.raises(ValueError, match="not ok") as failed:
            client.conn_do_remote(failing)
        assert isinstance(failed.value, RequestFailed)
        assert client.conn_do_remote(Add(kind=3, data=b"chunk")) in server.chunks


def test_a_trace_log_is_told_of_packets(opened: ExitStack) -> None:
    wiring = pipes(opened)
    lines: list[str] = []
    client = PacketConnection(
        (wiring.client_recv, wiring.client_send), trace_log=lambda text, *args: lines.append(text % args)
    )
    with client, PacketConnection((wiring.server_recv, wiring.server_send), request_handler=reverse):
        client(0, b"ab")
    assert [line for line in lines if line.startswith("==>")]
    assert [line for line in lines if line.startswith("<==")]


# on demand


class StoreHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        store = Store((self.rfile, self.wfile))
        with store.conn:
            store.conn.join_recv()


@pytest.fixture
def store_connector() -> Iterator[Connector]:
    """Connects to a new and empty store."""
    with Server(("127.0.0.1", 0), StoreHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Connector(server.server_address)
        server.shutdown()
        thread.join()


def test_a_request_opens_the_connection_for_itself(store_connector: Connector) -> None:
    store = Store(store_connector)
    assert store.conn_do_remote(Length()) == 0
    assert store_connector.notes == ["open", "close"]
    with store.conn:
        for _ in range(3):
            store.conn_do_remote(Add(kind=3, data=b"chunk"))
        assert store.conn_do_remote(Length()) == 3
    assert store_connector.notes == ["open", "close"] * 2


def test_a_request_that_nobody_waits_for_is_done_at_close(store_connector: Connector) -> None:
    store = Store(store_connector)
    added = []
    with store.conn:
        result = store.conn_submit(Add(kind=3, data=b"chunk"))
        result.fsm_callback("DONE", lambda result, transition: added.append(result()))
    assert added == [(True, 0, b"key-0")]


def test_threads_open_and_close_it_at_will(store_connector: Connector) -> None:
    store = Store(store_connector)
    lengths = []

    def ask() -> None:
        for _ in range(30):
            lengths.append(store.conn_do_remote(Length()))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lengths == [0] * 120
    assert store_connector.notes.count("open") == store_connector.notes.count("close")


class Resource:
    """A base class with a context of its own, cooperative as `super()` wants it."""

    def __enter__(self) -> Any:
        enter_super = getattr(super(), "__enter__", None)
        if enter_super is not None:
            enter_super()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        exit_super = getattr(super(), "__exit__", None)
        if exit_super is not None:
            exit_super(*exc_info)


class OnDemandStore(Resource, Store):
    """Its context is the resource's: the connection is opened by its requests."""


def test_the_context_of_another_base_class_does_not_open_the_connection(store_connector: Connector) -> None:
    with OnDemandStore(store_connector) as store:
        assert store_connector.notes == []
        assert store.conn_do_remote(Length()) == 0
        assert store_connector.notes == ["open", "close"]


# names


def test_names_that_are_imported() -> None:
    assert DEFAULT_PACKET_GRACE == 0
    assert PacketConnectionRecv
    assert PacketConnectionSend
    assert PacketConnectionRecvSend


@pytest.mark.parametrize("packet_grace", [None, 0, 0.01])
def test_a_packet_grace_is_accepted(opened: ExitStack, packet_grace: float | None) -> None:
    wiring = pipes(opened)
    client = PacketConnection((wiring.client_recv, wiring.client_send), packet_grace=packet_grace)
    with client, PacketConnection((wiring.server_recv, wiring.server_send), request_handler=reverse):
        assert client(0, b"ab") == (True, 0x21, b"ba")
