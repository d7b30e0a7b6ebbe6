"""An open connection that nobody has any more: what it opened is let go of, and a ResourceWarning names it."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from childprocesses import child_processes
from packetwire import (
    AsyncHasPacketConnection,
    AsyncPacketConnection,
    BaseRequest,
    ConnectionEnded,
    HasPacketConnection,
    PacketConnection,
    PeerClosed,
    aserve,
    connect_to,
    serve,
)

from .conftest import STEP, WATCHDOG, until

CAT = [sys.executable, "-c", "import sys; sys.stdin.buffer.read()"]


class Threaded:
    """A `PacketConnection`, and how to use it."""

    make = PacketConnection
    service = HasPacketConnection

    def do(self, function: Callable[[], Any]) -> Any:
        """Call `function` where the connection may be used, and wait for what it returns."""
        return function()

    def close(self) -> None:
        """Nothing is left to be done."""


class Looped:
    """An `AsyncPacketConnection` in a loop that runs in a thread, and how to use it."""

    make = AsyncPacketConnection
    service = AsyncHasPacketConnection

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def do(self, function: Callable[[], Any]) -> Any:
        """Call `function` where the connection may be used, and wait for what it returns."""

        async def called() -> Any:
            result = function()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(WATCHDOG)

    def close(self) -> None:
        """The loop ends."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(WATCHDOG)
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


