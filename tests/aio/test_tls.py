"""TLS in an event loop: over a ByteStream and over asyncio's own streams."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from connections.certificates import make_certificate
from packetwire import AsyncPacketConnection, PacketConnection, PeerClosed, aserve, connect_to, serve
from packetwire.streams.tls import client_context, server_context

pytestmark = pytest.mark.timeout(60)


def reverse(rq_type, flags, payload):
    return flags, payload[::-1]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("certificates"), "server")


@pytest.fixture
def client(certificate):
    return client_context(certificate.certfile)


@pytest.fixture
def server(certificate):
    return server_context(certificate.certfile, certificate.keyfile)


async def check(conn):
    payload = os.urandom(3 << 20)
    replies = await asyncio.gather(conn(1, payload), *(conn(2, b"%d" % i) for i in range(100)))
    assert replies == [(True, 0, payload[::-1])] + [(True, 0, (b"%d" % i)[::-1]) for i in range(100)]


def test_loop_to_loop(run, client, server):
    def make(stream):
        return AsyncPacketConnection(stream, request_handler=reverse)

    async def main():
        async with await aserve("tls:localhost:0", make, ssl_context=server) as serving:
            conn = AsyncPacketConnection(connect_to(serving.address, ssl_context=client))
            for _ in range(2):
                async with conn:
                    await check(conn)
                assert isinstance(conn.ended, PeerClosed)

    run(main)


def test_loop_to_threads(run, client, server):
    def make(stream):
        return PacketConnection(stream, request_handler=reverse)

    async def main(serving):
        async with AsyncPacketConnection(connect_to(serving.address, ssl_context=client)) as conn:
            await check(conn)

    with serve("tls:localhost:0", make, ssl_context=server) as serving:
        run(lambda: main(serving))


def test_asyncio_opens_the_stream(run, client, server):
    def make(stream):
        return AsyncPacketConnection(stream, request_handler=reverse)

    async def main():
        async with await aserve("tls:localhost:0", make, ssl_context=server) as serving:

            def connect():
                return asyncio.open_connection("localhost", serving.address.port, ssl=client)

            async with AsyncPacketConnection(connect) as conn:
                await check(conn)
            assert isinstance(conn.ended, PeerClosed)

    run(main)


@pytest.mark.parametrize("cut_off", [False, True])
def test_a_client_that_does_not_shake_hands(run, client, server, cut_off):
    def make(stream):
        return AsyncPacketConnection(stream, request_handler=reverse)

    async def main():
        async with await aserve("tls:localhost:0", make, ssl_context=server) as serving:
            silent = await asyncio.open_connection("localhost", serving.address.port)
            while not any("handshake" in thread.name for thread in threading.enumerate()):
                await asyncio.sleep(0.001)
            async with AsyncPacketConnection(connect_to(serving.address, ssl_context=client)) as conn:
                assert (await conn(1))[0]
            if cut_off:
                silent[1].write(b"GET / HTTP/1.1\r\n\r\n")
                while serving.connections:
                    await asyncio.sleep(0.001)
        silent[1].close()
        await silent[1].wait_closed()

    run(main)
