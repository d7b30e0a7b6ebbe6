"""Reading: bytes from the stream to the engine, and what comes of them to whoever it is for.

The reader's role exists once. A thread that waits for an answer takes it if nobody has it, and reads for itself;
otherwise the descriptor is armed, and a parked worker reads. Responses go straight to their waiters. The peer's
requests are run by packetwire's own threads only: a caller that reads leaves them to those.

A connection that is observed, by `on_event`, by a trace or by what is attached to its channels, is read by
packetwire's own threads only; then the engine makes events.
"""

from __future__ import annotations

import select
from threading import get_ident
from time import monotonic, sleep

from packetwire.core.engine import ConnectionEngine
from packetwire.core.events import Event
from packetwire.errors import ended_by
from packetwire.hosts.threads.answering import logger
from packetwire.hosts.threads.delivery import Delivery
from packetwire.hosts.threads.failures import Failures
from packetwire.hosts.threads.inline import InlineHandlers
from packetwire.hosts.threads.nesting import OURS, inside
from packetwire.hosts.threads.readerrole import ReaderRole
from packetwire.hosts.threads.roles import Bell
from packetwire.hosts.threads.signals import FIRST_SLEEP, main_thread, sleep_limit
from packetwire.hosts.threads.spinning import SPIN_UNDER_WAY, Spin
from packetwire.hosts.threads.waiter import Waiter
from packetwire.hosts.threads.workers import Workers
from packetwire.hosts.threads.writing import Writing, poll_both
from packetwire.streams.buffers import MAX_READ, READ_SIZE
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.inplace import reader_in_place
from packetwire.streams.systemcalls import WOKEN, ReadPoll
from packetwire.streams.wakeup import Wakeup

PACKET_WAIT = 0.005
"""Seconds that a reader waits for more of a long packet before it looks for other work."""


