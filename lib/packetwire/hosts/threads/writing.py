"""Writing what the engine wants sent, by whichever thread is at hand.

The writer's role exists once. Its holder takes a batch, tries to write it without blocking, and looks again when
it has given the role up; so what others send meanwhile leaves with the next batch. The rest that the stream does
not take stays with the role, which the clock then has until there is room; or the caller that wrote it sees to it,
the *keeper*, while it reads and waits for its answer.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from threading import get_ident

from packetwire.core.engine import ConnectionEngine
from packetwire.hosts.threads.nesting import OURS, inside, put_back
from packetwire.hosts.threads.role import CLOCK, Role
from packetwire.hosts.threads.roles import Bell
from packetwire.streams.buffers import JOIN_LIMIT
from packetwire.streams.bytestream import ByteStream


class Writing:
    """The writer's role for one connection.

    Called back: `wait_for_room` when the role goes to the clock, which calls `go_on`; `written` when there may be
    room again, for those who are `waiting`, or since requests were `held`; `failed` with the error after which
    nothing can be written; `interrupted` with a BaseException that hit a write.
    """

    def __init__(
        self,
        engine: ConnectionEngine,
        stream: ByteStream,
        *,
        waiting: Bell,
        held: list[None],
        wait_for_room: Callable[[], object],
        written: Callable[[], object],
        failed: Callable[[Exception], object],
        interrupted: Callable[[BaseException], object],
    ) -> None:
        self.role = Role()
        self.leftover: Sequence[bytes | memoryview] = ()
        """Bytes that the stream did not take yet."""
        self.keeper = 0
        """The caller that waits for room for it, in place of the clock; 0 if the clock does."""
        self.flushes = 0
        self._engine = engine
        self._write_batch = stream.write_batch
        self._waiting = waiting
        self._held = held
        self._wait_for_room = wait_for_room
        self._written = written
        self._failed = failed
        self._interrupted = interrupted

    @property
    def by_a_thread(self) -> bool:
        """True while one is writing, which does not wait; the clock, which waits for room, does not count."""
        return self.role.holder > 0

    def flush(self, keeper: int = 0) -> None:
        """Write what the engine wants sent, as far as that goes without waiting.

        The rest is left to the clock, or to the calling thread, if that is the `keeper`.
        """
        role, engine = self.role, self._engine
        self.flushes += 1
        # whoever has the role looks again behind giving it up: also this thread, if a signal handler comes here
        while engine.unsent and not role:
            me, marks = get_ident(), inside
            outer = marks.get(me)
            try:
                try:
                    if not outer:
                        marks[me] = OURS
                    if role.setdefault(0, me) == me:
                        batch = engine.data_to_send()
                        if len(batch) > 1 and engine.unsent_octets <= JOIN_LIMIT:  # these count, and maybe more
                            batch = [b"".join(batch)]
                        rest = self._write_batch(batch) if batch else ()  # it may have been taken just before
                        if rest:
                            self._keep(rest, keeper)  # the role, too
                            return
                        engine.data_sent()
                except Exception as error:
                    self._failed(error)
                    engine.data_sent()
                except BaseException as error:
                    self._interrupted(error)
                    raise
                finally:
                    if role.get(0) == me:
                        role.pop(0, None)
                    if outer is None:  # as put_back
                        marks.pop(me, None)
                    elif not outer:
                        marks[me] = outer
            except BaseException:  # it may have come in the above `finally`
                role.give_up(me)
                put_back(me, outer)
                raise
            if self._waiting.locks or self._held:
                self._written()

    def _keep(self, rest: Sequence[bytes | memoryview], keeper: int) -> None:
        self.keeper = keeper
        self.leftover = rest
        self.role[0] = CLOCK
        if not keeper:
            self._wait_for_room()

    def leave_to_clock(self) -> None:
        """As the keeper: see to it no longer."""
        if self.leftover:
            self.keeper = 0
            self._wait_for_room()
        else:  # it was interrupted before it could say that all is written
            self._end_keeping()

    def go_on(self) -> None:
        """As the clock or the keeper: there is room, or the stream has failed, which writing shows."""
        try:
            self.leftover = self._write_batch(self.leftover)
        except Exception as error:
            self.leftover = ()
            self._failed(error)
        except BaseException as error:
            self._interrupted(error)
            raise
        if not self.leftover:
            keeper = self.keeper
            self._end_keeping()
            self._written()
            self.flush(keeper)

    def _end_keeping(self) -> None:
        # again if it was interrupted, so the keeper is the last to be forgotten
        self._engine.data_sent()
        self.role.give_up(CLOCK)
        self.keeper = 0

    def recover(self, me: int) -> None:
        """Behind an interruption that may have left the role with this thread."""
        if self.role.get(0) == me:
            if self.leftover:
                self._keep(self.leftover, 0)
            else:
                self.role.give_up(me)
        if self.keeper == me:
            self.leave_to_clock()

    def close(self) -> None:
        """Nobody can take the role any more."""
        self.role.close()
        self.leftover = ()


def poll_both(stream: ByteStream, wakeup: int, seconds: float) -> dict[int, int]:
    """Wait until a stream can be read or written, or `wakeup` can be read: what there is, by descriptor."""
    write_fd = stream.write_fd
    if write_fd < 0:  # it has been closed elsewhere: writing says why
        return {write_fd: select.POLLNVAL}
    events = {stream.read_fd: select.POLLIN, wakeup: select.POLLIN}
    events[write_fd] = events.get(write_fd, 0) | stream.write_events
    poller = select.poll()
    for fd, wanted in events.items():
        poller.register(fd, wanted)
    return dict(poller.poll(seconds * 1000))
