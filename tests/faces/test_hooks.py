"""`hooks=`: context managers around calls and handlers, each left once, with the exception that the caller sees."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from packetwire import (
    AsyncHasPacketConnection,
    BaseRequest,
    ConnectionEnded,
    DeadlineExceeded,
    HasPacketConnection,
    PacketConnection,
    RequestCancelled,
    RequestFailed,
    RequestTimeout,
    Responder,
    current_request,
)

from .conftest import WATCHDOG, Ends, Looped

CONTEXT = bytes(range(26))


class Recorder:
    """Hooks that note what they see; `add` may add something to a call."""

    def __init__(self, add: Callable[[Any], object] = lambda call: None) -> None:
        self.seen: list[tuple[str, Any]] = []
        self.left: list[Any] = []
        self.threads: list[int] = []
        self._add = add
        self._changed = threading.Condition()

    def client(self, call: Any) -> Any:
        self._add(call)
        return self._span("call", call)

    def server(self, request: Any) -> Any:
        return self._span("handler", request)

    @contextmanager
    def _span(self, what: str, about: Any) -> Iterator[None]:
        with self._changed:
            self.seen.append((what, about))
            self.threads.append(threading.get_ident())
            self._changed.notify_all()
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            with self._changed:
                self.left.append(None if error is None else type(error))
                self.threads.append(threading.get_ident())
                self._changed.notify_all()
            error = None

    def wait_until_begun(self, number: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.seen) >= number, WATCHDOG), self.seen

    def wait_for(self, number: int) -> list[Any]:
        """What so many were left by, in order; there are no more."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.left) >= number, WATCHDOG), (self.seen, self.left)
        assert len(self.seen) == len(self.left) == number
        return self.left


def echo(rq_type: int, flags: int, payload: bytes) -> bytes:
    if rq_type == 9:
        raise ValueError("nine")
    return payload


def collected(ends: Ends, result: Any) -> Any:
    """What a submitted request came to."""
    return ends.do(lambda: result() if callable(result) else result)


def submitted(ends: Ends, *args: Any, **options: Any) -> Any:
    return ends.do(lambda: [ends.conn.submit(*args, **options)])[0]


def test_a_call(ends: Ends) -> None:
    hooks = Recorder()
    ends.open(hooks=hooks)
    ends.asker(request_handler=echo, channels={16: echo})
    assert ends.call(5, b"x", label="fetch") == (True, 0, b"x")
    assert ends.call(6, b"y", channel=16, decode_response=lambda flags, payload: payload * 2)[2] == b"yy"
    assert hooks.wait_for(2) == [None, None]
    (_, first), (_, second) = hooks.seen
    assert (first.rq_type, first.channel, first.label, first.connection, first.meta) == (5, 0, "fetch", "tried", {})
    assert (second.rq_type, second.channel, second.label) == (6, 16, None)
    assert len(set(hooks.threads)) == 1, "entered and left where the call is made"


def test_a_call_that_fails(ends: Ends) -> None:
    hooks = Recorder()
    ends.open(hooks=hooks)
    peer_goes_on = threading.Event()

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        if rq_type == 1:
            assert peer_goes_on.wait(WATCHDOG)
        return echo(rq_type, flags, payload)

    ends.asker(request_handler=handler, handlers=8)
    assert ends.call(9)[0] is False
    with pytest.raises(RequestTimeout):
        ends.call(1, timeout=0.01)
    with pytest.raises(DeadlineExceeded):
        ends.call(1, deadline=0.01)
    with pytest.raises(RequestTimeout):
        ends.call(1, idle_timeout=0.01)
    with pytest.raises(TypeError):
        ends.call(1, "no bytes")
    assert hooks.wait_for(5) == [RequestFailed, RequestTimeout, DeadlineExceeded, RequestTimeout, TypeError]
    peer_goes_on.set()


def test_requests_that_are_submitted(ends: Ends) -> None:
    hooks = Recorder()
    ends.open(hooks=hooks)
    ends.asker(request_handler=echo)
    assert collected(ends, submitted(ends, 5, 0, b"x")) == (True, 0, b"x")
    assert collected(ends, submitted(ends, 9))[0] is False
    with pytest.raises(TypeError):
        submitted(ends, 5, 0, "no bytes")
    assert hooks.wait_for(3) == [None, RequestFailed, TypeError]


