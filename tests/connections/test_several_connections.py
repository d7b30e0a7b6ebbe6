"""Calls to and fro over several connections: a handler that waits for another connection holds up neither."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from packetwire import PacketConnection, RequestTimeout, Responder
from packetwire.testing import connection_pair

pytestmark = pytest.mark.timeout(60)

WAIT = 20
"""Seconds until a test fails that else would hang."""
PLAIN, INLINE = 0, 1
HANDLERS = (1, 4)
DEPTHS = (2, 3, 10, 100)

Pairs = list[tuple[PacketConnection, PacketConnection]]


def run_all(functions: list[Callable[[], object]]) -> list[Any]:
    """What they return, each in a thread of its own; raises what one raises."""
    outcomes: list[Any] = [TimeoutError("it hangs")] * len(functions)

    def keep(number: int) -> None:
        try:
            outcomes[number] = functions[number]()
        except BaseException as error:
            outcomes[number] = error

    threads = [threading.Thread(target=keep, args=(number,), daemon=True) for number in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


@contextmanager
def pairs(count: int, handler: Any, **settings: Any) -> Iterator[Pairs]:
    """So many pairs of connections, all of whose ends have this handler, which is given the numbers of both."""

    def bound(number: int, end: int) -> Any:
        return lambda rq_type, flags, payload: handler(number, end, rq_type, payload)

    with ExitStack() as stack:
        yield [
            stack.enter_context(
                connection_pair(
                    {"request_handler": bound(number, 0), **settings},
                    {"request_handler": bound(number, 1), **settings},
                )
            )
            for number in range(count)
        ]


class Chain:
    """Each handler asks back over the next connection, as often as the request says."""

    def __init__(self, opened: Pairs | None = None) -> None:
        self.pairs: Pairs = opened or []

    def __call__(self, number: int, end: int, rq_type: int, payload: bytes) -> bytes:
        left = int(payload)
        if not left:
            return b"end"
        following = (number + 1) % len(self.pairs)
        ok, _, reply = self.pairs[following][end](PLAIN, b"%d" % (left - 1), timeout=WAIT)
        assert ok, reply
        return reply + b".%d" % number


def chained(depth: int, count: int, first: int = 0) -> bytes:
    """What is returned for a request over the first of so many connections."""
    return b"end" + b"".join(b".%d" % ((first + i) % count) for i in reversed(range(depth)))


@pytest.mark.parametrize("handlers", HANDLERS)
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("depth", DEPTHS)
def test_handlers_that_call_back_over_the_next_connection(depth: int, count: int, handlers: int) -> None:
    chain = Chain()
    with pairs(count, chain, handlers=handlers) as chain.pairs:
        for _ in range(2):
            response = chain.pairs[0][0](PLAIN, b"%d" % depth, timeout=WAIT)
            assert response == (True, 0, chained(depth, count))


@pytest.mark.parametrize("handlers", HANDLERS)
def test_from_all_ends_at_once(handlers: int) -> None:
    chain = Chain()
    with pairs(3, chain, handlers=handlers) as chain.pairs:

        def ask(number: int, end: int) -> None:
            for depth in (0, 1, 7, 20, 3) * 3:
                response = chain.pairs[number][end](PLAIN, b"%d" % depth, timeout=WAIT)
                assert response == (True, 0, chained(depth, 3, number))

        run_all([lambda number=number, end=end: ask(number, end) for number in range(3) for end in (0, 1)])


@pytest.mark.parametrize("handlers", [1, 4, "inline"])
def test_a_handler_that_waits_for_another_connection_holds_up_none(handlers: Any) -> None:
    """Also an inline one: it may wait for another connection, as its own is not needed for that."""
    entered = threading.Event()
    owed = Responder()

    def handler(number: int, end: int, rq_type: int, payload: bytes) -> Any:
        if payload == b"waits":
            return opened[1][0](PLAIN, b"held", timeout=WAIT)[2]
        if payload == b"held":
            entered.set()
            return owed
        return payload

    with pairs(2, handler, handlers=handlers) as opened:
        waiting = opened[0][0].submit(PLAIN, 0, b"waits")
        assert entered.wait(WAIT)
        assert opened[1][0](PLAIN, b"beside", timeout=WAIT) == (True, 0, b"beside")
        assert opened[1][1](PLAIN, b"back", timeout=WAIT) == (True, 0, b"back")
        assert opened[0][1](PLAIN, b"back", timeout=WAIT) == (True, 0, b"back")
        if handlers != "inline":
            assert opened[0][0](PLAIN, b"beside", timeout=WAIT) == (True, 0, b"beside")
        assert not waiting.ready
        owed.respond(b"let go")
        assert waiting(timeout=WAIT) == (True, 0, b"let go")


@pytest.mark.parametrize("handlers", HANDLERS)
def test_handlers_of_two_connections_that_wait_for_each_other(handlers: int) -> None:
    both = threading.Barrier(2)

    def handler(number: int, end: int, rq_type: int, payload: bytes) -> bytes:
        both.wait(WAIT)
        return payload

    with pairs(2, handler, handlers=handlers) as opened:
        for _ in range(20):
            results = [a.submit(PLAIN, 0, b"met") for a, _ in opened]
            assert [result(timeout=WAIT) for result in results] == [(True, 0, b"met")] * 2


def test_a_handler_that_waits_for_one_that_only_its_wait_lets_run() -> None:
    """With `handlers=1`: the second begins when the first waits for another connection, and not before."""
    running: list[bytes] = []
    most: list[int] = []
    owed = Responder()

    def handler(number: int, end: int, rq_type: int, payload: bytes) -> Any:
        if number == 1:
            return owed
        running.append(payload)
        most.append(len(running))
        if payload == b"first":
            running.remove(payload)  # it does not count while it waits
            reply = opened[1][0](PLAIN, timeout=WAIT)[2]
        else:
            owed.respond(b"by the second")
            reply = payload
            running.remove(payload)
        return reply

    with pairs(2, handler, handlers=1) as opened:
        results = [opened[0][0].submit(PLAIN, 0, payload) for payload in (b"first", b"second")]
        assert [result(timeout=WAIT)[2] for result in results] == [b"by the second", b"second"]
    assert max(most) == 1


def test_four_threads_run_four_handlers_of_each_connection() -> None:
    all_run = threading.Barrier(12)
    idents: set[int] = set()

    def handler(number: int, end: int, rq_type: int, payload: bytes) -> bytes:
        all_run.wait(WAIT)
        idents.add(threading.get_ident())
        all_run.wait(WAIT)
        return payload

    with pairs(3, handler, handlers=4) as opened:
        results = [a.submit(PLAIN, 0, b"%d" % i) for a, _ in opened for i in range(4)]
        assert [result(timeout=WAIT)[2] for result in results] == [b"0", b"1", b"2", b"3"] * 3
    assert len(idents) == 12


@pytest.mark.parametrize("handlers", HANDLERS)
def test_inline_types_beside_handlers_that_call_back(handlers: int) -> None:
    """Each handler asks back for an inline type while all are occupied; inline ones keep their order."""
    order: list[list[int]] = [[], []]
    gate = threading.Event()

    def handler(number: int, end: int, rq_type: int, payload: bytes) -> bytes:
        if rq_type == INLINE:
            order[end].append(int(payload))
            return b"inline"
        for i in range(50):
            ok, _, reply = opened[1 - number][end](INLINE, b"%d" % i, timeout=WAIT)
            assert (ok, reply) == (True, b"inline")
        assert gate.wait(WAIT)
        return payload

    with pairs(2, handler, handlers=handlers, inline={INLINE}) as opened:
        results = [opened[0][0].submit(PLAIN, 0, b"%d" % i) for i in range(handlers + 3)]
        for i in range(1000, 1100):
            assert opened[0][0](INLINE, b"%d" % i, timeout=WAIT) == (True, 0, b"inline")
        assert not any(result.ready for result in results)
        gate.set()
        assert [result(timeout=WAIT)[2] for result in results] == [b"%d" % i for i in range(handlers + 3)]
    ours = [i for i in order[1] if i >= 1000]
    assert ours == list(range(1000, 1100))


@pytest.mark.parametrize("handlers", [1, 4])
def test_inline_types_and_one_window_keep_their_order(handlers: int) -> None:
    """The inline ones among each other, and with `handlers=1` the rest, too."""
    order: dict[int, list[int]] = {PLAIN: [], INLINE: []}
    running: list[int] = []

    def handler(number: int, end: int, rq_type: int, payload: bytes) -> bytes:
        if rq_type == INLINE or handlers == 1:
            running.append(rq_type)
            assert running.count(rq_type) == 1
        order[rq_type].append(int(payload))
        if rq_type == INLINE or handlers == 1:
            running.remove(rq_type)
        return payload

    with pairs(1, handler, handlers=handlers, inline={INLINE}) as opened:
        a, _ = opened[0]
        results = [a.submit(i % 2, 0, b"%d" % i) for i in range(2000)]
        assert [int(result(timeout=WAIT)[2]) for result in results] == list(range(2000))
    assert order[INLINE] == list(range(1, 2000, 2))
    assert sorted(order[PLAIN]) == list(range(0, 2000, 2))
    if handlers == 1:
        assert order[PLAIN] == list(range(0, 2000, 2))


@pytest.mark.parametrize("rq_type", [PLAIN, INLINE])
@pytest.mark.parametrize("handlers", [1, 4, "inline"])
def test_a_lock_that_the_caller_holds_during_a_call_over_another_connection(handlers: Any, rq_type: int) -> None:
    """What comes over both connections meanwhile has handlers that take the lock."""
    lock = threading.Lock()
    under_way: list[Any] = []

    def handler(number: int, end: int, rq_type: int, payload: bytes) -> bytes:
        if end == 0:  # ours
            with lock:
                return b"had the lock"
        for _, b in opened:  # theirs: before it answers it asks back over both
            under_way.append(b.submit(asked_type))
        return payload

    asked_type = rq_type
    settings = {"handlers": handlers} if handlers == "inline" else {"handlers": handlers, "inline": {INLINE}}
    with pairs(2, handler, **settings) as opened:
        for i in range(30):
            with lock:
                for a, _ in opened:
                    assert a(PLAIN, b"%d" % i, timeout=WAIT / 2) == (True, 0, b"%d" % i)
            assert len(under_way) == 4
            while under_way:
                assert under_way.pop()(timeout=WAIT) == (True, 0, b"had the lock")


@pytest.mark.parametrize("asked", ["this connection", "another"])
@pytest.mark.parametrize("handlers", [1, "inline"])
def test_time_limits_hold_while_an_inline_handler_waits_for_another_connection(handlers: Any, asked: str) -> None:
    entered = threading.Event()
    owed: list[Responder] = []

    def handler(number: int, end: int, rq_type: int, payload: bytes) -> Any:
        if payload == b"held":
            owed.append(Responder())
            entered.set()
            return owed[-1]
        return opened[1][end](INLINE, b"held", timeout=WAIT)[2]

    settings = {"handlers": handlers} if handlers == "inline" else {"handlers": handlers, "inline": {INLINE}}
    with pairs(2, handler, **settings) as opened:
        waiting = opened[0][1].submit(INLINE, 0, b"waits")  # our inline handler waits
        assert entered.wait(WAIT)
        a = opened[0 if asked == "this connection" else 1][0]
        with pytest.raises(RequestTimeout):
            a(INLINE, b"held", timeout=0.5)
        assert not waiting.ready
        for responder in owed:
            responder.respond(b"let go")
        assert waiting(timeout=WAIT) == (True, 0, b"let go")


@pytest.mark.parametrize("handlers", [1, 2])
def test_a_handler_that_has_waited_does_not_make_room_for_one_more(handlers: int) -> None:
    """It runs on beside one that was begun meanwhile; but nothing further is begun until one of them is done."""
    at_work: list[None] = []
    most: list[int] = []
    pair: list[PacketConnection] = []

    def handle(rq_type: int, flags: int, payload: bytes) -> bytes:
        if rq_type == 0:
            return pair[1](0, b"back", timeout=WAIT)[2]
        at_work.append(None)
        most.append(len(at_work))
        time.sleep(0.002)
        at_work.pop()
        return payload

    with connection_pair(
        a={"request_handler": lambda rq_type, flags, payload: payload},
        b={"request_handler": handle, "handlers": handlers},
    ) as (a, b):
        pair += [a, b]
        results = [a.submit(number % 3 and 1, 0, b"%d" % number) for number in range(90)]
        for result in results:
            assert result(timeout=WAIT)[0]
    assert max(most) <= handlers
