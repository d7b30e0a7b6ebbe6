"""One seed: its world, its conversation, and what must be true behind it.

Strategy: the programs of both ends are tasks in loops of their own. Each asks all that it has to ask, waits for
what the plan says about the end, and closes. Then nothing may be left: no task, no timer, no descriptor that is
watched, no request.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import re
import traceback
import zlib
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from packetwire import AsyncPacketConnection, AsyncPool
from packetwire.core.keeping import Backoff
from packetwire.errors import ConnectionEnded, PacketwireError

from . import clocks
from .conversations import End
from .ledgers import Ledger, Wrong
from .links import Link, Weather
from .loops import Process, SimulatedThread
from .plans import Plan, draw
from .streams import SimulatedStream, is_plain, stream_pair
from .worlds import Stuck, World

MOST_STEPS = 600_000
MOST_SECONDS = 40_000.0
SLACK = 4.0
"""Seconds that closing may take beyond its limit, for handlers that are cancelled and streams that are closed."""


EXPECTED = re.compile(
    r"(request \d+ on channel 0 \(rq_type 8\) failed|requests go on failing.*): "
    r"(RequestTimeout\('.*: the peer has (sent|granted|taken) nothing|"
    r"ConnectionEnded|StreamTruncated|PeerClosed|PeerUnresponsive)"
)
"""The errors that end a handler which reads a body: it has a time limit, or its connection has ended."""


@dataclass
class Report:
    """What came of one seed, or of many."""

    rounds: int = 0
    steps: int = 0
    seconds: float = 0.0
    requests: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    trace: int = 0

    def add(self, other: Report) -> None:
        """Count that, too."""
        self.rounds += other.rounds
        self.steps += other.steps
        self.seconds += other.seconds
        self.requests += other.requests
        self.outcomes += other.outcomes
        self.ends += other.ends
        self.trace = zlib.crc32(other.trace.to_bytes(4), self.trace)


class Failed(AssertionError):
    """A seed has failed; the text says how to repeat it."""


class Descriptors:
    """Descriptors of /dev/null, which stand for simulated sockets."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._used: list[int] = []

    def take(self) -> int:
        """One that nobody has."""
        fd = self._free.pop() if self._free else os.open(os.devnull, os.O_RDWR)
        self._used.append(fd)
        return fd

    def give_back(self) -> None:
        """All of them are free."""
        self._free = sorted(self._free + self._used, reverse=True)
        self._used = []


DESCRIPTORS = Descriptors()


