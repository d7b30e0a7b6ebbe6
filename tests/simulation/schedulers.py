"""Threads that run one at a time: at each lock, poll, sleep and start the seed decides which goes on.

Strategy: simulated threads are real ones, but all except one wait for their turn. What a thread waits for is a
condition that is looked at whenever somebody gives up the turn: a lock that is free, a descriptor that the system
says is ready, a time that has come. So descriptors, epoll sets and sockets are the system's own, and only waiting
is simulated. In modules that are `traced` a thread may lose its turn before any line, as what has no lock must
bear that.
"""

from __future__ import annotations

import _thread
import itertools
import select
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from .worlds import Stuck, World

NEVER = float("inf")
LEAST_IDENT = 1_000_000
IDENTS = itertools.count(LEAST_IDENT)
"""The idents of simulated threads, of which none is used twice."""


def _always() -> bool:
    return True


class Given:
    """One thread, as the scheduler knows it."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.ident = next(IDENTS)
        self.name = name
        self.turn = _thread.allocate_lock()
        self.turn.acquire()
        self.is_ready: Callable[[], bool] = _always
        self.until = 0.0
        self.real = 0


class Scheduler:
    """Gives turns to the threads of one world."""

    def __init__(self, world: World, *, chance_of_loss: float) -> None:
        self.world = world
        self.threads: list[Given] = []
        self.failure: BaseException | None = None
        self.most_steps = 200_000
        self.most_time = world.now + 50_000.0
        self._chance_of_loss = chance_of_loss
        self._by_real: dict[int, Given] = {}
        self._numbers = 0
        self._over = _thread.allocate_lock()
        self._over.acquire()
        self.traced: tuple[str, ...] = ()
        """Parts of the paths of files in which a thread may lose its turn at each line."""

    # threads

    @property
    def present(self) -> Given:
        """The thread that has the turn."""
        return self._by_real[_thread.get_ident()]

    def get_ident(self) -> int:
        """In place of `threading.get_ident`."""
        found = self._by_real.get(_thread.get_ident())
        return _thread.get_ident() if found is None else found.ident

    def frames(self) -> dict[int, FrameType]:
        """In place of `sys._current_frames`."""
        found = sys._current_frames()
        return {each.ident: found[each.real] for each in self.threads if each.real in found}

    def start(self, work: Callable[[], object], name: str) -> Given:
        """Start a thread; it gets turns from now on."""
        self._numbers += 1
        thread = Given(self._numbers, name)
        self.threads.append(thread)
        _thread.start_new_thread(self._run, (thread, work))
        return thread

    def _run(self, thread: Given, work: Callable[[], object]) -> None:
        thread.real = _thread.get_ident()
        thread.turn.acquire()
        self._by_real[thread.real] = thread
        if self._chance_of_loss:
            sys.settrace(self._trace)
        try:
            work()
        except BaseException as error:
            self.fail(error)
        sys.settrace(None)
        self.threads.remove(thread)
        del self._by_real[thread.real]
        self._pass_on()

    def run(self, work: Callable[[], object]) -> None:
        """Run that in a thread, and all that it starts, until no thread is left. Raises what failed."""
        self.start(work, "main")
        self._pass_on()
        self._over.acquire()
        if self.failure is not None:
            raise self.failure

    def fail(self, error: BaseException) -> None:
        """The round has failed; all threads stay where they are."""
        if self.failure is None:
            self.failure = error

    # turns

    def switch(self) -> None:
        """Let the seed decide who goes on."""
        me = self.present
        self._give(me, self._next())

    def wait(self, is_ready: Callable[[], bool], seconds: float | None) -> bool:
        """Go on once `is_ready()`; false if the time is over first."""
        me, world = self.present, self.world
        until = NEVER if seconds is None or seconds < 0 else world.now + seconds
        me.is_ready, me.until = is_ready, until
        self._give(me, self._next())
        me.is_ready, me.until = _always, 0.0
        return is_ready()

    def _give(self, me: Given, chosen: Given | None) -> None:
        if chosen is me:
            return
        if chosen is None:
            self._over.release()
        else:
            chosen.turn.release()
        me.turn.acquire()

    def _pass_on(self) -> None:
        chosen = self._next()
        if chosen is None:
            self._over.release()
        else:
            chosen.turn.release()

    def _next(self) -> Given | None:
        """The thread that goes on; None if it is over."""
        world = self.world
        world.steps += 1
        world.now += 0.000001 * world.random.random()
        while self.threads and self.failure is None:
            world.happen()
            ready = [each for each in self.threads if each.until <= world.now or each.is_ready()]
            if ready:
                chosen = ready[int(world.random.random() * len(ready))]
                world.note(f"thread {chosen.number}")
                if world.steps > self.most_steps or world.now > self.most_time:
                    self.fail(Stuck(f"not over after {world.steps} steps, {world.elapsed:.3f} s\n{self.state()}"))
                    return None
                return chosen
            times = [each.until for each in self.threads]
            event = world.next_event()
            soonest = min(times if event is None else [*times, event])
            if soonest == NEVER or soonest > self.most_time:
                self.fail(Stuck(f"a deadlock: nothing will happen before {soonest}\n{self.state()}"))
                return None
            world.now = max(world.now, soonest)
        return None

    def state(self) -> str:
        """Where each thread is."""
        frames = self.frames()
        lines = []
        for each in self.threads:
            frame = frames.get(each.ident)
            places = []
            while frame is not None:
                name = frame.f_code.co_filename.rpartition("/")[2]
                if name not in ("schedulers.py", "threading.py"):
                    places.append(f"{name}:{frame.f_lineno}")
                frame = frame.f_back
            lines.append(f"  thread {each.number} {each.name}, until {each.until}: {' < '.join(places[:12])}")
        return "\n".join(lines)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._trace_line if any(part in frame.f_code.co_filename for part in self.traced) else None

    def _trace_line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and self.world.random.random() < self._chance_of_loss:
            self.switch()
        return self._trace_line

    # in place of the system's

    def sleep(self, seconds: float) -> None:
        """In place of `time.sleep`."""
        self.wait(lambda: False, seconds)

    def start_new_thread(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> int:
        """In place of `_thread.start_new_thread`."""
        ident = self.start(lambda: function(*arguments), function.__name__).ident
        self.switch()
        return ident


class Lock:
    """In place of `threading.Lock`, and of `RLock` if it `is_reentrant`."""

    def __init__(self, scheduler: Scheduler, *, is_reentrant: bool = False) -> None:
        self._scheduler = scheduler
        self._is_reentrant = is_reentrant
        self._owner: int | None = None
        self._count = 0

    def _is_free(self) -> bool:
        return self._count == 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        scheduler = self._scheduler
        me = scheduler.get_ident()
        if self._is_reentrant and self._count and self._owner == me:
            self._count += 1
            return True
        if me < LEAST_IDENT:  # the main thread, when nothing else runs
            assert not self._count
        elif blocking:
            if not scheduler.wait(self._is_free, None if timeout < 0 else timeout):
                return False
        elif self._count:
            return False
        self._owner, self._count = me, 1
        return True

    def release(self) -> None:
        if not self._count:
            raise RuntimeError("release unlocked lock")
        self._count -= 1
        if not self._count and self._scheduler.get_ident() >= LEAST_IDENT and not self._is_reentrant:
            self._scheduler.switch()

    def locked(self) -> bool:
        return bool(self._count)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


class Condition:
    """In place of `threading.Condition`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._lock = Lock(scheduler, is_reentrant=True)
        self._notified = 0

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def notify_all(self) -> None:
        self._notified += 1

    notify = notify_all

    def wait(self, timeout: float | None = None) -> bool:
        seen, count = self._notified, self._lock._count
        self._lock._count = 0
        found = self._scheduler.wait(lambda: self._notified != seen, timeout)
        self._lock.acquire()
        self._lock._count = count
        return found

    def wait_for(self, predicate: Callable[[], object], timeout: float | None = None) -> Any:
        until = None if timeout is None else self._scheduler.world.now + timeout
        while not (result := predicate()):
            left = None if until is None else until - self._scheduler.world.now
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result


