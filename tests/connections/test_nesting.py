"""Who may wait for a connection in a thread that is inside packetwire's code: whom that has called, nobody else.

A handler or a callback that waits for an answer is inside packetwire's code again. What interrupts it there may not
wait; when that is over, the handler still may; and behind the handler whatever interrupts packetwire may not.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from threading import get_ident
from typing import Any

import pytest

import packetwire
from packetwire import ConnectionEnded, LocalProtocolError, PacketConnection
from packetwire.core.events import RequestReceived
from packetwire.core.packet import Packet
from packetwire.hosts.threads.nesting import OURS, USERS, as_ours, as_users, inside
from packetwire.testing import connection_pair

from .at_opcodes import Steps
from .interruptions import Alarm

pytestmark = pytest.mark.timeout(120)

WAIT = 20
"""Seconds until a test fails that else would hang."""
ANSWERED, REFUSED = "answered", "refused"
NESTED = [ANSWERED, REFUSED, ANSWERED, ANSWERED, REFUSED]

sees_opcodes = pytest.mark.skipif(
    sys.version_info >= (3, 12) or packetwire.compiled is True, reason="a trace function may see no opcodes there"
)


def attempt(conn: PacketConnection) -> str:
    """What comes of a call where this thread is now."""
    try:
        conn(0, timeout=WAIT)
    except LocalProtocolError as error:
        return REFUSED if "would wait for itself" in str(error) else str(error)
    return ANSWERED


class AmidWriting:
    """In the place of a capture: something comes while a thread writes, as a signal handler or a finalizer does."""

    def __init__(self) -> None:
        self.coming: dict[int, Callable[[], object]] = {}
        """What comes, once, by thread."""
        self.marks: list[object] = []
        """Of the threads that wrote."""

    def stream(self, stream: Any, name: str) -> Any:
        write_batch = stream.write_batch

        def interrupted(batch: Any) -> Any:
            self.marks.append(inside.get(get_ident()))
            self.coming.pop(get_ident(), lambda: None)()
            return write_batch(batch)

        stream.write_batch = interrupted
        return stream


class Dropped(str):
    """What a handler returns, or a callback: it is dropped behind that, in packetwire's code."""

    dropped: Callable[[], object]

    def __del__(self) -> None:
        self.dropped()


class Nested:
    """What a function does that is called on purpose, and what comes of its calls to another connection."""

    def __init__(self, other: PacketConnection, amid: AmidWriting) -> None:
        self.outcomes: list[str] = []
        self.is_over = threading.Event()
        self.other, self._amid = other, amid

    def __call__(self) -> Dropped:
        self.attempt()
        self._amid.coming[get_ident()] = self.attempt
        self.attempt()
        self.attempt()
        return self.end()

    def attempt(self) -> None:
        self.outcomes.append(attempt(self.other))

    def end(self) -> Dropped:
        """For the function to return: one more, when that is dropped."""
        result = Dropped()
        result.dropped = self._end
        return result

    def _end(self) -> None:
        self.attempt()
        self.is_over.set()


@contextmanager
def nested() -> Iterator[Nested]:
    amid = AmidWriting()
    with connection_pair(a={"capture": amid}, b={"request_handler": lambda *request: None}) as (other, _):
        yield Nested(other, amid)


@pytest.mark.parametrize("settings", [{}, {"handlers": 1}, {"handlers": "inline"}, {"trace_log": print}], ids=str)
def test_a_handler(settings: dict[str, Any]) -> None:
    with nested() as use, connection_pair(b={"request_handler": lambda *request: use(), **settings}) as (a, _):
        assert a(0, timeout=WAIT)[0]
        assert use.is_over.wait(WAIT)
    assert use.outcomes == NESTED


def test_a_receiver() -> None:
    with nested() as use, connection_pair() as (a, b):

        def receive(event: Any) -> Any:
            return use() if isinstance(event, RequestReceived) else None

        b.attach(16, receive)
        assert a(0, channel=16, timeout=WAIT)[0]
        assert use.is_over.wait(WAIT)
    assert use.outcomes == NESTED


