"""Connections that are made again, and calls over many of them: with threads and with asyncio."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.leftovers import open_fds

from childprocesses import child_processes
from packetwire import (
    BaseRequest,
    ChildExited,
    ConnectionEnded,
    Draining,
    LocalProtocolError,
    PacketwireError,
    RequestFailed,
    RequestTimeout,
    child,
    serve,
)
from packetwire.aio.pool import AsyncPool, AsyncReconnecting, AsyncSupervised
from packetwire.connection import PacketConnection
from packetwire.pool import (
    Backoff,
    MemberEnded,
    MemberGivenUp,
    MemberReady,
    MemberWaits,
    Pool,
    Reconnecting,
    Supervised,
)

from .conftest import Looped

pytestmark = pytest.mark.timeout(60)

LIMIT = 30
SOON = Backoff(0.01, 0.05)

CHILD = """
import os, sys
from packetwire import PacketConnection, stdio

asked = 0

def handle(rq_type, flags, payload):
    global asked
    if rq_type == 1:
        os._exit(flags)
    if rq_type == 2:
        asked += 1
        return asked
    return str(os.getpid())

with PacketConnection(stdio(), request_handler=handle, close_timeout=0.5) as conn:
    conn.join_recv()
"""
WHO, EXIT, COUNT = range(3)
COMMAND = [sys.executable, "-c", CHILD]
CLASSES = {"threads": (Pool, Reconnecting, Supervised), "asyncio": (AsyncPool, AsyncReconnecting, AsyncSupervised)}


class Tried:
    """Pools of one face, opened until the end of the test, with what they tell."""

    def __init__(self, face: Any, stack: ExitStack) -> None:
        self.face = face
        self.pool, self.reconnecting, self.supervised = CLASSES[
            "asyncio" if isinstance(face, Looped) else "threads"
        ]
        self.events: queue.Queue[Any] = queue.Queue()
        self._stack = stack
        self._runs = False

    def open(self, make: Callable[..., Any], *args: Any, **options: Any) -> Any:
        options.setdefault("backoff", SOON)
        pool = make(*args, on_event=self.events.put, **options)
        if not isinstance(self.face, Looped):
            return self._stack.enter_context(pool)
        if not self._runs:
            self._runs = True
            self._stack.enter_context(self.face.opened(pool))
        else:
            self.do(pool.open)
            self._stack.callback(self.do, pool.close)
        return pool

    def do(self, function: Callable[[], Any]) -> Any:
        return self.face.do(function)

    def until(self, kind: type[Any]) -> Any:
        """The next event of a kind."""
        while not isinstance(event := self.events.get(timeout=LIMIT), kind):
            pass
        return event


@pytest.fixture
def tried(face: Any) -> Iterator[Tried]:
    children, threads, fds = child_processes(), set(threading.enumerate()), open_fds()
    with ExitStack() as stack:
        yield Tried(face, stack)
    if isinstance(face, Looped):
        face.loop.close()
    assert child_processes() - children == set()
    assert {
        thread for thread in threading.enumerate() if thread not in threads and "keeper" in thread.name
    } == set()
    if not isinstance(face, Looped):
        assert open_fds() - fds == set()


class Served:
    """A server at a Unix socket that says which it is, and may be stopped and started."""

    def __init__(self, path: Path) -> None:
        self.address = f"unix:{path}"
        self.name = path.name
        self.asked = 0
        self.hold: threading.Event | None = None
        self.begun = threading.Event()
        self._server: Any = None

    def start(self) -> Served:
        self._server = serve(self.address, self._session, drain_timeout=0.1).__enter__()
        return self

    def stop(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            server.__exit__(None, None, None)

    def _session(self, recv_send: Any) -> PacketConnection:
        return PacketConnection(recv_send, request_handler=self._handle, close_timeout=0.1)

    def _handle(self, rq_type: int, flags: int, payload: bytes) -> str:
        if rq_type == 7:
            raise ValueError("none")
        self.asked += 1
        self.begun.set()
        if self.hold is not None:
            self.hold.wait(LIMIT)
        return self.name


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Served]]:
    made = [Served(tmp_path / name) for name in "abc"]
    yield made
    for server in made:
        if server.hold is not None:
            server.hold.set()
        server.stop()


# one connection


def test_a_lost_connection_comes_back(tried: Tried, servers: list[Served]) -> None:
    server = servers[0].start()
    conn = tried.open(tried.reconnecting, server.address)
    assert tried.do(lambda: conn(0, timeout=LIMIT)) == (True, 0, b"a")
    server.stop()
    ended = tried.until(MemberEnded)
    assert ended.name == server.address
    assert isinstance(ended.cause, ConnectionEnded)
    assert 0 <= tried.until(MemberWaits).seconds <= 0.05
    server.start()
    assert tried.do(lambda: conn(0, timeout=LIMIT)) == (True, 0, b"a")


def test_a_call_waits_until_there_is_a_server(tried: Tried, servers: list[Served]) -> None:
    conn = tried.open(tried.reconnecting, servers[0].address)
    starter = threading.Thread(target=lambda: (tried.until(MemberWaits), servers[0].start()))
    starter.start()
    assert tried.do(lambda: conn(0, timeout=LIMIT)) == (True, 0, b"a")
    starter.join()


def test_a_call_waits_within_its_limit(tried: Tried, servers: list[Served]) -> None:
    conn = tried.open(tried.reconnecting, servers[0].address)
    tried.until(MemberWaits)
    with pytest.raises(RequestTimeout, match="no connection within 0.05 s: unix:.*No such file") as caught:
        tried.do(lambda: conn(0, timeout=0.05))
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_call_that_may_have_begun_is_not_repeated_unasked(tried: Tried, servers: list[Served]) -> None:
    server = servers[0]
    server.hold = threading.Event()
    server.start()
    conn = tried.open(tried.reconnecting, server.address)
    stopper = threading.Thread(target=lambda: (server.begun.wait(LIMIT), server.stop()))
    stopper.start()
    with pytest.raises(ConnectionEnded):
        tried.do(lambda: conn(0, timeout=LIMIT))
    stopper.join()
    assert server.asked == 1


def test_an_idempotent_call_is_repeated(tried: Tried, servers: list[Served]) -> None:
    first, second = servers[:2]
    first.hold = threading.Event()
    first.start()
    pool = tried.open(tried.pool, [first.address, second.address])
    tried.until(MemberReady)

    def stop() -> None:
        first.begun.wait(LIMIT)
        second.start()
        first.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    assert tried.do(lambda: pool(0, timeout=LIMIT, idempotent=True)) == (True, 0, b"b")
    stopper.join()
    assert (first.asked, second.asked) == (1, 1)


@pytest.mark.parametrize("kind", [ConnectionEnded, PacketwireError])
@pytest.mark.parametrize("begun", [False, None, True])
def test_a_call_that_has_not_begun_is_repeated_unasked(
    tried: Tried, servers: list[Served], begun: bool | None, kind: type[PacketwireError]
) -> None:
    class Gone:
        ended = None
        outstanding = -1  # so it is chosen

        def __call__(self, *_: Any, **__: Any) -> Any:
            error = kind("gone")
            error.begun = begun  # type: ignore[attr-defined]
            raise error

    pool = tried.open(tried.pool, [server.start().address for server in servers[:2]])
    for _ in range(2):
        tried.until(MemberReady)
    kept, pool.members[0].conn = pool.members[0].conn, Gone()
    try:
        if begun is False:
            assert tried.do(lambda: pool(0, timeout=LIMIT)) == (True, 0, b"b")
        else:
            with pytest.raises(kind, match="gone"):
                tried.do(lambda: pool(0, timeout=LIMIT))
        if begun is None and kind is ConnectionEnded:
            assert tried.do(lambda: pool(0, timeout=LIMIT, idempotent=True)) == (True, 0, b"b")
    finally:
        pool.members[0].conn = kept


def test_attempts_are_limited(tried: Tried) -> None:
    conn = tried.open(tried.reconnecting, child(COMMAND), attempts=2)
    with pytest.raises(ChildExited, match="exited with status 3"):
        tried.do(lambda: conn(EXIT, b"", 3, timeout=LIMIT, idempotent=True))
    assert isinstance(tried.until(MemberEnded).cause, ChildExited)
    assert isinstance(tried.until(MemberEnded).cause, ChildExited)


def test_what_is_done_with_each_new_connection(tried: Tried, servers: list[Served]) -> None:
    server = servers[0].start()
    made: list[Any] = []
    problems = [OSError("not yet"), None]

    def on_connect(conn: Any) -> Any:
        made.append(conn)
        problem = problems.pop(0)
        if problem is not None:
            raise problem
        return conn(0, timeout=LIMIT)  # a coroutine in a loop

    conn = tried.open(tried.reconnecting, server.address, on_connect=on_connect)
    assert tried.do(lambda: conn(0, timeout=LIMIT)) == (True, 0, b"a")
    assert len(made) == server.asked == 2
    assert str(tried.until(MemberEnded).cause) == "not yet"


def test_a_connection_of_it_can_be_used(tried: Tried, servers: list[Served]) -> None:
    conn = tried.open(tried.reconnecting, servers[0].start().address)
    one = tried.do(lambda: conn.connected(LIMIT))
    assert tried.do(lambda: one(0, timeout=LIMIT)) == (True, 0, b"a")


class Name(BaseRequest[str]):
    def __bytes__(self) -> bytes:
        return b""

    @classmethod
    def from_bytes(cls, data: bytes) -> Name:
        return cls()

    def decode_response_payload(self, flags: int, payload: bytes) -> str:
        return payload.decode()


class Missing(Name):
    pass


def test_request_classes(tried: Tried, servers: list[Served]) -> None:
    pool = tried.open(tried.pool, [servers[0].start().address], rq_type_map={0: Name, 7: Missing})
    assert tried.do(lambda: pool.conn_do_remote(Name(), timeout=LIMIT, idempotent=True)) == "a"
    with pytest.raises(RequestFailed, match="the peer answered Missing not ok"):
        tried.do(lambda: pool.conn_do_remote(Missing(), timeout=LIMIT))
    with pytest.raises(LocalProtocolError, match="is not in the rq_type_map"):
        tried.do(lambda: pool.conn_do_remote(BaseRequest()))


# many


def test_calls_go_to_all(tried: Tried, servers: list[Served]) -> None:
    pool = tried.open(tried.pool, [server.start().address for server in servers], size=2)
    for _ in range(6):
        tried.until(MemberReady)
    assert {tried.do(lambda: pool(0, timeout=LIMIT))[2] for _ in range(100)} == {b"a", b"b", b"c"}
    assert {member.name for member in pool.members} == {
        f"{server.address}#{number}" for server in servers for number in range(2)
    }


def test_the_busy_one_is_spared(tried: Tried, servers: list[Served]) -> None:
    first, second = servers[:2]
    first.hold = threading.Event()
    pool = tried.open(tried.pool, [first.start().address, second.start().address])
    for _ in range(2):
        tried.until(MemberReady)
    busy = tried.do(lambda: [pool.members[0].conn.submit(0) for _ in range(3)])
    assert {tried.do(lambda: pool(0, timeout=LIMIT))[2] for _ in range(30)} == {b"b"}
    first.hold.set()
    for each in busy:
        answer = tried.do(lambda each=each: each) if isinstance(tried.face, Looped) else each(timeout=LIMIT)
        assert answer == (True, 0, b"a")


def test_what_is_gone_is_passed_over(tried: Tried, servers: list[Served]) -> None:
    pool = tried.open(tried.pool, [server.start().address for server in servers])
    for _ in range(3):
        tried.until(MemberReady)
    servers[0].stop()
    tried.until(MemberEnded)
    assert {tried.do(lambda: pool(0, timeout=LIMIT))[2] for _ in range(50)} == {b"b", b"c"}
    servers[0].start()
    tried.until(MemberReady)
    assert {tried.do(lambda: pool(0, timeout=LIMIT))[2] for _ in range(50)} == {b"a", b"b", b"c"}


def test_children_that_are_killed_at_random(tried: Tried) -> None:
    pool = tried.open(tried.pool, child(COMMAND), size=3)
    lost = 0
    pids = set()
    for number in range(60):
        try:
            pids.add(tried.do(lambda: pool(WHO, timeout=LIMIT, idempotent=True))[2])
        except ConnectionEnded:
            lost += 1
        if number % 20 == 10:
            os.kill(int(next(iter(pids))), signal.SIGKILL)
            pids.clear()
    assert lost == 0
    assert tried.until(MemberEnded)


# children


def test_a_child_that_fails_is_started_again(tried: Tried) -> None:
    plugin = tried.open(tried.supervised, child(COMMAND), name="plugin")
    first = tried.do(lambda: plugin(WHO, timeout=LIMIT))[2]
    with pytest.raises(ChildExited, match="exited with status 3"):
        tried.do(lambda: plugin(EXIT, b"", 3, timeout=LIMIT))
    assert tried.do(lambda: plugin(WHO, timeout=LIMIT))[2] != first
    assert isinstance(tried.events.get(timeout=LIMIT), MemberReady)
    assert tried.events.get(timeout=LIMIT).cause.returncode == 3
    assert isinstance(tried.events.get(timeout=LIMIT), MemberWaits)
    assert isinstance(tried.events.get(timeout=LIMIT), MemberReady)
    assert str(plugin).endswith("Supervised[plugin]")


@pytest.mark.parametrize(("restart", "status"), [("on-failure", 0), ("never", 3)])
def test_a_child_that_is_not_started_again(tried: Tried, restart: str, status: int) -> None:
    plugin = tried.open(tried.supervised, child(COMMAND), restart=restart)
    with pytest.raises(ConnectionEnded):
        tried.do(lambda: plugin(EXIT, b"", status, timeout=LIMIT))
    tried.until(MemberGivenUp)
    assert plugin.given_up
    with pytest.raises(ConnectionEnded, match=f"(?s)was given up: child .* exited with status {status}") as caught:
        tried.do(lambda: plugin(WHO, timeout=LIMIT))
    assert isinstance(caught.value.__cause__, ChildExited)


def test_a_child_that_always_leaves_is_started_again(tried: Tried) -> None:
    plugin = tried.open(tried.supervised, child(COMMAND), restart="always")
    with pytest.raises(ConnectionEnded):
        tried.do(lambda: plugin(EXIT, timeout=LIMIT))
    assert tried.do(lambda: plugin(WHO, timeout=LIMIT))[0]


def test_restarts_are_limited(tried: Tried) -> None:
    plugin = tried.open(tried.supervised, child([sys.executable, "-c", "exit(7)"]), limit=(3, 60))
    kinds = []
    while not isinstance(event := tried.events.get(timeout=LIMIT), MemberGivenUp):
        kinds.append(type(event))
    with pytest.raises(ConnectionEnded, match="was given up: .* exited with status 7"):
        tried.do(lambda: plugin(WHO, timeout=LIMIT))
    assert kinds.count(MemberEnded) == 4
    assert kinds.count(MemberWaits) == 3


def test_a_command_that_does_not_exist_is_given_up(tried: Tried) -> None:
    plugin = tried.open(tried.supervised, child(["no-such-command-anywhere"]), limit=(1, 60))
    with pytest.raises(ConnectionEnded, match="was given up: .*no-such-command-anywhere"):
        tried.do(lambda: plugin(WHO, timeout=LIMIT))


def test_a_child_is_used_when_it_is_ready(tried: Tried) -> None:
    asked: list[int] = []

    def ready(conn: Any) -> Any:
        if isinstance(tried.face, Looped):
            return later(conn)
        asked.append(conn(COUNT, timeout=LIMIT)[1])
        return asked[-1] >= 3

    async def later(conn: Any) -> bool:
        asked.append((await conn(COUNT, timeout=LIMIT))[1])
        return asked[-1] >= 3

    plugin = tried.open(tried.supervised, child(COMMAND), ready=ready)
    assert tried.do(lambda: plugin(COUNT, timeout=LIMIT))[1] == 4
    assert asked == [1, 2, 3]


def test_a_child_that_does_not_become_ready_is_ended(tried: Tried) -> None:
    plugin = tried.open(
        tried.supervised, child(COMMAND), name="plugin", ready=lambda conn: False, ready_timeout=0.01, limit=(1, 60)
    )
    with pytest.raises(ConnectionEnded, match=r"was given up: child was not ready within 0.01 s"):
        tried.do(lambda: plugin(WHO, timeout=LIMIT))


def test_a_child_that_leaves_before_it_is_ready(tried: Tried) -> None:
    plugin = tried.open(
        tried.supervised, child([sys.executable, "-c", "exit(7)"]), ready=lambda conn: False, limit=(1, 60)
    )
    with pytest.raises(ConnectionEnded, match=r"(?s)was given up: child .* exited with status 7"):
        tried.do(lambda: plugin(WHO, timeout=LIMIT))


PLUGINS = {
    "crashes": "os._exit(3)",
    "hangs": "threading.Event().wait()",
    "floods": "[os.write(2, b'flood ' * 1000) for _ in iter(int, 1)]",
    "prints": "print('to standard output', flush=True)",
}
PLUGIN = """
import os, sys, threading
from packetwire import PacketConnection, stdio

