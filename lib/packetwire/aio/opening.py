"""Every form of `recv_send`, made into a transport."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable, iscoroutinefunction
from typing import Any, TypeGuard

from packetwire.aio.blocking import in_thread
from packetwire.aio.polled import PolledTransport
from packetwire.aio.streampair import StreamPairTransport
from packetwire.aio.transport import Transport
from packetwire.streams.open import PacketConnectionRecvSend, open_stream

StreamPair = tuple[asyncio.StreamReader, asyncio.StreamWriter]

AsyncRecvSend = PacketConnectionRecvSend | StreamPair | Callable[[], Awaitable[Any]]
"""All that `AsyncPacketConnection` accepts as `recv_send`."""


async def open_transport(recv_send: AsyncRecvSend, name: str, leading: bytes) -> Transport:
    """The transport for `recv_send`; `leading` are bytes that come before its own.

    A callable is called in a thread, as it may wait; a coroutine function in the loop.
    """
    if isinstance(recv_send, tuple) and len(recv_send) == 2 and callable(recv_send[0]) and recv_send[1] is None:
        recv_send = recv_send[0]  # the reference's other way to give a callable
    made = callable(recv_send)
    if callable(recv_send):
        recv_send = await _make(recv_send, name)
    if _is_stream_pair(recv_send):
        return StreamPairTransport(*recv_send, name, leading=leading, owned=made)
    other: Any = recv_send
    stream = open_stream((lambda: other) if made else other)
    stream.leading_octets = leading + stream.leading_octets
    return PolledTransport(stream, name, made=made)


async def _make(recv_send: Callable[[], Any], name: str) -> Any:
    if iscoroutinefunction(recv_send):
        return await recv_send()
    made = await in_thread(recv_send, f"{name}-opener", _dispose)
    return await made if isawaitable(made) else made


def _dispose(made: object) -> None:
    """Close what was made for an opening that nobody waits for any more."""
    if asyncio.iscoroutine(made):
        made.close()
    elif not isawaitable(made):
        open_stream(lambda: made).close()


def _is_stream_pair(recv_send: object) -> TypeGuard[StreamPair]:
    return (
        isinstance(recv_send, tuple)
        and len(recv_send) == 2
        and isinstance(recv_send[0], asyncio.StreamReader)
        and isinstance(recv_send[1], asyncio.StreamWriter)
    )