class Reading:
    """The reader's role for one connection."""

    def __init__(
        self,
        engine: ConnectionEngine,
        stream: ByteStream,
        name: str,
        *,
        reader: ReaderRole,
        writing: Writing,
        workers: Workers,
        delivery: Delivery,
        bell: Bell,
        inline: InlineHandlers,
        failures: Failures,
        spin: float,
    ) -> None:
        self.reader = reader
        self.role = reader.role
        self.inline = inline
        self.last_packet: float | None = None
        self.is_polling = False
        """True while a caller that has the role waits for something to read."""
        self._decoded = 0  # bytes of the peer's packets, at that time
        self._engine = engine
        self._stream = stream
        self._try_read, self._try_read_into = stream.try_read, reader_in_place(stream)
        self._name = name
        self._writing = writing
        self._workers = workers
        self._jobs, self._inline_jobs = workers.jobs, inline.jobs
        self._bell = bell
        self._locks = bell.locks
        self._delivery = delivery
        self._is_watched, self._receivers = delivery.is_watched, delivery.receivers
        self._unhurried = delivery.unhurried
        self._failures = failures
        self._failure: Exception | None = None
        self._read_fd = stream.read_fd
        self._wakeup = Wakeup()
        self._poll = ReadPoll(self._read_fd, self._wakeup.fileno())
        self._poll_stream = select.poll()
        self._poll_stream.register(self._read_fd, select.POLLIN)
        self._spin = Spin(self._poll.wait, spin) if spin > 0 else None

    # the role

    def interrupt(self) -> None:
        """Let the caller that reads look at its waiter again."""
        if self.role:
            self._wakeup.set()

    def see_to_take_over(self, me: int) -> None:
        """In a handler, or behind it: if the clock takes the role from this thread at this moment, let it do so.

        It first takes the thread off the watch, which decides, and then the role.
        """
        while self.role.get(0) == me and me not in self._workers.on_watch:
            sleep(0)

    # by callers

    def lead(self, waiter: Waiter, deadline: float | None) -> bool:
        """As the reader: read until `waiter` is done or nothing more comes; false at the deadline.

        Also false if the connection is observed now, so that others must read.
        """
        poll, engine, naps = self._poll, self._engine, 0
        self._delivery.by_caller = True
        if self._writing.keeper and self._writing.keeper == get_ident():
            self._write_and_read(waiter, deadline)
        while not waiter.done and engine.ended is None:
            if self._unhurried or waiter.given_up:
                return False
            found = 0
            if self._spin is not None and len(engine.waiters) <= SPIN_UNDER_WAY:
                found = self._spin() or 0
            if not found:
                self.is_polling = True
                if deadline is None:
                    found = poll.wait(
                        FIRST_SLEEP * 1000 * 2.0 ** min(naps, 16) if get_ident() in main_thread else None
                    )
                else:
                    found = poll.wait(sleep_limit(get_ident(), deadline - monotonic(), naps) * 1000)
                    if not found and monotonic() >= deadline:
                        return False
                self.is_polling = False
            naps = 0 if found else naps + 1
            if found & WOKEN:
                self._wakeup.clear()
                self._workers.see_to_clock()
                continue
            while self.read() and engine.ended is None:  # as in _read_on
                if engine.octets_wanted < READ_SIZE and engine.deadline is None:
                    break  # else more may well be there, or an end that no poll sees
            if self._jobs or self._inline_jobs or self._delivery.postponed:
                self._workers.call_thread()
        return True

    def _read_on(self) -> None:
        engine = self._engine
        while self.read() and engine.ended is None:
            if engine.octets_wanted < READ_SIZE and engine.deadline is None:
                break
        if self._jobs or self._inline_jobs or self._delivery.postponed:
            self._workers.call_thread()

    def _write_and_read(self, waiter: Waiter, deadline: float | None) -> None:
        """As the reader, who is the writer's keeper: wait for room as well, until all is written."""
        writing, engine, me = self._writing, self._engine, get_ident()
        while (
            writing.keeper == me
            and engine.ended is None
            and not (waiter.done or waiter.given_up or self._unhurried)
        ):
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                return
            self.is_polling = True
            ready = poll_both(self._stream, self._wakeup.fileno(), sleep_limit(me, left, 0))
            self.is_polling = False
            if self._wakeup.fileno() in ready:
                self._wakeup.clear()
            if ready.get(self._read_fd, 0) & ~select.POLLOUT:
                self._read_on()
            found = ready.get(self._stream.write_fd, 0)
            if found & ~select.POLLIN or found & self._stream.write_events:
                writing.go_on()

    # by workers

    def serve(self, me: int) -> None:
        """If nobody reads: read, run what is to be run here, and give the role up, if it was not taken over."""
        role, engine, inline_jobs = self.role, self._engine, self._inline_jobs
        self.reader.is_armed = False  # that has been used up
        try:
            if role.setdefault(0, me) != me or engine.ended is not None:
                return
            self._delivery.by_caller = False
            while self.read() or (engine.octets_wanted >= READ_SIZE and self._more_comes()):
                if inline_jobs and not self.inline.serve(me):
                    self.see_to_take_over(me)
                    return
                if self._jobs and not self._workers.serve(me):
                    self.see_to_take_over(me)
                    return
                if engine.unsent:
                    self._writing.flush()
                if engine.ended is not None or (engine.octets_wanted < READ_SIZE and engine.deadline is None):
                    return  # else more may well be there, or an end that no poll sees
        except BaseException as error:
            inside[me] = OURS  # a handler may have been left
            logger.error("%s: reading ended by %r", self._name, error, exc_info=error)
            self._failures.reading_interrupted(error)  # a request may be lost that was to be handled
        finally:
            if role.get(0) == me:
                self.reader.leave(me)

    def _more_comes(self) -> bool:  # amid a long packet; to leave and come again costs more than a moment's wait
        return bool(self._poll_stream.poll(PACKET_WAIT * 1000))

    # what is read

    def read(self) -> bool:
        """As the reader: read once and deliver what comes of it; false if there was nothing."""
        engine = self._engine
        wanted = engine.octets_wanted
        events: list[Event] = []
        try:
            placed: int | None = 0
            data: bytes | None = b""
            try:
                if wanted < READ_SIZE or self._receivers or (placed := self._read_in_place()) == 0:
                    data = self._try_read(READ_SIZE if wanted < READ_SIZE else min(wanted, MAX_READ))
            except Exception as error:
                self._failure = error
            if data is None or placed is None:
                return False
            if not placed and (not data or self._is_watched or self._receivers):
                self.take_in(data)
                return True
            now = engine.now = monotonic()
            engine.receive_to(data, self._delivery.request, events, placed)
            decoded = engine.decoder.octets_decoded
            if self._decoded != decoded:
                self._decoded = decoded
                self.last_packet = now
            if events:
                self._delivery.handle(events)
            if engine.unsent:
                self._writing.flush()
            if self._locks:
                self._bell.ring()
        except BaseException as error:
            self._delivery.deliver_after_all(events)
            self._failures.reading_interrupted(error)
            raise
        return True

    def _read_in_place(self) -> int | None:
        """Read what belongs to a long payload into that; returns the bytes, or None if there are none now.

        0 if it cannot be done like this, or the stream is at its end: that is found out by `try_read`.
        """
        if self._is_watched or self._try_read_into is None:
            return 0
        place = self._engine.decoder.place()
        return 0 if place is None else self._try_read_into(place)

    def take_in(self, data: bytes) -> None:
        """As the reader: feed the engine what was read, b"" for the end, and deliver what comes of it."""
        engine = self._engine
        events: list[Event] = []
        try:
            now = engine.now = monotonic()
            if not data:
                self._receive_end(events)
            else:
                engine.receive(data, events)
            if self._decoded != engine.octets_decoded:
                self._decoded = engine.octets_decoded
                self.last_packet = now
            self._delivery.handle(events)
        except BaseException:
            self._delivery.deliver_after_all(events)
            raise
        if engine.unsent:
            self._writing.flush()
        if self._locks:
            self._bell.ring()

    def _receive_end(self, events: list[Event]) -> None:
        """The stream is at its end: find out why."""
        cause = self._stream.end_reason()
        error = self._failure
        if error is not None and (cause is None or not isinstance(error, OSError)):
            cause = ended_by(error, f"{self._name}: reading failed: {error}")
        events += self._engine.receive_eof(cause, gone=self._stream.is_cut_off)

    def tick(self, now: float) -> None:
        """The stream should have ended by now, and is to be ended, but first what it still has is read."""
        if not self.role:
            self.serve(get_ident())  # reads until there is nothing more, as a deadline is set
        elif not self.is_polling:
            return  # a handler holds the reader up, who reads on then
        self._delivery.deliver_end(self._engine.tick(now))

    def after_fork(self) -> None:
        """In the child of a fork."""
        self.role.close()

    def close(self) -> None:
        """Nobody can take the role any more."""
        self.role.close()
        self._wakeup.close()
