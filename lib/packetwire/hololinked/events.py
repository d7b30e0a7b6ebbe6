"""Who publishes events, and who receives them."""

from __future__ import annotations

import asyncio
import logging
import select
import threading
import time
from typing import Any, Final, Unpack

import zmq

from packetwire.errors import ConnectionEnded, LocalProtocolError
from packetwire.hololinked.bases import BaseAsyncZMQ, BaseSyncZMQ, BaseZMQ, SocketOptions, ZmqContext
from packetwire.hololinked.constants import DEFAULT_MAX_EVENTS, DEFAULT_MAX_MESSAGE_SIZE, ZMQ_TRANSPORTS
from packetwire.hololinked.errors import BreakLoop
from packetwire.hololinked.eventcore import ConsumerCore, PublisherCore
from packetwire.hololinked.looping import LoopDriver
from packetwire.hololinked.messages import EventMessage
from packetwire.hololinked.sockets import (
    PlainSocket,
    descriptor_of,
    poll_milliseconds,
    receive_frames,
    send_frames,
)
from packetwire.hololinked.timelimits import seconds_of
from packetwire.streams.wakeup import Wakeup
from packetwire.streams.zmqsockets import events_now

LOOKED_THROUGH: Final = 1000
"""Events that are not asked for, in a row, before something else is done."""
OVERTIME: Final = 1.0
"""Seconds after the time limit in which what has come before is still looked through."""


class EventPublisher(BaseSyncZMQ):
    """Publishes events to whoever has subscribed to them. Any thread may publish, and an event loop too.

        with EventPublisher("instrument/events", access_point="tcp://127.0.0.1:5601") as publisher:
            publisher.register("spectrometer/measured")
            publisher.publish("spectrometer/measured", {"peak": 532.1})

    For each consumer up to `max_events` wait to be sent. One that is slower loses those that come then;
    nobody waits for it. `losses` counts how often that began.
    """

    def __init__(
        self,
        id: str,  # noqa: A002
        context: ZmqContext | None = None,
        access_point: str | None = None,
        *,
        logger: logging.Logger | None = None,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_events: int = DEFAULT_MAX_EVENTS,
        **options: Unpack[SocketOptions],
    ) -> None:
        self._replace_locks()
        super().__init__(id, logger)
        self.core = PublisherCore(id, max_message_size=max_message_size)
        self.losses = 0
        """Times that a consumer began to lose events."""
        self.create_socket(
            node_type="server",
            context=context,
            socket_type=zmq.PUB,
            access_point=access_point,
            max_message_size=max_message_size,
            queue=max_events,
            **options,
        )

    def _replace_locks(self) -> None:
        self._lock = threading.Lock()

    @property
    def event_ids(self) -> set[str]:
        """The events that are registered."""
        return self.core.event_ids

    def register(self, event: Any) -> None:
        """Announce an event: its id, or an object that has one as its `_unique_identifier`."""
        self.core.event_ids.add(event_id_of(event))

    def unregister(self, event: Any) -> None:
        """Take that back."""
        self.core.event_ids.discard(event_id_of(event))

    def publish(self, event: Any, data: Any = None) -> bool:
        """Send an event: a value as JSON, octets as they are, a pair of both as both. Does not wait.

        False if a consumer begins to lose events with this one, because too many wait for it already.
        """
        frames = self.core.frames(event_id_of(event), data)
        with self._lock:
            try:
                return self._publish(self._open_socket(), frames)
            except zmq.ZMQError as error:
                raise self._failed(error) from error

    def _publish(self, socket: PlainSocket, frames: list[bytes]) -> bool:
        if not send_frames(socket, frames):
            return True
        events_now(socket)  # what consumers have taken is heard of only now and then
        if not send_frames(socket, frames):
            return True
        self.losses += 1
        # the others get it nevertheless
        socket.setsockopt(zmq.XPUB_NODROP, 0)
        send_frames(socket, frames)
        socket.setsockopt(zmq.XPUB_NODROP, 1)
        return False

    def exit(self) -> None:
        """Close the socket; what was published is sent within a second."""
        with self._lock:
            super().exit()


