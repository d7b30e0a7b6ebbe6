"""`aserve`: many clients, full houses, bad ones, and stopping."""

from __future__ import annotations

import asyncio
import os
import socket
import threading

import pytest

from packetwire import (
    AsyncPacketConnection,
    ConnectionEnded,
    LocalProtocolError,
    PacketConnection,
    PeerClosed,
    aserve,
    connect_to,
)

pytestmark = pytest.mark.timeout(60)


async def reverse(rq_type, flags, payload):
    await asyncio.sleep(0)
    return flags, payload[::-1]


def reversing(stream, **settings):
    return AsyncPacketConnection(stream, request_handler=reverse, **settings)


async def gone(server, connections=0):
    """Wait until no more than that are connected."""
    while server.connections > connections:
        await asyncio.sleep(0.001)


@pytest.fixture(params=["unix", "tcp"])
def address(request, tmp_path):
    return f"unix:{tmp_path}/socket" if request.param == "unix" else "tcp:127.0.0.1:0"


def test_many_clients(run, address):
    async def main():
        async with await aserve(address, reversing) as server:

            async def ask(number):
                async with AsyncPacketConnection(connect_to(server.address)) as conn:
                    return await conn(1, b"%d" % number)

            replies = await asyncio.gather(*(ask(number) for number in range(20)))
            assert [payload[::-1] for _, _, payload in replies] == [b"%d" % number for number in range(20)]
            await gone(server)
        assert await server.wait()
        assert server.failure is None

    run(main)


def test_a_client_with_threads(run, address):
    async def main():
        async with await aserve(address, reversing) as server:
            found = []

            def ask():
                with PacketConnection(connect_to(server.address)) as conn:
                    found.extend(conn.map([(1, b"%d" % i) for i in range(10, 500)]))

            thread = threading.Thread(target=ask)
            thread.start()
            while thread.is_alive():
                await asyncio.sleep(0.01)
            thread.join()
            assert [payload[::-1] for _, _, payload in found] == [b"%d" % i for i in range(10, 500)]

    run(main)


def test_stopping_answers_what_is_owed(run, address):
    async def main():
        gate = asyncio.Event()

        async def handler(rq_type, flags, payload):
            await gate.wait()
            return b"owed"

        server = await aserve(address, lambda stream: AsyncPacketConnection(stream, request_handler=handler))
        async with AsyncPacketConnection(connect_to(server.address)) as conn:
            future = conn.submit(1)
            await gone_or_asked(server)
            server.stop(drain_timeout=20)
            assert not await server.wait(timeout=0.01)
            gate.set()
            assert await future == (True, 0, b"owed")
            assert await conn.join(20)
            assert isinstance(conn.ended, PeerClosed)
        assert await server.wait(20)
        with pytest.raises(OSError):
            await AsyncPacketConnection(connect_to(server.address)).open()

    run(main)


async def gone_or_asked(server):
    """Wait until the only client has asked something."""
    while not any(s._conn and s._conn._driver and s._conn._driver.engine.owed for s in server._sessions):
        await asyncio.sleep(0.001)


def test_a_client_that_does_not_leave_is_cut_off(run, address, caplog):
    async def main():
        never = asyncio.Event()

        async def handler(rq_type, flags, payload):
            await never.wait()

        server = await aserve(address, lambda stream: AsyncPacketConnection(stream, request_handler=handler))
        async with AsyncPacketConnection(connect_to(server.address), close_timeout=0.1) as conn:
            future = conn.submit(1)
            await gone_or_asked(server)
            server.stop(drain_timeout=0.05)
            assert await server.wait(20)
            with pytest.raises(PeerClosed, match="the connection was closed before this request was done"):
                await future

    run(main)
    assert "1 clients still connected" in caplog.text


def job_server(gate, handlers):
    """A factory whose jobs wait for the gate, then report three times over their own connection."""
    made = []

    def make(stream):
        async def work(rq_type, flags, payload):
            await gate.wait()
            for _ in range(3):
                assert (await conn(PROGRESS))[0]
            return b"done"

        def work_in_thread(rq_type, flags, payload):
            return asyncio.run_coroutine_threadsafe(work(rq_type, flags, payload), loop).result()

        loop = asyncio.get_running_loop()
        conn = AsyncPacketConnection(stream, request_handler=work if handlers is None else work_in_thread)
        if handlers is not None:
            conn.handlers = handlers
        made.append(conn)
        return conn

    return make, made


JOB, PROGRESS = 1, 2
JOBS = 90


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


@pytest.mark.usefixtures("plain_streams")
@pytest.mark.parametrize("handlers", [None, 4])
def test_a_server_that_stops_loses_no_job_that_reports_over_its_own_connection(run, address, handlers):
    reported = []

    async def main():
        gate = asyncio.Event()
        make, made = job_server(gate, handlers)
        async with (
            await aserve(address, make) as server,
            AsyncPacketConnection(
                connect_to(server.address),
                request_handler=lambda *request: reported.append(request),
                handlers="inline",
            ) as conn,
        ):
            futures = [conn.submit(JOB) for _ in range(JOBS)]
            await until(lambda: made and made[0]._driver and made[0]._driver.engine.owed == JOBS)
            server.stop(20)
            await until(lambda: made[0]._driver.engine._winding_down)
            late = conn.submit(JOB)
            await until(lambda: made[0]._driver.engine._not_begun)
            gate.set()
            assert await asyncio.gather(*futures) == [(True, 0, b"done")] * JOBS
            with pytest.raises(PeerClosed, match="this request was not begun"):
                await late
            assert await server.wait(20)

    run(main)
    assert len(reported) == 3 * JOBS


