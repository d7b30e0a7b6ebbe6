"""Requests that are given up: the far end learns of it, whatever runs its handlers, and each is answered once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from packetwire import (
    AsyncPacketConnection,
    Packet,
    RequestCancelled,
    RequestReceived,
    RequestTimeout,
    Responder,
    current_request,
)
from packetwire.core.cancelled import SWEEP_FROM
from packetwire.core.statuses import StatusCode, flags_of

from .conftest import WATCHDOG, Ends, Looped

BEGUN = flags_of(StatusCode.CANCELLED, begun=True)
NOT_BEGUN = flags_of(StatusCode.CANCELLED, begun=False)
WAITS, QUICK = 1, 2


class Handler:
    """Blocks in requests of the type WAITS until they are given up, or `release` is set."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.has_begun = threading.Semaphore(0)
        self.ended: list[str] = []
        self.has_ended = threading.Semaphore(0)

    def __call__(self, rq_type: int, flags: int, payload: bytes) -> bytes:
        self.begun.append(payload)
        self.has_begun.release()
        if rq_type == WAITS:
            try:
                assert current_request().wait(WATCHDOG)
                self.ended.append("cancelled")
            finally:
                self.has_ended.release()
            current_request().check()
        return payload

    async def as_coroutine(self, rq_type: int, flags: int, payload: bytes) -> bytes:
        self.begun.append(payload)
        self.has_begun.release()
        if rq_type == WAITS:
            try:
                await asyncio.sleep(WATCHDOG)
            except asyncio.CancelledError:
                self.ended.append("cancelled")
                raise
            finally:
                self.has_ended.release()
        return payload


def agree(asker: Any) -> None:
    """Both ends know what the other understands."""
    asker.ping(WATCHDOG)


@pytest.fixture(params=["plain", "coroutine"])
def handler(request: pytest.FixtureRequest, face: Any) -> tuple[Handler, Callable[..., Any]]:
    made = Handler()
    if request.param == "plain":
        return made, made
    if not isinstance(face, Looped):
        pytest.skip("coroutines need a loop")
    return made, made.as_coroutine


def test_a_handler_that_runs_is_told(ends: Ends, handler: tuple[Handler, Any]) -> None:
    told, function = handler
    ends.open(request_handler=function)
    asker = ends.asker()
    agree(asker)
    result = asker.submit(WAITS, 0, b"one")
    assert told.has_begun.acquire(timeout=WATCHDOG)
    assert result.cancel(wait=WATCHDOG) is True
    assert result.response[:2] == (False, BEGUN)
    assert told.ended == ["cancelled"]
    assert asker(QUICK, b"after") == (True, 0, b"after")


def test_a_time_limit_that_passes_tells_it_too(ends: Ends, handler: tuple[Handler, Any]) -> None:
    told, function = handler
    ends.open(request_handler=function)
    asker = ends.asker()
    agree(asker)
    with pytest.raises(RequestTimeout):
        asker(WAITS, b"one", timeout=0.05)
    assert told.has_ended.acquire(timeout=WATCHDOG)
    assert told.ended == ["cancelled"]


def test_what_was_not_begun_never_begins(ends: Ends) -> None:
    told = Handler()
    ends.open(request_handler=told, handlers=1)
    asker = ends.asker()
    agree(asker)
    first = asker.submit(WAITS, 0, b"first")
    assert told.has_begun.acquire(timeout=WATCHDOG)
    queued = [asker.submit(QUICK, 0, b"%d" % i) for i in range(5)]
    assert [each.cancel(wait=WATCHDOG) for each in queued] == [False] * 5
    assert {each.response for each in queued} == {(False, NOT_BEGUN, b"cancelled")}
    assert first.cancel(wait=WATCHDOG) is True
    assert asker(QUICK, b"after") == (True, 0, b"after")
    assert told.begun == [b"first", b"after"]


