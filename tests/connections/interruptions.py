"""Calls that are interrupted, at each opcode or at random times: `python -m tests.connections.interruptions`.

Afterwards the connection works, or is ended and says why; a call of another thread gets its answer, or that reason;
`close` returns, and leaves no thread, descriptor or child. Otherwise the place is printed, and the exit status is
1. A hang ends the program with the stacks of all threads, and status 1 too.

    python -m tests.connections.interruptions --all             every opcode of each case: minutes
    python -m tests.connections.interruptions --every 40        each 40th, from a random one on
    python -m tests.connections.interruptions --all --hits 3    the first three times that each opcode runs
    python -m tests.connections.interruptions --timer 600       at random times, for 600 seconds
    python -m tests.connections.interruptions --case "close" --at 17
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import os
import random
import signal
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from tests.childprocesses import child_processes

from packetwire import ConnectionEnded, PacketConnection, PacketwireError, RequestTimeout, Responder
from packetwire.hosts.threads import nesting

from .at_opcodes import Steps

PROG = "python -m tests.connections.interruptions"
WAIT = 5.0
"""Seconds for what takes no time, but must not hang."""
WATCHDOG = 60.0
QUICK, HELD = 0, 1


class Alarm(Exception):
    """What a program's own signal handler raises."""


# what is interrupted


def call(conn: PacketConnection) -> None:
    conn(QUICK, b"called")


def call_twice(conn: PacketConnection) -> None:
    conn(QUICK, b"one")
    conn(QUICK, b"other", timeout=WAIT)


def submit_and_collect(conn: PacketConnection) -> None:
    results = [conn.submit(QUICK, 0, b"%d" % i) for i in range(4)]
    for result in reversed(results):
        result()


def send_much(conn: PacketConnection) -> None:
    conn(QUICK, bytes(300_000))


def map_some(conn: PacketConnection) -> None:
    for _ in conn.map([(QUICK, b"%d" % i) for i in range(6)], window=3):
        pass


def close(conn: PacketConnection) -> None:
    conn.close(WAIT)


OPERATIONS: dict[str, Callable[[PacketConnection], None]] = {
    "call": call,
    "call twice": call_twice,
    "submit": submit_and_collect,
    "send much": send_much,
    "map": map_some,
    "close": close,
}
SITUATIONS = ("alone", "beside a call", "beside an observer", "to a child")


# what it happens to


def answer(rq_type: int, flags: int, payload: bytes) -> Any:
    return payload[::-1]


class Peer:
    """The other end: answers, but for the one request that it holds."""

    def __init__(self) -> None:
        self.held = Responder()
        self.has_held = threading.Event()

    def __call__(self, rq_type: int, flags: int, payload: bytes) -> Any:
        if rq_type == HELD:
            self.has_held.set()
            return self.held
        return payload[::-1]


class OtherCall:
    """A call of another thread, which has begun before."""

    def __init__(self, conn: PacketConnection, peer: Peer) -> None:
        self._conn, self._peer = conn, peer
        self.outcome: Any = None
        self._thread = threading.Thread(target=self._call, name="other-call", daemon=True)
        self._thread.start()
        assert peer.has_held.wait(WAIT)

    def _call(self) -> None:
        try:
            self.outcome = self._conn(HELD, b"held")
        except BaseException as error:
            self.outcome = error

    def check(self, interruption: type[BaseException] | None) -> None:
        """It gets its answer, or why there is none."""
        self._peer.held.respond(b"held till now")
        self._thread.join(WAIT)
        assert not self._thread.is_alive(), "another thread's call hangs"
        if isinstance(self.outcome, BaseException):
            check_reason(self.outcome, interruption)
        else:
            assert self.outcome == (True, 0, b"held till now")


def check_reason(error: BaseException, interruption: type[BaseException] | None) -> None:
    """That a call fails is right only if the connection has ended, and the interruption is named as the cause."""
    assert isinstance(error, ConnectionEnded), f"a call raises {error!r}"
    if interruption is None:
        return
    told, cause = [], error
    while cause is not None and cause not in told:
        told.append(cause)
        cause = cause.__cause__ or cause.__context__
    if not any(isinstance(each, interruption) or interruption.__name__ in str(each) for each in told):
        raise AssertionError(f"the reason is not named: {error!r} from {told[1:]}")


