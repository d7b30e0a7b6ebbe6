"""Time limits of any length, and what is none: wherever a connection takes seconds."""

from __future__ import annotations

import asyncio
import math
import sys

import pytest

from packetwire import (
    AsyncHasPacketConnection,
    AsyncPacketConnection,
    BaseRequest,
    HasPacketConnection,
    LocalProtocolError,
    PacketConnection,
    aserve,
    child,
    connect_to,
    serve,
)

pytestmark = pytest.mark.timeout(60)

LONG = (math.inf, 1e10, 25 * 86_400.0, pytest.param(10**400, id="10**400"))
WRONG = ((math.nan, LocalProtocolError), ("5", TypeError), ([5], TypeError))


def upper(rq_type, flags, payload):
    return payload.upper()


class Shout(BaseRequest):
    @classmethod
    def from_bytes(cls, bs):
        return cls()

    def __bytes__(self):
        return b"abc"

    def decode_response_payload(self, flags, payload):
        return payload


REQUESTS = {0: Shout}


def collected(ends, result, **kwargs):
    """What comes of a submit."""
    if hasattr(ends.face, "loop"):

        async def wait():
            return await result

        return ends.do(wait)
    return result(**kwargs)


def mapped(ends, **kwargs):
    if hasattr(ends.face, "loop"):

        async def collect():
            return [each async for each in ends.conn.map([0], **kwargs)]

        return ends.do(collect)
    return list(ends.conn.map([0], **kwargs))


@pytest.mark.parametrize("timeout", LONG)
def test_a_long_time_limit_is_none(ends, timeout):
    ends.open()
    ends.asker(request_handler=upper)
    assert ends.call(0, b"abc", timeout=timeout) == (True, 0, b"ABC")
    result = ends.do(lambda: (ends.conn.submit(0, 0, b"abc", timeout=timeout),))[0]
    assert collected(ends, result, timeout=timeout) == (True, 0, b"ABC")
    assert mapped(ends, timeout=timeout) == [(True, 0, b"")]
    if hasattr(ends.face, "loop"):
        ends.do(lambda: ends.conn.drain(timeout=timeout))
    else:
        assert result.join(timeout) == ((True, 0, b"ABC"), None)


@pytest.mark.parametrize(("timeout", "error"), WRONG)
def test_a_wrong_one_is_told_before_anything_is_sent(ends, timeout, error):
    ends.open()
    peer = ends.peer()
    for ask in (
        lambda: ends.call(0, b"abc", timeout=timeout),
        lambda: ends.do(lambda: ends.conn.submit(0, 0, b"abc", timeout=timeout)),
        lambda: ends.do(lambda: ends.conn.map([0], timeout=timeout) and None),
        lambda: ends.do(lambda: ends.conn.join_recv(timeout)),
        lambda: ends.do(lambda: ends.conn.join(timeout)),
        lambda: ends.do(lambda: ends.conn.close(timeout)),
    ):
        with pytest.raises(error, match="timeout must be a number of seconds"):
            ask()
    assert ends.conn.is_open()
    assert ends.conn.outstanding == 0
    ends.do(ends.conn.send_erq)
    assert peer.read().tag == 1, "ERQ is the first packet"


def test_a_result_is_waited_for_with_a_wrong_limit(ends):
    ends.open()
    ends.asker(request_handler=upper)
    if hasattr(ends.face, "loop"):
        return  # a future has none
    result = ends.conn.submit(0, 0, b"abc")
    for timeout, error in WRONG:
        with pytest.raises(error, match="timeout must be"):
            ends.conn.submit(0)(timeout=timeout)
    assert result(timeout=math.inf) == (True, 0, b"ABC")


@pytest.mark.parametrize("timeout", LONG)
def test_requests_as_classes(ends, timeout):
    in_loop = hasattr(ends.face, "loop")
    service_class = AsyncHasPacketConnection if in_loop else HasPacketConnection
    service = service_class(ends._sockets[0], rq_type_map=REQUESTS)
    ends.conn = service.conn
    ends.open()
    ends.asker(request_handler=upper)
    assert ends.do(lambda: service.conn_do_remote(Shout(), timeout=timeout)) == b"ABC"
    result = ends.do(lambda: (service.conn_submit(Shout(), timeout=timeout),))[0]
    assert collected(ends, result) == (True, 0, b"ABC")
    for wrong, error in WRONG:
        with pytest.raises(error, match="timeout must be"):
            ends.do(lambda wrong=wrong: service.conn_do_remote(Shout(), timeout=wrong))
        with pytest.raises(error, match="timeout must be"):
            ends.do(lambda wrong=wrong: service.conn_map([Shout()], timeout=wrong) and None)