def test_cancelled_requests_do_not_pile_up_in_a_queue(ends: Ends) -> None:
    told = Handler()
    conn = ends.open(request_handler=told, handlers=1)
    asker = ends.asker(max_outstanding=100_000)
    agree(asker)
    first = asker.submit(WAITS, 0, b"first")
    assert told.has_begun.acquire(timeout=WATCHDOG)
    for _ in range(10):
        for result in [asker.submit(QUICK, 0, b"") for _ in range(500)]:
            result.cancel()
    queues = conn._driver._queues if hasattr(conn._driver, "_queues") else [conn._driver._answering.workers.jobs]
    while conn._driver.engine.owed > 1:
        asker.ping(WATCHDOG)
    assert sum(map(len, queues)) <= 2 * SWEEP_FROM
    assert first.cancel(wait=WATCHDOG) is True
    assert asker(QUICK, b"after") == (True, 0, b"after")
    assert told.begun == [b"first", b"after"]


def test_a_responder_is_told_and_answers_all_the_same(ends: Ends) -> None:
    cancelled = threading.Event()
    responders: list[Responder] = []

    def handler(rq_type: int, flags: int, payload: bytes) -> Any:
        if rq_type == QUICK:
            return payload
        responder = Responder()
        responders.append(responder)
        responder.on_cancel(cancelled.set)
        return responder

    ends.open(request_handler=handler)
    asker = ends.asker()
    agree(asker)
    result = asker.submit(WAITS, 0, b"one")
    assert asker(QUICK, b"behind it") == (True, 0, b"behind it")
    asker._driver.tell_cancelled(0, result.tag, "no more")
    assert cancelled.wait(WATCHDOG)
    assert responders[0].cancelled
    responders[0].respond(b"late, but here")
    assert result() == (True, 0, b"late, but here")


def test_a_future_is_cancelled(ends: Ends) -> None:
    futures: list[Future[bytes]] = []

    def handler(rq_type: int, flags: int, payload: bytes) -> Any:
        if rq_type == QUICK:
            return payload
        futures.append(Future())
        return futures[-1]

    ends.open(request_handler=handler)
    asker = ends.asker()
    agree(asker)
    result = asker.submit(WAITS, 0, b"one")
    assert asker(QUICK, b"behind it") == (True, 0, b"behind it")
    assert result.cancel(wait=WATCHDOG) is True
    assert result.response[:2] == (False, BEGUN)
    assert futures[0].cancelled()


def test_a_handler_that_detaches_goes_on(ends: Ends) -> None:
    begun, release = threading.Event(), threading.Event()
    seen: list[object] = []

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        request = current_request()
        request.detach()
        begun.set()
        assert release.wait(WATCHDOG)
        seen.extend([request.cancelled, request.remaining()])
        request.check()
        return b"done"

    ends.open(request_handler=handler)
    asker = ends.asker()
    agree(asker)
    result = asker.submit(WAITS, 0, b"one", deadline=WATCHDOG)
    assert begun.wait(WATCHDOG)
    asker._driver.tell_cancelled(0, result.tag, "")
    asker.ping(WATCHDOG)
    release.set()
    assert result() == (True, 0, b"done")
    assert seen == [False, None]


def test_on_cancel_is_called_once(ends: Ends) -> None:
    begun, release = threading.Event(), threading.Event()
    calls: list[str] = []

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        request = current_request()
        request.on_cancel(lambda: calls.append("before"))
        begun.set()
        assert request.wait(WATCHDOG)
        request.on_cancel(lambda: calls.append("after"))
        release.wait(WATCHDOG)
        return b"done"

    ends.open(request_handler=handler)
    asker = ends.asker()
    agree(asker)
    result = asker.submit(WAITS, 0, b"one")
    assert begun.wait(WATCHDOG)
    asker._driver.tell_cancelled(0, result.tag, "")
    asker._driver.tell_cancelled(0, result.tag, "again")
    asker.ping(WATCHDOG)
    release.set()
    assert result() == (True, 0, b"done")
    assert calls == ["before", "after"]


