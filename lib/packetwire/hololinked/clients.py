"""Clients: one for threads, one for an event loop."""

from __future__ import annotations

import asyncio
import logging
import select
import threading
import time
from contextlib import suppress
from typing import Unpack

from packetwire.errors import ConnectionEnded
from packetwire.hololinked.bases import (
    BaseAsyncZMQ,
    BaseSyncZMQ,
    BaseZMQClient,
    Contexts,
    SocketOptions,
    ZmqContext,
)
from packetwire.hololinked.clientcore import Exchange
from packetwire.hololinked.constants import (
    DEFAULT_HANDSHAKE_TIMEOUT,
    DEFAULT_MAX_MESSAGE_SIZE,
    DEFAULT_MAX_OUTSTANDING,
)
from packetwire.hololinked.looping import LoopDriver
from packetwire.hololinked.messages import RequestMessage, ResponseMessage
from packetwire.hololinked.serializers import (
    PreserializedData,
    PreserializedEmptyByte,
    SerializableData,
    SerializableNone,
)
from packetwire.hololinked.sockets import descriptor_of, poll_milliseconds
from packetwire.hololinked.timelimits import seconds_of
from packetwire.streams.wakeup import Wakeup


class SyncZMQClient(BaseZMQClient, BaseSyncZMQ):
    """A client whose calls return the response. Thread-safe; many calls may be under way at a time.

        with SyncZMQClient("me", "instrument", access_point="tcp://127.0.0.1:5600") as client:
            client.execute("spectrometer", "integration_time", "readProperty").result()

    Unless `handshake` is False the constructor waits up to `handshake_timeout` milliseconds for the server's
    HANDSHAKE, and raises `HandshakeFailed`. `poll_timeout` has no effect: nothing is polled at intervals.
    """

    def __init__(
        self,
        id: str,  # noqa: A002
        server_id: str,
        context: ZmqContext | None = None,
        access_point: str | None = None,
        handshake: bool = True,
        *,
        handshake_timeout: float | None = DEFAULT_HANDSHAKE_TIMEOUT,
        poll_timeout: int = 1000,
        logger: logging.Logger | None = None,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_outstanding: int = DEFAULT_MAX_OUTSTANDING,
        **options: Unpack[SocketOptions],
    ) -> None:
        self._replace_locks()
        super().__init__(
            id, server_id, logger=logger, max_message_size=max_message_size, max_outstanding=max_outstanding
        )
        seconds_of(handshake_timeout, "handshake_timeout")
        self.poll_timeout = poll_timeout
        self._reading = False
        """True while a thread reads for all that wait."""
        self._followers = 0
        """Threads that wait for the one that reads."""
        self._wakeup = Wakeup()
        self._poll = select.poll()
        try:
            self._connect(context, access_point, options)
            self._socket_fd = descriptor_of(self._open_socket())
            self._wakeup_fd = self._wakeup.fileno()
            self._poll.register(self._wakeup_fd, select.POLLIN)
            self._poll.register(self._socket_fd, select.POLLIN)
            if self._monitor is not None:
                self._poll.register(descriptor_of(self._monitor), select.POLLIN)
                self._look_at_link()  # a monitor's descriptor signals nothing until earlier events were read
            if handshake:
                self.handshake(handshake_timeout)
        except BaseException:
            self.exit()
            raise

    def _replace_locks(self) -> None:
        self._lock = threading.Lock()  # guards the core and the socket
        self._changed = threading.Condition(self._lock)

    def after_fork(self) -> None:
        self._reading = False
        super().after_fork()

    def handshake(self, timeout: float | None = DEFAULT_HANDSHAKE_TIMEOUT) -> None:
        """Wait up to `timeout` milliseconds for the server. Raises `HandshakeFailed`."""
        with self._lock:
            exchange = self._start_handshake(timeout)
            self._wake_reader()
            self._wait(exchange)

    def send_request(
        self,
        thing_id: str,
        objekt: str,
        operation: str,
        payload: SerializableData = SerializableNone,
        preserialized_payload: PreserializedData = PreserializedEmptyByte,
        **contexts: Unpack[Contexts],
    ) -> str:
        """Send an operation to the server; returns the message id, with which to receive the response."""
        message = self._operation(thing_id, objekt, operation, payload, preserialized_payload, **contexts)
        with self._lock:
            self._post(message)
        return message.id

    def recv_response(self, message_id: str, timeout: float | None = None) -> ResponseMessage:
        """Wait for the response to a request, of whatever type.

        Waits for the request's two timeouts and a little more, or for `timeout` milliseconds if these are less.
        Raises `RequestTimeout`, or `ConnectionEnded` when the server is gone.
        """
        seconds = seconds_of(timeout)
        with self._lock:
            exchange = self._limited(self.core.find(message_id), seconds)
            if seconds is not None:
                self._wake_reader()
            return self._wait(exchange)

    def execute(
        self,
        thing_id: str,
        objekt: str,
        operation: str,
        payload: SerializableData = SerializableNone,
        preserialized_payload: PreserializedData = PreserializedEmptyByte,
        *,
        timeout: float | None = None,
        **contexts: Unpack[Contexts],
    ) -> ResponseMessage | None:
        """`send_request` and `recv_response`; None at once if the request is one-way."""
        return self._ask(
            self._operation(thing_id, objekt, operation, payload, preserialized_payload, **contexts),
            seconds_of(timeout),
        )

    def send_exit(self, timeout: float | None = None) -> ResponseMessage:
        """Ask the server to end, and wait until it has served all earlier requests."""
        response = self._ask(self._exit_message(), seconds_of(timeout))
        assert response is not None
        return response

    def exit(self) -> None:
        """Close the socket. Other threads that wait get a `ConnectionEnded`."""
        with self._lock:
            self._close(self._exited())

    def _close(self, reason: ConnectionEnded) -> None:
        super()._close(reason)
        self._wakeup.set()
        with suppress(RuntimeError):  # the lock could not be acquired in time
            self._changed.notify_all()
        self._close_wakeup()

    def _close_wakeup(self) -> None:
        if self.closed and not self._reading:
            self._wakeup.close()

    def _ask(self, message: RequestMessage, seconds: float | None) -> ResponseMessage | None:
        with self._lock:
            try:
                exchange = self._post(message)
                return None if exchange is None else self._wait(self._limited(exchange, seconds))
            finally:
                self.core.forget_id(message.id)  # by id, as Ctrl-C may have come before `exchange` was assigned

    # waiting; all with the lock held

    def _post(self, message: RequestMessage) -> Exchange | None:
        try:
            return self._send(message)
        finally:
            self._wake_reader()

    def _wake_reader(self) -> None:
        """Wake the reading thread: there may be an earlier deadline, or messages that its poll does not see."""
        if self._reading:
            self._wakeup.set()

    def _wait(self, exchange: Exchange) -> ResponseMessage:
        exchange.waited_for = True
        try:
            while not exchange.done:
                if self._reading:
                    self._followers += 1
                    try:
                        self._changed.wait()
                    finally:
                        self._followers -= 1
                else:
                    self._read_until_done(exchange)
        finally:
            self.core.forget(exchange)
        return exchange.result()

    def _read_until_done(self, exchange: Exchange) -> None:
        """Read for all threads that wait, until this exchange is done."""
        self._reading = True
        told = False
        try:
            while not self.closed:
                more = self._turn(lambda: exchange.done, told=told)
                if exchange.done:
                    return
                self._wake_followers()
                told = not more and self._sleep()
        finally:
            self._reading = False
            self._wake_followers()
            self._close_wakeup()

    def _wake_followers(self) -> None:
        if self._followers:
            self._changed.notify_all()

    def _sleep(self) -> bool:
        """Sleep, without the lock, until there is something to do; True if the socket's descriptor was readable."""
        milliseconds = poll_milliseconds(self.core.not_before - time.monotonic())
        self._lock.release()
        try:
            ready = self._poll.poll(milliseconds)
        finally:
            self._lock.acquire()
        told = False
        for fd, _ in ready:
            if fd == self._socket_fd:
                told = True
            elif fd == self._wakeup_fd:
                self._wakeup.clear()
            elif not self.closed:
                self._look_at_link()
        return told


