"""Callers that give up: cancelled tasks, time limits, futures that are cancelled."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc

import pytest

from packetwire import AsyncPacketConnection, RequestTimeout

from .conftest import RawPeer, connected, socketpair

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("max_outstanding", [2000, 10], ids=["sent", "waiting for room"])
def test_a_thousand_cancelled_tasks_leave_no_entry_if_no_response_comes(run, fd_ends, max_outstanding):
    async def main():
        never = asyncio.Event()

        async def handler(rq_type, flags, payload):
            if rq_type:
                await never.wait()

        settings = {"max_outstanding": max_outstanding, "close_timeout": 0.1}
        async with connected(fd_ends, settings, {"request_handler": handler}) as (a, _):
            tasks = [asyncio.create_task(a(1)) for _ in range(1000)]
            await asyncio.sleep(0)
            assert a.outstanding == 1000
            for task in tasks:
                task.cancel()
            assert all(
                isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*tasks, return_exceptions=True)
            )
            assert a.outstanding == 0
            assert await a(0) == (True, 0, b"")
            never.set()

    run(main)


def test_a_thousand_cancelled_tasks_leave_no_entry_if_the_responses_come(run, fd_ends):
    async def main():
        gate = asyncio.Event()

        async def handler(rq_type, flags, payload):
            await gate.wait()

        async with connected(fd_ends, None, {"request_handler": handler}) as (a, _):
            tasks = [asyncio.create_task(a(1)) for _ in range(1000)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            gate.set()
            assert await a(1) == (True, 0, b"")
            assert a.late_responses == 1000
            assert a.outstanding == 0

    run(main)


def test_asyncio_timeout_and_our_own(run, ends):
    async def main():
        gate = threading.Event()

        def handler(rq_type, flags, payload):
            return b"late" if rq_type and gate.wait(30) else b"now"

        async with connected(ends, None, {"request_handler": handler, "channels": {20: handler}}) as (a, _):
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.01):
                    await a(1)
            assert not isinstance(caught.value, RequestTimeout)
            assert (await a(0, channel=20))[0]
            with pytest.raises(
                RequestTimeout, match=r"request 3 \(slow\) on channel 20, rq_type 1, within 0.01 s"
            ) as e:
                await a(1, channel=20, label="slow", timeout=0.01)
            assert isinstance(e.value, TimeoutError)
            with pytest.raises(RequestTimeout, match="within 0 s"):
                await a(1, timeout=0)
            with pytest.raises(RequestTimeout, match="within 0.01 s"):
                await a.submit(1, timeout=0.01)
            assert a.outstanding == 0
            gate.set()
            assert await a(0, timeout=30) == (True, 0, b"now")
            while a.late_responses < 4:
                await a(0)

    run(main)


def test_a_time_limit_that_is_kept_leaves_no_timer(run, fd_ends):
    async def main():
        async with connected(fd_ends, None, {"request_handler": lambda *rq: b""}) as (a, _):
            future = a.submit(1, timeout=1000)
            await future
            assert future.timer.cancelled()

    run(main)


def test_a_request_without_room_times_out(run, fd_ends):
    async def main():
        never = asyncio.Event()

        async def handler(rq_type, flags, payload):
            await never.wait()

        settings = {"max_outstanding": 2, "close_timeout": 0.1}
        async with connected(fd_ends, settings, {"request_handler": handler}) as (a, _):
            waiting = [a.submit(1), a.submit(1)]
            with pytest.raises(RequestTimeout, match="2 of 2 unanswered"):
                await a(1, timeout=0.01)
            with pytest.raises(RequestTimeout, match="2 of 2 unanswered"):
                await a.drain(timeout=0.01)
            assert a.outstanding == 2
            never.set()
            assert await asyncio.gather(*waiting) == [(True, 0, b"")] * 2
            await a.drain()

    run(main)


def test_a_cancelled_future_makes_room(run, fd_ends):
    async def main():
        never = asyncio.Event()

        async def handler(rq_type, flags, payload):
            if rq_type:
                await never.wait()

        async with connected(fd_ends, {"max_outstanding": 1}, {"request_handler": handler}) as (a, _):
            stuck = a.submit(1)
            next_one = a.submit(0)
            assert stuck.cancel()
            assert not stuck.cancel()
            assert await next_one == (True, 0, b"")
            with pytest.raises(asyncio.CancelledError):
                await stuck
            never.set()

    run(main)


def test_a_call_that_is_cancelled_as_its_response_comes(run):
    async def main():
        settings = {"request_handler": lambda *rq: b"x", "handlers": "inline"}
        async with connected(socketpair, None, settings) as (a, _):
            for rounds in range(50):
                task = asyncio.create_task(a(1))
                for _ in range(rounds % 5):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
            assert await a(1) == (True, 0, b"x")
            assert a.outstanding == 0

    run(main)


def test_memory_does_not_grow_while_callers_give_up(run, fd_ends):
    async def main():
        async with fd_ends() as (ours, theirs):
            peer = RawPeer(theirs)
            swallow = asyncio.create_task(peer.swallow())
            async with AsyncPacketConnection(ours, close_timeout=0.01) as a:

                async def give_up(times):
                    for _ in range(times):
                        with pytest.raises(RequestTimeout):
                            await a(1, timeout=0)

                tracemalloc.start()
                await give_up(500)
                gc.collect()
                before = tracemalloc.get_traced_memory()[0]
                await give_up(5000)
                gc.collect()
                after = tracemalloc.get_traced_memory()[0]
                tracemalloc.stop()
                assert a.outstanding == 0
                assert after - before < 256 << 10
            swallow.cancel()
            await asyncio.wait([swallow])

    run(main)
