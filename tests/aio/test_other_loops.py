"""A connection belongs to the loop that it was opened in: what is said to whoever uses it from elsewhere."""

from __future__ import annotations

import asyncio
import os
import socket
import threading

import pytest

from packetwire import AsyncPacketConnection, LocalProtocolError, aserve

pytestmark = pytest.mark.timeout(60)


def upper(rq_type, flags, payload):
    return payload.upper()


USES = {
    "submit": lambda conn: conn.submit(0),
    "take": lambda conn: conn.take(None),
    "send_erq": lambda conn: conn.send_erq(),
    "send_eof": lambda conn: conn.send_eof(),
    "call": lambda conn: conn(0),
    "timeout": lambda conn: conn(0, timeout=5),
    "drain": lambda conn: conn.drain(),
    "join": lambda conn: conn.join(),
    "open": lambda conn: conn.open(),
    "close": lambda conn: conn.close(),
    "map": lambda conn: anext(conn.map([0])),
}


def in_another_thread(function):
    """What it raised there, in a loop or without."""
    raised = []

    def run():
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised[0]


def used(use, conn):
    """Use it in a loop of its own."""

    async def main():
        result = use(conn)
        if result is not None:
            await result

    asyncio.run(main())


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_from_another_thread(use):
    async def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            async with (
                AsyncPacketConnection(theirs, request_handler=upper),
                AsyncPacketConnection(ours, "mine") as conn,
            ):
                error = in_another_thread(lambda: used(use, conn))
                assert isinstance(error, LocalProtocolError)
                assert "[mine] belongs to an event loop in another thread: use asyncio.run_coro" in str(error)
                assert conn.outstanding == 0
                assert await conn(0, b"abc") == (True, 0, b"ABC"), "it is as it was"
                assert conn.is_open()

    asyncio.run(main())


def test_from_another_thread_without_a_loop():
    async def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            async with (
                AsyncPacketConnection(theirs, request_handler=upper),
                AsyncPacketConnection(ours) as conn,
            ):
                error = in_another_thread(lambda: conn.submit(0, 0, b"abc"))
                assert isinstance(error, LocalProtocolError)
                future = asyncio.wrap_future(
                    await asyncio.to_thread(
                        asyncio.run_coroutine_threadsafe, conn(0, b"abc"), asyncio.get_running_loop()
                    )
                )
                assert await future == (True, 0, b"ABC")

    asyncio.run(main())


def test_a_handler_in_a_thread_is_told_too():
    raised = []

    async def main():
        ours, theirs = socket.socketpair()

        def handler(rq_type, flags, payload):
            try:
                server.submit(0)
            except LocalProtocolError as error:
                raised.append(error)
            return b"done"

        with ours, theirs:
            server = AsyncPacketConnection(theirs, request_handler=handler)
            async with server, AsyncPacketConnection(ours) as conn:
                assert (await conn(0))[2] == b"done"

    asyncio.run(main())
    assert "run_coroutine_threadsafe" in str(raised[0])


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_from_another_loop_of_the_same_thread(use):
    ours, theirs = socket.socketpair()
    with ours, theirs, asyncio.Runner() as first, asyncio.Runner() as second:
        conn = AsyncPacketConnection(ours, "mine")
        first.run(conn.open())

        async def main():
            result = use(conn)
            if result is not None:
                await result

        with pytest.raises(LocalProtocolError, match="it was opened in, which is another one"):
            second.run(main())
        theirs.close()
        first.run(conn.close())


def test_between_two_runs_of_its_loop():
    ours, theirs = socket.socketpair()
    with ours, theirs, asyncio.Runner() as runner:
        server, conn = AsyncPacketConnection(theirs, request_handler=upper), AsyncPacketConnection(ours)
        runner.run(server.open())
        runner.run(conn.open())
        future = conn.submit(0, 0, b"abc")

        async def main():
            return await future

        assert runner.run(main()) == (True, 0, b"ABC")
        runner.run(conn.close())
        runner.run(server.close())


def test_its_loop_is_gone():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = AsyncPacketConnection(ours, close_timeout=0.1)
        asyncio.run(conn.open())
        with pytest.raises(LocalProtocolError, match="it was opened in, which is closed"):
            asyncio.run(conn(0))
        asyncio.run(conn.close())  # what is left of it
        assert not conn.is_open()


def test_a_server(tmp_path):
    async def main():
        async with await aserve(f"unix:{tmp_path}/socket", AsyncPacketConnection) as server:
            error = in_another_thread(server.stop)
            assert isinstance(error, LocalProtocolError)
            assert "the server at unix:" in str(error)
            assert not await server.wait(0)

    asyncio.run(main())


def test_in_a_fork_it_is_over(tmp_path):
    """Which is said there, whatever loop runs."""
    told = tmp_path / "told"

    async def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            async with (
                AsyncPacketConnection(theirs, request_handler=upper),
                AsyncPacketConnection(ours) as conn,
            ):
                pid = os.fork()
                if pid == 0:
                    asyncio.events._set_running_loop(None)
                    try:
                        asyncio.run(conn(0))
                    except BaseException as error:
                        told.write_text(f"{type(error).__name__}: {error}")
                    os._exit(0)
                await asyncio.to_thread(os.waitpid, pid, 0)
                assert (await conn(0, b"abc"))[2] == b"ABC"

    asyncio.run(main())
    assert told.read_text().startswith("ConnectionEnded: ")
    assert "this is a fork" in told.read_text()