@pytest.mark.parametrize("timeout", LONG)
def test_closing_within_a_long_time(ends, timeout):
    ends.make(close_timeout=timeout)
    with ends.face.opened(ends.conn):
        asker = ends.asker(request_handler=upper)
        ends.call(0)
        asker.close()
        ends.do(lambda: ends.conn.join_recv(timeout))
        ends.do(lambda: ends.conn.close(timeout))
        ends.do(ends.conn.open)  # for the block to close
        ends.do(lambda: ends.conn.close(0))


@pytest.mark.parametrize("make", [PacketConnection, AsyncPacketConnection])
@pytest.mark.parametrize(("timeout", "error"), WRONG)
def test_a_wrong_close_timeout_is_told_at_once(make, timeout, error):
    with pytest.raises(error, match="close_timeout must be a number of seconds"):
        make((0, 1), close_timeout=timeout)


SLOW_TO_LEAVE = "import sys, time; sys.stdin.read(); time.sleep(0.3); sys.exit(7)"


@pytest.mark.parametrize("timeout", LONG)
def test_a_child_has_a_long_time_to_leave(timeout):
    conn = PacketConnection.spawn([sys.executable, "-c", SLOW_TO_LEAVE], exit_timeout=timeout, close_timeout=0.1)
    with conn:
        process = conn.process
    assert process.returncode == 7, "it was not killed"


@pytest.mark.parametrize(("timeout", "error"), WRONG)
def test_a_wrong_exit_timeout(timeout, error):
    with pytest.raises(error, match="exit_timeout must be a number of seconds"):
        child([sys.executable, "-c", "pass"], exit_timeout=timeout)
    with pytest.raises(error, match="exit_timeout must be a number of seconds"):
        PacketConnection.spawn([sys.executable, "-c", "pass"], exit_timeout=timeout)


@pytest.mark.parametrize("timeout", LONG)
def test_servers(tmp_path, timeout):
    def service(recv_send):
        return PacketConnection(recv_send, request_handler=upper)

    with serve(f"unix:{tmp_path}/socket", service, drain_timeout=timeout) as server:
        with PacketConnection(connect_to(server.address, timeout=timeout)) as conn:
            assert conn(0, b"abc", timeout=timeout) == (True, 0, b"ABC")
        server.stop(timeout)
        assert server.wait(timeout)


@pytest.mark.parametrize("timeout", LONG)
def test_servers_in_a_loop(tmp_path, timeout):
    def service(recv_send):
        return AsyncPacketConnection(recv_send, request_handler=upper)

    async def main():
        async with await aserve(f"unix:{tmp_path}/socket", service, drain_timeout=timeout) as server:
            async with AsyncPacketConnection(connect_to(server.address, timeout=timeout)) as conn:
                assert await conn(0, b"abc", timeout=timeout) == (True, 0, b"ABC")
            server.stop(timeout)
            assert await server.wait(timeout)

    asyncio.run(main())


@pytest.mark.parametrize(("timeout", "error"), WRONG, ids=["nan", "str", "list"])
def test_a_server_with_a_wrong_one(tmp_path, timeout, error):
    address = f"unix:{tmp_path}/socket"
    with pytest.raises(error, match="drain_timeout must be a number of seconds"):
        serve(address, PacketConnection, drain_timeout=timeout)
    with pytest.raises(error, match="timeout must be a number of seconds"):
        connect_to(address, timeout=timeout)
    with serve(address, PacketConnection) as server:
        with pytest.raises(error, match="timeout must be a number of seconds"):
            server.stop(timeout)
        with pytest.raises(error, match="timeout must be a number of seconds"):
            server.wait(timeout)

    async def main():
        with pytest.raises(error, match="drain_timeout must be a number of seconds"):
            await aserve(address, AsyncPacketConnection, drain_timeout=timeout)
        async with await aserve(address, AsyncPacketConnection) as server:
            with pytest.raises(error, match="timeout must be a number of seconds"):
                server.stop(timeout)
            with pytest.raises(error, match="timeout must be a number of seconds"):
                await server.wait(timeout)

    asyncio.run(main())