class Complaints(logging.Handler):
    """Keeps what packetwire logs as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            places = [f"{each.name}:{each.lineno}" for each in traceback.extract_tb(error.__traceback__)[-4:]]
            text += f": {error!r} at {' > '.join(places)}"
        if not EXPECTED.search(text):
            self.lines.append(text)


class Round:
    """The round of one seed."""

    def __init__(self, seed: int, world: World, plan: Plan) -> None:
        self.seed = seed
        self.world = world
        self.plan = plan
        self.ledger = Ledger(plan)
        self.processes = [Process(world, 0), Process(world, 1)]
        self.ends = [End(self.ledger, each, number, world.random) for number, each in enumerate((plan.a, plan.b))]
        self.links: list[Link] = []
        self.connections: list[AsyncPacketConnection] = []
        self.programs: list[asyncio.Task[None]] = []
        self._have_asked = [False, False]

    # what the programs do

    def start(self, number: int, program: Coroutine[Any, Any, None]) -> None:
        """Begin a program in that process."""
        self.programs.append(self.processes[number].loop.create_task(program, name=f"program-{number}"))

    def link(self, forth: Weather, back: Weather) -> Link:
        """A new link between the processes."""
        fds = DESCRIPTORS.take(), DESCRIPTORS.take()
        link = Link(self.world, fds, forth, back)
        for process, sock in zip(self.processes, (link.a, link.b), strict=True):
            process.sockets[sock.fd] = sock
        self.links.append(link)
        return link

    def prepare(self) -> None:
        """Start the programs, and have the faults happen."""
        plan = self.plan
        for when, number, seconds in plan.pauses:
            self.world.after(when, lambda number=number, seconds=seconds: self._pause(number, seconds))  # type: ignore[misc]
        if plan.topology == "pool":
            self.start(0, self._run_pool())
            return
        link = self.link(plan.forth, plan.back)
        if plan.end == "noise":
            self.world.after(plan.when, lambda: self._make_noise(link))
        elif plan.end in ("cut", "reset"):
            # it may be over before so many bytes have passed, or wait for ever for them
            self.world.after(plan.when + 100.0, lambda: link.cut(reset=plan.end == "reset"))
        elif plan.end == "silence":
            self.world.after(plan.when, lambda: self._fall_silent(link))
        for number, sock in enumerate((link.a, link.b)):
            self.start(number, self._run_end(number, sock))

    def _pause(self, number: int, seconds: float) -> None:
        self.processes[number].pause(seconds)

    def _make_noise(self, link: Link) -> None:
        chance = self.world.random
        chance.choice((link.forth, link.back)).received += chance.randbytes(chance.randint(1, 100))

    def _fall_silent(self, link: Link) -> None:
        for direction in (link.forth, link.back):
            if direction.stalled_since is None:
                direction.stalled_since = self.world.now

    async def _form(self, sock: Any, form: str) -> Any:
        """What is given to a connection."""
        if form == "plain":
            return SimulatedStream(sock, owned=False)
        if form == "owned":
            return lambda: SimulatedStream(sock, owned=True)
        if form == "pair":
            return await stream_pair(sock)

        async def make() -> Any:
            return await stream_pair(sock)

        return make

    async def _run_end(self, number: int, sock: Any) -> None:
        end, plan = self.ends[number], self.plan
        recv_send = await self._form(sock, end.plan.form)
        conn = AsyncPacketConnection(recv_send, "ab"[number], request_handler=end.handler, **end.plan.arguments)
        end.conn = conn
        self.connections.append(conn)
        try:
            await conn.open()
        except PacketwireError as error:
            raise Wrong(f"a connection was not opened: {error!r}") from error
        asking = asyncio.create_task(end.ask_all(conn), name="all-askers")
        watching = self._watch_silence(number, conn)
        if plan.end in (("a-closes", "b-closes")[number], "both-close", "close-cancelled"):
            await asyncio.wait([asking], timeout=plan.when)
        elif plan.end == "abandoned":
            await asyncio.wait([asking], timeout=plan.when * 2)
        else:
            await self._until_both_have_asked(number, conn, asking)
        if watching is not None:
            await watching
        await self._close(number, conn)
        await asking
        self._let_go(end.plan.form, recv_send, sock)

    async def _until_both_have_asked(
        self, number: int, conn: AsyncPacketConnection, asking: asyncio.Task[None]
    ) -> None:
        """Until both ends have their answers, or the connection has ended."""
        await asyncio.wait([asking], timeout=None if not self.plan.may_lose else 500.0)
        self._have_asked[number] = True
        while not all(self._have_asked):
            if await conn.join_recv(0.5):
                break

    def _watch_silence(self, number: int, conn: AsyncPacketConnection) -> Any:
        """With a keepalive the end of a peer that has fallen silent is noticed within two periods."""
        keepalive = self.ends[number].plan.keepalive
        if self.plan.end != "silence" or keepalive is None:
            return None
        return asyncio.create_task(self._notice_silence(number, conn, keepalive), name="watching")

    async def _notice_silence(self, number: int, conn: AsyncPacketConnection, keepalive: float) -> None:
        loop = asyncio.get_running_loop()
        link, process = self.links[0], self.processes[number]
        while None in (link.forth.stalled_since, link.back.stalled_since):
            if await conn.join_recv(0.05):
                return
        if not await self._has_agreed(conn):
            return
        paused, began = process.paused_for, loop.time()
        question = asyncio.create_task(self._ask_into_silence(conn), name="into-silence")
        most = 2 * keepalive + 2 * max(keepalive / 8, 0.01) + 0.1
        while not await conn.join_recv(0.05):
            took = loop.time() - began
            if process.paused_for != paused:  # which is nobody's fault: it looks anew from then on
                paused, began = process.paused_for, loop.time()
            elif took > most and loop.time() > process.resumed_at + most:
                self.ledger.fail(
                    f"a peer that fell silent was not noticed after {took:.3f} s, keepalive {keepalive}"
                )
                break
        await asyncio.wait([question], timeout=1.0)
        question.cancel()

    async def _has_agreed(self, conn: AsyncPacketConnection) -> bool:
        control = conn._driver.engine.control  # type: ignore[union-attr]
        return control is not None and control.capabilities.has_agreed

    async def _ask_into_silence(self, conn: AsyncPacketConnection) -> None:
        with contextlib.suppress(PacketwireError):
            await conn(0, bytes(10))

    async def _close(self, number: int, conn: AsyncPacketConnection) -> None:
        loop, process = asyncio.get_running_loop(), self.processes[number]
        self.ledger.is_closing = self.ledger.is_closing or self.plan.end not in ("clean", "stall")
        began, paused = loop.time(), process.paused_for
        timeout = conn.close_timeout
        if self.plan.end == "close-cancelled":
            task = asyncio.create_task(conn.close(), name="closing")
            await asyncio.wait([task], timeout=self.world.random.choice((0.0, 0.0001, 0.1)))
            task.cancel()
            await asyncio.wait([task])
        elif self.plan.end == "abandoned":
            driver = conn._driver
            assert driver is not None
            conn._opens = 0  # as if nobody had it any more
            driver.release(ConnectionEnded("the connection was garbage"))
            while not driver._let_go_of:
                await asyncio.sleep(0.01)
        else:
            await conn.close()
        took = loop.time() - began - (process.paused_for - paused)
        if took > timeout + SLACK and process.resumed_at < began:
            self.ledger.fail(f"end {number}: closing within {timeout} s took {took:.3f} s")

    # a pool

    async def _run_pool(self) -> None:
        end, plan = self.ends[0], self.plan
        arguments = {**end.plan.arguments, "request_handler": end.handler}
        pool = AsyncPool(
            self._connect,
            size=self.world.random.randint(1, 3),
            name="pool",
            backoff=Backoff(0.05, 2.0),
            **arguments,
        )
        async with pool:
            asking = asyncio.create_task(end.ask_all(pool), name="all-askers")
            limit = plan.when if plan.end in ("a-closes", "both-close", "close-cancelled") else None
            await asyncio.wait([asking], timeout=limit)
            self.ledger.is_closing = True
        await asking

    async def _connect(self) -> Any:
        """A link to a new connection of the other process."""
        chance, plan = self.world.random, self.plan
        await asyncio.sleep(chance.choice((0.0, 0.01, 1.0)))
        if chance.random() < 0.2:
            raise ConnectionRefusedError(111, "Connection refused")
        healthy = chance.random() < 0.3
        clean = Weather(latency=plan.forth.latency)
        link = self.link(clean if healthy else plan.forth, clean if healthy else plan.back)
        self.world.after(chance.expovariate(0.2), lambda: link.cut(reset=chance.random() < 0.5))
        self.start(1, self._serve(link.b))
        form = self.ends[0].plan.form
        return await stream_pair(link.a) if "pair" in form else SimulatedStream(link.a, owned=True)

    async def _serve(self, sock: Any) -> None:
        end = self.ends[1]
        recv_send = await self._form(sock, end.plan.form)
        conn = AsyncPacketConnection(recv_send, "server", request_handler=end.handler, **end.plan.arguments)
        self.connections.append(conn)
        async with conn:
            await conn.join_recv(self.world.random.expovariate(0.1))
        self._let_go(end.plan.form, recv_send, sock)

    def _let_go(self, form: str, recv_send: Any, sock: Any) -> None:
        """The stream was the program's."""
        if form == "pair":
            recv_send[1].transport.abort()
        sock.close()

    # what must be true

    def run(self) -> None:
        """Hold the conversation. Raises `Stuck` or `Wrong`."""
        self.prepare()
        self.world.run(self._programs_are_over, most_steps=MOST_STEPS, most_seconds=MOST_SECONDS)
        for program in self.programs:
            program.result()
        self.world.run(self._is_quiet, most_steps=10_000, most_seconds=1000.0)
        self.check()

    def _programs_are_over(self) -> bool:
        return all(program.done() for program in self.programs)

    def _is_quiet(self) -> bool:
        """Nothing is left to be done: no task, and no timer but those that were cancelled."""
        for process in self.processes:
            loop: Any = process.loop
            if loop._ready or any(not timer.cancelled() for timer in loop._scheduled):
                return False
            if asyncio.all_tasks(loop):
                return False
        return True

    def check(self) -> None:
        """Raises `Wrong`."""
        ledger = self.ledger
        for process in self.processes:
            for complaint in process.complaints:
                ledger.fail(f"loop {process.number}: {complaint}")
            for fd in process.loop._simulated.get_map():
                ledger.fail(f"loop {process.number} still watches descriptor {fd}")
        for conn in self.connections:
            for name, number in _left(conn).items():
                if number:
                    ledger.fail(f"{conn}: {number} {name} left")
        ledger.check()

    def state(self) -> str:
        """What everybody waits for."""
        lines = [f"time {self.world.elapsed:.6f} s, step {self.world.steps}"]
        for process in self.processes:
            lines.append(f"process {process.number}: next time {process.next_time()}")
            lines += sorted(f"  task {_place(task)}" for task in asyncio.all_tasks(process.loop))
        for conn in self.connections:
            lines.append(f"  {conn}: ended {conn.ended!r}, left {_left(conn)}")
        for number, link in enumerate(self.links):
            for name, direction in (("forth", link.forth), ("back", link.back)):
                lines.append(
                    f"  link {number} {name}: received {len(direction.received)}, room {direction.room}, "
                    f"ended {direction.has_ended}, broken {direction.is_broken}, stalled {direction.stalled_since}"
                )
        return "\n".join(lines)

    def close(self) -> None:
        """Let go of the loops; what is left in a round that failed is not complained of."""
        for process in self.processes:
            process.close()
        for conn in self.connections:
            conn._opens = 0  # of a round that failed; else the garbage collector would complain later
        DESCRIPTORS.give_back()


