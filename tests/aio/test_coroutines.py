"""Handlers that are coroutines: each is a task to itself, though one that does not wait costs none."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import sys
import weakref
from contextlib import suppress

import pytest

from packetwire import AsyncPacketConnection
from packetwire.core.packets import Packet

from .conftest import RawPeer, connected, socketpair

pytestmark = pytest.mark.timeout(60)

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def requests(*rq_types: int) -> bytes:
    """Requests in one piece, which are read together."""
    return b"".join(
        bytes(Packet(is_request=True, channel=0, tag=tag, flags=0, rq_type=rq_type + 1, payload=b""))
        for tag, rq_type in enumerate(rq_types, 2)
    )


def answered_by(handler, count=1):
    """A coroutine function that asks a peer with that handler, in one piece; returns the answers' payloads."""

    async def main():
        async with connected(socketpair, None, {"request_handler": handler}) as (a, _):
            futures = [a.submit(number) for number in range(count)]
            return [payload for _, _, payload in await asyncio.gather(*futures)]

    return main


# what a task has


@pytest.mark.parametrize("waits", [False, True])
def test_current_task_is_one_and_stays_the_same(run, waits):
    async def handler(rq_type, flags, payload):
        before = asyncio.current_task()
        assert isinstance(before, asyncio.Task)
        if waits:
            await asyncio.sleep(0)
        assert asyncio.current_task() is before
        return b"the same"

    assert run(answered_by(handler, 3)) == [b"the same"] * 3


def test_two_handlers_that_wait_are_two_tasks(run):
    tasks = set()

    async def handler(rq_type, flags, payload):
        await asyncio.sleep(0)
        tasks.add(asyncio.current_task())

    run(answered_by(handler, 3))
    assert len(tasks) == 3


def test_timeout_around_what_does_not_wait(run):
    async def handler(rq_type, flags, payload):
        async with asyncio.timeout(60):
            return b"in time"

    assert run(answered_by(handler)) == [b"in time"]


def test_timeout_ends_what_waits_for_ever(run):
    async def handler(rq_type, flags, payload):
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return b"too late"

    assert run(answered_by(handler, 3)) == [b"too late"] * 3


def test_timeout_that_is_over_at_once(run):
    async def handler(rq_type, flags, payload):
        try:
            async with asyncio.timeout(-1):
                await asyncio.sleep(60)
        except TimeoutError:
            return b"too late"

    assert run(answered_by(handler, 2)) == [b"too late"] * 2


def test_task_groups(run):
    async def double(number):
        await asyncio.sleep(0)
        return number * 2

    async def handler(rq_type, flags, payload):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(double(number)) for number in (rq_type, 10)]
        return bytes(task.result() for task in tasks)

    assert run(answered_by(handler, 3)) == [bytes([0, 20]), bytes([2, 20]), bytes([4, 20])]


def test_a_task_group_that_fails_cancels_the_handler_that_waits(run):
    async def fails():
        raise ValueError("no")

    async def handler(rq_type, flags, payload):
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                await asyncio.Event().wait()
        except* ValueError:
            pass
        return b"went on"

    assert run(answered_by(handler, 2)) == [b"went on"] * 2


@pytest.mark.parametrize("waits", [False, True])
def test_each_handler_has_a_context_of_its_own(run, waits):
    async def handler(rq_type, flags, payload):
        found = variable.get()
        variable.set(f"set by {rq_type}")
        if waits:
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
        assert variable.get() == f"set by {rq_type}"
        return found

    async def main():
        variable.set("of the program")
        return await answered_by(handler, 4)()

    assert run(main) == [b"of the program"] * 4


def test_what_a_handler_starts_has_the_context_of_the_handler(run):
    async def child():
        return variable.get()

    async def handler(rq_type, flags, payload):
        variable.set(f"set by {rq_type}")
        return await asyncio.create_task(child())

    assert run(answered_by(handler, 2)) == [b"set by 0", b"set by 1"]


# being cancelled


def test_a_handler_that_cancels_its_task_and_ends_does_not_cancel_the_next(run):
    async def handler(rq_type, flags, payload):
        if rq_type == 0:
            asyncio.current_task().cancel()
        return b"done"

    async def main():
        async with connected(socketpair, None, {"request_handler": handler}) as (a, _):
            futures = [a.submit(number) for number in range(3)]
            return [response[0] for response in await asyncio.gather(*futures)]

    assert run(main) == [True, True, True]


def test_a_handler_that_cancels_its_task_and_waits_is_cancelled_there(run):
    async def handler(rq_type, flags, payload):
        asyncio.current_task().cancel("enough")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            return str(error)

    assert run(answered_by(handler, 2)) == [b"enough"] * 2


def test_what_a_cancelled_handler_waits_for_is_cancelled(run):
    ended = []

    async def child():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("child")
            raise

    async def handler(rq_type, flags, payload):
        waiting = asyncio.create_task(child())
        await asyncio.sleep(0)  # so that it has begun
        asyncio.current_task().cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        return b"cancelled"

    assert run(answered_by(handler)) == [b"cancelled"]
    assert ended == ["child"]


def test_a_handler_is_cancelled_right_behind_its_first_step(run):
    """Before its task has begun to wait for what it waits for."""
    found = []

    async def handler(rq_type, flags, payload):
        if rq_type == 1:
            found[0].cancel()
            return b"done"
        found.append(asyncio.current_task())
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return b"cancelled"

    assert run(answered_by(handler, 2)) == [b"cancelled", b"done"]


def test_who_keeps_the_task_of_a_handler_that_is_done_cannot_cancel_another(run):
    kept = []

    async def handler(rq_type, flags, payload):
        if rq_type == 0:
            kept.append(asyncio.current_task())
        elif rq_type == 1:
            asyncio.get_running_loop().call_soon(kept[0].cancel)
            await asyncio.sleep(0.001)
        return b"done"

    assert run(answered_by(handler, 3)) == [b"done"] * 3


