"""How connections in a loop end: in order, cut off, broken, interrupted; every request is accounted for."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import sys
import threading

import pytest

from packetwire import (
    AsyncPacketConnection,
    ChildExited,
    ConnectionEnded,
    Packet,
    PacketConnection,
    PeerClosed,
    RemoteProtocolError,
    Responder,
    StreamEnded,
    StreamTruncated,
)
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.open import open_stream

from .conftest import RawPeer, connected, pipes, socketpair

pytestmark = pytest.mark.timeout(60)

EOF = bytes(PacketConnection.EOF_Packet)
ERQ = bytes(PacketConnection.ERQ_Packet)


def reverse(rq_type, flags, payload):
    return flags, payload[::-1]


def request(tag, payload=b""):
    return bytes(Packet(is_request=True, tag=tag, rq_type=1, payload=payload))


def response(tag, payload=b""):
    return bytes(Packet(is_request=False, tag=tag, flags=1, payload=payload))


async def outcomes(futures):
    """What each gave, or its exception; all of them end."""
    return await asyncio.gather(*futures, return_exceptions=True)


# in order


def test_async_with_opens_and_closes_and_counts(run, ends):
    async def main():
        async with ends() as (ours, theirs):
            a = AsyncPacketConnection(ours, "a")
            b = AsyncPacketConnection(theirs, "b", request_handler=reverse)
            assert not a.closed
            assert not a.is_open()
            with pytest.raises(ConnectionEnded, match="never opened"):
                await a(1)
            async with b, a, a:
                async with a:
                    assert (await a(1, b"ab"))[2] == b"ba"
                assert (await a(1, b"ab"))[2] == b"ba"
                assert not a.closed
            assert a.closed
            assert b.closed
            assert isinstance(a.ended, PeerClosed)
            assert isinstance(b.ended, PeerClosed)
            with pytest.raises(ConnectionEnded, match="is closed"):
                a.submit(1)
            await a.close()
            assert await a.join()

    run(main)


def test_a_connection_can_be_opened_again_in_another_loop(run):
    a, b = socket.socketpair()
    conn, peer = AsyncPacketConnection(a), AsyncPacketConnection(b, request_handler=reverse)

    async def main():
        async with conn, peer:
            assert (await conn(1, b"ab"))[2] == b"ba"

    with a, b:
        for _ in range(3):
            run(main)


def test_many_open_and_close_at_once(run):
    async def main():
        a, b = socket.socketpair()
        conn, peer = AsyncPacketConnection(a), AsyncPacketConnection(b, request_handler=reverse)

        async def use():
            for _ in range(5):
                async with peer, conn:
                    assert (await conn(1, b"ab"))[2] == b"ba"

        with a, b:
            await asyncio.gather(*(use() for _ in range(8)))

    run(main)


def test_what_is_owed_is_waited_for(run, ends):
    async def main():
        gate = asyncio.Event()

        async def handler(rq_type, flags, payload):
            await gate.wait()
            return payload

        async with connected(ends, None, {"request_handler": handler}) as (a, _):
            futures = [a.submit(1, payload=b"%d" % i) for i in range(6)]
            asyncio.get_running_loop().call_later(0.02, gate.set)
            await a.close()
            assert [await future for future in futures] == [(True, 0, b"%d" % i) for i in range(6)]

    run(main)


def test_requests_that_wait_for_room_are_sent_before_the_end(run, fd_ends):
    async def main():
        async with connected(fd_ends, {"max_outstanding": 2}, {"request_handler": reverse}) as (a, _):
            futures = [a.submit(1, i) for i in range(4)]
            a.send_erq()
            a.send_erq()
            with pytest.raises(ConnectionEnded, match="ERQ"):
                a.submit(1)
            a.send_eof()
            assert [flags for _, flags, _ in await asyncio.gather(*futures)] == list(range(4))
            assert await a.join(20)

    run(main)


def test_replies_owed_are_sent_after_the_peers_eof(run, fd_ends):
    async def main():
        async with fd_ends() as (ours, theirs):
            peer = RawPeer(theirs)
            responder = Responder()
            async with AsyncPacketConnection(ours, request_handler=lambda *rq: responder) as a:
                peer.send(request(2) + ERQ + EOF)
                assert await a.join_recv(20)
                responder.respond(b"owed")
                assert await peer.read_until(lambda octets: EOF in octets) == ERQ + response(2, b"owed") + EOF

    run(main)


def test_a_stream_carries_one_connection_after_another(run, ends):
    async def main():
        async with ends() as (ours, theirs):
            for _ in range(5):
                async with (
                    AsyncPacketConnection(ours, close_timeout=20) as a,
                    AsyncPacketConnection(theirs, close_timeout=20, request_handler=reverse),
                ):
                    replies = await asyncio.gather(*(a(1, b"%d" % i) for i in range(10, 40)))
                    assert [payload[::-1] for _, _, payload in replies] == [b"%d" % i for i in range(10, 40)]
                assert a.trailing_octets == b""

    run(main)


def test_trailing_octets_are_kept_and_used_at_the_next_opening(run, ends):
    async def main():
        async with ends() as (ours, theirs):
            conn = AsyncPacketConnection(ours, request_handler=reverse)
            if isinstance(theirs, tuple) and not isinstance(theirs[1], int):
                theirs[1].write(EOF + request(2, b"ab") + EOF)
                await asyncio.sleep(0) if not hasattr(theirs[1], "flush") else theirs[1].flush()
            else:
                RawPeer(theirs).send(EOF + request(2, b"ab") + EOF)
            events = []
            conn.on_event = events.append
            for _ in range(2):
                async with conn:
                    assert await conn.join_recv(20)
            assert sum(isinstance(event, StreamEnded) and event.clean for event in events) == 2
            assert [event.payload for event in events if hasattr(event, "payload")] == [b"ab"]
            assert conn.trailing_octets == b""

    run(main)


def test_leading_octets_come_first(run, ends):
    async def main():
        async with ends() as (ours, theirs):
            first = request(2, b"ab")
            async with (
                AsyncPacketConnection(theirs) as peer,
                AsyncPacketConnection(ours, request_handler=reverse, leading_octets=first) as a,
            ):
                assert await peer.join_recv(20)  # it gets a response that it never asked for
                assert isinstance(peer.ended.__cause__, RemoteProtocolError)
                assert await a.join_recv(20)

    run(main)


def test_two_threads_and_loops_at_the_ends_of_a_stream(run, ends):
    """Neither loop may need the other one to go on."""

    async def main():
        async with ends() as (ours, theirs):
            if isinstance(theirs, tuple) and isinstance(theirs[0], asyncio.StreamReader):
                return  # these belong to this loop

            def serve():
                async def main():
                    async with AsyncPacketConnection(theirs, request_handler=reverse) as conn:
                        await conn.join_recv()

                asyncio.run(main())

            server = threading.Thread(target=serve)
            server.start()
            async with AsyncPacketConnection(ours) as conn:
                replies = await asyncio.gather(*(conn(1, bytes([i]) * 100_000) for i in range(20)))
                assert [payload[:1] for _, _, payload in replies] == [bytes([i]) for i in range(20)]
            server.join(20)

    run(main)


# cut off and broken


@pytest.mark.usefixtures("plain_streams")
def test_the_stream_is_cut_at_every_octet(run, fd_ends):
    transcript = b"".join(response(tag, b"%d" % tag * tag) for tag in range(2, 7)) + ERQ + EOF
    boundaries = {0}
    while max(boundaries) < len(transcript):
        boundaries.add(Packet.parse_bytes(transcript, max(boundaries))[1])

    async def cut_at(cut):
        async with fd_ends() as (ours, theirs):
            peer = RawPeer(theirs)
            async with AsyncPacketConnection(ours) as a:
                futures = [a.submit(1) for _ in range(5)]
                await peer.read_until(lambda octets: len(octets) == 20)  # else a socket would be reset
                peer.send(transcript[:cut])
                peer.shut_down()
                found = await outcomes(futures)
                expected = sum(1 for boundary in boundaries if 0 < boundary <= min(cut, len(transcript) - 8))
                assert [type(outcome) is tuple for outcome in found] == [True] * expected + [False] * (5 - expected)
                assert type(a.ended) is (PeerClosed if cut in boundaries else StreamTruncated)
                assert len({id(error) for error in found[expected:]}) == 5 - expected

    async def main():
        for cut in range(len(transcript) + 1):
            await cut_at(cut)

    run(main)


@pytest.mark.parametrize("garbage", [b"\0", b"\xff" * 20, b"Welcome to the machine\n", b"\x02\x09\x04"], ids=repr)
def test_garbage_ends_the_connection(run, fd_ends, garbage):
    async def main():
        async with fd_ends() as (ours, theirs):
            peer = RawPeer(theirs)
            async with AsyncPacketConnection(ours) as a:
                futures = [a.submit(1) for _ in range(2)]
                peer.send(response(2) + garbage)
                assert (await outcomes(futures))[0] == (True, 0, b"")
                assert await a.join(20)
                with pytest.raises(ConnectionEnded) as caught:
                    await a(1)
                assert isinstance(caught.value.__cause__, RemoteProtocolError)
            # the peer is told that it is over
            assert (await peer.read_until(lambda octets: EOF in octets)).endswith(ERQ + EOF)

    run(main)


def test_calls_that_wait_are_woken_by_close(run, ends):
    async def main():
        async with ends() as (ours, _):
            async with AsyncPacketConnection(ours, max_outstanding=4) as a:
                tasks = [asyncio.create_task(a(1)) for _ in range(8)]
                draining = asyncio.create_task(a.drain())
                await asyncio.sleep(0)
                assert a.outstanding == 8
                await a.close(timeout=0.05)
                found = await outcomes(tasks)
                await draining
            assert all(isinstance(outcome, ConnectionEnded) for outcome in found)
            assert len({id(outcome) for outcome in found}) == 8

    run(main)


def test_a_broken_pipe_is_reported_even_if_the_other_direction_stays_open(run):
    async def main():
        recv, peer_send = os.pipe()
        peer_recv, send = os.pipe()
        os.close(peer_recv)
        async with AsyncPacketConnection((recv, send)) as a:
            with pytest.raises(ConnectionEnded) as caught:
                await a(1)
            assert isinstance(caught.value.__cause__, BrokenPipeError)
            with pytest.raises(ConnectionEnded):
                await a(1)
        for fd in (recv, peer_send, send):
            os.close(fd)

    run(main)


@pytest.mark.parametrize("streams", [False, True])
def test_a_reset_is_reported(run, streams):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            mine = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
        stream = await asyncio.open_connection(sock=mine) if streams else mine
        async with AsyncPacketConnection(stream) as a:
            waiting = a.submit(1)
            await asyncio.sleep(0)
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            theirs.close()
            with pytest.raises(ConnectionEnded) as caught:
                await waiting
            assert isinstance(caught.value.__cause__, ConnectionResetError)
        if streams:
            stream[1].close()
        mine.close()

    run(main)


def test_a_killed_child(run):
    async def main():
        program = "import sys; sys.stderr.write('dying words'); sys.stderr.flush(); sys.stdin.buffer.read()"
        async with AsyncPacketConnection.spawn([sys.executable, "-c", program]) as a:
            futures = [a.submit(1) for _ in range(3)]
            await asyncio.sleep(0)
            while a.process.poll() is None and b"dying" not in a._driver.transport.stream.stderr:
                await asyncio.sleep(0.01)
            a.process.kill()
            for outcome in await outcomes(futures):
                assert isinstance(outcome, ChildExited)
                assert outcome.signal == signal.SIGKILL
                assert b"dying words" in outcome.stderr
        assert a.process.returncode == -signal.SIGKILL

    run(main)


def test_a_child_that_ignores_the_end_is_terminated_without_stopping_the_loop(run):
    async def main():
        program = "import time; print(end='', flush=True); time.sleep(100)"
        a = AsyncPacketConnection.spawn([sys.executable, "-c", program], exit_timeout=0.05)
        await a.open()
        closing = asyncio.create_task(a.close(0.05))
        rounds = 0
        while not closing.done():
            rounds += 1
            await asyncio.sleep(0.005)
        assert rounds > 5
        assert a.process.returncode == -signal.SIGTERM

    run(main)


@pytest.mark.parametrize("trouble", ["asleep", "silent", "half a packet", "not reading"])
def test_close_ends_within_its_bound_whatever_goes_on(run, fd_ends, trouble):
    gate = threading.Event()

    async def main():
        async with fd_ends() as (ours, theirs):
            peer = RawPeer(theirs)
            settings = {"request_handler": lambda *rq: gate.wait(30) and b"", "handlers": 2}
            a = AsyncPacketConnection(ours, "a", **settings)
            await a.open()
            futures = []
            if trouble == "asleep":
                peer.send(b"".join(request(tag) for tag in range(2, 12)))
                await asyncio.sleep(0.01)
            elif trouble == "silent":
                futures = [a.submit(1) for _ in range(10)]
            elif trouble == "half a packet":
                peer.send(request(2, bytes(60_000))[:30_000])
                futures = [a.submit(1)]
            else:
                futures = [asyncio.ensure_future(a(1, bytes(200_000))) for _ in range(20)]
                await asyncio.sleep(0)
            await a.close(timeout=0.1)
            assert a.closed
            assert all(isinstance(outcome, ConnectionEnded) for outcome in await outcomes(futures))

    run(main)
    gate.set()
    for thread in threading.enumerate():
        if thread.name.startswith("a-"):
            thread.join(20)


@pytest.mark.parametrize("kind", ["plain", "async", "inline"])
def test_a_handler_can_close_its_connection(run, fd_ends, kind):
    async def main():
        loop = asyncio.get_running_loop()
        closing = []

        async def close_and_wait(*rq):
            await b.close(timeout=1)

        def close(*rq):
            closing.append(asyncio.run_coroutine_threadsafe(b.close(timeout=1), loop))

        handler = close_and_wait if kind == "async" else close
        async with fd_ends() as (ours, theirs):
            b = AsyncPacketConnection(
                theirs, "b", request_handler=handler, handlers="inline" if kind == "inline" else 1
            )
            await b.open()
            async with AsyncPacketConnection(ours) as a:
                assert await a(1) == (True, 0, b"")
                assert await a.join_recv(20)
            for future in closing:
                await asyncio.wrap_future(future)
            while len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0)
            assert b.closed

    run(main)


def test_handlers_that_still_run_are_cancelled_in_the_end(run, caplog):
    async def main():
        ended = []

        async def handler(rq_type, flags, payload):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                ended.append(error)
                raise

        async with connected(socketpair, {"close_timeout": 0}, {"request_handler": handler}) as (a, b):
            future = a.submit(1)
            while not b._driver.engine.owed:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            await b.close(timeout=0)
            assert len(ended) == 1
            with pytest.raises(PeerClosed, match="closed before this request was done"):
                await future

    run(main)
    assert "CancelledError" not in caplog.text


def test_an_exception_in_the_block_does_not_wait_for_answers(run, fd_ends):
    async def main():
        async with fd_ends() as (ours, _):
            with pytest.raises(ZeroDivisionError):
                async with AsyncPacketConnection(ours, close_timeout=0.05) as a:
                    future = a.submit(1)
                    raise ZeroDivisionError
            with pytest.raises(ConnectionEnded):
                await future

    run(main)


def test_stream_ended_is_the_last_event_and_comes_once(run, ends):
    seen = []

    async def main():
        async with connected(ends, {"on_event": seen.append}, {"request_handler": reverse}) as (a, _):
            await a(1)

    run(main)
    assert [isinstance(event, StreamEnded) for event in seen].count(True) == 1
    assert isinstance(seen[-1], StreamEnded)


# interruptions


def test_a_cancelled_close_leaves_nothing_behind(run, ends):
    async def main():
        async with ends() as (ours, _):
            a = await AsyncPacketConnection(ours, close_timeout=30).open()
            future = a.submit(1)
            closing = asyncio.create_task(a.close())
            await asyncio.sleep(0.01)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            assert a.closed
            with pytest.raises(ConnectionEnded):
                await future

    run(main)


async def never(*rq):
    await asyncio.Event().wait()


async def interrupted():
    asyncio.get_running_loop().call_later(0.02, signal.raise_signal, signal.SIGINT)
    await never()


def test_ctrl_c_in_a_block_ends_its_connection(loop_factory, ends):
    found = []

    async def main():
        async with connected(ends, {"close_timeout": 0.1}, {"close_timeout": 0.1, "request_handler": never}) as (
            a,
            b,
        ):
            found.extend((a, b))
            a.submit(1)
            await interrupted()

    with pytest.raises(KeyboardInterrupt), asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert [conn.closed for conn in found] == [True, True]


@pytest.mark.parametrize("where", ["another task", "nowhere"])
def test_a_loop_that_shuts_down_ends_the_connections_that_are_open(loop_factory, where):
    """That another task has opened, which is cancelled, or that nobody closes at all."""

    async def serve(end):
        async with AsyncPacketConnection(end, close_timeout=0.1, request_handler=never) as conn:
            await conn.join_recv()

    async def main():
        conn = await AsyncPacketConnection(a, close_timeout=0.1, request_handler=lambda *rq: b"").open()
        other = AsyncPacketConnection(b, request_handler=never)
        serving = asyncio.create_task(serve(b)) if where == "another task" else await other.open()
        conn.submit(1)
        for _ in range(3):
            await asyncio.sleep(0)
        found.extend((conn, serving))
        await interrupted()

    found = []
    a, b = socket.socketpair()
    with a, b:
        with pytest.raises(KeyboardInterrupt), asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())
        assert found[0].ended is not None
        assert found[1].done() if where == "another task" else found[1].ended is not None


class InterruptedStream(ByteStream):
    """Raises KeyboardInterrupt right after octets were taken, as a Ctrl-C at that moment would."""

    def __init__(self, recv_send):
        inner = open_stream(recv_send)
        super().__init__(inner.reader, inner.writer)
        self.try_read = self.read_and_raise

    def read_and_raise(self, size):
        if self.reader.try_read(size):
            raise KeyboardInterrupt


def test_an_interruption_between_taking_and_feeding_octets_ends_the_connection(loop_factory):
    a, b = socket.socketpair()
    found = []

    async def main():
        async with AsyncPacketConnection(InterruptedStream(a), close_timeout=0.1) as conn:
            futures = [conn.submit(1) for _ in range(3)]
            b.send(response(2))
            try:
                found.extend(await outcomes(futures))
            finally:
                found.append(conn.ended)

    with a, b, pytest.raises(KeyboardInterrupt), asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert "interrupted while reading" in str(found[-1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_connection_cannot_be_used_in_a_forked_child(run):
    async def main():
        async with connected(pipes, None, {"request_handler": reverse}) as (a, _):
            assert (await a(1, b"ab"))[2] == b"ba"
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    a(1).send(None)
                except ConnectionEnded as error:
                    status = 0 if "fork" in str(error) else 2
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert (await a(1, b"ab"))[2] == b"ba"

    run(main)


def test_a_reset_is_seen_behind_what_came_before_it(run):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
        with ours, theirs:
            async with AsyncPacketConnection(ours, close_timeout=0) as a:
                futures = [a.submit(1) for _ in range(400)]
                await asyncio.sleep(0)  # they leave
                theirs.sendall(b"".join(response(tag, bytes(1000)) for tag in range(2, 400)))
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                theirs.close()
                with pytest.raises(ConnectionEnded):
                    async with asyncio.timeout(20):
                        await futures[-1]

    run(main)