@contextmanager
def situation(name: str) -> Iterator[tuple[PacketConnection, OtherCall | None]]:
    """An open connection, which is warm; and the call of another thread, if there is one."""
    peer = Peer()
    with ExitStack() as stack:
        if name == "to a child":
            # what it is sent comes back: a request is a request of the child's, its refusal the response to ours
            conn = PacketConnection.spawn(["cat"], exit_timeout=1.0)
        else:
            ours, theirs = socket.socketpair()
            stack.callback(ours.close)
            other_end = PacketConnection(theirs, "peer", request_handler=peer, handlers="inline", close_timeout=0.2)
            stack.enter_context(other_end)
            stack.callback(theirs.close)
            observer = (lambda event: None) if name == "beside an observer" else None
            conn = PacketConnection(ours, "tried", request_handler=answer, on_event=observer)
        conn.open()
        try:
            conn(QUICK, b"warm")
            other = OtherCall(conn, peer) if name == "beside a call" else None
            yield conn, other
        finally:
            with suppress(PacketwireError):
                conn.close(0.2)
            conn.close(0.0)  # what was interrupted may have been one of the calls that are counted
            join_closers(conn)


def join_closers(conn: PacketConnection) -> None:
    """Amid reading it is closed by a thread: that must end by itself, before the stream is taken from it."""
    deadline = time.monotonic() + WAIT
    while closers := [thread for thread in threading.enumerate() if thread.name == f"{conn.name}-closer"]:
        assert time.monotonic() < deadline, f"closing does not end{stacks_of(closers)}"
        with suppress(RuntimeError):  # it is just being started
            closers[0].join(deadline - time.monotonic())


def check_works(
    conn: PacketConnection, interruption: type[BaseException] | None, *, closed: bool, child: bool
) -> None:
    """A call works, or tells why not."""
    try:
        ok, _, payload = conn(QUICK, b"after", timeout=WAIT)
    except RequestTimeout:
        raise AssertionError("a call gets no answer afterwards") from None
    except ConnectionEnded as error:
        if not closed:  # closing was begun: that is reason enough
            check_reason(error, interruption)
    else:
        assert child or (ok, payload) == (True, b"retfa"), payload


def stacks_of(threads: Iterable[threading.Thread]) -> str:
    """Where these threads are."""
    frames = sys._current_frames()
    return "".join(
        f"\n{thread.name}:\n" + "".join(traceback.format_stack(frames[thread.ident]))
        for thread in threads
        if thread.ident in frames
    )


class Left:
    """What there was before, and that it is all there is afterwards."""

    def __init__(self) -> None:
        self._before = self._all()

    @staticmethod
    def _open() -> set[str]:
        found = set()
        for fd in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):
                found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        return found

    def _all(self) -> dict[str, set[Any]]:
        return {
            "threads": set(threading.enumerate()),
            "descriptors": self._open(),
            "children": child_processes(),
            "marks": set(nesting.inside),
        }

    def check(self) -> None:
        """It may take a moment: a thread may do what whoever was interrupted has left."""
        deadline = time.monotonic() + WAIT
        while left := self._left():
            stacks = stacks_of(left.get("threads", ()))
            assert time.monotonic() < deadline, f"{' and '.join(left)} are left: {left}{stacks}"
            time.sleep(0.001)

    def _left(self) -> dict[str, set[Any]]:
        left = {what: now - self._before[what] for what, now in self._all().items()}
        return {what: those for what, those in left.items() if those}


def interrupted(
    operation: Callable[[PacketConnection], None],
    where: str,
    interruption: type[BaseException],
    interrupting: Callable[[Callable[[], None]], bool],
) -> bool:
    """Try it once, and check all; whether it was interrupted. `interrupting` runs the operation."""
    left = Left()
    with situation(where) as (conn, other):
        closed = operation is close
        was_interrupted = False
        try:
            was_interrupted = interrupting(lambda: operation(conn))
        except interruption:
            was_interrupted = True
        except PacketwireError as error:
            was_interrupted = True
            check_reason(error, interruption)
        else:
            if was_interrupted and interruption is KeyboardInterrupt:
                raise AssertionError("Ctrl-C got lost")
        if other is not None and not closed:
            check_works(conn, interruption, closed=closed, child=where == "to a child")
            other.check(interruption)
        elif other is not None:
            other.check(None)  # whoever closes gives up what is not answered in time
        else:
            check_works(conn, interruption, closed=closed, child=where == "to a child")
    left.check()
    return was_interrupted


def at_opcode(
    at: int | None, interruption: type[BaseException], hits: int
) -> tuple[Steps, Callable[[Callable[[], None]], bool]]:
    """Interrupt at that opcode."""

    def action() -> None:
        raise interruption("interrupted")

    steps = Steps(at, action, hits=hits)

    def interrupting(function: Callable[[], None]) -> bool:
        with steps.counted():
            function()
        return steps.place is not None

    return steps, interrupting


def cases() -> Iterator[tuple[str, Callable[[PacketConnection], None], str, type[BaseException]]]:
    for where in SITUATIONS:
        for name, operation in OPERATIONS.items():
            for interruption in (KeyboardInterrupt, Alarm):
                if operation is close and where == "beside a call":
                    continue  # it waits for the answer, which is held
                yield f"{name}, {where}, {interruption.__name__}", operation, where, interruption


