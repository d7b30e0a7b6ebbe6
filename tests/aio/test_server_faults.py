"""`aserve` when something breaks under it: the listening socket, a service, the system's resources."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from typing import Any

import pytest

from packetwire import AsyncPacketConnection, ConnectionEnded, PeerClosed, aserve, child, connect_to
from packetwire.addresses import parse_address

from .conftest import Run

pytestmark = pytest.mark.timeout(60)


async def echo(rq_type: int, flags: int, payload: bytes) -> bytes:
    return payload


def echoing(stream: Any) -> AsyncPacketConnection:
    return AsyncPacketConnection(stream, request_handler=echo)


@pytest.fixture
def address(tmp_path: Any) -> str:
    return f"unix:{tmp_path}/socket"


def test_an_address_may_be_given_as_an_object(run: Run, address: str) -> None:
    async def main() -> None:
        async with await aserve(parse_address(address), echoing) as server:
            assert str(server.address) == address
            async with AsyncPacketConnection(connect_to(address)) as conn:
                assert await conn(1, b"x") == (True, 0, b"x")

    run(main)


def test_a_listening_socket_that_breaks_ends_the_server(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        server = await aserve("tcp:127.0.0.1:0", echoing)
        (listening,) = server._listener.sockets
        assert isinstance(listening, socket.socket)
        listening.shutdown(socket.SHUT_RDWR)  # from now on it is readable, and accept raises EINVAL
        assert await server.wait(20)
        assert isinstance(server.failure, OSError)
        assert server.failure.errno == errno.EINVAL

    run(main)
    assert "accepting failed" in caplog.text


def test_clients_wait_when_the_system_is_out_of_something(
    run: Run, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and the clients that come later are served."""
    out_of: list[int] = [errno.EMFILE, errno.ENOBUFS]

    def factory(stream: Any) -> AsyncPacketConnection:
        if out_of:
            raise OSError(out_of.pop(), "there is none left")
        return echoing(stream)

    async def main() -> None:
        async with await aserve(address, factory) as server:
            for _ in range(2):
                async with AsyncPacketConnection(connect_to(address)) as conn:
                    with pytest.raises(ConnectionEnded):
                        await conn(1)
            async with AsyncPacketConnection(connect_to(address)) as conn:
                assert await conn(1, b"x") == (True, 0, b"x")
            assert server.failure is None

    run(main)
    assert "clients have to wait: [Errno" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_server_that_is_stopped_while_a_service_is_made_tells_its_client(run: Run, address: str) -> None:
    async def main() -> None:
        def factory(stream: Any) -> AsyncPacketConnection:
            server.stop(20)
            return echoing(stream)

        server = await aserve(address, factory)
        async with AsyncPacketConnection(connect_to(address)) as conn:
            assert await conn.join_recv(20)
            assert isinstance(conn.ended, PeerClosed)
            assert "EOF)" in str(conn.ended)
        assert await server.wait(20)

    run(main)


def test_a_later_stop_does_not_give_more_time(run: Run, address: str) -> None:
    async def main() -> None:
        server = await aserve(address, echoing)
        async with AsyncPacketConnection(connect_to(address), close_timeout=0.1) as conn:
            assert (await conn(1))[0]
            server.stop(0)
            server.stop(1000)
            assert await server.wait(20)

    run(main)


def test_a_service_that_does_not_return_is_left_behind(
    run: Run, address: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packetwire.aio.server.CUT_SECONDS", 0.1)
    entered, finish = asyncio.Event(), asyncio.Event()

    class Stubborn:
        """It goes on however often it is cancelled."""

        def __init__(self, stream: Any) -> None:
            self.conn = echoing(stream)

        async def __aenter__(self) -> None:
            entered.set()
            while not finish.is_set():
                try:
                    await finish.wait()
                except asyncio.CancelledError:
                    pass

        async def __aexit__(self, *exc: object) -> None: ...

    async def main() -> None:
        server = await aserve(address, Stubborn)  # type: ignore[arg-type]
        async with AsyncPacketConnection(connect_to(address), close_timeout=0.1):
            await entered.wait()
            server.stop(0)
            assert await server.wait(20)
            assert server.connections == 1
        finish.set()
        while server.connections:
            await asyncio.sleep(0.001)

    with caplog.at_level(logging.WARNING):
        run(main)
    assert "1 services do not return" in caplog.text


STDIO = """
import asyncio
from packetwire import AsyncPacketConnection, aserve

async def upper(rq_type, flags, payload):
    return payload.upper()

async def main():
    server = await aserve("stdio:", lambda stream: AsyncPacketConnection(stream, request_handler=upper))
    await server.wait()
    assert server.failure is None

asyncio.run(main())
"""


def test_standard_input_and_output_are_one_client(run: Run) -> None:
    async def main() -> None:
        async with AsyncPacketConnection(child([sys.executable, "-W", "error", "-c", STDIO])) as conn:
            assert await conn(1, b"over stdio") == (True, 0, b"OVER STDIO")
            process = conn.process
        assert process is not None
        assert process.returncode == 0

    run(main)
