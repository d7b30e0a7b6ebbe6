"""Publishers and consumers of events."""

from __future__ import annotations

import asyncio
import logging
import select
import threading
import time
from typing import Final, Unpack

import zmq

from packetwire.errors import ConnectionEnded, LocalProtocolError
from packetwire.hololinked.bases import BaseAsyncZMQ, BaseSyncZMQ, BaseZMQ, SocketOptions, ZmqContext
from packetwire.hololinked.constants import DEFAULT_MAX_EVENTS, DEFAULT_MAX_MESSAGE_SIZE, ZMQ_TRANSPORTS
from packetwire.hololinked.errors import BreakLoop
from packetwire.hololinked.eventcore import ConsumerCore, PublisherCore
from packetwire.hololinked.frames import PlainSocket, send_frames
from packetwire.hololinked.looping import LoopDriver
from packetwire.hololinked.messages import EventMessage
from packetwire.hololinked.sockets import descriptor_of, poll_milliseconds
from packetwire.hololinked.timelimits import seconds_of
from packetwire.streams.wakeup import Wakeup
from packetwire.streams.zmqsockets import events_now

LOOKED_THROUGH: Final = 1000
"""Events of other ids that are skipped in one go."""
OVERTIME: Final = 1.0
"""Seconds beyond the time limit in which messages that have come are still looked through."""


class EventPublisher(BaseSyncZMQ):
    """Publishes events to all subscribers. Thread-safe, and for event loops too.

        with EventPublisher("instrument/events", access_point="tcp://127.0.0.1:5601") as publisher:
            publisher.register("spectrometer/measured")
            publisher.publish("spectrometer/measured", {"peak": 532.1})

    Up to `max_events` wait to be sent to each consumer. A consumer that is slower loses further ones; nobody waits
    for it. `losses` counts how often that began.
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

    def register(self, event: object) -> None:
        """Announce an event: its id, or an object that has one as its `_unique_identifier`."""
        self.core.event_ids.add(event_id_of(event))

    def unregister(self, event: object) -> None:
        """Undo `register`."""
        self.core.event_ids.discard(event_id_of(event))

    def publish(self, event: object, data: object = None) -> bool:
        """Send an event: a value as JSON, bytes as they are, a pair of both as both. Does not wait.

        Returns False if a consumer loses this event and further ones, because too many wait for it already.
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
        events_now(socket)  # has ZMQ notice what consumers have taken, which it does only now and then
        if not send_frames(socket, frames):
            return True
        self.losses += 1
        # without NODROP: the other consumers get it nevertheless
        socket.setsockopt(zmq.XPUB_NODROP, 0)
        send_frames(socket, frames)
        socket.setsockopt(zmq.XPUB_NODROP, 1)
        return False

    def exit(self) -> None:
        """Close the socket; published events have a second to leave."""
        with self._lock:
            super().exit()


def event_id_of(event: object) -> str:
    """The id of an event, given as such or by an object that has it."""
    event_id = event if isinstance(event, str) else getattr(event, "_unique_identifier", None)
    if not isinstance(event_id, str) or not event_id:
        raise LocalProtocolError(f"an event is named by a text that is not empty, not by {event!r}")
    return event_id


class ConsumerOptions(SocketOptions, total=False):
    """Further arguments of consumers."""

    server_id: str | None
    logger: logging.Logger | None
    max_message_size: int
    max_events: int


class BaseEventConsumer(BaseZMQ):
    """A consumer of one event, by its exact id; or of all events of a publisher, with an empty id.

    `access_point` is the publisher's address, or the name of a transport; the latter needs the publisher's id as
    `server_id`.
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
        """The id of the event."""
        return self.core.event_id.encode()

    def subscribe(self) -> None:
        """Subscribe at the publisher; events that it published before do not come."""
        if not self._subscribed:
            try:
                self._open_socket().setsockopt(zmq.SUBSCRIBE, self.event_unique_identifier)
            except zmq.ZMQError as error:
                raise self._failed(error) from error
            self._subscribed = True

    def _next_event(self) -> EventMessage | None:
        """The next event that has come, or None. Raises `BreakLoop` if there was an interrupt.

        After None `_has_more` says that more messages may have come: others have their turn first.
        """
        self._open_socket()
        assert self._reader is not None
        for _ in range(LOOKED_THROUGH):
            if self.core.interrupted:
                break
            try:
                frames = self._reader.receive()
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

    Events that are published before the subscription has arrived do not come.
    """

    def __init__(
        self,
        id: str,  # noqa: A002
        event_unique_identifier: str,
        access_point: str | None = None,
        context: ZmqContext | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> None:
        self._replace_locks()
        super().__init__(id, event_unique_identifier, access_point, context, **options)
        self._wakeup = Wakeup()
        self._poll = select.poll()
        self._poll.register(self._wakeup.fileno(), select.POLLIN)
        self._poll.register(descriptor_of(self._open_socket()), select.POLLIN)

    def _replace_locks(self) -> None:
        self._lock = threading.Lock()  # guards the socket; not held by a `receive` that sleeps
        self._receiving = threading.Lock()

    def receive(
        self, timeout: float | None = 1000, raise_interrupt_as_exception: bool = False
    ) -> EventMessage | None:
        """The next event; None after `timeout` milliseconds without one, or at an interrupt.

        With `raise_interrupt_as_exception` an interrupt raises `BreakLoop` instead.
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
                # messages that have come are looked through even if the time is over
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
        """Have the `receive` that waits return, or else the next one. Thread-safe."""
        self.core.interrupted = True
        self._wakeup.set()

    def stop_polling(self) -> None:
        """The same as `interrupt`."""
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

    Events that are published before the subscription has arrived do not come.
    """

    def __init__(
        self,
        id: str,  # noqa: A002
        event_unique_identifier: str,
        access_point: str | None = None,
        context: ZmqContext | None = None,
        **options: Unpack[ConsumerOptions],
    ) -> None:
        self._waiters: list[asyncio.Future[None]] = []
        super().__init__(id, event_unique_identifier, access_point, context, **options)
        self._driver = LoopDriver(descriptor_of(self._open_socket()), self._wake, lambda: None)

    async def receive(
        self, timeout: float | None = 1000, raise_interrupt_as_exception: bool = False
    ) -> EventMessage | None:
        """The next event; None after `timeout` milliseconds without one, or at an interrupt.

        With `raise_interrupt_as_exception` an interrupt raises `BreakLoop` instead.
        """
        seconds = seconds_of(timeout)
        driver = self._attach()
        self.subscribe()
        await driver.turn_of_others()
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
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
        # reading the events resets the descriptor, which else stays readable until somebody receives
        self._is_pollable()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        return False

    async def interrupt(self) -> None:
        """Have the `receive` that waits return, or else the next one."""
        self.stop_polling()

    def stop_polling(self) -> None:
        """The same as `interrupt`."""
        self.core.interrupted = True
        self._wake()

    def exit(self) -> None:
        """Close the socket. A `receive` that waits raises `ConnectionEnded`."""
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