class Report:
    """What went wrong, at which places."""

    def __init__(self, stop_at: int) -> None:
        self.tried = 0
        self.failures: Counter[str] = Counter()
        self._stop_at = stop_at

    def add(self, case: str, at: object, place: str | None, error: BaseException) -> None:
        text = str(error) if isinstance(error, AssertionError) else repr(error)
        self.failures[text.partition(": {")[0][:100]] += 1
        print(f"FAILED  {case}; at {at}: {place}: {text}", flush=True)
        if self.failures.total() >= self._stop_at:
            raise SystemExit(self.end())

    def end(self) -> int:
        print(f"{self.tried} interruptions, {self.failures.total()} failures")
        for text, count in self.failures.most_common():
            print(f"{count:6} times: {text}")
        return 1 if self.failures else 0


def watch(what: str) -> None:
    """Until the next call: a hang ends the program."""
    if "--verbose" in sys.argv:
        print(what, file=sys.stderr, flush=True)
    faulthandler.dump_traceback_later(WATCHDOG, exit=True)


def try_case(report: Report, case: tuple[Any, ...], places: Callable[[int], Iterator[int]], hits: int) -> None:
    """Interrupt one operation at these of its opcodes."""
    name, operation, where, interruption = case
    steps, interrupting = at_opcode(None, interruption, hits)
    watch(name)
    interrupted(operation, where, interruption, interrupting)
    for at in places(steps.count):
        steps, interrupting = at_opcode(at, interruption, hits)
        watch(f"{name} {at}")
        report.tried += 1
        try:
            interrupted(operation, where, interruption, interrupting)
        except Exception as error:
            report.add(name, at, steps.place, error)
            gc.collect()


def by_timer(report: Report, seconds: float, drawn: random.Random) -> None:
    """Interrupt at random times, each time another operation."""
    armed = False

    def handler(number: int, frame: Any) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    ignored = False

    def unraisable(told: sys.UnraisableHookArgs) -> None:
        nonlocal ignored
        ignored = True  # Python lets no exception out of a finalizer or of a weak reference's callback

    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    before = signal.signal(signal.SIGALRM, handler)
    all_cases = [case for case in cases() if case[3] is KeyboardInterrupt]
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            name, operation, where, interruption = drawn.choice(all_cases)

            def interrupting(function: Callable[[], None]) -> bool:
                nonlocal armed, ignored
                armed, ignored = True, False
                signal.setitimer(signal.ITIMER_REAL, drawn.choice((1e-5, 1e-4, 5e-4, 1e-3, 3e-3)) * drawn.random())
                try:
                    for _ in range(50):
                        function()
                    return not armed and not ignored
                finally:
                    armed = False
                    signal.setitimer(signal.ITIMER_REAL, 0)

            watch(name)
            report.tried += 1
            try:
                interrupted(operation, where, interruption, interrupting)
            except Exception as error:
                report.add(name, "a random time", None, error)
    finally:
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = hook


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--all", action="store_true", help="at every opcode")
    parser.add_argument("--every", type=int, metavar="K", help="at each K-th, from a random one on")
    parser.add_argument("--hits", type=int, default=sys.maxsize, metavar="N", help="each opcode N times at most")
    parser.add_argument("--at", type=int, metavar="N", help="at that one")
    parser.add_argument("--timer", type=float, metavar="SECONDS", help="at random times, for so long")
    parser.add_argument("--case", default="", metavar="TEXT", help="only the cases whose name has this in it")
    parser.add_argument("--seed", type=int, help="what is random is drawn from it; it is shown")
    parser.add_argument("--stop-at", type=int, default=sys.maxsize, metavar="N", help="end after so many failures")
    parser.add_argument("--verbose", action="store_true", help="tell what is tried, before it is tried")
    arguments = parser.parse_args(argv)
    seed = random.SystemRandom().getrandbits(32) if arguments.seed is None else arguments.seed
    drawn = random.Random(seed)
    print(f"{PROG} --seed {seed}", flush=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    report = Report(arguments.stop_at)

    def places(count: int) -> Iterator[int]:
        if arguments.at:
            return iter((arguments.at,))
        every = 1 if arguments.all else arguments.every
        return iter(range(1 + drawn.randrange(every), count + 1, every))

    if arguments.all or arguments.every or arguments.at:
        for case in cases():
            if arguments.case in case[0]:
                try_case(report, case, places, arguments.hits)
    if arguments.timer:
        by_timer(report, arguments.timer, drawn)
    faulthandler.cancel_dump_traceback_later()
    return report.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