@pytest.fixture(params=[Threaded, Looped])
def face(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = request.param()
    yield made
    made.close()


def open_fds() -> set[str]:
    """The descriptors of this process, and what they are."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:  # the one of the listing itself
            continue
    return found


class Before:
    """What there was before a connection was opened."""

    def __init__(self) -> None:
        self.fds = open_fds()
        self.threads = set(threading.enumerate())
        self.children = child_processes()

    def is_back(self) -> bool:
        """Whether nothing is left of what came since then."""
        return (
            open_fds() <= self.fds
            and not {each for each in threading.enumerate() if not each.name.startswith("asyncio")} - self.threads
            and child_processes() <= self.children
        )


@contextmanager
def resource_warnings() -> Iterator[list[str]]:
    """The texts of the ResourceWarnings of the block, in the end."""
    found: list[str] = []
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
        gc.collect()
    found += [str(each.message) for each in caught if each.category is ResourceWarning]


def assert_named(found: list[str], name: str) -> None:
    """There is one warning, and it says which connection it was."""
    assert len(found) == 1, found
    assert "unclosed" in found[0]
    assert name in found[0]


@contextmanager
def child(face: Any) -> Iterator[Any]:
    yield partial(face.make.spawn, CAT)


@contextmanager
def socket_pair(face: Any) -> Iterator[Any]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield partial(face.make, ours)


@contextmanager
def unix_socket(face: Any) -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{directory}/socket")
        listener.listen()
        yield partial(face.make, connect_to(f"unix:{directory}/socket"))


@contextmanager
def made(face: Any) -> Iterator[Any]:
    """A callable that opens something, and returns what closes it."""
    kept = []

    def connect() -> Any:
        ours, theirs = socket.socketpair()
        kept.append(theirs)
        return ours, ours, ours.close

    yield partial(face.make, connect)
    for each in kept:
        each.settimeout(WATCHDOG)
        while each.recv(4096):
            pass
        each.close()


STREAMS = [child, socket_pair, unix_socket, made]


@pytest.mark.parametrize("streams", STREAMS)
def test_what_was_opened_is_let_go_of_and_named(face, streams):
    with streams(face) as make:
        before = Before()
        conn = make("forgotten")
        face.do(conn.open)
        alive = weakref.ref(conn)
        with resource_warnings() as found:
            del conn
            gc.collect()
        assert alive() is None
        assert_named(found, "[forgotten]")
        if streams is made:
            return  # what is left is the other end: at its end of the stream the block is left
        until(before.is_back)


@pytest.mark.parametrize("streams", STREAMS)
def test_the_same_when_warnings_are_errors(face, streams, monkeypatch):
    """What was opened is let go of all the same."""
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    with streams(face) as make:
        before = Before()
        conn = make("forgotten")
        face.do(conn.open)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del conn
            gc.collect()
        assert [type(each.exc_value) for each in told] == [ResourceWarning]
        told.clear()
        if streams is not made:
            until(before.is_back)


@pytest.mark.parametrize("streams", STREAMS)
def test_a_connection_that_is_closed_warns_of_nothing(face, streams):
    with streams(face) as make:
        conn = make("closed")
        face.do(conn.open)
        face.do(partial(conn.close, 0.0))  # the other end does not answer
        with resource_warnings() as found:
            del conn
        assert not found


def test_one_that_was_never_opened_warns_of_nothing(face):
    with resource_warnings() as found:
        face.make((0, 1))
        with pytest.raises(TypeError):
            face.make()
    assert not found


@pytest.mark.parametrize("timeout", [None, WATCHDOG])
def test_requests_under_way_end_with_the_reason(face, timeout):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = Before()
        conn = face.make(ours, "forgotten")
        face.do(conn.open)
        results = [face.do(partial(conn.submit, number, timeout=timeout)) for number in range(5)]
        with resource_warnings() as found:
            del conn
        assert_named(found, "[forgotten]")
        for result in results:
            with pytest.raises(ConnectionEnded, match="forgotten.* dropped without being closed"):
                face.do(lambda result=result: collect(result))
        until(before.is_back)


def collect(result: Any) -> Any:
    """The response, or for a future something to await."""
    if not isinstance(result, asyncio.Future):
        return result(timeout=WATCHDOG)

    async def awaited() -> Any:
        return await result

    return awaited()


class Forgotten:
    """Things that refer to a connection which they are given to."""

    def handler(self, rq_type: int, flags: int, payload: bytes) -> bytes:
        return payload

    async def async_handler(self, rq_type: int, flags: int, payload: bytes) -> bytes:
        return payload

    def channel_handler(self, rq_type: int, flags: int, payload: bytes, *, channel: int) -> bytes:
        return payload + b"%d" % channel

    def see(self, *args: Any) -> None:
        return

    def receive(self, event: Any) -> bytes:
        return b"attached"


def closure_over(owner: Forgotten) -> Callable[..., bytes]:
    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        return owner.handler(rq_type, flags, payload)

    return handler


def serve_each(face: Any, ours: Any, owner: Forgotten, case: str) -> Any:
    if case == "channels":
        conn = face.make(ours, "forgotten", channels={16: owner.channel_handler})
    elif case == "attached":
        conn = face.make(ours, "forgotten")
        conn.attach(16, owner.receive)
    elif case == "observers":
        conn = face.make(ours, "forgotten", request_handler=owner.handler, on_event=owner.see, trace_log=owner.see)
    elif case == "a coroutine":
        conn = face.make(ours, "forgotten", request_handler=owner.async_handler)
    elif case == "a closure":
        conn = face.make(ours, "forgotten", request_handler=closure_over(owner))
    else:
        conn = face.make(ours, "forgotten", request_handler=owner.handler, handlers=case)
    owner.conn = conn  # type: ignore[attr-defined]
    return conn


OWNED = {
    "channels": b"x16",
    "attached": b"attached",
    "observers": b"x",
    "a coroutine": b"x",
    "a closure": b"x",
    "inline": b"x",
    2: b"x",
}


@pytest.mark.parametrize("case", OWNED)
def test_an_object_whose_methods_serve_its_connection(face, case):
    """It is no reference to the connection, and neither is what drives it."""
    if case == "a coroutine" and isinstance(face, Threaded):
        pytest.skip("threads run no coroutines")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = Before()
        owner = Forgotten()
        face.do(serve_each(face, ours, owner, case).open)
        with PacketConnection(theirs, "peer") as peer:
            assert peer(1, b"x", channel=16 if case in ("channels", "attached") else 0)[2] == OWNED[case]
            gone = weakref.ref(owner)
            with resource_warnings() as found:
                del owner
                gc.collect()
            assert gone() is None
            assert_named(found, "[forgotten]")
            assert peer.join(WATCHDOG)
        until(before.is_back)


def test_the_peer_is_told_though_a_thread_was_about_to_give_the_writers_role_up() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = PacketConnection(ours, "forgotten").open()
        assert conn._driver is not None
        writing, bell = conn._driver._writing, conn._driver._bell
        writing.role[0] = 1  # a thread that has written all, and does not run now
        with PacketConnection(theirs, "peer") as peer:
            with resource_warnings():
                del conn
                gc.collect()
            while not bell.locks:  # the thread that lets go of it waits
                assert not peer.join(STEP)
            writing.role.pop(0)
            bell.ring()
            assert peer.join(WATCHDOG)
            assert isinstance(peer.ended, PeerClosed)


@dataclass
class Echo(BaseRequest[bytes]):
    payload: bytes = b""

    @classmethod
    def from_bytes(cls, bs: bytes) -> Echo:
        return cls(bs)

    def __bytes__(self) -> bytes:
        return self.payload

    def fulfil(self, context: Any) -> bytes:
        return context.prefix + self.payload

    def decode_response_payload(self, flags: int, payload: bytes) -> bytes:
        return payload


def test_a_service(face):
    """Its connection serves by a method of it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = Before()

        class Service(face.service):  # type: ignore[misc, name-defined]
            prefix = b">"

            def __init__(self) -> None:
                super().__init__(ours, "forgotten", rq_type_map={3: Echo})

        service = Service()
        face.do(service.conn.open)
        with HasPacketConnection(theirs, "peer", rq_type_map={3: Echo}) as peer:
            assert peer.conn_do_remote(Echo(b"x")) == b">x"
            gone = weakref.ref(service)
            with resource_warnings() as found:
                del service
                gc.collect()
            assert gone() is None
            assert_named(found, "[forgotten]")
            assert peer.conn.join(WATCHDOG)
        until(before.is_back)


def test_an_object_whose_methods_open_and_close_the_stream(face):
    """Its method is called to close it, though nobody has the object."""
    closed = threading.Event()
    theirs: list[socket.socket] = []
    before = Before()

    class Owner:
        conn: Any

        def connect(self) -> Any:
            self.sock, other = socket.socketpair()
            theirs.append(other)
            return self.sock, self.sock, self.close

        def close(self) -> None:
            self.sock.close()
            closed.set()

    owner = Owner()
    owner.conn = face.make(owner.connect, "forgotten")
    face.do(owner.conn.open)
    gone = weakref.ref(owner)
    with resource_warnings() as found:
        del owner
        gc.collect()
    assert gone() is None
    assert_named(found, "[forgotten]")
    assert closed.wait(WATCHDOG)
    theirs.pop().close()
    until(before.is_back)


@pytest.mark.parametrize("forget", [False, True])
def test_a_handler_that_closes_its_connection(face, forget):
    """A thread or task does it behind the handler; it calls what closes the stream, also if nobody waits for it."""
    closed = threading.Event()
    ours, theirs = socket.socketpair()

    class Owner:
        conn: Any

        def connect(self) -> Any:
            return ours, ours, self.close

        def close(self) -> None:
            ours.close()
            closed.set()

        def handler(self, rq_type: int, flags: int, payload: bytes) -> Any:
            return self.conn.close()

    owner = Owner()
    owner.conn = face.make(owner.connect, "closing", request_handler=owner.handler, handlers=HANDLERS[type(face)])
    face.do(owner.conn.open)
    with theirs, resource_warnings() as found:
        with PacketConnection(theirs, "peer") as peer:
            result = peer.submit(1)
            result.join()
            if forget:
                del owner
                gc.collect()
        assert closed.wait(WATCHDOG)
    assert not found


HANDLERS = {Threaded: 1, Looped: "inline"}


def test_a_service_whose_handler_waits_is_kept_until_that_is_done(face):
    """The handler's thread has it."""
    ours, theirs = socket.socketpair()
    entered, leave = threading.Event(), threading.Event()
    with ours, theirs:
        before = Before()

        class Service:
            def handler(self, rq_type: int, flags: int, payload: bytes) -> bytes:
                entered.set()
                assert leave.wait(WATCHDOG)
                return b"done"

        service: Any = Service()
        service.conn = face.make(ours, "forgotten", request_handler=service.handler)
        face.do(service.conn.open)
        with PacketConnection(theirs, "peer") as peer, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = peer.submit(1)
            assert entered.wait(WATCHDOG)
            del service
            gc.collect()
            assert not caught
            leave.set()
            result.join()
            until(lambda: gc.collect() >= 0 and caught)
            assert_named([str(each.message) for each in caught], "[forgotten]")
            caught.clear()
            assert peer.join(WATCHDOG)
        until(before.is_back)


def test_a_receiver_that_others_have_is_told_of_the_end(face):
    ours, theirs = socket.socketpair()
    told: list[Any] = []
    receiver = told.append
    with ours, theirs:
        before = Before()
        conn = face.make(ours, "forgotten")
        conn.attach(16, receiver)
        conn.attach(16, receiver)  # once more is nothing new
        face.do(conn.open)
        with resource_warnings() as found:
            del conn
        assert_named(found, "[forgotten]")
        until(lambda: told)
        assert "dropped without being closed" in str(told[0].cause)
        until(before.is_back)


def test_a_receiver_that_was_detached_is_not_kept():
    conn = PacketConnection((0, 1))
    owner = Forgotten()
    gone = weakref.ref(owner)
    conn.attach(16, owner.receive)
    gc.collect()
    conn.detach(16)
    del owner
    gc.collect()
    assert gone() is None


def test_the_finalizer_interrupts_a_holder_of_the_lock_and_waits_for_nothing():
    """A garbage collection comes at any instruction, also where a thread of the connection holds its lock."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = Before()
        conn = PacketConnection(ours, "forgotten").open()
        driver: Any = conn._driver
        with resource_warnings() as found, getattr(driver, "_lock", nullcontext()):
            del conn
            gc.collect()
        assert_named(found, "[forgotten]")
        del driver
        until(before.is_back)


def test_in_a_fork_nothing_of_the_parent_is_touched(face):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = face.make(ours, "parent's", request_handler=lambda *_: b"x")
        face.do(conn.open)
        with PacketConnection(theirs, "peer") as peer:
            assert peer(1)[2] == b"x"
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    warnings.simplefilter("always")
                    with warnings.catch_warnings(record=True) as caught:
                        del conn
                        gc.collect()
                    status = len(caught)
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert peer(1)[2] == b"x"
            face.do(conn.close)


@pytest.mark.parametrize("closed", [False, True])
def test_a_loop_that_does_not_run(closed):
    """A thread does it then."""
    before = Before()
    loop = asyncio.new_event_loop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = AsyncPacketConnection.spawn(CAT, "forgotten")
        other = AsyncPacketConnection(ours, "other")
        loop.run_until_complete(conn.open())
        loop.run_until_complete(other.open())
        if closed:
            loop.close()
        with resource_warnings() as found:
            del conn, other
        assert len(found) == 2
        assert not closed or loop.is_closed()
        until(lambda: child_processes() <= before.children)
        if not closed:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
        del loop
    until(before.is_back)


def test_a_loop_that_ends_at_once():
    """The coroutine that has the connection returns, and asyncio ends the loop."""
    before = Before()

    async def main() -> None:
        conn = await AsyncPacketConnection.spawn(CAT, "forgotten").open()
        assert conn.process

    with resource_warnings() as found:
        asyncio.run(main())
    assert_named(found, "[forgotten]")
    assert before.is_back()


def test_one_that_the_end_of_its_loop_has_closed_warns_of_nothing():
    async def main() -> AsyncPacketConnection:
        return await AsyncPacketConnection.spawn(CAT, "kept").open()

    conn = asyncio.run(main())
    with resource_warnings() as found:
        del conn
    assert not found


def test_a_pair_of_asyncio_streams(tmp_path):
    """Those that were opened for the connection are closed."""

    async def main() -> None:
        ended = asyncio.Event()

        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()
            ended.set()

        path = str(tmp_path / "socket")
        async with await asyncio.start_unix_server(client, path):
            conn = AsyncPacketConnection(lambda: asyncio.open_unix_connection(path), "forgotten")
            await conn.open()
            with resource_warnings() as found:
                del conn
            assert_named(found, "[forgotten]")
            await asyncio.wait_for(ended.wait(), WATCHDOG)

    before = Before()
    asyncio.run(main())
    until(before.is_back)


def test_servers_do_not_drop_the_connections_of_their_clients(tmp_path):
    """These are nobody else's: a garbage collection does not end them."""

    class Service(HasPacketConnection):
        prefix = b"t"

        def __init__(self, stream: Any) -> None:
            super().__init__(stream, rq_type_map={3: Echo})

    class AsyncService(AsyncHasPacketConnection):
        prefix = b"a"

        def __init__(self, stream: Any) -> None:
            super().__init__(stream, rq_type_map={3: Echo})

    async def main() -> None:
        async with await aserve(f"unix:{tmp_path}/looped", AsyncService):
            await asyncio.to_thread(ask_twice, f"unix:{tmp_path}/looped", b"a")

    with serve(f"unix:{tmp_path}/threaded", Service):
        ask_twice(f"unix:{tmp_path}/threaded", b"t")
    asyncio.run(main())


def ask_twice(address: str, prefix: bytes) -> None:
    with HasPacketConnection(connect_to(address), rq_type_map={3: Echo}) as client:
        for _ in range(2):
            assert client.conn_do_remote(Echo(b"x")) == prefix + b"x"
            gc.collect()


AT_EXIT = """
    import asyncio, sys
    from packetwire import AsyncPacketConnection, PacketConnection

    CAT = [sys.executable, "-c", "import sys; sys.stdin.buffer.read()"]
"""


@pytest.mark.parametrize(
    "program",
    [
        """
        conn = PacketConnection.spawn(CAT, "forgotten").open()
        """,
        """
        loop = asyncio.new_event_loop()
        conn = AsyncPacketConnection.spawn(CAT, "forgotten")
        loop.run_until_complete(conn.open())
        """,
        """
        conn = PacketConnection.spawn(CAT, "forgotten").open()
        del conn
        """,
    ],
)
def test_at_the_end_of_python_nothing_hangs(program):
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "always::ResourceWarning",
            "-c",
            textwrap.dedent(AT_EXIT) + textwrap.dedent(program),
        ],
        check=False,
        capture_output=True,
        timeout=WATCHDOG,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "[forgotten]" in done.stderr, done.stderr
    assert "unclosed" in done.stderr
    assert "Traceback" not in done.stderr, done.stderr
