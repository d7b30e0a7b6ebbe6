"""A job that one thread at a time has.

Nothing here is a lock that is held: a role is a dict with one entry, which is taken and given up in a single step,
and which says who has it. So an exception that comes at any instruction, as from a signal handler, cannot leave a
role behind of which nobody knows whose it is: whoever entered gives up what has its name on it.

Compiled, `role.pyx` stands in its place, with an attribute in place of the entry.
"""

from __future__ import annotations

CLOSED = -2
"""Holds a role for good, so that no thread can take it."""
CLOCK = -1
"""Holds the writer's role while the clock waits for room."""


class Role(dict[int, int]):
    """A job that one thread at a time has: `role.setdefault(0, me) == me` takes it, if it can be taken."""

    @property
    def holder(self) -> int:
        """The thread that has it; 0 if none has."""
        return self.get(0, 0)

    def give_up(self, me: int) -> bool:
        """Give it up, if this thread has it."""
        if self.get(0) != me:
            return False
        self.pop(0, None)
        return True

    def close(self) -> None:
        """Nobody can take it any more."""
        self[0] = CLOSED
