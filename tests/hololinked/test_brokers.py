"""Servers and clients of ours: operations, timeouts, the end, threads, tasks, interrupts."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from packetwire.errors import ConnectionEnded, LimitExceeded, LocalProtocolError, PeerClosed, RequestTimeout
from packetwire.hololinked import (
    AsyncZMQClient,
    AsyncZMQServer,
    BreakLoop,
    HandshakeFailed,
    OperationFailed,
    OperationTimeout,
    PayloadError,
    PreserializedData,
    RequestMessage,
    SerializableData,
    ServerExecutionContext,
    SyncZMQClient,
)
from packetwire.hololinked.server import SLOW

from .conftest import Connect, SyncAsker
from .running import SERVER_ID, WAIT, RunningServer

pytestmark = pytest.mark.timeout(110)

ONEWAY = ServerExecutionContext(oneway=True)
PATIENT = ServerExecutionContext(WAIT, WAIT)


def assert_nothing_left(server: RunningServer, asker: Any) -> None:
    core = server.server.core
    assert server.in_loop(lambda: (core.pending, core.next_deadline(), dict(core._per_client))) == (0, None, {})
    assert len(asker.client.core) == 0
    assert asker.client.core.next_deadline() is None


def test_operations(connect: Connect, address: str) -> None:
    with RunningServer(address) as server:
        asker = connect(server.address)
        assert asker.execute("echo", {"é": [1, 2.5, None]}).result() == {"é": [1, 2.5, None]}
        assert asker.execute("echo", 5, preserialized_payload=PreserializedData(b"\0\xff")).result() == (
            5,
            b"\0\xff",
        )
        with pytest.raises(OperationFailed, match="^ValueError: no good$"):
            asker.execute("fail", "no good").result()
        with pytest.raises(OperationFailed, match="^TypeError: not so$") as failure:
            asker.execute("invalid", "not so").result()
        assert failure.value.traceback == ["TypeError: not so"]
        with pytest.raises(OperationFailed, match="^PayloadError: "):
            asker.execute("unserializable").result()
        with pytest.raises(OperationFailed, match="AttributeError"):
            asker.execute("what nobody knows").result()
        assert asker.execute("echo", 1, server_execution_context=ONEWAY) is None
        assert asker.execute("count").result() == 1
        assert_nothing_left(server, asker)


def test_many_under_way(connect: Connect, ipc: str) -> None:
    with RunningServer(ipc) as server:
        asker = connect(server.address)
        ids = [asker.send("hold", 0), *(asker.send("echo", number) for number in range(1, 200))]
        for number in range(199, 0, -1):
            assert asker.receive(ids[number]).result() == number
        server.let_go()
        assert asker.receive(ids[0]).result() == 0
        with pytest.raises(LocalProtocolError):
            asker.receive(ids[0])
        assert_nothing_left(server, asker)


def test_the_timeouts_of_an_operation(connect: Connect, address: str) -> None:
    with RunningServer(address, running=1) as server:
        asker = connect(server.address)
        response = asker.execute("sleep", server_execution_context={"executionTimeout": 0.05})
        with pytest.raises(OperationTimeout, match="execution"):
            response.result()
        assert server.cancelled.wait(WAIT)
        held = asker.send("hold", 5, server_execution_context=ServerExecutionContext(WAIT, WAIT))
        response = asker.execute("echo", server_execution_context=ServerExecutionContext(0.05, WAIT))
        with pytest.raises(OperationTimeout, match="invokation"):
            response.result()
        server.let_go()
        assert asker.receive(held).result() == 5
        assert_nothing_left(server, asker)


def test_an_operation_is_stopped_when_its_one_way_time_is_over(connect: Connect, ipc: str) -> None:
    with RunningServer(ipc) as server:
        asker = connect(server.address)
        context = ServerExecutionContext(executionTimeout=0.05, oneway=True)
        assert asker.execute("sleep", server_execution_context=context) is None
        assert server.cancelled.wait(WAIT)
        assert_nothing_left(server, asker)


def test_the_timeout_of_who_waits(connect: Connect, address: str) -> None:
    with RunningServer(address) as server:
        asker = connect(server.address)
        with pytest.raises(RequestTimeout, match="'server' did not answer in time"):
            asker.execute("hold", timeout=50)
        assert len(asker.client.core) == 0
        server.let_go()
        assert asker.execute("echo", "still there").result() == "still there"
        assert_nothing_left(server, asker)


def test_timeouts_are_checked_before_anything_is_sent(connect: Connect, ipc: str) -> None:
    with RunningServer(ipc) as server:
        asker = connect(server.address)
        for timeout, error in (("5", TypeError), (b"5", TypeError), ([], TypeError), (float("nan"), ValueError)):
            with pytest.raises(error, match="timeout must be a number of"):
                asker.execute("echo", timeout=timeout)
            with pytest.raises(error, match="handshake_timeout must be a number of"):
                connect(server.address, "another", handshake_timeout=timeout)
        assert asker.execute("count").result() == 0
        assert server.asked == 1
        assert_nothing_left(server, asker)


@pytest.mark.parametrize("timeout", [float("inf"), 1e15, 10**400])
def test_timeouts_of_any_length(connect: Connect, ipc: str, timeout: Any) -> None:
    with RunningServer(ipc) as server:
        asker = connect(server.address, handshake_timeout=timeout)
        assert asker.execute("echo", 5, timeout=timeout).result() == 5
        context = ServerExecutionContext(1 << 53, 1e300 if timeout == 10**400 else timeout)
        held = asker.send("hold", 6, server_execution_context=context)
        later = threading.Timer(0.05, server.let_go)
        later.start()
        assert asker.receive(held, timeout).result() == 6
        later.join()


@pytest.mark.parametrize("timeout", [0, -1, -1000, float("-inf")])
def test_times_that_are_over_before_they_begin(connect: Connect, ipc: str, timeout: float) -> None:
    with RunningServer(ipc) as server:
        asker = connect(server.address)
        with pytest.raises(RequestTimeout):
            asker.execute("hold", timeout=timeout)
        with pytest.raises(HandshakeFailed):
            connect(ipc + ".no", "another", handshake_timeout=timeout)


@pytest.mark.parametrize("access_point", ["ipc", "tcp://127.0.0.1:1"])
def test_nobody_answers_the_handshake(connect: Connect, ipc: str, access_point: str) -> None:
    with pytest.raises(HandshakeFailed, match="'server' did not answer the handshake of 'client'"):
        connect(ipc if access_point == "ipc" else access_point, handshake_timeout=100)


def test_a_request_without_a_link_is_refused(connect: Connect, ipc: str) -> None:
    asker = connect(ipc, handshake=False)
    with pytest.raises(ConnectionEnded, match="no link to the server 'server'"):
        asker.execute("echo")
    assert len(asker.client.core) == 0
    assert asker.client.core.next_deadline() is None


def test_a_server_that_comes_late(connect: Connect, ipc: str) -> None:
    """The handshake is repeated until it is there."""
    late = threading.Thread(target=lambda: opened.append(connect(ipc)))
    opened: list[Any] = []
    late.start()
    with RunningServer(ipc) as server:
        late.join(WAIT)
        assert opened[0].execute("echo", 5).result() == 5
        assert server.asked == 1


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_a_server_that_goes_and_comes_again(connect: Connect, transport: str, ipc: str) -> None:
    with RunningServer(ipc if transport == "ipc" else "tcp://127.0.0.1:*") as server:
        asker = connect(server.address)
        held = asker.send("hold", server_execution_context=ServerExecutionContext(WAIT, WAIT))
        assert asker.execute("count").result() == 0
    with pytest.raises(PeerClosed, match="has closed the link"):
        asker.receive(held)
    assert len(asker.client.core) == 0
    with RunningServer(server.address) as again:
        assert again.address == server.address
        asker.handshake()
        assert asker.execute("echo", 5).result() == 5


def test_what_was_lost_before_does_not_end_what_is_asked_later(ipc: str) -> None:
    with RunningServer(ipc):
        client = SyncZMQClient("client", SERVER_ID, access_point=ipc)
    with client, RunningServer(ipc):
        assert client._monitor is not None
        client.handshake(WAIT * 1000)
        for number in range(50):
            response = client.execute("thing", "object", "echo", SerializableData(number))
            assert response is not None
            assert response.result() == number


def test_all_threads_that_wait_are_told_that_the_server_is_gone(ipc: str) -> None:
    context = ServerExecutionContext(WAIT, WAIT)
    with ThreadPoolExecutor() as pool:
        with RunningServer(ipc) as server:
            client = SyncZMQClient("client", SERVER_ID, access_point=ipc)
            waiting = [
                pool.submit(client.execute, "", "", "hold", server_execution_context=context) for _ in range(3)
            ]
            while server.asked < 3:
                assert not any(each.done() for each in waiting)
        with pytest.raises(ConnectionEnded):
            while True:
                try:
                    client.send_request("", "", "echo", server_execution_context=ONEWAY)
                except LimitExceeded:
                    pass  # the queue of what is not sent is full, until the link is found to be lost
        for each in waiting:
            with pytest.raises(PeerClosed):
                each.result(WAIT)
        client.exit()


def test_exit_of_a_client_ends_the_server_if_it_may(connect: Connect, address: str) -> None:
    with RunningServer(address, allow_exit=True) as server:
        asker = connect(server.address)
        held = asker.send("hold", 5)
        other = threading.Thread(target=server.let_go)
        assert asker.execute("count").result() == 0
        other.start()
        assert asker.send_exit().type == "REPLY"
        assert asker.receive(held).result() == 5, "it was received before"
        other.join()
        assert server.ended.wait(WAIT)


def test_exit_of_a_client_is_refused_otherwise(connect: Connect, ipc: str) -> None:
    with RunningServer(ipc) as server:
        asker = connect(server.address)
        with pytest.raises(OperationFailed, match="PermissionError"):
            asker.send_exit().result()
        assert asker.execute("echo", 5).result() == 5


def test_exit_of_ours_ends_who_waits(ipc: str) -> None:
    with RunningServer(ipc) as server, ThreadPoolExecutor() as pool:
        client = SyncZMQClient("client", SERVER_ID, access_point=server.address)
        waiting = [
            pool.submit(client.execute, "", "", "hold", server_execution_context=ServerExecutionContext(WAIT, WAIT))
            for _ in range(3)
        ]
        while server.asked < 3:
            assert not any(each.done() for each in waiting)
        client.exit()
        for each in waiting:
            with pytest.raises(ConnectionEnded, match="exit of client was called"):
                each.result(WAIT)
        client.exit()
        with pytest.raises(ConnectionEnded, match="has no socket"):
            client.execute("", "", "echo")
        assert client.closed


def test_the_answer_of_a_slow_plain_handler_does_not_wait_for_the_next_one(ipc: str) -> None:
    """Though what waits together is answered together."""
    sent, answered = threading.Event(), threading.Event()

    class SlowServer(RunningServer):
        def answer(self, request: RequestMessage) -> Any:
            value = request.payload.deserialize()
            if value == 0:
                return sent.wait(WAIT)  # so that the others wait together
            if value == 1:
                time.sleep(2 * SLOW)
                return True
            return answered.wait(WAIT)

    with SlowServer(ipc) as server:
        asker = SyncAsker(server.address)
        try:
            ids = [asker.send("", value, server_execution_context=PATIENT) for value in range(3)]
            sent.set()
            assert asker.receive(ids[0]).result() is True
            assert asker.receive(ids[1]).result() is True
            answered.set()
            assert asker.receive(ids[2]).result() is True
        finally:
            asker.close()


def test_many_threads_with_one_client(ipc: str) -> None:
    with RunningServer(ipc) as server, SyncZMQClient("client", SERVER_ID, access_point=server.address) as client:

        def ask(name: int) -> list[Any]:
            responses = [client.execute("", "", "echo", SerializableData([name, number])) for number in range(50)]
            return [response.result() for response in responses if response is not None]

        with ThreadPoolExecutor(8) as pool:
            for name, results in enumerate(pool.map(ask, range(8))):
                assert results == [[name, number] for number in range(50)]
        assert len(client.core) == 0


def test_a_thread_that_waits_long_does_not_hold_up_others(ipc: str) -> None:
    with RunningServer(ipc) as server, SyncZMQClient("client", SERVER_ID, access_point=server.address) as client:
        with ThreadPoolExecutor() as pool:
            long_wait = ServerExecutionContext(WAIT, WAIT)
            held = pool.submit(
                client.execute, "", "", "hold", SerializableData(1), server_execution_context=long_wait
            )
            while not server.asked:
                assert not held.done()
            for number in range(20):
                response = client.execute("", "", "echo", SerializableData(number))
                assert response is not None
                assert response.result() == number
            with pytest.raises(RequestTimeout):
                client.execute("", "", "sleep", timeout=20)
            server.let_go()
            response = held.result(WAIT)
            assert response is not None
            assert response.result() == 1


def test_the_time_limit_of_who_asks_for_a_response_while_another_thread_reads(ipc: str) -> None:
    patient = ServerExecutionContext(2 * WAIT, 2 * WAIT)
    with RunningServer(ipc) as server, SyncZMQClient("client", SERVER_ID, access_point=server.address) as client:
        with ThreadPoolExecutor() as pool:
            held = pool.submit(client.execute, "", "", "hold", server_execution_context=patient)
            while not server.asked:
                assert not held.done()
            message_id = client.send_request("", "", "sleep", server_execution_context=patient)
            counted = client.execute("", "", "count", server_execution_context=patient)
            assert counted is not None  # and the other thread sleeps again
            with pytest.raises(RequestTimeout):
                client.recv_response(message_id, timeout=20)
            server.let_go()
            assert held.result(WAIT) is not None


def test_ctrl_c_ends_a_call_and_leaves_nothing(ipc: str) -> None:
    with RunningServer(ipc) as server, SyncZMQClient("client", SERVER_ID, access_point=server.address) as client:

        def interrupt() -> None:
            while not server.asked:
                pass
            os.kill(os.getpid(), signal.SIGINT)

        other = threading.Thread(target=interrupt)
        with pytest.raises(KeyboardInterrupt):
            other.start()
            client.execute("", "", "hold", server_execution_context=ServerExecutionContext(WAIT, WAIT))
        other.join()
        assert len(client.core) == 0
        response = client.execute("", "", "echo", SerializableData(5))
        assert response is not None
        assert response.result() == 5


def test_too_many_requests_of_a_client(connect: Connect, ipc: str) -> None:
    with RunningServer(ipc) as server:
        asker = connect(server.address, max_outstanding=10, max_message_size=2000)
        ids = [asker.send("hold", number) for number in range(10)]
        with pytest.raises(LimitExceeded):
            asker.send("echo")
        server.let_go()
        assert [asker.receive(each).result() for each in ids] == list(range(10))
        with pytest.raises(LimitExceeded):
            asker.execute("echo", "x" * 2000)
        with pytest.raises(PayloadError):
            asker.execute("echo", object())
        assert asker.execute("echo", 5).result() == 5


# tasks


def test_many_tasks_with_one_client(ipc: str) -> None:
    async def ask(address: str) -> None:
        async with AsyncZMQClient("client", SERVER_ID, access_point=address) as client:

            async def one(number: int) -> None:
                response = await client.async_execute("", "", "echo", SerializableData(number))
                assert response is not None
                assert response.result() == number

            await asyncio.gather(*map(one, range(500)))
            assert len(client.core) == 0

    with RunningServer(ipc) as server:
        asyncio.run(ask(server.address))


def test_a_cancelled_call_leaves_nothing(ipc: str) -> None:
    async def ask(server: RunningServer) -> None:
        async with AsyncZMQClient("client", SERVER_ID, access_point=server.address) as client:
            context = ServerExecutionContext(WAIT, WAIT)
            call = asyncio.ensure_future(client.async_execute("", "", "hold", server_execution_context=context))
            while not server.asked:
                await asyncio.sleep(0.001)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert len(client.core) == 0
            assert client.core.next_deadline() is None
            server.let_go()
            response = await client.async_execute("", "", "echo", SerializableData(5))
            assert response is not None
            assert response.result() == 5

    with RunningServer(ipc) as server:
        asyncio.run(ask(server))


def test_a_client_that_is_made_in_a_loop_shakes_hands_by_itself(ipc: str) -> None:
    async def ask(address: str) -> Any:
        client = AsyncZMQClient("client", SERVER_ID, access_point=address)
        await asyncio.gather(client.handshake_complete(), client.handshake_complete(WAIT * 1000))
        response = await client.async_execute("", "", "echo", SerializableData(5))
        client.exit()
        with pytest.raises(ConnectionEnded):
            await client.async_execute("", "", "echo")
        assert response is not None
        return response.result()

    with RunningServer(ipc) as server:
        assert asyncio.run(ask(server.address)) == 5


def test_one_object_in_one_loop_after_another(ipc: str) -> None:
    server = AsyncZMQServer(id=SERVER_ID, access_point=ipc)
    client = AsyncZMQClient("client", SERVER_ID, access_point=ipc)

    async def once(number: int) -> None:
        serving = asyncio.ensure_future(server.serve(lambda request: request.payload.deserialize()))
        response = await client.async_execute("", "", "", SerializableData(number))
        assert response is not None
        assert response.result() == number
        serving.cancel()

    for number in range(3):
        asyncio.run(once(number))
    client.exit()
    server.exit()


# a server whose program does without `serve`


def in_one_loop(ipc: str, program: Any, **options: Any) -> None:
    async def both() -> None:
        async with AsyncZMQServer(id=SERVER_ID, access_point=ipc, **options) as server:
            async with AsyncZMQClient("client", SERVER_ID, access_point=ipc) as client:
                await program(server, client)

    asyncio.run(both())


def test_requests_one_by_one_and_all_at_once(ipc: str) -> None:
    async def program(server: AsyncZMQServer, client: AsyncZMQClient) -> None:
        ids = [await client.async_send_request("", "", "do", SerializableData(number)) for number in range(3)]
        first = await server.async_recv_request()
        while server.core.waiting < 2:
            await asyncio.sleep(0)
        rest = await server.async_recv_requests()
        assert [each.payload.deserialize() for each in (first, *rest)] == [0, 1, 2]
        assert await server.async_send_response(first, SerializableData("first"))
        assert not await server.async_send_response(first, SerializableData("second"))
        server.handle_timeout(rest[0], "execution")
        await server.async_send_response_with_message_type(
            rest[1], "EXCEPTION", SerializableData({"message": "no"})
        )
        types = [(await client.async_recv_response(each)).type for each in ids]
        assert types == ["REPLY", "TIMEOUT", "EXCEPTION"]

    in_one_loop(ipc, program)


def test_polling_is_stopped(ipc: str) -> None:
    async def program(server: AsyncZMQServer, client: AsyncZMQClient) -> None:
        polling = asyncio.ensure_future(server.poll_requests())
        await asyncio.sleep(0)
        server.stop_polling()
        assert await polling == []
        await client.async_send_request("", "", "do")
        (request,) = await server.poll_requests()
        assert isinstance(request, RequestMessage)

    in_one_loop(ipc, program)


def test_exit_leaves_the_loop_of_the_program(ipc: str) -> None:
    async def program(server: AsyncZMQServer, client: AsyncZMQClient) -> None:
        message_id = await client.async_send_request("", "", "do")
        exiting = asyncio.ensure_future(client.async_send_exit())
        while not server.core.exiting:
            await asyncio.sleep(0)
        request = await server.async_recv_request()
        with pytest.raises(BreakLoop):
            await server.async_recv_request()
        with pytest.raises(BreakLoop):
            await server.poll_requests()
        assert not exiting.done()
        await server.async_send_response(request)
        assert (await client.async_recv_response(message_id)).type == "REPLY"
        assert (await exiting).type == "REPLY"

    in_one_loop(ipc, program, allow_exit=True)


def test_a_server_times_out_what_its_program_does_not_take(ipc: str) -> None:
    async def program(server: AsyncZMQServer, client: AsyncZMQClient) -> None:
        context = ServerExecutionContext(0.05, WAIT)
        response = await client.async_execute("", "", "do", server_execution_context=context)
        assert response is not None
        assert response.payload.deserialize() == "invokation"
        assert server.core.pending == 0

    in_one_loop(ipc, program)


def test_who_waits_for_a_request_is_told_of_the_exit(ipc: str) -> None:
    async def program(server: AsyncZMQServer, client: AsyncZMQClient) -> None:
        waiting = asyncio.ensure_future(server.async_recv_request())
        await asyncio.sleep(0)
        server.exit()
        with pytest.raises(ConnectionEnded):
            await waiting
        with pytest.raises(ConnectionEnded):
            await server.async_recv_request()

    in_one_loop(ipc, program)


def test_a_handler_may_end_its_server(ipc: str) -> None:
    """Those that run are cancelled, and `serve` returns."""

    async def program(server: AsyncZMQServer, client: AsyncZMQClient) -> None:
        cancelled = asyncio.Event()

        async def handle(request: RequestMessage) -> str:
            if request.operation == "wait":
                try:
                    await asyncio.Event().wait()
                finally:
                    cancelled.set()
            server.exit()
            return "nobody gets this"

        serving = asyncio.ensure_future(server.serve(handle))
        await client.async_send_request("", "", "wait")
        with pytest.raises(PeerClosed):
            await client.async_execute("", "", "end")
        await serving
        assert cancelled.is_set()

    in_one_loop(ipc, program)


def test_a_server_is_served_once_at_a_time(ipc: str) -> None:
    async def program(server: AsyncZMQServer, client: AsyncZMQClient) -> None:
        serving = asyncio.ensure_future(server.serve(lambda request: 1))
        await asyncio.sleep(0)
        with pytest.raises(LocalProtocolError, match="is served already"):
            await server.serve(lambda request: 2)
        response = await client.async_execute("", "", "")
        assert response is not None
        assert response.result() == 1
        serving.cancel()

    in_one_loop(ipc, program)


def test_default_messages_of_a_program(ipc: str) -> None:
    async def program(server: AsyncZMQServer, client: AsyncZMQClient) -> None:
        def made(kind: str) -> RequestMessage:
            return RequestMessage.craft_with_message_type("client", SERVER_ID, kind)

        assert server.handled_default_message_types(made("HANDSHAKE"))
        assert server.handled_default_message_types(made("EXIT"))
        assert not server.handled_default_message_types(
            RequestMessage.craft_from_arguments("s", "client", "", "", "")
        )
        server.core.allow_exit = True
        with pytest.raises(BreakLoop):
            server.handled_default_message_types(made("EXIT"))

    in_one_loop(ipc, program)
