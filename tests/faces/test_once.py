"""Calls that are done once, however often they come: over one connection, and over those of a pool."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packetwire import (
    CapabilityMissing,
    ConnectionEnded,
    Dedup,
    PacketConnection,
    RequestFailed,
    Responder,
    current_request,
    serve,
)
from packetwire.aio.pool import AsyncPool, AsyncReconnecting
from packetwire.core.requestids import RequestId
from packetwire.core.statuses import StatusCode
from packetwire.pool import Backoff, Pool, Reconnecting

from .conftest import WATCHDOG, Ends, Looped

pytestmark = pytest.mark.timeout(60)

SOON = Backoff(0.01, 0.05)


class Work:
    """Handlers of all kinds, which count how often they are called."""

    def __init__(self) -> None:
        self.done: list[bytes] = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.responders: list[Responder] = []

    def plain(self, rq_type: int, flags: int, payload: bytes) -> tuple[int, bytes]:
        self.done.append(payload)
        return len(self.done), payload

    def bytearray(self, rq_type: int, flags: int, payload: bytes) -> Any:
        return 1, bytearray(self.plain(rq_type, flags, payload)[1])

    def deferred(self, rq_type: int, flags: int, payload: bytes) -> Responder:
        responder = Responder()
        responder.respond(self.plain(rq_type, flags, payload))
        return responder

    async def coroutine(self, rq_type: int, flags: int, payload: bytes) -> tuple[int, bytes]:
        return self.plain(rq_type, flags, payload)

    def of_coroutine(self, rq_type: int, flags: int, payload: bytes) -> Any:
        return self.coroutine(rq_type, flags, payload)

    def waiting(self, rq_type: int, flags: int, payload: bytes) -> tuple[int, bytes]:
        result = self.plain(rq_type, flags, payload)
        self.begun.set()
        self.go_on.wait(WATCHDOG)
        return result

    def waiting_deferred(self, rq_type: int, flags: int, payload: bytes) -> Responder:
        self.plain(rq_type, flags, payload)
        self.responders.append(Responder())
        self.begun.set()
        return self.responders[-1]


KINDS = ["plain", "bytearray", "deferred"]
COROUTINES = ["coroutine", "of_coroutine"]


@pytest.fixture
def work() -> Work:
    return Work()


def asker_of(ends: Ends, handler: Callable[..., Any], **options: Any) -> PacketConnection:
    options.setdefault("dedup", Dedup())
    ends.open(request_handler=handler, **options)
    return ends.asker()


def again(attempt: int, number: int = 100) -> Any:
    """The same request, once more."""
    return RequestId(number, attempt)


@pytest.mark.parametrize("kind", KINDS + COROUTINES)
def test_a_request_that_comes_again_is_answered_as_before(ends: Ends, work: Work, kind: str) -> None:
    if kind in COROUTINES and not isinstance(ends.face, Looped):
        pytest.skip("threads run no coroutines")
    asker = asker_of(ends, getattr(work, kind))
    for attempt in (1, 2, 3):
        assert asker(5, b"a", once=again(attempt)) == (True, 1, b"a")
    assert work.done == [b"a"]
    assert asker(5, b"b", once=again(1, 101))[2] == b"b"
    assert asker(5, b"c")[2] == asker(5, b"c")[2] == b"c"  # these have no ids
    assert work.done == [b"a", b"b", b"c", b"c"]


def test_inline(ends: Ends, work: Work) -> None:
    asker = asker_of(ends, work.plain, handlers="inline")
    for attempt in (1, 2):
        assert asker(5, b"a", once=again(attempt)) == (True, 1, b"a")
    assert work.done == [b"a"]


def test_each_call_has_an_id_of_its_own(ends: Ends) -> None:
    seen: list[Any] = []

    def handler(rq_type: int, flags: int, payload: bytes) -> None:
        seen.append(current_request().request_id)

    asker = asker_of(ends, handler)
    for _ in range(2):
        asker(5, once=True)
    asker(5, once=False)
    assert seen == [RequestId(1, 1), RequestId(2, 1), None]
    with pytest.raises(TypeError, match="once must be True or False, got int"):
        asker(5, once=1)


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("a")])
def test_a_failure_is_told_again(ends: Ends, error: Exception) -> None:
    done = []

    def handler(rq_type: int, flags: int, payload: bytes) -> None:
        done.append(payload)
        raise error

    asker = asker_of(ends, handler)
    first, second = (asker(5, b"a", once=again(attempt)) for attempt in (1, 2))
    assert first == second
    assert not first[0]
    assert done == [b"a"]


def test_a_request_that_is_under_way_is_waited_for(ends: Ends, work: Work) -> None:
    asker = asker_of(ends, work.waiting)
    results = [asker.submit(5, 0, b"a", once=again(attempt)) for attempt in (1, 2, 3)]
    assert work.begun.wait(WATCHDOG)
    asker.ping(WATCHDOG)
    work.go_on.set()
    assert [result(timeout=WATCHDOG) for result in results] == [(True, 1, b"a")] * 3
    assert work.done == [b"a"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_deferred_result_is_waited_for(ends: Ends, work: Work, fails: bool) -> None:
    asker = asker_of(ends, work.waiting_deferred)
    results = [asker.submit(5, 0, b"a", once=again(attempt)) for attempt in (1, 2)]
    assert work.begun.wait(WATCHDOG)
    asker.ping(WATCHDOG)
    (responder,) = work.responders
    if fails:
        ends.do(lambda: responder.fail("no"))
        assert {result(timeout=WATCHDOG) for result in results} == {(False, 0, b"no")}
        assert asker(5, b"a", once=again(3)) == (False, 0, b"no")
    else:
        ends.do(lambda: responder.respond(b"late"))
        assert {result(timeout=WATCHDOG) for result in results} == {(True, 0, b"late")}
        assert asker(5, b"a", once=again(3)) == (True, 0, b"late")


def test_a_cancelled_request_tells_its_deferred_result(ends: Ends, work: Work) -> None:
    told = threading.Event()

    def handler(rq_type: int, flags: int, payload: bytes) -> Responder:
        responder = work.waiting_deferred(rq_type, flags, payload)
        responder.on_cancel(told.set)
        return responder

    asker = asker_of(ends, handler)
    result = asker.submit(5, 0, b"a", once=again(1))
    assert work.begun.wait(WATCHDOG)
    result.cancel()
    assert told.wait(WATCHDOG)


STREAMED: dict[str, Any] = {
    "generator": lambda: (bytes([each]) for each in b"abc"),
    "iterator": lambda: iter([b"ab", b"c"]),
    "file": lambda: io.BytesIO(b"abc"),
}


@pytest.mark.parametrize("kind", [*STREAMED, "coroutine", "coroutine with a file", "asynchronous generator"])
def test_what_a_handler_streams_is_kept_whole(ends: Ends, kind: str) -> None:
    done: list[bytes] = []

    def plain(rq_type: int, flags: int, payload: bytes) -> Any:
        done.append(payload)
        return STREAMED[kind]()

    async def coroutine(rq_type: int, flags: int, payload: bytes) -> Any:
        done.append(payload)
        return STREAMED["file" if kind == "coroutine with a file" else "generator"]()

    async def generated(rq_type: int, flags: int, payload: bytes) -> Any:
        done.append(payload)
        yield b"ab"
        yield b"c"

    if kind not in STREAMED and not isinstance(ends.face, Looped):
        pytest.skip("threads run no coroutines")
    handler = plain if kind in STREAMED else generated if kind == "asynchronous generator" else coroutine
    asker = asker_of(ends, handler)
    for attempt in (1, 2):
        assert asker(5, b"x", once=again(attempt)) == (True, 0, b"abc")
    assert done == [b"x"]
    assert asker(5, b"y") == (True, 0, b"abc")  # as ever


def endless() -> Any:
    while True:
        yield bytes(1000)


@pytest.mark.parametrize("kind", ["plain", "asynchronous"])
def test_what_is_streamed_without_end_is_refused(ends: Ends, kind: str) -> None:
    def plain(rq_type: int, flags: int, payload: bytes) -> Any:
        return endless()

    async def asynchronous(rq_type: int, flags: int, payload: bytes) -> Any:
        for chunk in endless():
            yield chunk

    if kind != "plain" and not isinstance(ends.face, Looped):
        pytest.skip("threads run no coroutines")
    asker = asker_of(ends, plain if kind == "plain" else asynchronous, dedup=Dedup(size=10_000))
    for attempt in (1, 2):
        ok, _, text = asker(5, b"x", once=again(attempt))
        assert not ok
        assert b"the caller takes no body, and this is more than 10000 bytes" in text


def test_one_whose_result_is_gone_is_refused(ends: Ends, work: Work) -> None:
    asker = asker_of(ends, work.plain, dedup=Dedup(results=1))
    for number in (100, 101):
        asker(5, b"a", once=again(1, number))
    ok, flags, payload = asker(5, b"a", once=again(2))
    assert not ok
    failure = asker.failure(flags, payload)
    assert isinstance(failure, RequestFailed)
    assert (failure.code, failure.begun) == (StatusCode.REPEATED, True)
    assert failure.text == "this request was sent before, and its result is not kept any more"
    assert len(work.done) == 2


def test_a_service_without_memory(ends: Ends, work: Work) -> None:
    asker = asker_of(ends, work.plain, dedup=None)
    with pytest.raises(CapabilityMissing, match="a request with once: the peer's service has no Dedup"):
        asker(5, b"a", once=True)
    assert work.done == []


def test_what_is_no_memory(face: Any) -> None:
    with pytest.raises(TypeError, match="dedup must be a Dedup"):
        face.make(None, dedup=True)
    with pytest.raises(TypeError, match="dedup must be a Dedup"):
        face.make(None, dedup=Dedup)


# a pool


class Breaking:
    """A service at a Unix socket whose connections end while a request is under way, the first times."""

    def __init__(self, path: Path, breaks: int) -> None:
        self.address = f"unix:{path}"
        self.dedup = Dedup()
        self.done: list[bytes] = []
        self._breaks = breaks
        self._sockets: list[Any] = []
        self._lock = threading.Lock()

    def session(self, recv_send: Any) -> PacketConnection:
        self._sockets.append(recv_send)
        return PacketConnection(recv_send, request_handler=self._handle, dedup=self.dedup, close_timeout=0.1)

    def _handle(self, rq_type: int, flags: int, payload: bytes) -> bytes:
        self.done.append(payload)
        with self._lock:
            self._breaks -= 1
            breaks = self._breaks >= 0
        if breaks:
            self._cut(self._sockets[-1])
        return payload

    def _cut(self, recv_send: Any) -> None:
        fd = recv_send.fileno() if hasattr(recv_send, "fileno") else recv_send.read_fd
        with socket.socket(fileno=socket.dup(fd)) as sock:
            sock.shutdown(socket.SHUT_RDWR)


def opened(ends: Ends, made: Any) -> Any:
    if isinstance(ends.face, Looped):
        ends._stack.enter_context(ends.face.opened(made))
        return made
    return ends._stack.enter_context(made)


def test_a_pool_repeats_what_is_done_once(ends: Ends, tmp_path: Path) -> None:
    service = Breaking(tmp_path / "s", 1)
    kind = AsyncReconnecting if isinstance(ends.face, Looped) else Reconnecting
    with serve(service.address, service.session, drain_timeout=0.1):
        pool = opened(ends, kind(service.address, backoff=SOON))
        assert ends.do(lambda: pool(5, b"a", once=True, timeout=WATCHDOG)) == (True, 0, b"a")
        assert ends.do(lambda: pool(5, b"b", once=True, timeout=WATCHDOG)) == (True, 0, b"b")
    assert service.done == [b"a", b"b"]


def test_another_service_is_not_asked_again(ends: Ends, tmp_path: Path) -> None:
    """It does not know whether the first one has done it."""
    services = [Breaking(tmp_path / name, 1) for name in "ab"]
    kind = AsyncPool if isinstance(ends.face, Looped) else Pool
    with (
        serve(services[0].address, services[0].session, drain_timeout=0.1),
        serve(services[1].address, services[1].session, drain_timeout=0.1),
    ):
        pool = opened(ends, kind([each.address for each in services], backoff=SOON))
        with pytest.raises(ConnectionEnded) as caught:
            ends.do(lambda: pool(5, b"a", once=True, timeout=WATCHDOG))
    assert caught.value.begun is None
    assert sum(len(each.done) for each in services) == 1
