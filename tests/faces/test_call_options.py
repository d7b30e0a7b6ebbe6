"""Deadlines, progress and metadata of calls, on both faces."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from packetwire import (
    CapabilityMissing,
    DeadlineExceeded,
    LocalProtocolError,
    Packet,
    PacketConnection,
    RequestTimeout,
    current_request,
)
from packetwire.core.statuses import StatusCode, flags_of

from .conftest import WATCHDOG, Ends, Looped


def echo(rq_type: int, flags: int, payload: bytes) -> bytes:
    return payload


def asking(ends: Ends, handler: Any, **settings: Any) -> Any:
    """A connection of the face that asks one of threads with this handler."""
    conn = ends.open(**settings)
    ends.asker(request_handler=handler)
    return conn


def test_metadata_and_deadline_reach_the_handler(ends: Ends) -> None:
    seen: list[Any] = []

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        request = current_request()
        seen.append((dict(request.meta), request.remaining(), request.rq_type, request.channel, request.tag))
        return payload

    asking(ends, handler)
    assert ends.call(5, b"x", meta={"user": b"emma"}, deadline=WATCHDOG) == (True, 0, b"x")
    assert ends.call(6, b"y") == (True, 0, b"y")
    (meta, remaining, *rest), plain = seen
    assert meta == {"user": b"emma"}
    assert 0 < remaining <= WATCHDOG
    assert rest == [5, 0, 2]
    assert plain == ({}, None, 6, 0, 3)


def test_the_same_at_the_other_end(ends: Ends) -> None:
    seen: list[Any] = []

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        seen.append((dict(current_request().meta), current_request().peer.software))
        return payload

    ends.open(request_handler=handler)
    asker = ends.asker()
    assert asker(5, b"x", meta={"user": b"emma"}) == (True, 0, b"x")
    assert seen[0][0] == {"user": b"emma"}
    assert seen[0][1].startswith("packetwire ")


def test_a_coroutine_knows_its_request_and_its_tasks_do(ends: Ends) -> None:
    if not isinstance(ends.face, Looped):
        pytest.skip("coroutines need a loop")
    import asyncio

    async def look() -> bytes:
        await asyncio.sleep(0)
        return current_request().meta["k"]

    async def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        first = current_request().meta["k"]
        async with asyncio.TaskGroup() as group:
            task = group.create_task(look())
        return first + task.result() + current_request().meta["k"]

    ends.open(request_handler=handler)
    assert ends.asker()(5, meta={"k": b"v"}) == (True, 0, b"vvv")


def test_a_deadline_that_passes(ends: Ends) -> None:
    begun, over, release = threading.Event(), threading.Event(), threading.Event()

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        begun.set()
        assert current_request().wait(WATCHDOG)
        over.set()
        assert release.wait(WATCHDOG)  # else the response may come in time
        return payload

    asking(ends, handler)
    ends.do(lambda: ends.conn.ping(WATCHDOG))
    with pytest.raises(DeadlineExceeded, match="no response before the deadline") as caught:
        ends.call(5, deadline=0.5)
    assert isinstance(caught.value, RequestTimeout)
    assert isinstance(caught.value, TimeoutError)
    assert begun.wait(WATCHDOG)
    assert over.wait(WATCHDOG)
    release.set()


def test_what_is_too_late_is_not_begun(ends: Ends) -> None:
    begun: list[int] = []
    first, release = threading.Event(), threading.Event()

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        begun.append(rq_type)
        first.set()
        assert release.wait(WATCHDOG)
        return payload

    ends.open(request_handler=handler, handlers=1)
    asker = ends.asker()
    held = asker.submit(1)
    assert first.wait(WATCHDOG)
    late = asker.submit(2, deadline=0.05)
    asker.ping(WATCHDOG)  # behind it: so it has been read
    (context,) = (each for each in ends.conn._driver.engine.contexts.values() if each.deadline is not None)
    while not context.is_over(time.monotonic()):
        time.sleep(0.001)
    release.set()
    assert held() == (True, 0, b"")
    ok, flags, _ = asker._driver.wait_for(late, None) and late.response
    assert (ok, flags) == (False, flags_of(StatusCode.DEADLINE, begun=False))
    assert begun == [1]


def test_calls_of_a_handler_inherit_its_deadline(ends: Ends) -> None:
    seen: list[Any] = []

    def there(rq_type: int, flags: int, payload: bytes) -> bytes:
        seen.append(current_request().remaining())
        return payload

    def plain(rq_type: int, flags: int, payload: bytes) -> bytes:
        for options in ({}, {"deadline": None}, {"deadline": 5.0}, {"deadline": 1000.0}):
            ends.conn(1, **options)  # type: ignore[arg-type]
        return payload

    async def coroutine(rq_type: int, flags: int, payload: bytes) -> bytes:
        for options in ({}, {"deadline": None}, {"deadline": 5.0}, {"deadline": 1000.0}):
            await ends.conn(1, **options)
        return payload

    ends.open(request_handler=coroutine if isinstance(ends.face, Looped) else plain)
    asker = ends.asker(request_handler=there)
    assert asker(5, deadline=WATCHDOG) == (True, 0, b"")
    inherited, none, own, smaller = seen
    assert 0 < inherited <= WATCHDOG
    assert none is None
    assert 0 < own <= 5
    assert 0 < smaller <= WATCHDOG


def test_a_nested_call_ends_by_the_outer_deadline(ends: Ends) -> None:
    outcome: list[BaseException] = []
    release = threading.Event()

    def there(rq_type: int, flags: int, payload: bytes) -> bytes:
        release.wait(WATCHDOG)
        return payload

    def plain(rq_type: int, flags: int, payload: bytes) -> bytes:
        try:
            ends.conn(1)
        except BaseException as error:
            outcome.append(error)
            raise
        return payload

    async def coroutine(rq_type: int, flags: int, payload: bytes) -> bytes:
        try:
            await ends.conn(1)
        except BaseException as error:
            outcome.append(error)
            raise
        return payload

    ends.open(request_handler=coroutine if isinstance(ends.face, Looped) else plain)
    asker = ends.asker(request_handler=there)
    with pytest.raises(DeadlineExceeded):
        asker(5, deadline=0.2)
    asker.close(0.1)
    release.set()
    while not outcome:
        time.sleep(0.001)
    assert outcome, "it ended by the deadline, by CANCEL or with the connection, whichever came first"


def test_progress(ends: Ends) -> None:
    got: list[bytes] = []
    has_come = threading.Event()

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        request = current_request()
        assert request.progress(b"begun") is (rq_type == 5)
        if rq_type == 5:
            assert has_come.wait(WATCHDOG)
        return payload

    def on_progress(payload: bytes) -> None:
        got.append(payload)
        has_come.set()

    asking(ends, handler)
    assert ends.call(5, b"x", on_progress=on_progress) == (True, 0, b"x")
    assert got == [b"begun"]
    assert ends.call(6, b"y") == (True, 0, b"y")


def test_progress_keeps_an_idle_call_alive(ends: Ends) -> None:
    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        request = current_request()
        end = time.monotonic() + 0.8
        while time.monotonic() < end and rq_type == 5:
            request.progress()
            request.wait(0.01)
        assert rq_type == 5 or request.wait(WATCHDOG)
        return payload

    asking(ends, handler)
    assert ends.call(5, b"x", idle_timeout=0.5) == (True, 0, b"x")
    with pytest.raises(RequestTimeout, match="neither response nor progress"):
        ends.call(6, b"y", idle_timeout=0.1)


def test_an_exception_of_on_progress_is_logged(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        current_request().progress(b"x")
        return payload

    def on_progress(payload: bytes) -> None:
        raise ValueError("of a test")

    asking(ends, handler)
    assert ends.call(5, on_progress=on_progress) == (True, 0, b"")
    ends.call(6)
    while not any("of a test" in str(record.exc_info) for record in caplog.records):
        time.sleep(0.001)


@pytest.mark.parametrize(
    "options",
    [{"deadline": 5.0}, {"meta": {"k": b"v"}}, {"on_progress": print}, {"idle_timeout": 5.0}],
    ids=lambda options: next(iter(options)),
)
def test_an_old_peer_does_not_understand_it(ends: Ends, options: dict[str, Any]) -> None:
    ends.open(capabilities="passive")
    peer = ends.peer()
    with pytest.raises(CapabilityMissing, match=f"a request with {next(iter(options))}"):
        ends.call(5, **options)
    peer.send(Packet(is_request=True, channel=0, tag=2, flags=0, rq_type=1))
    assert not peer.read().is_request, "and nothing was sent before this"


def test_with_capabilities_off_there_are_none(ends: Ends) -> None:
    ends.open(capabilities="off")
    ends.asker(request_handler=echo)
    with pytest.raises(CapabilityMissing, match="capabilities='off'"):
        ends.call(5, deadline=5.0)
    assert ends.call(5, b"x") == (True, 0, b"x")
    assert ends.conn.peer is None


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"deadline": "5"}, TypeError),
        ({"deadline": float("nan")}, LocalProtocolError),
        ({"idle_timeout": "5"}, TypeError),
        ({"meta": {"k": "v"}}, TypeError),
        ({"meta": {"k": bytes(5000)}}, LocalProtocolError),
        ({"dead_line": 5.0}, TypeError),
    ],
    ids=repr,
)
def test_options_that_make_no_sense(ends: Ends, options: dict[str, Any], error: type[Exception]) -> None:
    asking(ends, echo)
    with pytest.raises(error):
        ends.call(5, **options)
    assert ends.conn.outstanding == 0


def test_there_is_no_current_request_elsewhere() -> None:
    with pytest.raises(LocalProtocolError, match="for handlers of requests"):
        current_request()


def test_a_map_takes_options(ends: Ends) -> None:
    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        return current_request().meta["k"]

    ends.open(request_handler=handler)
    asker: PacketConnection = ends.asker()
    assert list(asker.map([1, 2, 3], meta={"k": b"v"})) == [(True, 0, b"v")] * 3


SILENT = {
    "once": (lambda conn: conn(5, once=True, timeout=0.05), RequestTimeout),
    "once, submitted": (lambda conn: submitted(conn, once=True, timeout=0.05), RequestTimeout),
    "meta": (lambda conn: conn(5, meta={"k": b"v"}, timeout=0.05), RequestTimeout),
    "deadline": (lambda conn: conn(5, deadline=0.05), DeadlineExceeded),
    "deadline, submitted": (lambda conn: submitted(conn, deadline=0.05), DeadlineExceeded),
    "a body": (lambda conn: conn(5, body=b"x", timeout=0.05), RequestTimeout),
    "a body with a deadline": (lambda conn: conn(5, body=b"x", deadline=0.05), DeadlineExceeded),
    "a body, submitted": (lambda conn: submitted(conn, body=b"x", timeout=0.05), RequestTimeout),
    "a body with a deadline, submitted": (
        lambda conn: submitted(conn, body=b"x", deadline=0.05),
        DeadlineExceeded,
    ),
    "a body to join": (lambda conn: conn(5, body=b"x", fallback="join", timeout=0.05), RequestTimeout),
    "a stream": (lambda conn: streamed(conn, timeout=0.05), RequestTimeout),
    "a stream with a deadline": (lambda conn: streamed(conn, deadline=0.05), DeadlineExceeded),
    "ping": (lambda conn: conn.ping(0.05), RequestTimeout),
    "describe": (lambda conn: conn.describe(0.05), RequestTimeout),
    "drain_peer": (lambda conn: conn.drain_peer(0.05), RequestTimeout),
}
"""Calls that need a peer's capabilities, and what they raise if it does not say any in time."""


def submitted(conn: Any, **options: Any) -> Any:
    """The response to a request that was submitted."""
    result = conn.submit(5, **options)
    return result() if isinstance(conn, PacketConnection) else result


def streamed(conn: Any, **options: Any) -> Any:
    """Begin a stream."""
    call = conn.stream(5, **options)
    return call.__enter__() if isinstance(conn, PacketConnection) else call.__aenter__()


@pytest.mark.parametrize("name", SILENT)
def test_a_peer_that_is_slow_to_say_what_it_understands(ends: Ends, name: str) -> None:
    call, error = SILENT[name]
    conn = ends.open()
    ends.peer()
    with pytest.raises(error, match="the peer has not said yet what it understands") as caught:
        ends.do(lambda: call(conn))
    assert type(caught.value) is error
