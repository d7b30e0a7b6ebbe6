"""`AsyncHasPacketConnection`: request classes, fulfilled in the loop or in threads."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass

import pytest

from packetwire import (
    AsyncHasPacketConnection,
    BaseRequest,
    HasPacketConnection,
    LocalProtocolError,
    RequestFailed,
    RequestTimeout,
)

from .conftest import socketpair

pytestmark = pytest.mark.timeout(60)


@dataclass
class Add(BaseRequest[int]):
    """Fulfilled by a coroutine, which asks back."""

    data: bytes

    def __bytes__(self):
        return self.data

    @classmethod
    def from_bytes(cls, bs):
        return cls(bs)

    async def fulfil(self, context):
        context.seen.append((type(self), threading.current_thread()))
        if self.data == b"bad":
            raise ValueError("bad data")
        await asyncio.sleep(0)
        if self.data == b"ask":
            return await context.conn_do_remote(Count(b""))
        return len(self.data)

    def decode_response_payload(self, flags, payload):
        return flags


class Count(Add):
    """Fulfilled in a thread."""

    def fulfil(self, context):
        context.seen.append((type(self), threading.current_thread()))
        return 42


class Quick(Count):
    """Fulfilled in the loop."""

    inline = True


CLASSES = {0: Add, 1: Count, 7: Quick}


class Store(AsyncHasPacketConnection):
    def __init__(self, recv_send, classes=CLASSES, **settings):
        super().__init__(recv_send, rq_type_map=classes, **settings)
        self.seen = []


class ThreadedStore(HasPacketConnection):
    def __init__(self, recv_send, **settings):
        super().__init__(recv_send, rq_type_map={1: Count, 7: Quick}, **settings)
        self.seen = []


def test_requests_as_classes(run):
    async def main():
        async with socketpair() as (ours, theirs), Store(theirs) as far, Store(ours) as near:
            assert await near.conn_do_remote(Add(b"abc")) == 3
            assert await near.conn_do_remote(Count(b"")) == 42
            assert await near.conn_do_remote(Quick(b"")) == 42
            assert await near.conn_do_remote(Add(b"ask")) == 42
            assert await near.conn_submit(Add(b"four")) == (True, 4, b"")
            threads = dict(far.seen)
            assert threads[Add] is threads[Quick] is threading.current_thread()
            assert threads[Count] is not threading.current_thread()

    run(main)


def test_conn_map(run):
    async def main():
        async with socketpair() as (ours, theirs), Store(theirs), Store(ours) as near:
            requests = [cls(b"x" * i) for i in range(50) for cls in (Add, Count)]
            found = [flags async for flags in near.conn_map(requests, window=5)]
            assert found == [number for i in range(50) for number in (i, 42)]
            replies = near.conn_map([Add(b""), Add(b"bad"), Add(b"")])
            assert await anext(replies) == 0
            with pytest.raises(RequestFailed, match="bad data"):
                await anext(replies)
            with pytest.raises(LocalProtocolError, match="window"):
                near.conn_map([], window=0)

    run(main)


def test_failures(run):
    async def main():
        async with socketpair() as (ours, theirs):
            async with Store(theirs, {0: Add}, close_timeout=0.1), Store(ours, close_timeout=0.1) as near:
                with pytest.raises(RequestFailed, match="ValueError: bad data"):
                    await near.conn_do_remote(Add(b"bad"))
                with pytest.raises(RequestFailed, match="unknown request type 1; known are 0: Add"):
                    await near.conn_do_remote(Count(b""))
                with pytest.raises(LocalProtocolError, match="object is not in the rq_type_map of Store"):
                    await near.conn_do_remote(object())
            async with near:
                with pytest.raises(RequestTimeout, match=r"\(mine\)"):
                    await near.conn_do_remote(Add(b""), label="mine", timeout=0.01)
                with pytest.raises(RequestTimeout, match=r"\(Add\)"):
                    await near.conn_submit(Add(b""), timeout=0.01)

    run(main)


def test_conn_do_remote_opens_the_connection_for_the_call(run):
    async def main():
        async with socketpair() as (ours, theirs):
            near = Store(ours)
            async with Store(theirs):
                assert await near.conn_do_remote(Add(b"ab")) == 2
            assert near.conn.closed

    run(main)


def test_with_threads_at_the_other_end(run):
    async def main():
        async with socketpair() as (ours, theirs):
            far = ThreadedStore(theirs)
            far.conn.open()
            async with Store(ours) as near:
                assert await near.conn_do_remote(Count(b"")) == 42
                assert await near.conn_do_remote(Quick(b"")) == 42
                loop = asyncio.get_running_loop()
                assert await loop.run_in_executor(None, far.conn_do_remote, Count(b"")) == 42
            far.conn.close()
            await loop.shutdown_default_executor()

    run(main)
