"""One seed with threads: two `PacketConnection`s, whose threads go on in the order that the seed decides.

Strategy: the sockets are the system's, with a line between them that is moved on by the world: bytes take their
time, few or many at once, and the line may be cut, stall, or fall silent. Everything happens in simulated
threads; the round is over when none is left, so that a thread that stays is found as a deadlock.
"""

from __future__ import annotations

import gc
import importlib
import pkgutil
import random
import socket
import sys
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import packetwire._sync
import packetwire.core
import packetwire.hosts.threads
import packetwire.streams
from packetwire import PacketConnection, Responder, current_request
from packetwire.errors import PacketwireError, RequestError, RequestTimeout
from packetwire.hosts.threads import keepalive
from packetwire.streams import forking

from . import clocks
from .ledgers import HEAD, Ledger, Wrong, answer_of, filler, number_of, payload_of, seconds_of
from .links import Weather
from .plans import (
    BACK,
    BODY,
    ECHO,
    LATER,
    NEVER,
    PROGRESS,
    RAISE,
    SLEEP,
    EndPlan,
    Plan,
    Question,
    draw,
    draw_question,
)
from .rounds import Failed, Report, listening
from .schedulers import Lock, Scheduler, replacements
from .worlds import Stuck, World

TRACED = ("/hosts/threads/", "/streams/wakeup.py", "/core/engine.py", "/core/owed.py", "packetwire/connection.py")
PIECE = 20_000
SLACK = 4.0
SMALL_BUFFER = 4608


class InOrder(dict[Any, None]):
    """In place of a weak set, whose order is that of addresses."""

    def add(self, each: Any) -> None:
        self[each] = None

    def discard(self, each: Any) -> None:
        self.pop(each, None)


def _import_all() -> None:
    """What is imported when it is needed would else be traced, the first time."""
    for package in (packetwire.core, packetwire.hosts.threads, packetwire._sync, packetwire.streams):
        for module in pkgutil.iter_modules(package.__path__):
            if "zmq" not in module.name and "curve" not in module.name:
                importlib.import_module(f"{package.__name__}.{module.name}")
    for name in ("bodycalls", "bodylimits", "plannedcalls", "connectionbase", "lightresult", "csresult"):
        importlib.import_module(f"packetwire.{name}")