def test_requests_that_nobody_collects(ends: Ends) -> None:
    hooks = Recorder()
    ends.open(hooks=hooks)
    ends.asker(request_handler=echo)
    for number in range(20):
        submitted(ends, number % 5)
    assert hooks.wait_for(20) == [None] * 20


def test_a_map(ends: Ends) -> None:
    hooks = Recorder()
    ends.open(hooks=hooks)
    ends.asker(request_handler=echo)

    async def mapped() -> list[Any]:
        return [response async for response in ends.conn.map(range(5))]

    found = ends.do(mapped) if isinstance(ends.face, Looped) else list(ends.conn.map(range(5)))
    assert [ok for ok, _, _ in found] == [True] * 5
    assert hooks.wait_for(5) == [None] * 5


def test_requests_that_are_cancelled(ends: Ends) -> None:
    hooks = Recorder()
    ends.open(hooks=hooks)
    go_on = threading.Event()
    ends.asker(request_handler=lambda rq_type, flags, payload: go_on.wait(WATCHDOG) and b"")
    result = submitted(ends, 1)
    ends.do(lambda: result.cancel() and None)
    (left,) = hooks.wait_for(1)
    assert issubclass(left, asyncio.CancelledError if isinstance(ends.face, Looped) else RequestCancelled)
    go_on.set()


def test_a_task_that_is_cancelled_in_a_call(ends: Ends) -> None:
    if not isinstance(ends.face, Looped):
        pytest.skip("for tasks")
    hooks = Recorder()
    ends.open(hooks=hooks)
    go_on = threading.Event()
    ends.asker(request_handler=lambda rq_type, flags, payload: go_on.wait(WATCHDOG) and b"")

    async def cancelled() -> None:
        task = asyncio.ensure_future(ends.conn(1))
        while not hooks.seen:
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    ends.do(cancelled)
    assert hooks.wait_for(1) == [asyncio.CancelledError]
    go_on.set()


def test_results_that_are_completed_by_hand(ends: Ends) -> None:
    if isinstance(ends.face, Looped):
        pytest.skip("a RequestResult only")
    hooks = Recorder()
    ends.open(hooks=hooks)
    go_on = threading.Event()
    ends.asker(request_handler=lambda rq_type, flags, payload: go_on.wait(WATCHDOG) and b"")
    submitted(ends, 1).put(1)
    submitted(ends, 1).raise_(KeyError("by hand"))
    assert hooks.wait_for(2) == [None, KeyError]
    go_on.set()


def test_a_connection_that_ends(ends: Ends) -> None:
    hooks = Recorder()
    ends.open(hooks=hooks, close_timeout=0.1)
    peer = ends.peer()
    submitted(ends, 1)
    assert peer.read().rq_type == 1 + 1
    peer.sock.close()
    (left,) = hooks.wait_for(1)
    assert issubclass(left, ConnectionEnded)
    with pytest.raises(ConnectionEnded):
        ends.call(1)
    assert issubclass(hooks.wait_for(2)[1], ConnectionEnded)


def test_what_a_hook_adds_reaches_the_far_end(ends: Ends) -> None:
    def add(call: Any) -> None:
        call.meta["added"] = b"1"
        call.trace_context, call.trace_state = CONTEXT, b"a=b"

    hooks, there = Recorder(add), Recorder()
    metas: list[Any] = []

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        metas.append(dict(current_request().meta))
        return payload

    ends.open(hooks=hooks)
    ends.asker(request_handler=handler, hooks=there)
    ends.do(ends.conn.ping)  # so that it is known what the peer understands
    assert ends.call(5, meta={"user": b"emma"})[0]
    assert collected(ends, submitted(ends, 5, channel=0))[0]
    assert hooks.wait_for(2) == there.wait_for(2) == [None, None]
    assert metas == [{"user": b"emma", "added": b"1"}, {"added": b"1"}]
    for _, request in there.seen:
        assert (request.rq_type, request.channel, request.trace_context) == (5, 0, CONTEXT)
        assert request.trace_state == b"a=b"
    assert dict(there.seen[0][1].meta) == metas[0]


def test_what_a_hook_adds_harms_no_old_peer(ends: Ends) -> None:
    def add(call: Any) -> None:
        call.meta["added"] = b"1"
        call.trace_context = CONTEXT

    hooks, there = Recorder(add), Recorder()
    ends.open(hooks=hooks)
    ends.asker(request_handler=echo, hooks=there, capabilities="off")
    assert ends.call(5, b"x") == (True, 0, b"x")
    assert ends.call(5, b"x") == (True, 0, b"x")
    assert hooks.wait_for(2) == [None, None]
    assert [(dict(request.meta), request.trace_context) for _, request in there.seen] == [({}, None)] * 2