def handle(rq_type, flags, payload):
    if rq_type:
        {what}
    return payload

with PacketConnection(stdio(), request_handler=handle, close_timeout=0.2) as conn:
    conn.join_recv()
"""


@pytest.mark.parametrize("what", PLUGINS)
def test_a_plugin_that_misbehaves_does_not_hinder_another(tried: Tried, what: str) -> None:
    command = [sys.executable, "-c", PLUGIN.format(what=PLUGINS[what])]
    bad, good = (
        tried.open(
            tried.supervised,
            child(command, exit_timeout=0.1, on_stderr=len),
            name=name,
            close_timeout=0.2,
            ready=lambda conn: True,
        )
        for name in ("bad", "good")
    )
    for plugin in bad, good:
        assert tried.do(lambda plugin=plugin: plugin(0, b"x", timeout=LIMIT)) == (True, 0, b"x")
    try:
        assert tried.do(lambda: bad(1, timeout=0.1)) == (True, 0, b"")
    except (ConnectionEnded, RequestTimeout):
        assert what != "prints"
    for _ in range(20):
        assert tried.do(lambda: good(0, b"x", timeout=LIMIT)) == (True, 0, b"x")
    if what != "floods":
        assert tried.do(lambda: bad(0, b"x", timeout=LIMIT, idempotent=True)) == (True, 0, b"x")


# the rest


def test_closing_ends_what_waits(tried: Tried, servers: list[Served], monkeypatch: pytest.MonkeyPatch) -> None:
    made = tried.open(tried.reconnecting, servers[0].address)
    waits, check = threading.Event(), made._check
    monkeypatch.setattr(made, "_check", lambda *args: (waits.set(), check(*args)))  # asked before each wait
    closer = threading.Thread(target=lambda: waits.wait(LIMIT) and tried.do(made.close))
    closer.start()
    with pytest.raises(ConnectionEnded, match="is closed"):
        tried.do(lambda: made(0, timeout=LIMIT))
    closer.join()
    with pytest.raises(ConnectionEnded, match="is not open; use it inside its `with` block"):
        tried.do(lambda: made(0, timeout=LIMIT))
    with pytest.raises(ConnectionEnded, match="was opened before"):
        tried.do(made.open)


def test_a_fault_of_on_event_is_logged(
    tried: Tried, servers: list[Served], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = threading.Event()

    class Fails(queue.Queue[Any]):
        def put(self, *_: Any, **__: Any) -> None:
            told.set()
            raise ValueError("no")

    tried.events = Fails()
    conn = tried.open(tried.reconnecting, servers[0].start().address)
    assert tried.do(lambda: conn(0, timeout=LIMIT))[0]
    assert told.wait(LIMIT)
    assert any(record.getMessage().endswith("on_event failed") for record in caplog.records)


@pytest.mark.parametrize("classes", CLASSES.values(), ids=CLASSES)
def test_what_makes_no_sense(classes: tuple[Any, Any, Any]) -> None:
    pool, reconnecting, supervised = classes
    with pytest.raises(ValueError, match="there are no addresses"):
        pool([])
    with pytest.raises(TypeError, match="expected an address, or what makes a stream at each opening, got 5"):
        pool([5])
    with pytest.raises(LocalProtocolError, match="invalid address"):
        reconnecting("nowhere")
    with pytest.raises(LocalProtocolError, match="size"):
        pool("tcp:h:1", size=0)
    with pytest.raises(LocalProtocolError, match="attempts"):
        pool("tcp:h:1", attempts=0)
    with pytest.raises(LocalProtocolError, match="restart must be one of"):
        supervised(child(COMMAND), restart="often")


# which member a call comes to when it is made again


class Fake:
    """A member and its connection in one, which does as it is told."""

    given_up = False
    cause = ended = None
    outstanding = 0

    def __init__(self, *does: Any, epoch: bytes | None = None) -> None:
        self.conn: Any = self
        self.peer = None if epoch is None else SimpleNamespace(epoch=epoch)
        self.asked = 0
        self._does = list(does)

    def leave(self, conn: object) -> None:
        self.conn = None

    def halt(self) -> None: ...

    def stop(self, seconds: float) -> None: ...

    def ping(self, timeout: float | None = None) -> float:
        return 0.0

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.asked += 1
        result = self._does.pop(0)
        if isinstance(result, Exception):
            raise result
        return result


def pool_of(*members: Any, **options: Any) -> Any:
    pool: Any = Pool("unix:nowhere", **options)
    pool.members = list(members)
    pool._open = True
    return pool


def test_all_members_may_refuse_a_call_before_it_fails() -> None:
    drained = [Fake(Draining("the server stops")) for _ in range(7)]
    last = Fake((True, 0, b"last"))
    pool = pool_of(*drained, last, attempts=1)
    assert pool(0, timeout=LIMIT) == (True, 0, b"last")
    pool = pool_of(*(Fake(*(Draining("it stops") for _ in range(9))) for _ in range(2)), attempts=1)
    for member in pool.members:
        member.leave = lambda conn: None  # they come back at once, and refuse again
    with pytest.raises(Draining):
        pool(0, timeout=LIMIT)
    assert sum(member.asked for member in pool.members) == 3


def test_a_call_that_is_done_once_comes_again_to_the_same_service() -> None:
    for _ in range(10):
        first = Fake(ConnectionEnded("cut"), epoch=b"one")
        same = Fake((True, 0, b"same"), epoch=b"one")
        others = [Fake(epoch=b"two") for _ in range(5)]
        pool = pool_of(first)
        first.leave = lambda conn, pool=pool, all_=[*others, same]: setattr(pool, "members", all_)  # type: ignore[misc]
        assert pool(0, timeout=LIMIT, once=True) == (True, 0, b"same")
        assert not any(other.asked for other in others)