class Line:
    """The way between two sockets, of which each has a partner here."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.world = world
        self.a, inner_a = socket.socketpair()
        self.b, inner_b = socket.socketpair()
        self.inner = inner_a, inner_b
        for sock in (self.a, self.b, *self.inner):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        for sock in self.inner:
            sock.setblocking(False)
        self.is_silent = self.is_cut = False
        self._ways = [_Way(self, inner_a, inner_b, plan.forth), _Way(self, inner_b, inner_a, plan.back)]

    def pump(self) -> None:
        """Move on what can be moved on now."""
        if not (self.is_silent or self.is_cut):
            for way in self._ways:
                way.pump()

    def cut(self) -> None:
        """End it."""
        if not self.is_cut:
            self.is_cut = True
            self.world.note("cut")
            for sock in self.inner:
                sock.close()

    def close(self) -> None:
        """Close all sockets."""
        for sock in (self.a, self.b, *self.inner):
            sock.close()


class _Way:
    """One direction of a line."""

    def __init__(self, line: Line, source: socket.socket, target: socket.socket, weather: Weather) -> None:
        self._line = line
        self._source = source
        self._target = target
        self._weather = weather
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._bytes = self._passed = 0
        self._last = 0.0
        self._has_ended = self._said_end = False
        self._stalled_until: float | None = None
        self._retry_at = 0.0

    def pump(self) -> None:
        world = self._line.world
        if self._line.is_cut:
            return
        if not self._has_ended and self._bytes < self._weather.capacity:
            with suppress(BlockingIOError):
                self._take(world)
        while self._chunks and self._chunks[0][0] <= world.now and not self._line.is_cut:
            if not self._deliver(world):
                return
        if self._has_ended and not self._chunks and not self._said_end and not self._line.is_cut:
            self._said_end = True
            with suppress(OSError):
                self._target.shutdown(socket.SHUT_WR)

    def _take(self, world: World) -> None:
        try:
            data = self._source.recv(max(16, min(self._weather.chunk, self._weather.capacity)))
        except ConnectionError:
            data = b""
        if not data:
            self._has_ended = True
            return
        low, high = self._weather.latency
        self._last = max(self._last, world.now + world.random.uniform(low, high))
        self._chunks.append((self._last, data))
        self._bytes += len(data)
        world.at(self._last, lambda: None)  # so that the clock stops there

    def _deliver(self, world: World) -> bool:
        weather = self._weather
        if weather.stall_at is not None and self._passed >= weather.stall_at and weather.stall_for is not None:
            if self._stalled_until is None:
                self._stalled_until = world.now + weather.stall_for
                world.at(self._stalled_until, lambda: None)
            if world.now < self._stalled_until:
                return False
        if weather.cut_at is not None and self._passed >= weather.cut_at:
            self._line.cut()
            return False
        _, data = self._chunks[0]
        try:
            sent = self._target.send(data)
        except BlockingIOError:
            if world.now >= self._retry_at:
                self._retry_at = world.now + 0.01
                world.at(self._retry_at, lambda: None)
            return False
        except OSError:
            self._line.cut()
            return False
        self._chunks.popleft()
        if sent < len(data):
            self._chunks.appendleft((0.0, data[sent:]))
        self._bytes -= sent
        self._passed += sent
        return True


class ThreadedEnd:
    """One end: its handler and what it asks."""

    def __init__(self, a_round: ThreadRound, plan: EndPlan, number: int) -> None:
        self.ledger = a_round.ledger
        self.plan = plan
        self.number = number
        self.chance = random.Random(a_round.world.random.random())
        self.conn: Any = None
        self._round = a_round
        self._scheduler = a_round.scheduler
        self._questions = 0

    def _draw(self, *, may_ask_back: bool) -> Question:
        self._questions += 1
        return draw_question(
            self.chance, self._questions * 2 + self.number, self.ledger.plan, may_ask_back=may_ask_back
        )

    def answer(self, rq_type: int, flags: int, payload: bytes) -> Any:
        """The handler."""
        if len(payload) < HEAD:
            raise RequestError("this is not a request of the simulation")
        self.ledger.begin(payload)
        inline = self.plan.arguments["handlers"] == "inline"
        seconds = 0.0 if inline else seconds_of(payload)
        if rq_type == RAISE:
            raise RequestError("as asked")
        if rq_type in (SLEEP, PROGRESS, BACK):
            self._scheduler.sleep(seconds / 2)
        if rq_type == PROGRESS:
            current_request().progress(b"half")
        elif rq_type == BACK and not inline:
            self._ask_back()
        elif rq_type == LATER or (inline and rq_type == NEVER):
            responder = Responder()
            if rq_type == NEVER:
                responder.on_cancel(lambda: responder.fail("given up"))
            else:
                self._scheduler.start(lambda: self._complete(responder, seconds, payload), "completer")
            return responder
        elif rq_type == NEVER:
            current_request().wait(1000.0)
            current_request().check()
        elif rq_type == BODY:
            if inline:
                raise RequestError("no bodies here")
            return self._answer_body(payload)
        return answer_of(rq_type, payload)

    def _complete(self, responder: Responder, seconds: float, payload: bytes) -> None:
        self._scheduler.sleep(seconds)
        responder.respond(answer_of(LATER, payload))

    def _ask_back(self) -> None:
        question = self._draw(may_ask_back=False)
        self.ledger.ask()
        try:
            response = self.conn(ECHO, payload_of(question), timeout=100.0)
        except PacketwireError as error:
            self.ledger.outcomes["back-failed"] += 1
            raise RequestError(f"calling back failed: {error!r}") from error
        self.ledger.outcomes["answered-back" if response[0] else "refused-back"] += 1

    def _answer_body(self, payload: bytes) -> Any:
        body = current_request().body
        if body is None:
            raise RequestError("there is no body")
        total = 0
        for chunk in body:
            total = zlib.crc32(chunk, total)
        return self._produce(payload, total)

    def _produce(self, payload: bytes, total: int) -> Iterator[bytes]:
        yield total.to_bytes(4)
        data = filler(number_of(payload), len(payload) * 3)
        for begin in range(0, len(data), PIECE):
            yield data[begin : begin + PIECE]

    def ask_many(self) -> None:
        """As one thread that asks."""
        for _ in range(self.plan.requests):
            if self.conn.ended is not None and self.chance.random() < 0.5:
                break
            question = self._draw(may_ask_back=self.number == 0)
            if question.cancelled_after is not None and question.op == NEVER and not question.options:
                question.options["timeout"] = question.cancelled_after  # threads are not cancelled
            self._scheduler.sleep(question.pause)
            self.ledger.ask()
            try:
                response = self._response(question)
            except Exception as error:
                self.ledger.raised(question, error)
            else:
                if response is not None:
                    self.ledger.answered(question, response)

    def _response(self, question: Question) -> Any:
        conn, payload, options = self.conn, payload_of(question), dict(question.options)
        if question.kind in ("ping", "drain"):
            if question.kind == "ping":
                conn.ping(options.get("timeout"))
            else:
                conn.drain(timeout=options.get("timeout")) if hasattr(conn, "drain") else None
            self.ledger.outcomes[question.kind + "ed"] += 1
            return None
        if question.kind == "map":
            requests = [
                (ECHO, payload_of(self._draw(may_ask_back=False))) for _ in range(self.chance.randint(0, 6))
            ]
            for (_, sent), response in zip(
                requests, conn.map(requests, window=self.chance.randint(1, 4)), strict=False
            ):
                if response[0] and response[2] != sent and not self.ledger.plan.is_damaged:
                    self.ledger.fail(f"a request of a map was answered by {response[2][:100]!r}")
            self.ledger.outcomes["mapped"] += 1
            return None
        if question.kind == "stream":
            return self._stream(conn, question)
        if question.kind == "body":
            data = filler(question.number, question.size * 4)
            return conn(BODY, payload, body=[data[:PIECE], data[PIECE:]], **options)
        if question.kind == "progress":
            return conn(question.op, payload, on_progress=lambda report: None, **options)
        if question.kind in ("submit", "dropped"):
            timeout = options.pop("timeout", None)
            result = conn.submit(question.op, payload=payload, **options)
            if question.cancelled_after is not None:
                self._scheduler.sleep(question.cancelled_after)
                if result.cancel():
                    self.ledger.outcomes["cancelled"] += 1
                    return None
            try:
                return result(timeout=timeout)
            except RequestTimeout:
                result.cancel()  # else it could be waited for once more, and counts until then
                raise
        return conn(question.op, payload, **options)

    def _stream(self, conn: Any, question: Question) -> Any:
        payload = payload_of(question)
        data = filler(question.number, question.size * 4)
        with conn.stream(BODY, payload, **question.options) as call:
            if data:
                call.write(data)
            call.finish()
            if question.number % 7 == 0:
                call.cancel("not wanted")
            elif question.number % 5 == 0:
                call.body.stop()
            else:
                came = call.read()
                expected = zlib.crc32(data).to_bytes(4) + filler(question.number, len(payload) * 3)
                response = call.result()
                if response[0] and came != expected and not self.ledger.plan.is_damaged:
                    self.ledger.fail(f"{question}: {len(came)} wrong bytes of {len(expected)}")
                return response
            return call.result()


class ThreadRound:
    """The round of one seed."""

    def __init__(self, world: World, plan: Plan, scheduler: Scheduler) -> None:
        self.world = world
        self.plan = plan
        self.scheduler = scheduler
        self.ledger = Ledger(plan)
        self.line = Line(world, plan)
        world.pumps.append(self.line.pump)
        self.ends = [ThreadedEnd(self, each, number) for number, each in enumerate((plan.a, plan.b))]
        self._have_asked = [False, False]
        self._have_closed = [False, False]

    def run(self) -> None:
        """As a simulated thread: start both programs."""
        plan = self.plan
        if plan.end == "silence":
            self.world.after(plan.when, lambda: setattr(self.line, "is_silent", True))
        elif plan.end in ("cut", "reset"):
            self.world.after(plan.when * 10 + 5.0, self.line.cut)
        for number in range(2):
            self.scheduler.start(lambda number=number: self._run_end(number), f"program-{number}")  # type: ignore[misc]

    def _run_end(self, number: int) -> None:
        end, plan, scheduler = self.ends[number], self.plan, self.scheduler
        sock = (self.line.a, self.line.b)[number]
        owned = "owned" in end.plan.form or "made" in end.plan.form
        recv_send: Any = (lambda: (sock, sock, sock.close)) if owned else sock
        conn = PacketConnection(recv_send, "ab"[number], request_handler=end.answer, **end.plan.arguments)
        end.conn = conn
        conn.open()
        left = [None] * end.plan.askers

        def ask() -> None:
            try:
                end.ask_many()
            finally:
                left.pop()

        for _ in range(end.plan.askers):
            scheduler.start(ask, f"asker-{number}")
        if plan.end in (("a-closes", "b-closes")[number], "both-close", "close-cancelled", "abandoned"):
            scheduler.wait(lambda: not left, plan.when)
        else:
            scheduler.wait(lambda: not left, None if not plan.may_lose else 500.0)
            self._have_asked[number] = True
            scheduler.wait(lambda: all(self._have_asked) or conn.ended is not None, None)
        self.ledger.is_closing = self.ledger.is_closing or plan.end not in ("clean", "stall")
        began = self.world.now
        conn.close()
        took = self.world.now - began
        if took > conn.close_timeout + SLACK:
            self.ledger.fail(f"end {number}: closing within {conn.close_timeout} s took {took:.3f} s")
        scheduler.wait(lambda: not left, 1000.0)
        if left:
            self.ledger.fail(f"end {number}: {len(left)} threads still ask after the close\n{scheduler.state()}")
        if not owned:
            sock.close()
        for name, count in _left(conn).items():
            if count:
                self.ledger.fail(f"{conn}: {count} {name} left")


def _left(conn: Any) -> dict[str, int]:
    """The entries in the tables of a connection."""
    engine = conn._driver.engine
    return {
        "requests without an answer": len(engine.waiters),
        "unsent": len(engine.unsent) if engine.ended is None else 0,
    }


def run_thread_seed(seed: int, *, log: list[str] | None = None) -> Report:
    """The round of this seed, with threads. Raises `Failed`. packetwire must not be compiled."""
    if packetwire.compiled is True:
        raise RuntimeError("threads can be simulated only where packetwire is Python: set PACKETWIRE_PURE=1")
    _import_all()
    chance = random.Random(seed)
    plan = draw(chance, topology="pair")
    world = World(chance.getrandbits(64))
    world.log = log
    scheduler = Scheduler(world, chance_of_loss=chance.choice((0.0, 0.001, 0.01, 0.1)))
    scheduler.traced = TRACED
    collects = gc.isenabled()
    gc.disable()
    try:
        with clocks.exchanged(replacements(scheduler)), listening() as complaints:
            former = keepalive.watch, forking._opening
            keepalive.watch = keepalive.PeerWatch()
            keepalive.watch._watched = InOrder()  # type: ignore[assignment]
            forking._opening = Lock(scheduler, is_reentrant=True)  # type: ignore[assignment]
            a_round = ThreadRound(world, plan, scheduler)
            try:
                scheduler.run(a_round.run)
                a_round.ledger.check()
                if complaints.lines:
                    raise Wrong("logged: " + "\n".join(complaints.lines[:10]))
            except (Exception, Stuck) as error:
                repeat = f"PACKETWIRE_PURE=1 python -m tests.simulation --face threads --seed {seed}"
                raise Failed(f"seed {seed} failed: {error!r}\n{error}\n{plan}\nto repeat it: {repeat}") from error
            finally:
                keepalive.watch, forking._opening = former
                if scheduler.failure is None:
                    a_round.line.close()
    finally:
        sys.settrace(None)
        if collects:
            gc.enable()
    ledger = a_round.ledger
    ends = Counter([f"threads {plan.end}"])
    return Report(1, world.steps, world.elapsed, ledger.asked, ledger.outcomes, ends, world.trace)