def event_id_of(event: Any) -> str:
    """The id of an event, or of an object that stands for it."""
    event_id = event if isinstance(event, str) else getattr(event, "_unique_identifier", None)
    if not isinstance(event_id, str) or not event_id:
        raise LocalProtocolError(f"an event is named by a text that is not empty, not by {event!r}")
    return event_id


class BaseEventConsumer(BaseZMQ):
    """What receives one event, by exactly that id; or all of a publisher, with an empty id.

    `access_point` is the publisher's address, or a transport's name, and `server_id` the publisher's id then.
    """

    def __init__(
        self,
        id: str,  # noqa: A002
        event_unique_identifier: str,
        access_point: str | None = None,
        context: ZmqContext | None = None,
        *,
        server_id: str | None = None,
        logger: logging.Logger | None = None,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_events: int = DEFAULT_MAX_EVENTS,
        **options: Unpack[SocketOptions],
    ) -> None:
        super().__init__(id, logger)
        self.core = ConsumerCore(id, event_unique_identifier, max_message_size=max_message_size)
        self._subscribed = False
        self._has_more = False
        address = access_point or options.get("socket_address") or options.get("transport") or ZMQ_TRANSPORTS.IPC
        if "://" not in address and server_id is None:
            raise LocalProtocolError(
                "server_id, the id of the publisher, is needed to find it by a transport alone"
            )
        self.create_socket(
            node_type="client",
            context=context,
            socket_type=zmq.SUB,
            server_id=server_id,
            socket_id=id,
            access_point=address,
            curve=options.get("curve"),
            max_message_size=max_message_size,
            queue=max_events,
        )

    @property
    def event_unique_identifier(self) -> bytes:
        """The event it is for."""
        return self.core.event_id.encode()

    def subscribe(self) -> None:
        """Tell the publisher; what it published before does not come."""
        if not self._subscribed:
            try:
                self._open_socket().setsockopt(zmq.SUBSCRIBE, self.event_unique_identifier)
            except zmq.ZMQError as error:
                raise self._failed(error) from error
            self._subscribed = True

    def _next_event(self) -> EventMessage | None:
        """An event that is there; or `BreakLoop` if there was an interrupt.

        None with `_has_more` if there is something else to do in between, and more may be there.
        """
        self._open_socket()
        assert self._reader is not None
        for _ in range(LOOKED_THROUGH):
            if self.core.interrupted:
                break
            try:
                frames = receive_frames(self._reader)
            except zmq.ZMQError as error:
                raise self._failed(error) from error
            self._has_more = frames is not None
            if not frames:
                break
            event = self.core.accept(frames)
            if event is not None:
                return event
        if self.core.take_interrupt():
            raise BreakLoop(f"{self.id} was interrupted")
        return None


