"""TLS in an event loop: over a ByteStream and over asyncio's own streams."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from connections.certificates import make_certificate
from connections.test_tls import INSIDE_A_PACKET, Contexts, both_sides, ends_over, send_together
from packetwire import (
    AsyncPacketConnection,
    PacketConnection,
    PeerClosed,
    StreamTruncated,
    aserve,
    connect_to,
    serve,
)
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


@pytest.mark.parametrize("octets", INSIDE_A_PACKET)
@pytest.mark.parametrize("over", ["socketpair", "pipes", "tcp"])
def test_close_notify_inside_a_packet(run, client, server, over, octets):
    async def main(near, far):
        async with AsyncPacketConnection(near, close_timeout=1) as conn:
            requests = [conn.submit(0, 0, b"payload") for _ in range(2)]
            await asyncio.sleep(0)
            send_together(far, octets)
            with pytest.raises(StreamTruncated, match="the stream ended inside a packet, after"):
                await requests[-1]
            assert isinstance(conn.ended, StreamTruncated)
            await asyncio.wait(requests)

    with ends_over(over) as (ours, theirs), both_sides(Contexts(client, server, server), ours, theirs) as ends:
        run(lambda: main(*ends))


def test_close_notify_inside_a_packet_over_asyncios_streams(run, client, server):
    async def half_an_answer(reader, writer):
        await reader.readexactly(1)
        writer.write(INSIDE_A_PACKET[0])
        writer.close()

    async def main():
        async with await asyncio.start_server(half_an_answer, "localhost", 0, ssl=server) as serving:
            port = serving.sockets[0].getsockname()[1]

            def connect():
                return asyncio.open_connection("localhost", port, ssl=client)

            async with AsyncPacketConnection(connect, close_timeout=1) as conn:
                with pytest.raises(StreamTruncated, match="the stream ended inside a packet, after"):
                    await conn(0, b"payload")

    run(main)
