"""Chooses when to write what the engine wants sent.

Bytes that leave together cost one system call. So while requests are under way writing is postponed: to the end of
the loop's round, to the end of what was read, or until there are `WRITE_AT` bytes, so that the other end has
something to do meanwhile. The only request under way, and its answer, leave at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from packetwire.aio.transport import Transport
from packetwire.aio.workers import Workers
from packetwire.core.engine import ConnectionEngine
from packetwire.streams.buffers import WRITE_AT


class Writing:
    """Writes for one connection. At the end of a round of the loop it calls `settled`, to write and see what
    changed.

    Bytes that the transport does not take at once stay with it, and nothing more is given to it before.
    """

    def __init__(
        self,
        engine: ConnectionEngine,
        transport: Transport,
        loop: asyncio.AbstractEventLoop,
        settled: Callable[[], object],
    ) -> None:
        self.is_receiving = False
        """True if what is to be sent leaves when all that was read is seen to."""
        self.is_due = False
        """True if it leaves at the end of this round of the loop."""
        self.workers: Workers | None = None
        """They may have found that there was no room for their replies."""
        self.is_waiting = False
        """True while the transport waits for room."""
        self._engine = engine
        self._write_at = WRITE_AT
        self._write = transport.write
        self._call_soon = loop.call_soon
        self._settled = settled

    def added(self, under_way: int) -> None:
        """There is something to write, and so many requests are under way."""
        if self._engine.unsent_octets >= self._write_at:
            self.flush()
        elif not (self.is_due or self.is_receiving):
            if under_way <= 1:
                self.flush()
            else:
                self.flush_soon()

    def flush_soon(self) -> None:
        """At the end of this round of the loop."""
        self.is_due = True
        self._call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self.is_due = False
        self._settled()

    def flush(self) -> None:
        """Write what the engine wants sent, as far as that goes without waiting."""
        if not self.is_waiting:
            self._write_on(self._engine.data_to_send())

    def written(self) -> None:
        """The transport has written the rest."""
        self._write_on(self._engine.more_data_to_send())

    def _write_on(self, batch: list[bytes]) -> None:
        while batch:
            self.is_waiting = True
            if not self._write(batch):
                return
            batch = self._engine.more_data_to_send()
        self.is_waiting = False
        workers = self.workers
        if workers is not None and workers.jobs:
            workers.call()