@pytest.mark.parametrize("wrong", [("meta", {"k": "no bytes"}), ("trace_context", b"short")])
def test_what_a_hook_adds_wrongly_is_left_out(
    ends: Ends, wrong: tuple[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    hooks = Recorder(lambda call: setattr(call, *wrong))
    ends.open(hooks=hooks)
    ends.asker(request_handler=echo)
    for _ in range(2):
        assert ends.call(5, b"x", meta={"user": b"emma"}) == (True, 0, b"x")
    assert hooks.wait_for(2) == [None, None]
    (record,) = caplog.records
    assert "what client(call) has added" in record.getMessage()


def test_handlers(ends: Ends) -> None:
    hooks = Recorder()

    def on_channel(rq_type: int, flags: int, payload: bytes, *, channel: int) -> bytes:
        return b"%d" % channel

    ends.open(request_handler=echo, channels={17: on_channel}, hooks=hooks)
    asker = ends.asker()
    assert asker(5, b"x") == (True, 0, b"x")
    assert asker(9)[0] is False
    assert asker(5, channel=17)[2] == b"17"
    assert asker(5, channel=18)[0] is False, "nobody serves it"
    assert hooks.wait_for(3) == [None, ValueError, None]
    assert [(request.rq_type, request.channel) for _, request in hooks.seen] == [(5, 0), (9, 0), (5, 17)]
    assert {request.connection for _, request in hooks.seen} == {"tried"}


@pytest.mark.parametrize("kind", [Responder, Future])
def test_a_handler_whose_result_comes_later(ends: Ends, kind: Any) -> None:
    hooks, made = Recorder(), [kind(), kind()]
    results = iter(made)
    ends.open(request_handler=lambda rq_type, flags, payload: next(results), hooks=hooks)
    asker = ends.asker()
    first, second = asker.submit(1), asker.submit(2)
    hooks.wait_until_begun(2)
    assert hooks.left == []
    if kind is Responder:
        made[0].respond(b"later")
        made[1].fail(ValueError("later"))
    else:
        made[0].set_result(b"later")
        made[1].set_exception(ValueError("later"))
    assert first() == (True, 0, b"later")
    assert second()[0] is False
    assert sorted(map(str, hooks.wait_for(2))) == [str(ValueError), str(None)]


def test_a_result_that_comes_later_is_cancelled(ends: Ends) -> None:
    hooks, futures = Recorder(), [Future[bytes]()]
    ends.open(request_handler=lambda rq_type, flags, payload: futures[0] if rq_type else b"", hooks=hooks)
    asker = ends.asker()
    assert asker(0)[0]
    result = asker.submit(1)
    hooks.wait_until_begun(2)
    result.cancel()
    _, left = hooks.wait_for(2)
    assert left.__name__ == "CancelledError"
    assert futures[0].cancelled()


def test_a_result_that_never_comes(ends: Ends) -> None:
    hooks, responder = Recorder(), Responder()
    conn = ends.make(request_handler=lambda rq_type, flags, payload: responder, hooks=hooks, close_timeout=0.05)
    with ends.face.opened(conn):
        asker = ends.asker()
        result = asker.submit(1)
        hooks.wait_until_begun(1)
    assert hooks.wait_for(1) == [ConnectionEnded]
    with pytest.raises(ConnectionEnded):
        result()
    responder.respond(b"too late")
    assert len(hooks.left) == 1


def test_coroutines(ends: Ends) -> None:
    if not isinstance(ends.face, Looped):
        pytest.skip("coroutines need a loop")
    hooks = Recorder()

    async def handler(rq_type: int, flags: int, payload: bytes) -> Any:
        await asyncio.sleep(0)
        if rq_type == 2:
            later: Future[bytes] = Future()
            asyncio.get_running_loop().call_soon(later.set_result, b"later")
            return later
        return echo(rq_type, flags, payload)

    def plain(rq_type: int, flags: int, payload: bytes) -> Any:
        return handler(rq_type, flags, payload)

    ends.open(request_handler=handler, channels={16: handler, 17: plain, 18: Awaiting}, hooks=hooks)
    asker = ends.asker()
    assert asker(5, b"x") == (True, 0, b"x")
    assert asker(9)[0] is False
    assert asker(2)[2] == b"later"
    assert asker(5, b"x", channel=16) == (True, 0, b"x")
    assert asker(5, b"x", channel=17) == (True, 0, b"x")
    assert asker(9, channel=17)[0] is False
    assert asker(5, b"x", channel=18) == (True, 0, b"awaited")
    assert hooks.wait_for(7) == [None, ValueError, None, None, None, ValueError, None]


class Awaiting:
    """What a handler may return that is neither a future nor a coroutine."""

    def __init__(self, rq_type: int, flags: int, payload: bytes) -> None:
        pass

    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        return b"awaited"


def test_a_coroutine_that_the_end_cancels(ends: Ends) -> None:
    if not isinstance(ends.face, Looped):
        pytest.skip("coroutines need a loop")
    hooks = Recorder()

    async def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        await asyncio.sleep(1000)
        return payload

    with ends.face.opened(ends.make(request_handler=handler, hooks=hooks, close_timeout=0.05)):
        asker = ends.asker()
        result = asker.submit(5)
        hooks.wait_until_begun(1)
    assert hooks.wait_for(1) == [asyncio.CancelledError]
    with pytest.raises(ConnectionEnded):
        result()


class Put(BaseRequest[bytes]):
    def __init__(self, title: bytes) -> None:
        super().__init__()
        self.title = title

    @classmethod
    def from_bytes(cls, bs: bytes) -> Put:
        return cls(bs)

    def __bytes__(self) -> bytes:
        return self.title

    def fulfil(self, context: Any) -> bytes:
        if not self.title:
            raise ValueError("no title")
        return self.title.upper()

    def decode_response_payload(self, flags: int, payload: bytes) -> bytes:
        return payload


def test_requests_that_are_classes(ends: Ends) -> None:
    hooks, there = Recorder(), Recorder()
    kind = AsyncHasPacketConnection if isinstance(ends.face, Looped) else HasPacketConnection
    client = kind(ends._sockets[0], "client", rq_type_map={3: Put}, request_handler=None, hooks=hooks)
    ends._stack.enter_context(ends.face.opened(client.conn))
    server = HasPacketConnection(ends._sockets[1], "server", rq_type_map={3: Put}, hooks=there)
    ends._stack.enter_context(server)
    assert ends.do(lambda: client.conn_do_remote(Put(b"emma"))) == b"EMMA"
    with pytest.raises(RequestFailed):
        ends.do(lambda: client.conn_do_remote(Put(b"")))
    assert hooks.wait_for(2) == [None, RequestFailed]
    assert [call.label for _, call in hooks.seen] == ["Put", "Put"]
    assert there.wait_for(2) == [None, ValueError]


class Parts:
    """Handlers whose responses are streamed, and the hooks around them."""

    def __init__(self, fails: bool = False) -> None:
        self.hooks = Recorder()
        self.open: list[list[Any]] = []
        self.fails = fails

    def part(self, data: bytes) -> bytes:
        self.open.append(list(self.hooks.left))
        if self.fails:
            raise KeyError("on purpose")
        return data

    def generator(self, rq_type: int, flags: int, payload: bytes) -> Iterator[bytes]:
        yield self.part(b"ab")
        yield self.part(b"cd")

    def iterator(self, rq_type: int, flags: int, payload: bytes) -> Iterator[bytes]:
        return map(self.part, [b"ab", b"cd"])

    def file(self, rq_type: int, flags: int, payload: bytes) -> Any:
        parts = iter([b"ab", b"cd"])
        return SimpleNamespace(read=lambda size: self.part(next(parts, b"")))

    async def asynchronous(self, rq_type: int, flags: int, payload: bytes) -> AsyncIterator[bytes]:
        yield self.part(b"ab")
        yield self.part(b"cd")

    async def coroutine(self, rq_type: int, flags: int, payload: bytes) -> Iterator[bytes]:
        return self.iterator(rq_type, flags, payload)

    async def later(self, rq_type: int, flags: int, payload: bytes) -> AsyncIterator[bytes]:
        return self.asynchronous(rq_type, flags, payload)


KINDS_OF_BODIES = ["generator", "iterator", "file", "asynchronous", "coroutine", "later"]


def parts_of(ends: Ends, kind: str, parts: Parts) -> PacketConnection:
    """A connection to the face, which streams its responses so."""
    if KINDS_OF_BODIES.index(kind) > 2 and not isinstance(ends.face, Looped):
        pytest.skip("threads run no coroutines")
    ends.open(hooks=parts.hooks, request_handler=getattr(parts, kind))
    return ends.asker()


@pytest.mark.parametrize("kind", KINDS_OF_BODIES)
def test_a_response_that_is_streamed(ends: Ends, kind: str) -> None:
    parts = Parts()
    asker = parts_of(ends, kind, parts)
    with asker.stream(5) as call:
        assert b"".join(call) == b"abcd"
    assert call.result(WATCHDOG) == (True, 0, b"")
    assert parts.hooks.wait_for(1) == [None]
    assert asker(5) == (True, 0, b"abcd")  # by one that takes no body
    assert parts.hooks.wait_for(2) == [None, None]
    assert parts.open[:2] == [[], []]


@pytest.mark.parametrize("kind", KINDS_OF_BODIES)
def test_one_that_fails_in_its_body(ends: Ends, kind: str) -> None:
    parts = Parts(fails=True)
    asker = parts_of(ends, kind, parts)
    assert asker(5)[0] is False
    assert parts.hooks.wait_for(1) == [KeyError]


def test_what_a_generator_returns_is_the_response(ends: Ends) -> None:
    def handler(rq_type: int, flags: int, payload: bytes) -> Any:
        yield b"body"
        return 3, b"trailer"

    if isinstance(ends.face, Looped):
        pytest.skip("in threads only")
    hooks = Recorder()
    ends.open(hooks=hooks, request_handler=handler)
    with ends.asker().stream(5) as call:
        assert b"".join(call) == b"body"
        assert call.result(WATCHDOG) == (True, 3, b"trailer")
    assert hooks.wait_for(1) == [None]


def test_a_stream_that_is_given_up(ends: Ends) -> None:
    def handler(rq_type: int, flags: int, payload: bytes) -> Iterator[bytes]:
        while True:
            yield bytes(10_000)

    hooks = Recorder()
    ends.open(hooks=hooks, request_handler=handler)
    with ends.asker().stream(5) as call:
        assert call.read(1)
        call.cancel()
    assert hooks.wait_for(1) == [RequestCancelled]


class Failing:
    """Hooks that fail in some place."""

    def __init__(self, where: str) -> None:
        self.where = where

    def client(self, call: Any) -> Any:
        if self.where == "begin":
            raise OSError("a hook")
        return None if self.where == "none" else self

    server = client

    def __enter__(self) -> None:
        if self.where == "enter":
            raise OSError("a hook")

    def __exit__(self, *error: object) -> bool:
        if self.where == "exit":
            raise OSError("a hook")
        return True


@pytest.mark.parametrize("where", ["begin", "enter", "exit", "none", "swallows"])
def test_a_hook_that_fails_breaks_nothing(ends: Ends, where: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ends.open(request_handler=echo, hooks=Failing(where), error_detail="none")
    asker = ends.asker(request_handler=echo)
    for _ in range(3):
        assert ends.call(5, b"x") == (True, 0, b"x")
        assert ends.call(9)[0] is False
        assert collected(ends, submitted(ends, 5, 0, b"x")) == (True, 0, b"x")
        assert asker(5, b"x") == (True, 0, b"x")
        assert asker(9)[0] is False
    said = [record.getMessage() for record in caplog.records if "a hook failed" in record.getMessage()]
    assert len(said) == {"begin": 2, "enter": 2, "exit": 1}.get(where, 0), said
    assert all("OSError('a hook')" in each for each in said)


def test_hooks_that_are_none(face: Any) -> None:
    with pytest.raises(TypeError, match=r"hooks must have functions client\(call\) and server\(request\), got 5"):
        face.make(None, hooks=5)


def test_a_connection_that_is_its_own_hooks_can_be_dropped(ends: Ends) -> None:
    if isinstance(ends.face, Looped):
        pytest.skip("a loop that runs in a thread of the test's keeps it a little longer")

    class Own(HasPacketConnection):
        def client(self, call: Any) -> None:
            return None

        server = client

        def __init__(self, stream: Any) -> None:
            super().__init__(stream, "own", rq_type_map={3: Put}, hooks=self)

    own = Own(ends._sockets[0])
    own.conn.open()
    dropped = weakref.ref(own.conn)
    with PacketConnection(ends._sockets[1]) as conn:
        assert conn(3, b"emma")[2] == b"EMMA"
        kept = [own]
        del own

        def drop() -> None:
            kept.clear()
            gc.collect()

        with pytest.warns(ResourceWarning, match="unclosed"):
            drop()
        assert dropped() is None
        assert conn.join(WATCHDOG)