def test_calls_of_a_handler_end_with_its_request(ends: Ends) -> None:
    """A handler that waits for a call of its own learns of it there."""
    outcome: list[BaseException] = []
    asked, ended = threading.Event(), threading.Event()

    def there(rq_type: int, flags: int, payload: bytes) -> bytes:
        asked.set()
        assert current_request().wait(WATCHDOG)
        ended.set()
        return b"too late"

    def plain(rq_type: int, flags: int, payload: bytes) -> bytes:
        try:
            ends.conn(WAITS)
        except BaseException as error:
            outcome.append(error)
            raise
        return b"not to be reached"

    async def coroutine(rq_type: int, flags: int, payload: bytes) -> bytes:
        try:
            await ends.conn(WAITS)
        except BaseException as error:
            outcome.append(error)
            raise
        return b"not to be reached"

    is_looped = isinstance(ends.face, Looped)
    ends.open(request_handler=coroutine if is_looped else plain)
    asker = ends.asker(request_handler=there)
    agree(asker)
    result = asker.submit(WAITS, 0, b"one")
    assert asked.wait(WATCHDOG)
    assert result.cancel(wait=WATCHDOG) is True
    assert result.response[:2] == (False, BEGUN)
    assert ended.wait(WATCHDOG)
    assert isinstance(outcome[0], asyncio.CancelledError if is_looped else RequestCancelled)


def test_a_cancelled_task_gives_its_request_up() -> None:
    async def main() -> None:
        told = Handler()
        import socket

        ours, theirs = socket.socketpair()
        with ours, theirs:
            async with (
                AsyncPacketConnection(theirs, request_handler=told.as_coroutine),
                AsyncPacketConnection(ours) as asking,
            ):
                await asking.ping(WATCHDOG)
                task = asyncio.create_task(asking(WAITS))
                while not told.begun:
                    await asyncio.sleep(0)
                task.cancel()
                while not told.ended:
                    await asyncio.sleep(0)
                assert await asking(QUICK, b"after") == (True, 0, b"after")

    asyncio.run(asyncio.wait_for(main(), WATCHDOG))


def test_a_map_that_is_left_early_gives_up_the_rest(ends: Ends) -> None:
    told = Handler()
    ends.open(request_handler=told, handlers=1)
    asker = ends.asker()
    agree(asker)
    mapped = asker.map([QUICK, WAITS, WAITS, WAITS])
    assert next(mapped) == (True, 0, b"")
    assert told.has_begun.acquire(timeout=WATCHDOG)
    assert told.has_begun.acquire(timeout=WATCHDOG)
    mapped.close()
    assert told.has_ended.acquire(timeout=WATCHDOG)
    assert asker(QUICK, b"after") == (True, 0, b"after")
    assert told.begun[-1] == b"after"


def test_an_old_peer_is_told_nothing(ends: Ends) -> None:
    ends.open()
    peer = ends.peer()

    def give_up() -> Any:
        return ends.conn(0, b"one", timeout=0.02)

    with pytest.raises(RequestTimeout):
        ends.do(give_up)
    assert peer.read() == Packet(is_request=True, channel=0, tag=2, flags=0, rq_type=1, payload=b"one")
    peer.send(Packet(is_request=False, channel=0, tag=2, flags=1, payload=b"late"))
    with pytest.raises(RequestTimeout):
        ends.do(give_up)
    assert peer.read() == Packet(is_request=True, channel=0, tag=3, flags=0, rq_type=1, payload=b"one")
    (result,) = ends.do(lambda: [ends.conn.submit(5)])
    assert peer.read().rq_type == 6, "and no frame before it"
    ends.do(lambda: result.cancel() and None)


def test_a_request_that_an_observer_has_taken(ends: Ends) -> None:
    cancelled = threading.Event()
    taken: list[Responder] = []

    def on_event(event: Any) -> None:
        if isinstance(event, RequestReceived) and event.rq_type == WAITS:
            taken.append(ends.conn.take(event))
            taken[-1].on_cancel(cancelled.set)

    ends.open(request_handler=lambda rq_type, flags, payload: payload, on_event=on_event)
    asker = ends.asker()
    agree(asker)
    result = asker.submit(WAITS)
    assert asker(QUICK, b"behind it") == (True, 0, b"behind it")
    asker._driver.tell_cancelled(0, result.tag, "")
    assert cancelled.wait(WATCHDOG)
    taken[0].respond(b"all the same")
    assert result() == (True, 0, b"all the same")
