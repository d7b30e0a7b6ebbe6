"""The transport of a connection in an event loop.

A transport reads whenever there is something, and hands it to its `Receiver`. It writes at once what it is
given, as far as that goes; the rest waits in it for room. So it never blocks, and holds no
more than the batch that it could not write.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from packetwire.errors import ConnectionEnded

if TYPE_CHECKING:
    from subprocess import Popen


class Receiver(Protocol):
    """The object that a transport reports to, in the loop."""

    @property
    def is_busy(self) -> bool:
        """True if it has enough to do in this turn of the loop, and nothing shall be read."""
        ...

    def receive(self, data: bytes) -> int:
        """Bytes came; returns how many more are expected, if these are so many that reading on pays; else 0."""
        ...

    def receive_end(self, cause: ConnectionEnded | None) -> None:
        """Nothing more comes; `cause` says why, if that is known. Writing goes on, unless the peer is gone."""
        ...

    def written(self) -> None:
        """The rest of what was given to `write` is written."""
        ...

    def write_failed(self, error: Exception) -> None:
        """Nothing can be written."""
        ...

    def expect_end(self, cause: ConnectionEnded) -> None:
        """The other end is gone, though the stream may not show it."""
        ...

    def interrupted(self, error: BaseException) -> None:
        """Bytes may have been taken that were not received, or written that were not counted."""
        ...


class Transport(Protocol):
    """Reads and writes for a connection."""

    @property
    def process(self) -> Popen[bytes] | None:
        """The child process at the other end, if it is one."""
        ...

    @property
    def is_gone(self) -> bool:
        """True if nobody reads what is written, as far as that can be known."""
        ...

    @property
    def half_closes(self) -> bool:
        """True if the end of what is read is that of one direction, and says nothing more."""
        ...

    @property
    def is_remote(self) -> bool:
        """True if the other end may vanish without a word."""
        ...

    def hint(self) -> str:
        """A hint about an other end that says nothing; mostly ""."""
        ...

    @property
    def bytes_written(self) -> int:
        """All that was ever written, to the system or to what writes."""
        ...

    def start(self, receiver: Receiver) -> None:
        """Begin to read."""
        ...

    def write(self, buffers: Sequence[bytes]) -> bool:
        """Write; false if `written` will be called when that is done. Nothing else may be written before."""
        ...

    def stop_reading(self) -> None:
        """Take no bytes any more. A second call does nothing."""
        ...

    def stop(self) -> None:
        """Neither read nor write any more. A second call does nothing."""
        ...

    def hurry(self) -> None:
        """Someone is impatient: `close` shall wait for nobody."""
        ...

    def after_fork(self) -> None:
        """In the child of a fork: forget the loop's selector, which is the parent's, without a change of it."""
        ...

    def let_go(self) -> None:
        """After `stop`, where no loop runs: let go of the stream, in any thread. It may wait."""
        ...

    async def close(self, trailing: bytes) -> bytes:
        """After `stop`: let go of the stream; returns what it cannot take back of the `trailing` bytes."""
        ...
