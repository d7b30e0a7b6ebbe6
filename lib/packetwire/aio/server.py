"""`aserve`: a connection in the event loop for each client that comes to an address.

Strategy. The loop polls the listening sockets. Each client has a task, a *session*, which shakes hands if that
is TLS, makes the service, opens it, waits until nothing more is received, and closes it. One more task sees to
the end: when it is told to stop, or when the only client has left, it lets the sessions end within a time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, Self

from packetwire._async.accepting import AcceptLoop
from packetwire.addresses import (
    Address,
    TcpAddress,
    ZmqAddress,
    keep_alive,
)
from packetwire.admission import Admission, ServedClient, is_exhaustion
from packetwire.aio.belonging import check_loop
from packetwire.aio.blocking import NoThread, in_thread, to_the_end_in_thread
from packetwire.aio.connection import AsyncPacketConnection
from packetwire.aio.loops import guard_loop
from packetwire.aio.service import AsyncHasPacketConnection
from packetwire.core.budget import Budget
from packetwire.core.settings import DEFAULT_DRAIN, DEFAULT_MAX_CONNECTIONS, ServerSettings
from packetwire.core.timelimits import seconds_of, time_limit
from packetwire.errors import ConnectionEnded, PeerClosed
from packetwire.givensockets import GivenSockets
from packetwire.listeners import Listener
from packetwire.memory import give_back
from packetwire.serving import (
    ABANDON_TIMEOUT,
    CUT_SECONDS,
    GIVE_BACK_SECONDS,
    LOOK_SECONDS,
    Prepared,
    ServerBase,
    see_to_budget,
)
from packetwire.streams import forking
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.open import PacketConnectionRecvSend

if TYPE_CHECKING:
    from ssl import SSLContext

    from packetwire.inspection.endpoint import Inspection

__all__ = ["AsyncServer", "aserve"]

logger = logging.getLogger("packetwire")

AsyncService = AsyncHasPacketConnection | AsyncPacketConnection
AsyncServiceFactory = Callable[[PacketConnectionRecvSend], AsyncService]


async def aserve(
    address: str | Address | Listener,
    factory: AsyncServiceFactory,
    *,
    max_connections: int = DEFAULT_MAX_CONNECTIONS,
    drain_timeout: float = DEFAULT_DRAIN,
    ssl_context: SSLContext | None = None,
    max_per_address: int | None = None,
    allow_uids: Iterable[int] | None = None,
    max_memory: int | None = None,
    listener: GivenSockets | None = None,
    reuse_port: bool = False,
    replace: bool = False,
    inspect: str | os.PathLike[str] | None = None,
) -> AsyncServer:
    """Serve at `address`, in the running loop; returns as soon as clients can connect.

        async with await aserve("unix:/run/store.sock", Store) as server:
            await server.wait()

    `factory(recv_send)` makes an `AsyncHasPacketConnection` or an `AsyncPacketConnection` for each client; it
    is opened in a task of that client's, and closed when the client has ended. For the rest see `serve`.
    """
    settings = ServerSettings(
        max_connections=max_connections,
        max_per_address=max_per_address,
        max_memory=max_memory,
        drain_timeout=drain_timeout,
    )
    prepared = Prepared(address, factory, settings, ssl_context, allow_uids, listener, reuse_port, replace, inspect)
    if prepared.may_wait:
        name = f"packetwire-{prepared.address}-listen"
        listening, client = await in_thread(prepared.listen, name, prepared.let_go)
    else:
        listening, client = prepared.listen()
    return AsyncServer(listening, factory, client, **prepared.options)


class AsyncServer(ServerBase["_Session"]):
    """The server that `aserve` returns: it runs until `stop`, or until the end of an `async with` block.

    `address` is where it is reached, with the real port; `failure` is what ended it, if nobody stopped it.
    """

    def __init__(
        self,
        listener: Listener,
        factory: AsyncServiceFactory,
        client: ByteStream | None = None,
        *,
        max_connections: int,
        drain_timeout: float,
        ssl_context: SSLContext | None = None,
        max_per_address: int | None = None,
        allow_uids: frozenset[int] | None = None,
        max_memory: int | None = None,
        inspected_at: Listener | None = None,
    ) -> None:
        """`client` is there from the beginning; without listening sockets it is the only one."""
        super().__init__(
            listener,
            self._is_pressed,
            max_connections=max_connections,
            drain_timeout=drain_timeout,
            ssl_context=ssl_context,
            max_per_address=max_per_address,
            allow_uids=allow_uids,
            max_memory=max_memory,
            inspected_at=inspected_at,
        )
        self._factory = factory
        self._loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self._looking: asyncio.TimerHandle | None = None
        self._giving_back: threading.Thread | None = None
        self._give_back_timer: asyncio.TimerHandle | None = None
        self._accepting = AcceptLoop(listener, self._admission)
        try:
            self._start_inspection()
        except BaseException:
            listener.close()
            raise
        if client is not None:
            self._start_session(client)
        self._forked = False
        self._task = self._loop.create_task(self._run(), name=f"packetwire-{self.address}")
        forking.register(self)
        guard_loop(self._loop)

    def after_fork(self) -> None:
        """In the child of a fork: the server, and the loop, are the parent's; here it has ended."""
        self._forked = True

    @property
    def connections(self) -> int:
        """The clients that are connected now."""
        return len(self._sessions)

    def stop(self, drain_timeout: float | None = None) -> None:
        """Have it end; returns at once, also in a handler. A second call can only hurry.

        No more clients are accepted, and no more requests begun. Those under way have `drain_timeout` seconds
        to finish; handlers can make calls to their clients meanwhile. A client that has got its replies is told
        that this is the end. One that is left when the time is over is cut off, and gets a `ConnectionEnded` that
        says so.
        """
        check_loop(f"the server at {self.address}", self._loop, self._thread)
        drain = self._drain_timeout if drain_timeout is None else seconds_of(drain_timeout, "drain_timeout")
        self._stop_at(self._loop.time() + drain)
        self._accepting.wake()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, at most `timeout` seconds: whether it has. Not to be awaited by a handler."""
        if self._forked:
            return True
        done, _ = await asyncio.wait([self._task], timeout=time_limit(timeout))
        return bool(done)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *exc: object) -> None:
        self.stop(None if exc_type is None else min(ABANDON_TIMEOUT, self._drain_timeout))
        await self.wait()

    # sessions

    def _start_session(self, stream: socket.socket | ByteStream) -> None:
        session = _Session(
            stream,
            self._factory,
            self.address,
            self._ssl_context,
            self._admission,
            self._budget,
            self._inspection,
        )
        self._sessions.add(session)
        session.task.add_done_callback(lambda _: self._session_over(session))

    def _session_over(self, session: _Session) -> None:
        if session.cutter is not None and not session.cutter.done():  # it may still be closing the connection
            session.cutter.add_done_callback(lambda _: self._session_over(session))
            return
        session.release()
        self._sessions.discard(session)
        self._has_left(session)
        self._accepting.wake()
        self._admission.freed()
        if self._budget.was_used:
            if self._give_back_timer is not None:
                self._give_back_timer.cancel()
            self._give_back_timer = self._loop.call_later(GIVE_BACK_SECONDS, self._give_back)
        if not self._listener.sockets and self._stop_deadline is None:
            self.failure = session.failure
        if is_exhaustion(session.failure):
            self._admission.ran_out(session.failure)

    # memory

    def _is_pressed(self) -> None:
        """From any thread: connections are held."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        see_to_budget(self._budget, self._admission)
        if self._budget.is_pressed and self._sessions:
            self._looking = self._loop.call_later(LOOK_SECONDS, self._look)

    def _give_back(self) -> None:
        """Not in the loop: it may take a moment."""
        self._budget.was_used = False
        with suppress(RuntimeError):  # the system has no more threads
            self._giving_back = threading.Thread(
                target=give_back, name=f"packetwire-{self.address}-memory", daemon=True
            )
            self._giving_back.start()

    # the end

    async def _run(self) -> None:
        try:
            await self._serve()
        finally:  # also if the loop ends first
            await self._stop_inspection()

    async def _serve(self) -> None:
        try:
            while self._goes_on:
                ready = await self._accepting.wait()
                if self._stop_deadline is None:
                    self._admission.admit_all(ready, self._start_session)
        except Exception as error:
            self.failure = error
            logger.error("%s: accepting failed: %s", self.address, error)
        finally:
            self._accepting.close()
            self._take_last(self._start_session)
            if isinstance(self.address, ZmqAddress):  # that may wait for the thread of the socket
                try:
                    await to_the_end_in_thread(self._listener.close, f"packetwire-{self.address}-closer")
                except NoThread:
                    self._listener.close()
            else:
                self._listener.close()
        await self._drain()
        if self._looking is not None:
            self._looking.cancel()
        if self._give_back_timer is not None:
            self._give_back_timer.cancel()
        if self._giving_back is not None:
            self._giving_back.join()  # that takes a moment at most

    async def _stop_inspection(self) -> None:
        if self._inspection is not None:
            try:
                await to_the_end_in_thread(self._inspection.close, f"packetwire-{self.address}-closer")
            except NoThread:
                self._inspection.close()

    async def _drain(self) -> None:
        """Let every session end within the deadline, then anyhow."""
        if self._stop_deadline is None:
            self.stop()
        until = self._loop.time() + self._announce_end()
        while self._sessions and (left := self._time_left(self._loop.time(), until)) > 0:
            await self._accepting.wait(left)
        for session in self._sessions:
            session.end(patient=False)
        while self._sessions and (left := self._time_left(self._loop.time())) > 0:
            await self._accepting.wait(left)
        await self._cut_off()

    async def _cut_off(self) -> None:
        if not self._sessions:
            return
        logger.warning("%s: stopped with %d clients still connected", self.address, len(self._sessions))
        deadline = self._loop.time() + CUT_SECONDS
        for session in self._sessions:
            session.cut_off()
        while self._sessions and self._loop.time() < deadline:
            await self._accepting.wait(deadline - self._loop.time())
        if self._sessions:
            logger.error("%s: %d services do not return; they are left behind", self.address, len(self._sessions))