@pytest.mark.usefixtures("plain_streams")
@pytest.mark.parametrize("observer", ["on_event", "trace_log"])
def test_an_observer(observer: str) -> None:
    """What it returns is dropped where it is called, still on purpose."""
    uses: list[Nested] = []

    def observe(*what: Any) -> Any:
        return uses.pop()() if uses else None

    settings = {observer: observe, "request_handler": lambda *request: None}
    with nested() as use, connection_pair(b=settings) as (a, _):
        uses.append(use)
        assert a(0, timeout=WAIT)[0]
        assert use.is_over.wait(WAIT)
    assert use.outcomes[:4] == NESTED[:4]


def test_a_function_that_decodes_in_a_handler() -> None:
    with nested() as use, connection_pair(b={"request_handler": lambda *request: None}) as (asked, _):

        def handle(*request: Any) -> Any:
            return asked.submit(0, decode_response=lambda flags, payload: use())(timeout=WAIT)[2]

        with connection_pair(b={"request_handler": handle}) as (a, _):
            assert a(0, timeout=WAIT)[0]
            assert use.is_over.wait(WAIT)
    assert use.outcomes == NESTED


def test_a_callback_in_a_thread_that_reads_for_itself() -> None:
    added, used, idents = threading.Event(), threading.Event(), []

    def handle(rq_type: int, flags: int, payload: bytes) -> None:
        assert (used if payload else added).wait(WAIT)

    with nested() as use, connection_pair(b={"request_handler": handle}) as (a, _):

        def called_back(result: Any) -> Any:
            idents.append(get_ident())
            try:
                return use()
            finally:
                used.set()

        for _ in range(100):
            result = a.submit(0)
            result.notify(called_back)
            added.set()
            assert a(0, b"waits", timeout=WAIT)[0]
            assert use.is_over.wait(WAIT)
            assert use.outcomes == NESTED
            if get_ident() in idents:  # and not a worker that was first
                break
            use.outcomes.clear()
            for event in (use.is_over, added, used):
                event.clear()
        assert get_ident() in idents
        assert attempt(use.other) == ANSWERED


def test_a_signal_handler_while_a_call_writes() -> None:
    """It may submit, and still no more than that when the handler of the signal has used both connections."""
    outcomes: list[str] = []
    amid = AmidWriting()
    answers = {"request_handler": lambda *request: None}
    with connection_pair(b=answers) as (other, _), connection_pair(a={"capture": amid}, b=answers) as (conn, _):

        def handler(number: int, frame: Any) -> None:
            for each in (conn, other, conn, other):
                outcomes.append(attempt(each))
                results.append(each.submit(0))

        results: list[Any] = []
        before = signal.signal(signal.SIGUSR1, handler)
        try:
            amid.coming[get_ident()] = lambda: signal.raise_signal(signal.SIGUSR1)
            assert attempt(conn) == ANSWERED
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert outcomes == [REFUSED] * 4
        assert all(result(timeout=WAIT)[0] for result in results)
        assert [attempt(each) for each in (conn, other)] == [ANSWERED] * 2


@pytest.mark.skipif(packetwire.compiled is True, reason="what is compiled cannot be replaced")
def test_what_comes_while_a_result_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[str] = []
    come = threading.Event()

    def handle(*request: Any) -> None:
        assert come.wait(WAIT)

    with nested() as use, connection_pair(b={"request_handler": handle}) as (conn, _):
        assert conn._driver is not None
        reading = conn._driver._reading
        lead = reading.lead

        def interrupted(*waiting: Any) -> bool:
            outcomes.append(attempt(use.other))
            come.set()
            return lead(*waiting)

        monkeypatch.setattr(reading, "lead", interrupted)
        assert conn.submit(0)(timeout=WAIT)[0]
        outcomes.append(attempt(use.other))
    assert outcomes == [REFUSED, ANSWERED]


def test_an_observer_of_what_was_read_before_cannot_wait() -> None:
    """The connection is being opened by this very thread."""
    outcomes: list[str] = []

    def observe(event: Any) -> None:
        if isinstance(event, RequestReceived):
            outcomes.append(attempt(conn))

    with connection_pair(b={"request_handler": lambda *request: None}) as (a, b):
        del a, b
    request = bytes(Packet(is_request=True, channel=0, tag=1, flags=0, rq_type=1, payload=b""))
    reads, writes = os.pipe()
    answers, theirs = os.pipe()
    try:
        conn = PacketConnection((reads, theirs), on_event=observe, leading_octets=request, close_timeout=0.1)
        with conn:
            assert outcomes == [REFUSED]
    finally:
        for fd in (reads, writes, answers, theirs):
            os.close(fd)


