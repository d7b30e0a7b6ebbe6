"""Event loops on the simulated clock, one for each simulated process.

Strategy: asyncio's own loop, over a selector that knows only simulated sockets. The world gives each loop its
turns, so that it never waits; in a turn the loop calls what is ready in the order that asyncio promises. What no
promise orders comes from the seed: which loop goes on, the order of ready descriptors, how long a turn takes,
when a thread is done. A paused process has no turns, while time passes.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
import threading
from asyncio import events
from collections.abc import Callable, Mapping
from typing import Any

from .links import Socket
from .worlds import World


class SimulatedSelector(selectors.BaseSelector):
    """What is ready of the simulated sockets of one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        if fd in self._keys:
            raise KeyError(f"{fd} is registered")
        self._keys[fd] = key = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        self.unregister(fileobj)
        return self.register(fileobj, events, data)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys[fileobj if isinstance(fileobj, int) else fileobj.fileno()]

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = self.ready()
        chance = self._process.world.random
        if len(found) > 1:
            chance.shuffle(found)
        return found

    def ready(self) -> list[tuple[selectors.SelectorKey, int]]:
        """The keys of what is ready, with the events."""
        found = []
        for fd, key in self._keys.items():
            sock = self._process.sockets[fd]
            mask = key.events & (
                (selectors.EVENT_READ if sock.readable else 0) | (selectors.EVENT_WRITE if sock.writable else 0)
            )
            if mask:
                found.append((key, mask))
        return found

    def close(self) -> None:
        self._keys.clear()


class SimulatedLoop(asyncio.SelectorEventLoop):
    """A loop whose clock is the world's. It has no self-pipe, as nothing wakes it but the world."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._simulated = SimulatedSelector(process)
        super().__init__(self._simulated)
        self._clock_resolution = 1e-6  # larger than the distance of two floats, also after years
        self.set_exception_handler(self._complain)

    def time(self) -> float:
        return self._process.world.now

    def _make_self_pipe(self) -> None:
        self._ssock = self._csock = None  # type: ignore[assignment]

    def _close_self_pipe(self) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._process.complaints.append(f"{context.get('message')}: {error!r}")

    def next_time(self) -> float | None:
        """The time of what is to be done next."""
        if self._ready or self._simulated.ready():  # type: ignore[attr-defined]
            return 0.0
        scheduled = self._scheduled  # type: ignore[attr-defined]
        if not scheduled:
            return None
        time: float = scheduled[0].when()
        return time

    def turn(self) -> None:
        """What `run_forever` does in one round."""
        hooks = sys.get_asyncgen_hooks()
        self._thread_id = threading.get_ident()
        sys.set_asyncgen_hooks(firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook)  # type: ignore[attr-defined]
        events._set_running_loop(self)
        try:
            self._run_once()  # type: ignore[attr-defined]
        finally:
            self._thread_id = None  # type: ignore[assignment]
            events._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)


class Process:
    """A process of the world, with one event loop."""

    present: Process | None = None
    """The one that has its turn."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.sockets: dict[int, Socket] = {}
        self.complaints: list[str] = []
        """What its loop has complained of."""
        self.paused_for = 0.0
        """Seconds that it was paused for in all."""
        self._paused_until = 0.0
        self.resumed_at = 0.0
        """The time until which it was paused last."""
        self._pace = world.random.choice((0.000001, 0.00002, 0.001))
        self.loop = SimulatedLoop(self)
        world.runners.append(self)

    def next_time(self) -> float | None:
        """The time of its next turn."""
        time = self.loop.next_time()
        return time if time is None or time > self._paused_until else self._paused_until

    def turn(self) -> int:
        """Take one turn, which takes some time."""
        self.world.now += self._pace * self.world.random.random()
        outer, Process.present = Process.present, self
        try:
            self.loop.turn()
        finally:
            Process.present = outer
        return 1

    def pause(self, seconds: float) -> None:
        """Take no turns for that time."""
        self.world.note(f"pause {self.number}")
        until = self.world.now + seconds
        self.paused_for += max(0.0, until - max(self.world.now, self._paused_until))
        self._paused_until = self.resumed_at = max(self._paused_until, until)

    def when_running(self, action: Callable[[], object]) -> None:
        """Call it, but not while this is paused."""
        if self.world.now < self._paused_until:
            self.world.at(self._paused_until, lambda: self.when_running(action))
        else:
            action()

    def close(self) -> None:
        """Close the loop; what is left of a round that has failed is cancelled."""
        for _ in range(200):
            tasks = asyncio.all_tasks(self.loop)
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            self.turn()
        for task in asyncio.all_tasks(self.loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.loop.close()
        self.world.runners.remove(self)


class SimulatedThread:
    """A thread that runs in one piece, some time after its start or when somebody joins it."""

    def __init__(
        self,
        target: Callable[..., object],
        args: tuple[Any, ...] = (),
        name: str | None = None,
        daemon: bool | None = None,
    ) -> None:
        self._target = target
        self._args = args
        self._has_run = False
        assert Process.present is not None
        self._process = Process.present

    def start(self) -> None:
        """Have it run."""
        world = self._process.world
        world.after(world.random.choice((0.0, 0.0001, 0.01)), lambda: self._process.when_running(self._run))

    def _run(self) -> None:
        if not self._has_run:
            self._has_run = True
            outer, Process.present = Process.present, self._process
            loop = events._get_running_loop()
            events._set_running_loop(None)
            try:
                self._target(*self._args)
            finally:
                Process.present = outer
                events._set_running_loop(loop)

    def join(self, timeout: float | None = None) -> None:
        """Let it run, if it has not."""
        self._run()