class Thread:
    """In place of `threading.Thread`."""

    def __init__(
        self,
        scheduler: Scheduler,
        target: Callable[..., object],
        args: tuple[Any, ...] = (),
        name: str = "thread",
        daemon: bool = False,
    ) -> None:
        self._scheduler = scheduler
        self._work = target, args
        self.name = name
        self.daemon = daemon
        self.ident: int | None = None
        self._has_ended = False
        scheduler._numbers += 1
        self._hash = scheduler._numbers  # not the address, which is another one each time

    def __hash__(self) -> int:
        return self._hash

    def start(self) -> None:
        self.ident = self._scheduler.start(self._run, self.name).ident
        self._scheduler.switch()

    def _run(self) -> None:
        self._scheduler.present.object = self  # type: ignore[attr-defined]
        target, args = self._work
        try:
            target(*args)
        finally:
            self._has_ended = True

    def is_alive(self) -> bool:
        return self.ident is not None and not self._has_ended

    def join(self, timeout: float | None = None) -> None:
        self._scheduler.wait(lambda: self._has_ended, timeout)


class Poll:
    """In place of `select.poll`: the system's, asked without waiting."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._poll = select.poll()
        self.register, self.unregister, self.modify = self._poll.register, self._poll.unregister, self._poll.modify

    def poll(self, milliseconds: float | None = None) -> list[tuple[int, int]]:
        if milliseconds is None or milliseconds > 0:
            seconds = None if milliseconds is None else milliseconds / 1000
            self._scheduler.wait(lambda: bool(self._poll.poll(0)), seconds)
        else:
            self._scheduler.switch()
        return self._poll.poll(0)


class Epoll:
    """In place of `select.epoll`: the system's, asked without waiting."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._epoll = select.epoll()
        self._itself = select.poll()
        self._itself.register(self._epoll.fileno(), select.POLLIN)
        self.unregister, self.modify = self._epoll.unregister, self._epoll.modify
        self.register, self.fileno = self._epoll.register, self._epoll.fileno

    def poll(self, seconds: float | None = None, most: int = -1) -> list[tuple[int, int]]:
        until = None if seconds is None or seconds < 0 else self._scheduler.world.now + seconds
        while True:
            left = None if until is None else max(0.0, until - self._scheduler.world.now)
            self._scheduler.wait(self._has_events, left)
            if self._epoll.closed:
                raise ValueError("I/O operation on closed epoll object")
            events = self._epoll.poll(0, most)
            if events or (until is not None and self._scheduler.world.now >= until):
                return events

    def _has_events(self) -> bool:
        return self._epoll.closed or bool(self._itself.poll(0))

    def close(self) -> None:
        self._epoll.close()