def test_in_a_fork_no_other_thread_is_inside() -> None:
    """The numbers of the parent's threads are given to others there."""
    answers = {"request_handler": lambda *request: None}
    with connection_pair(a=answers, b=answers) as (a, _):
        a(0, timeout=WAIT)
        assert inside
        pid = os.fork()
        if not pid:
            os._exit(len(inside))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_threads_that_have_ended_are_not_inside() -> None:
    before = set(inside)
    answers = {"request_handler": lambda *request: None}
    with connection_pair(a=answers, b=answers) as (a, b):
        for conn in (a, b):
            conn(0, timeout=WAIT)
        assert set(inside) > before
    assert set(inside) == before


# exceptions at each instruction


def raises() -> None:
    raise ValueError


@sees_opcodes
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, Alarm])
@pytest.mark.parametrize("called", [lambda: None, raises], ids=["returns", "raises"])
@pytest.mark.parametrize("call", [as_ours, as_users])
@pytest.mark.parametrize("outer", [None, OURS, USERS], ids=["outside", "in ours", "in a user's"])
def test_the_mark_is_put_back(
    outer: bool | None, call: Any, called: Callable[[], None], interruption: type[BaseException]
) -> None:
    def interrupt() -> None:
        raise interruption

    def try_all() -> None:
        me, place = get_ident(), "none yet"
        while place is not None:
            if outer is not None:
                inside[me] = outer
            steps = Steps(len(found) + 1, interrupt)
            try:
                with steps.counted():
                    call(called)
            except (ValueError, interruption):
                pass
            place = steps.place
            found.append((place, inside.pop(me, None)))

    # in a thread: Python may go on to count an exception as being handled that another one has interrupted
    found: list[tuple[str | None, object]] = []
    thread = threading.Thread(target=try_all)
    thread.start()
    thread.join(WAIT)
    assert len(found) > 10
    assert [(place, mark) for place, mark in found if mark is not outer] == []


@sees_opcodes
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, Alarm])
def test_a_call_in_a_handler_that_is_interrupted(interruption: type[BaseException]) -> None:
    """Behind it the handler may wait as before, and what interrupts packetwire's code may not."""
    outcomes: list[str] = []
    places: list[str | None] = []
    at = 0

    def interrupt() -> None:
        raise interruption

    def be_interrupted() -> None:
        steps = Steps(at, interrupt, hits=1)
        reads = SimpleQueue[None]()  # no event: it has a lock, and is in Python
        # one may have ended, and the other one waits for it
        answering = {"request_handler": lambda *request: reads.put(reads.get(timeout=WAIT)), "close_timeout": 0.005}
        with connection_pair(b=answering) as (asked, _):
            assert asked._driver is not None
            reading = asked._driver._reading
            lead = reading.lead

            def lead_for_answer(*waiting: Any) -> bool:
                reads.put(None)
                return lead(*waiting)

            reading.lead = lead_for_answer  # type: ignore[method-assign]
            try:
                with steps.counted():
                    asked.submit(0)(timeout=WAIT)
                    asked(0, timeout=WAIT)
            except (interruption, ConnectionEnded):
                reads.put(None)
            with suppress(ConnectionEnded):
                outcomes.append(attempt(asked))
        places.append(steps.place)

    def handle(*_: Any) -> Any:
        be_interrupted()
        use.attempt()

    # not by what is dropped: an exception that is kept has all the frames
    amid = AmidWriting()
    with nested() as use, connection_pair(b={"request_handler": handle, "capture": amid}) as (a, _):
        for at in range(1 + random.randrange(29), 3000, 29):
            assert a(0, timeout=WAIT)[0]
            assert {*outcomes, use.outcomes.pop()} == {ANSWERED}, f"at {at}: {places[-1]}"
            assert amid.marks.pop() == OURS, f"at {at}: {places[-1]}"
            if places[-1] is None:
                break
    assert len(places) > 20