def _place(task: asyncio.Task[Any]) -> str:
    """The name of a task, and where it waits for what."""
    frames = " ".join(f"{frame.f_code.co_name}:{frame.f_lineno}" for frame in task.get_stack())
    return f"{task.get_name()}: {frames} {getattr(task, '_fut_waiter', None)}"


def _left(conn: AsyncPacketConnection) -> dict[str, int]:
    """The entries in the tables of a connection."""
    driver = conn._driver
    if driver is None:
        return {}
    engine = driver.engine
    return {
        "requests without an answer": len(engine.waiters),
        "requests without room": len(driver.calls.waiting),
        "handlers that have not begun": len(driver._answering.jobs),
        "answers that come later": len(driver._answering.owed.deferred),
        "watchers": len(driver._watchers),
    }


@contextlib.contextmanager
def listening() -> Iterator[Complaints]:
    """What packetwire logs in this block as an error."""
    complaints = Complaints()
    logger, asyncio_logger = logging.getLogger("packetwire"), logging.getLogger("asyncio")
    former = logger.propagate
    logger.addHandler(complaints)
    asyncio_logger.addHandler(complaints)
    logger.propagate = asyncio_logger.propagate = False
    try:
        yield complaints
    finally:
        logger.removeHandler(complaints)
        asyncio_logger.removeHandler(complaints)
        logger.propagate = former
        asyncio_logger.propagate = True