def replacements(scheduler: Scheduler) -> dict[int, Any]:
    """What packetwire's modules are to see, by the identity of what they see otherwise."""
    from .clocks import Seen

    def make_thread(target: Any = None, args: Any = (), name: str = "thread", daemon: bool = False) -> Thread:
        return Thread(scheduler, target, args, name, daemon)

    def present() -> Any:
        return getattr(scheduler.present, "object", None)

    def lock() -> Lock:
        return Lock(scheduler)

    def reentrant() -> Lock:
        return Lock(scheduler, is_reentrant=True)

    def now() -> float:
        return scheduler.world.now

    pairs = [
        (
            threading,
            Seen(
                threading,
                Thread=make_thread,
                Lock=lock,
                RLock=reentrant,
                Condition=lambda: Condition(scheduler),
                get_ident=scheduler.get_ident,
                current_thread=present,
            ),
        ),
        (threading.Thread, make_thread),
        (threading.get_ident, scheduler.get_ident),
        (_thread.allocate_lock, lock),
        (_thread, Seen(_thread, start_new_thread=scheduler.start_new_thread, allocate_lock=lock)),
        (select, Seen(select, poll=lambda: Poll(scheduler), epoll=lambda: Epoll(scheduler))),
        (time, Seen(time, monotonic=now, perf_counter=now, sleep=scheduler.sleep)),
        (time.monotonic, now),
        (time.perf_counter, now),
        (time.sleep, scheduler.sleep),
        (sys, Seen(sys, _current_frames=scheduler.frames)),
    ]
    return {id(former): seen for former, seen in pairs}