def test_a_server_that_has_no_time_for_its_jobs_says_so_to_each_caller(run, address):
    async def main():
        make, made = job_server(asyncio.Event(), None)
        async with (
            await aserve(address, make) as server,
            AsyncPacketConnection(connect_to(server.address), request_handler=lambda *request: None) as conn,
        ):
            futures = [conn.submit(JOB) for _ in range(JOBS)]
            await until(lambda: made and made[0]._driver and made[0]._driver.engine.owed == JOBS)
            server.stop(0.01)
            for future in futures:
                with pytest.raises(ConnectionEnded, match="was closed before this request was done"):
                    await future

    run(main)


def test_a_server_that_has_ended_has_cut_off_all_of_its_clients(run, address):
    async def main():
        never = asyncio.Event()

        async def handler(rq_type, flags, payload):
            try:
                await never.wait()
            finally:
                for _ in range(20):  # it takes its time to be cancelled
                    await asyncio.sleep(0)

        server = await aserve(address, lambda stream: AsyncPacketConnection(stream, request_handler=handler))
        async with AsyncPacketConnection(connect_to(server.address), close_timeout=0.1) as conn:
            conn.submit(1)
            await gone_or_asked(server)
            server.stop(0)
            assert await server.wait(20)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


def test_a_second_stop_hurries(run, address):
    async def main():
        server = await aserve(address, reversing, drain_timeout=100)
        async with AsyncPacketConnection(connect_to(server.address), close_timeout=0.1, on_event=print) as conn:
            assert (await conn(1, b"x"))[0]
            conn.on_event = None
            server.stop()
            server.stop(0)
            assert await server.wait(20)

    run(main)


def test_too_many_clients_are_turned_away(run, address, caplog):
    async def main():
        gate = asyncio.Event()

        async def wait(rq_type, flags, payload):
            await gate.wait()

        def waiting(stream):
            return AsyncPacketConnection(stream, request_handler=wait)

        async with await aserve(address, waiting, max_connections=2) as server:
            async with (
                AsyncPacketConnection(connect_to(server.address)) as one,
                AsyncPacketConnection(connect_to(server.address)) as two,
            ):
                futures = [one.submit(1), two.submit(1)]
                await until(lambda: sum(not s.is_settled for s in server._sessions) == 2)
                async with AsyncPacketConnection(connect_to(server.address)) as three:
                    with pytest.raises(PeerClosed):
                        await three(1)
                gate.set()
                assert [ok for ok, _, _ in await asyncio.gather(*futures)] == [True, True]
            await gone(server)
            async with AsyncPacketConnection(connect_to(server.address)) as four:
                assert (await four(1))[0]

    run(main)
    assert "1 clients turned away, as max_connections=2" in caplog.text


def test_a_client_that_leaves_makes_room_for_one_that_waits(run, address):
    async def main():
        async with await aserve(address, reversing, max_connections=1) as server:
            one = await AsyncPacketConnection(connect_to(server.address)).open()
            assert (await one(1))[0]
            async with AsyncPacketConnection(connect_to(server.address)) as two:
                future = two.submit(1)
                await asyncio.sleep(0)
                await one.close()
                assert (await future)[0]

    run(main)


def test_a_bad_client_harms_nobody(run, address):
    async def main():
        async with await aserve(address, reversing) as server:
            async with AsyncPacketConnection(connect_to(server.address)) as good:
                recv, _, close = connect_to(server.address)()
                recv.send(b"GET / HTTP/1.1\r\n\r\n")
                assert (await good(1))[0]
                await gone(server, 1)
                close()
                assert await good(1, b"ab") == (True, 0, b"ba")

    run(main)


@pytest.mark.parametrize("factory", [lambda stream: 1 / 0, lambda stream: "no connection", PacketConnection])
def test_a_factory_that_fails(run, address, caplog, factory):
    async def main():
        async with await aserve(address, factory) as server:
            for _ in range(2):
                async with AsyncPacketConnection(connect_to(server.address)) as conn:
                    with pytest.raises(ConnectionEnded):
                        await conn(1)
            await gone(server)

    run(main)
    assert "could not be served" in caplog.text


def test_a_handler_can_stop_the_server(run, address):
    async def main():
        server = await aserve(
            address,
            lambda stream: AsyncPacketConnection(stream, request_handler=lambda *rq: server.stop(), inline={1}),
        )
        async with AsyncPacketConnection(connect_to(server.address)) as conn:
            assert await conn(1) == (True, 0, b"")
            assert await conn.join(20)
        assert await server.wait(20)

    run(main)


def test_an_exception_in_the_block_stops_the_server(run, address):
    async def main():
        with pytest.raises(ZeroDivisionError):
            async with await aserve(address, reversing, drain_timeout=100) as server:
                raise ZeroDivisionError
        assert await server.wait()

    run(main)


def test_the_loop_ends_with_a_server_in_it(loop_factory, address):
    found = []

    async def main():
        server = await aserve(address, reversing)
        async with AsyncPacketConnection(connect_to(server.address)) as conn:
            assert (await conn(1))[0]
        found.append(server)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert found[0].connections == 0
    if address.startswith("unix:"):
        assert not os.path.exists(address.removeprefix("unix:"))


def test_addresses_that_cannot_be_served_on(run, tmp_path):
    async def main():
        for address in ("exec:true", "nonsense", "tls:localhost:0"):
            with pytest.raises(LocalProtocolError):
                await aserve(address, reversing)
        with pytest.raises(LocalProtocolError, match="max_connections"):
            await aserve(f"unix:{tmp_path}/s", reversing, max_connections=0)
        with pytest.raises(TypeError, match="factory must be a class or another callable"):
            await aserve(f"unix:{tmp_path}/s", object())
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="tcp:127.0.0.1"):
            await aserve(f"tcp:127.0.0.1:{taken.getsockname()[1]}", reversing)

    run(main)
