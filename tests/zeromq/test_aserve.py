"""`aserve` at ZMQ addresses, and a capture of an asyncio connection."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from packetwire import (
    AsyncPacketConnection,
    ConnectionEnded,
    PacketConnection,
    PacketDecoder,
    PeerClosed,
    aserve,
    connect_to,
)
from packetwire.capture import CaptureDecoder, CaptureWriter, Kind
from packetwire.streams import zmqpeers

from .conftest import WAIT, await_limit

pytestmark = pytest.mark.timeout(60)


async def reverse(rq_type: int, flags: int, payload: bytes) -> tuple[int, bytes]:
    await asyncio.sleep(0)
    return flags, payload[::-1]


def reversing(stream: Any, **settings: Any) -> AsyncPacketConnection:
    return AsyncPacketConnection(stream, request_handler=reverse, **settings)


def client_of(server: Any) -> str:
    return str(server.address).replace("zmq+router:", "zmq+dealer:")


def test_many_clients_of_a_router(endpoint: str) -> None:
    async def main() -> None:
        async with await aserve(f"zmq+router:{endpoint}", reversing) as server:

            async def ask(number: int) -> bytes:
                async with AsyncPacketConnection(connect_to(client_of(server))) as conn:
                    return (await conn(1, b"%d" % number, timeout=WAIT))[2]

            replies = await asyncio.gather(*(ask(number) for number in range(20)))
            assert [reply[::-1] for reply in replies] == [b"%d" % number for number in range(20)]
        assert server.failure is None

    asyncio.run(main())


def test_one_client_after_the_other_of_a_pair(endpoint: str) -> None:
    async def main() -> None:
        async with await aserve(f"zmq+pair:{endpoint}", reversing) as server:
            for _ in range(3):
                async with AsyncPacketConnection(connect_to(str(server.address))) as conn:
                    assert await conn(1, b"abc", timeout=WAIT) == (True, 0, b"cba")

    asyncio.run(main())


def test_a_client_that_sends_much_while_the_loop_is_busy(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits until it is accepted, as it would at any other address."""
    monkeypatch.setattr(zmqpeers, "QUEUE_LIMIT", 1 << 16)
    sent = bytes(range(256)) * (1 << 12)

    async def main() -> None:
        async with await aserve(f"zmq+router:{endpoint}", reversing) as server:
            with PacketConnection(connect_to(client_of(server))) as client:
                results = [client.submit(1, 0, sent) for _ in range(3)]
                (listener,) = server._listener.sockets
                await_limit(listener)
                for result in results:
                    assert await asyncio.to_thread(result, timeout=WAIT) == (True, 0, sent[::-1])
                await asyncio.to_thread(client.close)

    asyncio.run(main())


def test_one_client_too_many_is_turned_away(endpoint: str) -> None:
    async def main() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def handle(rq_type: int, flags: int, payload: bytes) -> bytes:
            begun.set()
            await go_on.wait()
            return b"owed"

        def serving(stream: Any) -> AsyncPacketConnection:
            return AsyncPacketConnection(stream, request_handler=handle)

        async with await aserve(f"zmq+router:{endpoint}", serving, max_connections=1) as server:
            connect = connect_to(client_of(server))
            async with AsyncPacketConnection(connect) as first:
                future = first.submit(1)
                await begun.wait()
                async with AsyncPacketConnection(connect) as second:
                    with pytest.raises(ConnectionEnded):
                        await second(1, b"", timeout=WAIT)
                go_on.set()
                assert await future == (True, 0, b"owed")

    asyncio.run(main())


def test_a_server_that_is_stopped_gives_what_it_owes(linked_endpoint: str) -> None:
    async def main() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def handle(rq_type: int, flags: int, payload: bytes) -> bytes:
            begun.set()
            await go_on.wait()
            return b"owed"

        def serving(stream: Any) -> AsyncPacketConnection:
            return AsyncPacketConnection(stream, request_handler=handle)

        async with await aserve(f"zmq+router:{linked_endpoint}", serving) as server:
            async with AsyncPacketConnection(connect_to(client_of(server))) as conn:
                waiting = conn.submit(1)
                await begun.wait()
                server.stop(WAIT)
                go_on.set()
                assert await waiting == (True, 0, b"owed")
                assert await conn.join_recv(WAIT)
                assert isinstance(conn.ended, PeerClosed)

    asyncio.run(main())


def test_a_client_that_is_cut_off_ends_at_the_deadline(linked_endpoint: str) -> None:
    async def main() -> None:
        async def never(rq_type: int, flags: int, payload: bytes) -> bytes:
            await asyncio.Event().wait()
            return b""

        def serving(stream: Any) -> AsyncPacketConnection:
            return AsyncPacketConnection(stream, request_handler=never)

        server = await aserve(f"zmq+router:{linked_endpoint}", serving)
        async with AsyncPacketConnection(connect_to(client_of(server)), close_timeout=0.0) as conn:
            waiting = conn.submit(1)
            await conn.drain()
            server.stop(0.0)
            assert await server.wait(WAIT)
            try:
                was_done = (await waiting)[0]
            except ConnectionEnded:
                was_done = False
            assert not was_done

    asyncio.run(main())


@pytest.mark.usefixtures("plain_streams")
def test_a_capture(endpoint: str, tmp_path: Path) -> None:
    path = tmp_path / "capture"

    async def main() -> None:
        with CaptureWriter(path) as capture:
            serving = lambda stream: reversing(stream, name="served", capture=capture)  # noqa: E731
            async with await aserve(f"zmq+router:{endpoint}", serving) as server:
                async with AsyncPacketConnection(connect_to(client_of(server))) as conn:
                    results = [conn.submit(1, 0, b"%d" % number) for number in range(100)]
                    assert (await asyncio.gather(*results))[99] == (True, 0, b"99"[::-1])

    asyncio.run(main())
    records = CaptureDecoder().feed(path.read_bytes())
    assert (records[0].kind, records[0].data) == (Kind.BEGIN, b"served")
    assert records[-1].kind is Kind.OVER
    asked, answered = (
        PacketDecoder().feed(b"".join(record.data for record in records if record.kind is kind))
        for kind in (Kind.BACK, Kind.FORTH)
    )
    assert [packet.payload for packet in asked[:100]] == [b"%d" % number for number in range(100)]
    assert len(asked) == len(answered) == 102
