"""Behind an interruption: an exception that a signal handler raised at any instruction of a call.

Each step of a call leaves what is its own in order when it is left by an exception. An exception may come between
two such steps, though, or while they do so. Roles bear the name of their thread, so what was left behind can be
found.
"""

from __future__ import annotations

from threading import get_ident

from packetwire.hosts.threads.clock import Clock
from packetwire.hosts.threads.nesting import inside, is_interrupted
from packetwire.hosts.threads.readerrole import ReaderRole
from packetwire.hosts.threads.roles import Bell
from packetwire.hosts.threads.waiter import Waiter
from packetwire.hosts.threads.writing import Writing


class Recovery:
    """Recovers one connection."""

    def __init__(self, *, reader: ReaderRole, writing: Writing, clock: Clock, bell: Bell) -> None:
        self._reader = reader
        self._writing = writing
        self._clock = clock
        self._bell = bell

    def recover(self, waiter: Waiter | None = None) -> None:
        """Behind an exception that may have come at any instruction of a call: give up what it left behind.

        A role that this thread may have from further out is not touched, where it is in a signal handler, a
        finalizer or a function that we called. It has a mark from there then (`nesting`); the one of this call,
        which is for `waiter`, is gone, or is taken away here.
        """
        me = get_ident()
        if waiter is not None and inside.get(me) is waiter:
            inside.pop(me, None)
        if me not in inside:
            self._writing.recover(me)
            if self._reader.role.get(0) == me:
                self._reader.leave(me)
        if not is_interrupted(me):
            self._writing.flush()
            if self._writing.leftover and not self._writing.keeper:
                self._clock.wake()
            if not self._reader.role:
                self._reader.arm()
        self._bell.ring()
