"""Serving a `Service`: at an address by `packetwire.serve` or `aserve`, on one stream by a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self

from packetwire.listeners import Listener
from packetwire.typed.places import ADDRESSES

if TYPE_CHECKING:
    from packetwire._async.typedcalls import AsyncServiceSession
    from packetwire._sync.typedcalls import ServiceSession
    from packetwire.aio.opening import AsyncRecvSend
    from packetwire.aio.server import AsyncServer
    from packetwire.server import Server
    from packetwire.streams.open import PacketConnectionRecvSend


class Servable(Protocol):
    """A `Service`."""

    def session(self, recv_send: PacketConnectionRecvSend, **connection: object) -> ServiceSession:
        """It on one stream."""
        ...

    def async_session(self, recv_send: AsyncRecvSend, **connection: object) -> AsyncServiceSession:
        """The same in an event loop."""
        ...


def _is_address(where: object) -> bool:
    return isinstance(where, (str, Listener, *ADDRESSES))


def _check_options(options: dict[str, object]) -> None:
    if options:
        names = ", ".join(options)
        raise TypeError(f"{names}: a stream has no server; options of its connection go into connection={{...}}")


def serve_at(
    service: Servable, where: Any, connection: dict[str, Any], options: dict[str, Any]
) -> Server | ServedStream:
    """Serve in threads, at an address or on a stream."""
    from packetwire.server import serve

    if _is_address(where):
        return serve(where, lambda recv_send: service.session(recv_send, **connection), **options)
    _check_options(options)
    return ServedStream(service.session(where, **connection))


async def aserve_at(
    service: Servable, where: Any, connection: dict[str, Any], options: dict[str, Any]
) -> AsyncServer | AsyncServedStream:
    """Serve in the event loop, at an address or on a stream."""
    from packetwire.aio.server import aserve

    if _is_address(where):
        return await aserve(where, lambda recv_send: service.async_session(recv_send, **connection), **options)
    _check_options(options)
    served = AsyncServedStream(service.async_session(where, **connection))
    await served.session.conn.open()
    return served


class ServedStream:
    """A service on one stream: it ends with its client, or by `stop`.

    `session` is its connection, by which the client can be asked in turn.
    """

    def __init__(self, session: ServiceSession) -> None:
        """Opens the connection."""
        self.session = session
        session.conn.open()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the client has ended, and close the connection; False after `timeout` seconds."""
        over = self.session.conn.join_recv(timeout)
        if over:
            self.session.conn.close()
        return over

    def stop(self, drain_timeout: float | None = None) -> None:
        """End the connection, with `drain_timeout` seconds for what was begun; a second call does nothing."""
        self.session.conn.close(drain_timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


class AsyncServedStream:
    """The same in an event loop."""

    def __init__(self, session: AsyncServiceSession) -> None:
        """The connection is opened by whoever makes it."""
        self.session = session

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until the client has ended, and close the connection; False after `timeout` seconds."""
        over = await self.session.conn.join_recv(timeout)
        if over:
            await self.session.conn.close()
        return over

    async def stop(self, drain_timeout: float | None = None) -> None:
        """End the connection, with `drain_timeout` seconds for what was begun; a second call does nothing."""
        await self.session.conn.close(drain_timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()
