"""Failures that end the connection: the parts of a driver report them here, each with its cause.

The parts are made one after the other, and the first of them need this already: `connect` gives it the others.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from packetwire.errors import ended_by
from packetwire.hosts.threads.answering import logger
from packetwire.hosts.threads.role import CLOCK

if TYPE_CHECKING:
    from packetwire.core.engine import ConnectionEngine
    from packetwire.errors import ConnectionEnded
    from packetwire.hosts.threads.delivery import Delivery
    from packetwire.hosts.threads.parking import Parking
    from packetwire.hosts.threads.readerrole import ReaderRole
    from packetwire.hosts.threads.roles import Bell
    from packetwire.hosts.threads.writing import Writing


class Failures:
    """Ends the connection `name` for what its parts report."""

    _delivery: Delivery
    _reader: ReaderRole
    _writing: Writing

    def __init__(self, engine: ConnectionEngine, name: str, *, parking: Parking, bell: Bell) -> None:
        self._engine = engine
        self._name = name
        self._parking = parking
        self._bell = bell

    def connect(self, *, delivery: Delivery, reader: ReaderRole, writing: Writing) -> None:
        """The parts that were made after this one."""
        self._delivery, self._reader, self._writing = delivery, reader, writing

    def expect_end(self, cause: ConnectionEnded) -> None:
        """The stream should end now; if it does not within a second, it ends for the `cause` known last."""
        self._engine.expect_end(cause, time.monotonic())
        self._parking.wake()

    def writing_failed(self, error: Exception) -> None:
        """Nothing can be sent. The peer may have said why before, so go on reading for a moment."""
        self._engine.send_failed(error)
        if self._engine.deadline is None:
            reason = ended_by(error, f"{self._name}: writing failed: {error}")
            self._engine.expect_end(reason, time.monotonic())
        self._parking.wake()
        self._bell.ring()

    def writing_interrupted(self, error: BaseException) -> None:
        """Bytes may be lost, or have been written twice."""
        self._end(error, f"interrupted while writing: {error!r}")

    def reading_interrupted(self, error: BaseException) -> None:
        """Bytes were taken that were not all decoded: what follows could not be understood."""
        self._end(error, f"interrupted while reading: {error!r}")

    def descriptor_lost(self, error: Exception) -> None:
        """The descriptor cannot be polled: somebody else has closed it."""
        self._end(error, f"the stream's descriptor is gone: {error}")

    def no_thread(self, error: RuntimeError) -> None:
        """There is no thread that reads, and none can be started."""
        self._end(error, f"no thread can be started to read: {error}")

    def worker_lost(self, error: BaseException) -> None:
        """A worker has been interrupted outside of the user's handlers."""
        logger.error("%s: a worker ended by %r", self._name, error, exc_info=error)
        self._end(error, f"interrupted in a worker: {error!r}")

    def no_clock(self, error: RuntimeError) -> None:
        """No thread can be started that does what was postponed: the reader does it, or nobody can."""
        logger.error("%s: %s", self._name, error)
        if self._reader.is_left_alone():
            self._reader.arm()
        if self._writing.leftover and not self._writing.keeper:
            self._writing.leftover = ()
            self._writing.role.give_up(CLOCK)
            self.writing_failed(error)

    def _end(self, error: BaseException, reason: str) -> None:
        self._delivery.fail(ended_by(error, f"{self._name}: {reason}"))