class _Session(ServedClient[AsyncPacketConnection]):
    """One client: its service, and the task in which that is made, opened, awaited and closed."""

    def __init__(
        self,
        stream: socket.socket | ByteStream,
        factory: AsyncServiceFactory,
        address: Address,
        ssl_context: SSLContext | None,
        admission: Admission[_Session],
        budget: Budget,
        inspection: Inspection | None,
    ) -> None:
        super().__init__(stream, ssl_context, admission, budget, inspection)
        self._factory = factory
        self._address = address
        self.cutter: asyncio.Task[None] | None = None
        """The task that cuts it off, if there is one."""
        self.task = asyncio.get_running_loop().create_task(self._run(), name=f"packetwire-{address}-client")

    async def _run(self) -> None:
        try:
            if isinstance(self._address, TcpAddress) and isinstance(self._stream, socket.socket):
                with suppress(OSError):  # some systems refuse it when the client is gone already
                    keep_alive(self._stream, self._address.user_timeout)
            if self._ssl_context is None:
                await self._serve_client(self._stream)
            else:
                await self._serve_over_tls(self._stream, self._ssl_context)
        except asyncio.CancelledError as error:
            self.failure = error
            raise
        except Exception as error:
            self.failure = error
            self._admission.failed(self.name, error)

    async def _serve_over_tls(self, stream: socket.socket | ByteStream, ssl_context: SSLContext) -> None:
        from packetwire.streams.tls import start_tls

        try:
            tls = await to_the_end_in_thread(
                lambda: start_tls(stream, ssl_context, server_side=True),
                f"packetwire-{self._address}-handshake",
                hurry=self._shut_down,
                dispose=ByteStream.close,
            )
        except OSError as error:
            if self.asked_to_leave is None:
                self._admission.warn("handshake", "a client was not let in: %s (%s)", error, self.name)
            return
        finally:
            self._shaking_hands = False
        try:
            await self._serve_client(tls)
        except BaseException:
            tls.end_write()  # without that it would look as if someone had cut it off
            raise
        finally:
            tls.close()

    async def _serve_client(self, stream: socket.socket | ByteStream) -> None:
        service = self._factory(stream)
        conn = _connection_of(service)
        self._takes(conn)
        async with service:
            if self._ending:
                _announce_end(conn, self._patient)
            await conn.join_recv()
            if conn.is_open() and not isinstance(conn.ended, PeerClosed):
                self.failure = conn.ended
                self._admission.ended(self.name, conn.ended)

    def end(self, *, patient: bool) -> None:
        """Have the client told that this is the end, behind the replies that it is owed.

        If `patient`, one that has said nothing yet may do so before, until the next call; or finish shaking hands.
        """
        self._patient = patient
        self._ending = True  # the session looks at both when it has opened the connection
        if self._conn is not None:
            _announce_end(self._conn, patient)
        elif self._shaking_hands and not patient:
            self._shut_down()

    def cut_off(self) -> None:
        """End it now; what is owed is refused first, which can take a moment."""
        self.cutter = asyncio.get_running_loop().create_task(self._cut_off())

    async def _cut_off(self) -> None:
        conn = self._conn
        while conn is not None and conn.is_open():
            await conn.close(0)
        self._shut_down()
        self.task.cancel()

    def release(self) -> None:
        """It is over, or never began."""
        self._stream.close()


def _connection_of(service: object) -> AsyncPacketConnection:
    """The connection of what a factory made. Raises TypeError for something else."""
    conn = getattr(service, "conn", service)
    if not isinstance(conn, AsyncPacketConnection):
        raise TypeError(
            f"the factory must return an AsyncHasPacketConnection or an AsyncPacketConnection, got {service!r:.100}"
        )
    return conn


def _announce_end(conn: AsyncPacketConnection, patient: bool) -> None:
    with suppress(ConnectionEnded):  # it may not be open yet, or have ended by itself
        conn._wind_down(patient=patient)
