"""Behind an interruption: an exception that a signal handler raised at any instruction of a call.

Each step of a call leaves what is its own in order when it is left by an exception. An exception may come between
two such steps, though, or while they do so. Roles bear the name of their thread, so what was left behind can be
found.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from threading import get_ident

from packetwire.hosts.threads.clock import Clock
from packetwire.hosts.threads.nesting import inside
from packetwire.hosts.threads.reading import Reading
from packetwire.hosts.threads.roles import Bell
from packetwire.hosts.threads.writing import Writing


class Recovery:
    """Recovers one connection; `parts` are the objects whose methods may have been interrupted."""

    def __init__(
        self, parts: Sequence[object], *, reading: Reading, writing: Writing, clock: Clock, bell: Bell
    ) -> None:
        self._parts = parts
        self._reading = reading
        self._writing = writing
        self._clock = clock
        self._bell = bell

    def recover(self) -> None:
        """Behind an exception that may have come at any instruction of a call: give up what it left behind.

        A role that this thread has from a call further out, which a signal handler or a finalizer interrupted, is
        not touched.
        """
        me = get_ident()
        if not self._is_further_out():
            inside.pop(me, None)
            self._writing.recover(me)
            if self._reading.role.get(0) == me:
                self._reading.leave(me)
            self._writing.flush()
            if self._writing.leftover and not self._writing.keeper:
                self._clock.wake()
        self._bell.ring()

    def _is_further_out(self) -> bool:
        """Whether this thread is inside of this connection in a frame that goes on."""
        frame = sys._getframe(2).f_back
        while frame is not None:
            if any(frame.f_locals.get("self") is part for part in self._parts):
                return True
            frame = frame.f_back
        return False
