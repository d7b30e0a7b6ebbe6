"""The account of one connection in its server's budget."""

from __future__ import annotations

from collections.abc import Callable

from packetwire.core.engine import ConnectionEngine
from packetwire.errors import ConnectionEnded
from packetwire.hosts.threads.inline import InlineHandlers
from packetwire.hosts.threads.workers import Workers
from packetwire.streams.bytestream import ByteStream


class Account:
    """A debtor of `core.budget`."""

    def __init__(
        self,
        name: str,
        engine: ConnectionEngine,
        stream: ByteStream,
        workers: Workers,
        inline: InlineHandlers,
        held: list[None],
        abort: Callable[[ConnectionEnded], None],
    ) -> None:
        self.name = name
        self._abort = abort
        self._engine = engine
        self._stream = stream
        self._workers = workers
        self._inline = inline
        self._held = held

    @property
    def owed_bytes(self) -> int:
        """Bytes that are held for the peer."""
        return self._engine.owed_bytes

    @property
    def waits_for_peer(self) -> bool:
        """True if only the peer can change that."""
        return self._engine.waits_for_peer

    @property
    def bytes_written(self) -> int:
        """All that was ever written to the peer."""
        return self._stream.bytes_written

    def resume(self) -> None:
        """Handlers that were held may be started now. From any thread."""
        self._held.clear()
        if self._workers.jobs or self._workers.slow_jobs or self._inline.jobs:
            self._workers.call_thread()

    def abort(self, cause: ConnectionEnded) -> None:
        """End the connection now."""
        self._abort(cause)

    def open(self) -> None:
        """Take part in the budget, if there is one."""
        if self._engine.budget is not None:
            self._engine.budget.add(self)

    def close(self) -> None:
        """Nothing is held any more."""
        if self._engine.budget is not None:
            self._engine.budget.discard(self)