def test_what_belongs_to_the_task_of_one_handler_is_not_found_by_the_next(run):
    belongings = weakref.WeakKeyDictionary()

    async def handler(rq_type, flags, payload):
        task = asyncio.current_task()
        found = belongings.get(task, "nothing")
        belongings[task] = "something"
        return found

    assert run(answered_by(handler, 3)) == [b"nothing"] * 3


def test_closing_cancels_handlers_that_wait(run):
    ended = []

    async def handler(rq_type, flags, payload):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(rq_type)

    async def main():
        async with socketpair() as (ours, theirs):
            peer = RawPeer(theirs)
            async with AsyncPacketConnection(ours, request_handler=handler, close_timeout=0) as a:
                peer.send(requests(0, 1, 2))
                while a._driver.engine.owed < 3:
                    await asyncio.sleep(0)

    run(main)
    assert ended == [0, 1, 2]


@pytest.mark.parametrize("waits", [False, True])
def test_a_handler_closes_its_connection(run, waits):
    async def main():
        async def handler(rq_type, flags, payload):
            if waits:
                await asyncio.sleep(0)
            await b.close()
            return b"closed"

        async with socketpair() as (ours, theirs), AsyncPacketConnection(ours) as a:
            b = AsyncPacketConnection(theirs, request_handler=handler)
            await b.open()
            assert await a(1) == (True, 0, b"closed")
            await a.join_recv(30)
            while b._driver is not None and not b._driver.is_gone:
                await asyncio.sleep(0.001)

    run(main)


# what comes of it


def test_exceptions_are_answered(run):
    async def handler(rq_type, flags, payload):
        if rq_type:
            await asyncio.sleep(0)
        raise ValueError("no such thing")

    async def main():
        async with connected(socketpair, None, {"request_handler": handler}) as (a, _):
            return [await a(0), await a(1)]

    assert run(main) == [(False, 0, b"ValueError: no such thing")] * 2


@pytest.mark.parametrize("waits", [False, True])
def test_an_interruption_stops_the_loop_and_leaves_the_connection_usable(loop_factory, waits):
    async def handler(rq_type, flags, payload):
        if waits:
            await asyncio.sleep(0)
        if rq_type:
            raise KeyboardInterrupt
        return b"here"

    loop = (loop_factory or asyncio.new_event_loop)()
    made = []

    async def main():
        async with connected(socketpair, None, {"request_handler": handler}) as (a, b):
            made.append((a, b))
            try:
                answers = await asyncio.gather(a(1), a(0))
            except BaseException as error:
                return [error]
            return [*answers, await a(0)]

    try:
        task = loop.create_task(main())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        interrupted, second, third = loop.run_until_complete(task)
        assert not interrupted[0]
        assert second == third == (True, 0, b"here")
    finally:
        loop.close()


def test_what_is_awaitable_but_no_coroutine_is_awaited(run):
    class Later:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return b"later"

    assert run(answered_by(lambda *rq: Later(), 2)) == [b"later"] * 2


def test_a_handler_asks_back_before_it_waits_for_anything_else(run):
    async def main():
        async def handler(rq_type, flags, payload):
            _, _, answer = await b(rq_type)
            return answer * 2

        async with socketpair() as (ours, theirs):
            a = AsyncPacketConnection(ours, request_handler=lambda rq_type, flags, payload: bytes([rq_type]))
            b = AsyncPacketConnection(theirs, request_handler=handler)
            async with a, b:
                assert await asyncio.gather(*(a(number) for number in range(50))) == [
                    (True, 0, bytes([number, number])) for number in range(50)
                ]

    run(main)


# what it costs


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="there tasks are eager")
def test_handlers_that_do_not_wait_share_a_task(run):
    tasks = []

    async def handler(rq_type, flags, payload):
        tasks.append(len(asyncio.all_tasks()))
        return b"done"

    async def main():
        async with socketpair() as (ours, theirs):
            peer = RawPeer(theirs)
            async with AsyncPacketConnection(ours, request_handler=handler, close_timeout=0):
                peer.send(requests(*range(50)))
                await peer.read_until(lambda octets: octets.count(b"done") == 50)

    run(main)
    assert tasks == [2] * 50  # one is the test's


def test_the_programs_own_tasks_are_made_by_the_program(run):
    made = []

    async def handler(rq_type, flags, payload):
        return b"done"

    async def main():
        loop = asyncio.get_running_loop()

        def factory(loop, coroutine, **settings):
            made.append(coroutine)
            return asyncio.Task(coroutine, loop=loop, **settings)

        loop.set_task_factory(factory)
        try:
            return await answered_by(handler, 3)()
        finally:
            loop.set_task_factory(None)

    assert run(main) == [b"done"] * 3
    assert len(made) == 3


@pytest.fixture
def no_logging():
    logging.disable()  # pytest keeps records, and these their tracebacks
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("waits", [False, True])
def test_nothing_is_left_of_a_handler_that_is_done(run, waits, no_logging):
    class Held:
        alive = 0

        def __init__(self):
            Held.alive += 1

        def __del__(self):
            Held.alive -= 1

    async def handler(rq_type, flags, payload):
        held = Held()
        if waits:
            await asyncio.sleep(0)
        if rq_type == 1:
            raise ValueError("no")
        assert held

    async def main():
        async with connected(socketpair, None, {"request_handler": handler}) as (a, _):
            await asyncio.gather(a(0), a(0), a(1))
            await asyncio.sleep(0)
            assert Held.alive == 0

    gc.collect()
    gc.disable()
    try:
        run(main)
    finally:
        gc.enable()