def plan_of(seed: int) -> Plan:
    """The plan of the round of this seed."""
    return draw(random.Random(seed))


def run_seed(seed: int, *, log: list[str] | None = None) -> Report:
    """The round of this seed, with asyncio. Raises `Failed`."""
    chance = random.Random(seed)
    plan = draw(chance)
    world = World(chance.getrandbits(64))
    world.log = log
    replacements = {
        "aio.blocking": {"threading": clocks.threads_as(SimulatedThread)},
        "aio.polled": {"_is_plain": is_plain},
    }
    collects = gc.isenabled()
    gc.disable()  # a collection comes at times of its own
    try:
        with clocks.replaced(lambda: world.now, world.random, modules=replacements), listening() as complaints:
            a_round = Round(seed, world, plan)
            try:
                a_round.run()
                if complaints.lines:
                    raise Wrong("logged: " + "\n".join(complaints.lines[:10]))
            except (Wrong, Stuck, PacketwireError, OSError, RuntimeError) as error:
                state = a_round.state()
                repeat = f"python -m tests.simulation --seed {seed}"
                raise Failed(f"seed {seed} failed: {error}\n{plan}\n{state}\nto repeat it: {repeat}") from error
            finally:
                a_round.close()
    finally:
        if collects:
            gc.enable()
    ledger = a_round.ledger
    return Report(
        1,
        world.steps,
        world.elapsed,
        ledger.asked,
        ledger.outcomes,
        Counter([plan.topology + " " + plan.end]),
        world.trace,
    )