class AsyncZMQClient(BaseZMQClient, BaseAsyncZMQ):
    """A client in an event loop.

        async with AsyncZMQClient("me", "instrument", access_point="tcp://127.0.0.1:5600") as client:
            response = await client.async_execute("spectrometer", "integration_time", "readProperty")

    Unless `handshake` is False it shakes hands with the server, as soon as it is made or used in a running loop;
    requests wait for that. `poll_timeout` has no effect: nothing is polled at intervals.
    """

    def __init__(
        self,
        id: str,  # noqa: A002
        server_id: str,
        context: ZmqContext | None = None,
        access_point: str | None = None,
        handshake: bool = True,
        *,
        handshake_timeout: float | None = DEFAULT_HANDSHAKE_TIMEOUT,
        poll_timeout: int = 1000,
        logger: logging.Logger | None = None,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_outstanding: int = DEFAULT_MAX_OUTSTANDING,
        **options: Unpack[SocketOptions],
    ) -> None:
        super().__init__(
            id, server_id, logger=logger, max_message_size=max_message_size, max_outstanding=max_outstanding
        )
        seconds_of(handshake_timeout, "handshake_timeout")
        self.poll_timeout = poll_timeout
        self._wants_handshake = handshake
        self._handshake_timeout = handshake_timeout
        self._handshaking: Exchange | None = None
        self._connect(context, access_point, options)
        core = self.core
        self._driver = LoopDriver(descriptor_of(self._open_socket()), self._turn_in_loop, lambda: core.not_before)
        if self._monitor is not None:
            self._driver.watch(descriptor_of(self._monitor), self._look_at_link)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        if handshake:
            self.handshake(handshake_timeout)

    def handshake(self, timeout: float | None = DEFAULT_HANDSHAKE_TIMEOUT) -> None:
        """Begin to shake hands with the server; await `handshake_complete` for the result."""
        self._attach()
        self._handshaking = self._start_handshake(timeout)
        self._wants_handshake = False
        self._after_sending()

    async def handshake_complete(self, timeout: float | None = None) -> None:
        """Wait up to `timeout` milliseconds for the server's HANDSHAKE. Raises `HandshakeFailed`."""
        seconds = seconds_of(timeout)
        driver = self._attach()
        if self._wants_handshake:
            self.handshake(self._handshake_timeout)
        if self._handshaking is None:
            return
        exchange = self._handshaking
        if seconds is not None and not exchange.done:
            self.core.limit(exchange, time.monotonic() + seconds)
            driver.set_timer()
        await self._done(exchange)
        exchange.result()
        self._handshaking = None

    async def async_send_request(
        self,
        thing_id: str,
        objekt: str,
        operation: str,
        payload: SerializableData = SerializableNone,
        preserialized_payload: PreserializedData = PreserializedEmptyByte,
        **contexts: Unpack[Contexts],
    ) -> str:
        """Send an operation to the server; returns the message id, with which to receive the response."""
        message = self._operation(thing_id, objekt, operation, payload, preserialized_payload, **contexts)
        if self._wants_handshake or self._handshaking is not None:
            await self.handshake_complete()
        self._post(message)
        return message.id

    async def async_recv_response(self, message_id: str, timeout: float | None = None) -> ResponseMessage:
        """Wait for the response to a request, of whatever type.

        Waits for the request's two timeouts and a little more, or for `timeout` milliseconds if these are less.
        Raises `RequestTimeout`, or `ConnectionEnded` when the server is gone.
        """
        seconds = seconds_of(timeout)
        self._attach()
        return await self._wait(self.core.find(message_id), seconds)

    async def async_execute(
        self,
        thing_id: str,
        objekt: str,
        operation: str,
        payload: SerializableData = SerializableNone,
        preserialized_payload: PreserializedData = PreserializedEmptyByte,
        *,
        timeout: float | None = None,
        **contexts: Unpack[Contexts],
    ) -> ResponseMessage | None:
        """`async_send_request` and `async_recv_response`; None at once if the request is one-way."""
        seconds = seconds_of(timeout)
        message = self._operation(thing_id, objekt, operation, payload, preserialized_payload, **contexts)
        if self._wants_handshake or self._handshaking is not None:
            await self.handshake_complete()
        exchange = self._post(message)
        return None if exchange is None else await self._wait(exchange, seconds)

    async def async_send_exit(self, timeout: float | None = None) -> ResponseMessage:
        """Ask the server to end, and wait until it has served all earlier requests."""
        seconds = seconds_of(timeout)
        if self._wants_handshake or self._handshaking is not None:
            await self.handshake_complete()
        exchange = self._post(self._exit_message())
        assert exchange is not None
        return await self._wait(exchange, seconds)

    def _post(self, message: RequestMessage) -> Exchange | None:
        exchange = self._send(message)
        self._after_sending()
        return exchange

    async def _wait(self, exchange: Exchange, seconds: float | None) -> ResponseMessage:
        self._limited(exchange, seconds)
        if seconds is not None and self._driver is not None:
            self._driver.set_timer()
        try:
            await self._done(exchange)
        finally:
            self.core.forget(exchange)
        return exchange.result()

    def _turn_in_loop(self) -> bool:
        """Receive while a response is awaited; unrequested messages stay in the socket until the next request."""
        return self._turn(self._is_idle, told=True) and not self.core.idle

    def _is_idle(self) -> bool:
        return self.core.idle

    def _after_sending(self) -> None:
        driver = self._attach()
        if self._is_pollable():
            driver.poke()
        driver.set_timer()

    async def _done(self, exchange: Exchange) -> None:
        if not exchange.done:
            done = asyncio.get_running_loop().create_future()
            exchange.when_done(lambda: None if done.done() else done.set_result(None))
            await done

    async def __aenter__(self) -> AsyncZMQClient:
        try:
            await self.handshake_complete()
        except BaseException:
            self.exit()
            raise
        return self