class EventConsumer(BaseEventConsumer, BaseSyncZMQ):
    """A consumer whose `receive` waits.

        with EventConsumer("me", "spectrometer/measured", "tcp://127.0.0.1:5601") as consumer:
            consumer.subscribe()
            event = consumer.receive(timeout=5000)

    What is published before the subscription has arrived does not come.
    """

    def __init__(
        self,
        id: str,  # noqa: A002
        event_unique_identifier: str,
        access_point: str | None = None,
        context: ZmqContext | None = None,
        **options: Any,
    ) -> None:
        self._replace_locks()
        super().__init__(id, event_unique_identifier, access_point, context, **options)
        self._wakeup = Wakeup()
        self._poll = select.poll()
        self._poll.register(self._wakeup.fileno(), select.POLLIN)
        self._poll.register(descriptor_of(self._open_socket()), select.POLLIN)

    def _replace_locks(self) -> None:
        self._lock = threading.Lock()  # guards the socket; held by whoever receives, but not while it sleeps
        self._receiving = threading.Lock()

    def receive(
        self, timeout: float | None = 1000, raise_interrupt_as_exception: bool = False
    ) -> EventMessage | None:
        """The next event; None after `timeout` milliseconds without one, or at an interrupt.

        If asked for, an interrupt raises `BreakLoop` instead.
        """
        seconds = seconds_of(timeout)
        deadline = None if seconds is None else time.monotonic() + seconds
        if not self._receiving.acquire(timeout=-1 if seconds is None else max(0.0, seconds)):
            return None
        try:
            while True:
                with self._lock:
                    self.subscribe()
                    event = self._next_event()
                left = None if deadline is None else deadline - time.monotonic()
                # what is there is looked through first
                if event is not None or (left is not None and left <= (-OVERTIME if self._has_more else 0)):
                    return event
                if not self._has_more:
                    self._poll.poll(None if left is None else poll_milliseconds(left))
                    self._wakeup.clear()
        except BreakLoop:
            if raise_interrupt_as_exception:
                raise
            return None
        finally:
            self._receiving.release()

    def interrupt(self) -> None:
        """Have the `receive` that waits return, or the next one if none does. From any thread."""
        self.core.interrupted = True
        self._wakeup.set()

    def stop_polling(self) -> None:
        """The same."""
        self.interrupt()

    def exit(self) -> None:
        """Close the socket. A thread that waits gets a `ConnectionEnded`."""
        with self._lock:
            super().exit()
        if not hasattr(self, "_wakeup"):
            return
        with self._receiving:
            self._wakeup.close()

    def _close(self, reason: ConnectionEnded) -> None:
        super()._close(reason)
        if hasattr(self, "_wakeup"):
            self._wakeup.set()


class AsyncEventConsumer(BaseEventConsumer, BaseAsyncZMQ):
    """A consumer in an event loop.

        async with AsyncEventConsumer("me", "spectrometer/measured", "tcp://127.0.0.1:5601") as consumer:
            event = await consumer.receive(timeout=5000)

    What is published before the subscription has arrived does not come.
    """

    def __init__(
        self,
        id: str,  # noqa: A002
        event_unique_identifier: str,
        access_point: str | None = None,
        context: ZmqContext | None = None,
        **options: Any,
    ) -> None:
        self._waiters: list[asyncio.Future[None]] = []
        super().__init__(id, event_unique_identifier, access_point, context, **options)
        self._driver = LoopDriver(descriptor_of(self._open_socket()), self._wake, lambda: None)

    async def receive(
        self, timeout: float | None = 1000, raise_interrupt_as_exception: bool = False
    ) -> EventMessage | None:
        """The next event; None after `timeout` milliseconds without one, or at an interrupt.

        If asked for, an interrupt raises `BreakLoop` instead.
        """
        seconds = seconds_of(timeout)
        driver = self._attach()
        self.subscribe()
        await driver.turn_of_others()
        try:
            async with asyncio.timeout(seconds) as limit:
                while (event := self._next_event()) is None:
                    if self._has_more:
                        await asyncio.sleep(0)
                    else:
                        await self._news()
                return event
        except TimeoutError:
            if not limit.expired():
                raise
            return None
        except BreakLoop:
            if raise_interrupt_as_exception:
                raise
            return None

    async def _news(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._waiters.remove(waiter)

    def _wake(self) -> bool:
        # what the descriptor tells of is taken note of, or it tells of it until somebody receives
        self._is_pollable()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        return False

    async def interrupt(self) -> None:
        """Have the `receive` that waits return, or the next one if none does."""
        self.stop_polling()

    def stop_polling(self) -> None:
        """The same."""
        self.core.interrupted = True
        self._wake()

    def exit(self) -> None:
        """Close the socket. Who waits gets a `ConnectionEnded`."""
        super().exit()

    def _close(self, reason: ConnectionEnded) -> None:
        super()._close(reason)
        self._tell(reason)

    def _tell(self, reason: ConnectionEnded) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(reason.for_waiter())

    async def __aenter__(self) -> AsyncEventConsumer:
        self.subscribe()
        return await super().__aenter__()
