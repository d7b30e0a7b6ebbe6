"""The reader's role: who reads, and who reads next.

It exists once. The thread that gives it up arms the descriptor, so that a parked worker reads what comes next,
which uses that up. A caller that has its answer mostly comes back for the next one at once. If nobody else waits,
it does not arm the descriptor, which would wake a worker to read what the caller reads as well; the clock does, if
it does not come.
"""

from __future__ import annotations

from collections.abc import Callable

from packetwire.core.engine import ConnectionEngine
from packetwire.hosts.threads.clock import Clock
from packetwire.hosts.threads.delivery import Delivery
from packetwire.hosts.threads.parking import Parking
from packetwire.hosts.threads.role import Role
from packetwire.hosts.threads.roles import Bell


class ReaderRole:
    """The role, for one connection."""

    def __init__(
        self,
        engine: ConnectionEngine,
        *,
        parking: Parking,
        clock: Clock,
        delivery: Delivery,
        bell: Bell,
        is_eager: bool,
        lost: Callable[[Exception], object],
    ) -> None:
        self.role = Role()
        self.is_armed = False
        """True if a worker reads what comes next, unless somebody takes the role before."""
        self.is_eager = is_eager
        """True if that has to be so whenever nobody has the role: there may be more than responses to read."""
        self.sleepers: list[None] = []
        """As many as there are threads that wait for a response that another one reads."""
        self.left = 0
        """Times that a caller has given the role up."""
        self._engine = engine
        self._arm = parking.arm
        self.disarm_descriptor = parking.disarm
        """Called by `disarm`, and by `Calls` directly, which saves the call of `disarm`."""
        self._clock = clock
        self._receivers = delivery.receivers
        self._bell = bell
        self._locks = bell.locks
        self.lose = lost
        """Called with the error if the descriptor cannot be armed or disarmed."""

    def leave(self, me: int, to_callers: bool = False) -> None:
        """Give the role up, and let a parked worker read what comes next.

        Not if it is left `to_callers`, and nobody waits: then the next caller reads, or the clock has it read soon.
        """
        # in this order: a worker that is woken while the role is taken leaves again
        role = self.role
        if to_callers:
            self.left += 1
        if role.get(0) == me:
            self.is_armed = False  # a worker that came in vain may have used that up
            role.pop(0, None)
        # behind that: whoever waits says so, and then looks at the role; as the clock does, which says `is_idle`
        if (
            not to_callers
            or self.is_eager
            or self.sleepers
            or self._receivers
            or self._locks
            or self._clock.is_idle
            or self._clock.thread is None
        ) and self._engine.ended is None:
            self.is_armed = True  # as in `arm`
            try:
                self._arm()
            except (OSError, ValueError) as error:
                self.lose(error)
        if self._locks:
            self._bell.ring()

    def arm(self) -> None:
        """Let a parked worker read what comes next."""
        if self._engine.ended is None:
            self.is_armed = True  # first: the worker that uses it up takes this back
            try:
                self._arm()
            except (OSError, ValueError) as error:
                self.lose(error)

    def disarm(self) -> None:
        """As the reader: let no worker wake up for what this thread reads."""
        if self.is_armed:
            self.is_armed = False
            try:
                self.disarm_descriptor()
            except (OSError, ValueError) as error:
                self.lose(error)

    def be_eager(self) -> None:
        """From now on have a worker read whenever nobody does, as callbacks are to be called."""
        self.is_eager = True
        if not (self.role or self.is_armed):
            self.arm()

    def is_left_alone(self) -> bool:
        """True if nobody reads, and no worker would."""
        return not (self.is_armed or self.role) and self._engine.ended is None
