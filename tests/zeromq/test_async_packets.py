"""Packets one per message, in an event loop: what is different there from threads."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import zmq

from packetwire import ConnectionEnded, LocalProtocolError, Packet, RequestTimeout, Responder
from packetwire.zmqpackets import AsyncPacketClient, AsyncPacketWorker, PacketClient

from .conftest import WAIT
from .test_packets import Proxy, proxy

__all__ = ["proxy"]

pytestmark = pytest.mark.timeout(60)


def test_handlers_that_are_coroutines_run_at_once_and_in_the_loop(proxy: Proxy) -> None:
    async def main() -> None:
        loop, together = asyncio.get_running_loop(), asyncio.Barrier(3)

        async def handle(rq_type: int, flags: int, payload: bytes) -> tuple[int, bytes]:
            assert asyncio.get_running_loop() is loop
            await together.wait()
            return flags, payload + b"!"

        async with (
            AsyncPacketWorker(proxy.back, handle, handlers=3),
            AsyncPacketClient(proxy.front, timeout=WAIT) as client,
        ):
            answers = await asyncio.gather(*(client(1, b"%d" % number, flags=5) for number in range(3)))
            assert answers == [(True, 5, b"%d!" % number) for number in range(3)]

    asyncio.run(main())


def test_no_more_handlers_run_than_was_said(proxy: Proxy) -> None:
    async def main() -> None:
        running = most = 0

        async def handle(rq_type: int, flags: int, payload: bytes) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            for _ in range(5):
                await asyncio.sleep(0)
            running -= 1

        async with (
            AsyncPacketWorker(proxy.back, handle, handlers=2),
            AsyncPacketClient(proxy.front, timeout=WAIT) as client,
        ):
            await asyncio.gather(*(client(1) for _ in range(50)))
        assert most == 2

    asyncio.run(main())


def test_results_that_come_later(proxy: Proxy) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def handle(rq_type: int, flags: int, payload: bytes) -> Any:
            if rq_type == 1:  # it is answered from another thread
                responder = Responder()
                threading.Thread(target=responder.respond, args=[b"by a thread"]).start()
                return responder
            if rq_type == 2:
                future = loop.create_future()
                loop.call_soon(future.set_result, b"by a future")
                return future
            if rq_type == 3:
                raise asyncio.CancelledError
            raise ValueError("no such thing")

        async with (
            AsyncPacketWorker(proxy.back, handle, handlers=1),
            AsyncPacketClient(proxy.front, timeout=WAIT) as client,
        ):
            assert await client(1) == (True, 0, b"by a thread")
            assert await client(2) == (True, 0, b"by a future")
            assert (await client(3))[:2] == (False, 0)
            assert await client(4) == (False, 0, b"ValueError: no such thing")

    asyncio.run(main())


def test_a_worker_that_is_closed_cancels_what_does_not_end_in_time(proxy: Proxy) -> None:
    async def main() -> None:
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def handle(rq_type: int, flags: int, payload: bytes) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async with AsyncPacketClient(proxy.front, timeout=WAIT) as client:
            worker = AsyncPacketWorker(proxy.back, handle)
            waiting = client.submit(1)
            await begun.wait()
            await worker.close(0)
            assert cancelled.is_set()
            assert await worker.join(0)
            assert not waiting.done()

    asyncio.run(main())


def test_a_task_that_is_cancelled_makes_room(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncPacketClient(f"ipc://{tmp_path}/nobody", timeout=WAIT, max_pending=1) as client:
            first = asyncio.create_task(client(1))
            await asyncio.sleep(0)
            with pytest.raises(RequestTimeout, match="no room"):
                await client.drain(timeout=0.01)
            waiting = asyncio.create_task(client.drain())
            await asyncio.sleep(0)
            first.cancel()
            await waiting
            second = client.submit(2)
        with pytest.raises(ConnectionEnded, match="was closed"):
            await second
        with pytest.raises(ConnectionEnded, match="is closed"):
            await client(3)

    asyncio.run(main())


def test_one_turn_of_the_loop_sends_and_receives_many(tmp_path: Path) -> None:
    async def main() -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.linger = 0
            router.rcvtimeo = int(WAIT * 1000)
            router.bind("inproc://many")
            async with AsyncPacketClient("inproc://many", context=context) as client:
                futures = [client.submit(1, 0, b"%d" % number) for number in range(60)]
                await asyncio.sleep(0)
                asked = [router.recv_multipart() for _ in futures]
                for route, data in asked:
                    packet = Packet.from_bytes(data)
                    answer = Packet(is_request=False, tag=packet.tag, flags=1, payload=packet.payload)
                    router.send_multipart([route, bytes(answer)])
                assert [(await future)[2] for future in futures] == [b"%d" % number for number in range(60)]

    asyncio.run(main())


def test_it_belongs_to_its_loop(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncPacketClient(f"ipc://{tmp_path}/nobody") as client:

            def ask_elsewhere() -> None:
                with pytest.raises(LocalProtocolError, match="belongs to an event loop in another thread"):
                    client.submit(1)

            await asyncio.to_thread(ask_elsewhere)

    asyncio.run(main())


def test_it_speaks_with_the_ones_for_threads(proxy: Proxy) -> None:
    async def handle(rq_type: int, flags: int, payload: bytes) -> bytes:
        return payload.upper()

    async def main() -> None:
        async with AsyncPacketWorker(proxy.back, handle, channels={16: handle}):
            with PacketClient(proxy.front) as client:
                assert await asyncio.to_thread(client, 1, b"x", channel=16, timeout=WAIT) == (True, 0, b"X")

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_has_neither(proxy: Proxy) -> None:
    async def handle(rq_type: int, flags: int, payload: bytes) -> bytes:
        return payload

    async def main() -> None:
        async with AsyncPacketWorker(proxy.back, handle), AsyncPacketClient(proxy.front, timeout=WAIT) as client:
            assert (await client(1, b"x"))[2] == b"x"
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    client.submit(1)
                except ConnectionEnded:
                    status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(pid, 0)[1] == 0
            assert (await client(1, b"y"))[2] == b"y"

    asyncio.run(main())
