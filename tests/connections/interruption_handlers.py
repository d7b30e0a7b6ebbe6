"""The sides of handlers: `python -m tests.connections.interruption_handlers`.

First, signal handlers that use the connection whose call they interrupt, at each opcode of it: they submit, call
or close. Then exceptions that hit packetwire's own threads while these read, run handlers and answer. In both cases
the connection works afterwards, or is ended and says why, and closing it leaves nothing.

    python -m tests.connections.interruption_handlers --all             every opcode of each case: minutes
    python -m tests.connections.interruption_handlers --every 61        each 61st, from a random one on
    python -m tests.connections.interruption_handlers --workers 600     exceptions in workers, for 600 seconds

An exception is set in a thread by the interpreter's own means, which raise it at the next instruction at which
signals are looked for. It is drawn at random where that is: in the user's handler, or in ours around it.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from packetwire import ConnectionEnded, PacketConnection, PacketwireError, RequestTimeout

from . import interruptions
from .at_opcodes import Steps
from .interruptions import OPERATIONS, QUICK, SITUATIONS, WAIT, Left, Report, close, situation, watch

PROG = "python -m tests.connections.interruption_handlers"
VAIN = 0.2
"""Seconds for what is waited for in vain: the call that a handler interrupts, while that closes its connection."""


# a signal handler that uses the connection


def use_submit(conn: PacketConnection) -> Callable[[], object]:
    result = conn.submit(QUICK, 0, b"handler")
    return lambda: result(timeout=WAIT)


def use_call(conn: PacketConnection) -> Callable[[], object]:
    response = conn(QUICK, b"handler", timeout=WAIT)
    return lambda: response


def use_close(conn: PacketConnection) -> Callable[[], object]:
    driver = conn._driver
    assert driver is not None
    # amid reading a thread does it beside the call, which has to end it before that time is over
    conn.close(2 * WAIT if driver.runs_in(threading.get_ident()) else VAIN)
    return lambda: None


USES = {"submits": use_submit, "calls": use_call, "closes": use_close}


def used(
    operation: Callable[[PacketConnection], None],
    where: str,
    use: Callable[[PacketConnection], Callable[[], object]],
    steps: Steps,
) -> None:
    """Try it once: at an opcode of the operation a handler uses the connection, or is told why it cannot."""
    left = Left()
    ends = use is use_close or operation is close
    child = where == "to a child"
    collected: list[Callable[[], object]] = []
    with situation(where) as (conn, other):

        def action() -> None:
            tracing = sys.gettrace()
            sys.settrace(None)
            try:
                collected.append(use(conn))
            except RequestTimeout:
                raise AssertionError("the handler waits for the call that it interrupts") from None
            except PacketwireError:
                pass  # it is told why it cannot
            finally:
                sys.settrace(tracing)

        steps.action = action
        try:
            with steps.counted():
                operation(conn)
        except PacketwireError as error:
            if not ends:
                raise AssertionError(f"the operation raises {error!r}") from error
        for collect in collected:
            try:
                response = collect()
            except ConnectionEnded:
                assert ends
            else:
                assert child or response in (None, (True, 0, b"reldnah")), response
        if not ends:
            interruptions.check_works(conn, None, closed=False, child=child)
        if other is not None:
            other.check(None)
    left.check()


def use_cases() -> Iterator[tuple[str, tuple[Any, ...]]]:
    for where in SITUATIONS:
        for name, operation in OPERATIONS.items():
            for way, use in USES.items():
                if where == "beside a call" and (operation is close or use is use_close):
                    continue  # closing waits for the answer, which is held
                yield f"{name}, {where}, {way}", (operation, where, use)


def try_uses(report: Report, case: str, every: int, hits: int, drawn: random.Random) -> None:
    for name, what in use_cases():
        if case not in name:
            continue
        watch(name)
        counted = Steps(None, hits=hits)
        used(*what, counted)
        for at in range(1 + drawn.randrange(every), counted.count + 1, every):
            watch(f"{name} {at}")
            report.tried += 1
            steps = Steps(at, hits=hits)
            try:
                used(*what, steps)
            except Exception as error:
                report.add(name, at, steps.place, error)
                if "--verbose" in sys.argv:
                    traceback.print_exception(error)


# exceptions in workers


class Struck(BaseException):
    """Hits a thread of packetwire's."""


class StruckError(Exception):
    """The same as an ordinary exception."""


def strike(ident: int, kind: type[BaseException]) -> None:
    """Have it raised in that thread."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(kind))


class Target:
    """A handler that tells which thread it runs in, and spends time there."""

    def __init__(self, seconds: float) -> None:
        self.idents: list[int] = []
        self._seconds = seconds

    def __call__(self, rq_type: int, flags: int, payload: bytes) -> bytes:
        self.idents.append(threading.get_ident())
        end = time.perf_counter() + self._seconds
        while time.perf_counter() < end:
            pass
        return payload[::-1]


WORKERS = {
    "one handler": {"handlers": 1},
    "four handlers": {"handlers": 4},
    "inline": {"handlers": "inline"},
    "an inline type": {"handlers": 1, "inline": {QUICK}},
    "observed": {"on_event": lambda event: None},
}


def struck(settings: dict[str, Any], kind: type[BaseException], delay: float, busy: float) -> bool:
    """Strike a worker while it serves many requests; whether one was there to be struck."""
    left = Left()
    target = Target(busy)
    ours, theirs = socket.socketpair()
    served = PacketConnection(theirs, "struck", request_handler=target, close_timeout=0.5, **settings)
    asking = PacketConnection(ours, "asking", close_timeout=0.5)
    hit = False
    with ours, theirs:
        served.open()
        asking.open()
        # as a server does: when it has ended, let go of it
        reasons: list[ConnectionEnded | None] = []

        def serve() -> None:
            served.join_recv()
            reasons.append(served.ended)
            served.close(0.2)
            theirs.close()  # only then the other end knows

        session = threading.Thread(target=serve, name="session")
        session.start()
        try:
            assert asking(QUICK, b"warm", timeout=WAIT) == (True, 0, b"mraw")
            results = [asking.submit(QUICK, 0, b"%d" % i) for i in range(20)]
            end = time.perf_counter() + delay
            while time.perf_counter() < end:
                pass
            ident = target.idents[-1]
            # not any that has taken its number since
            hit = any(thread.ident == ident and "worker" in thread.name for thread in threading.enumerate())
            if hit:
                strike(ident, kind)
            check_served(asking, served, reasons, results, kind if hit else None)
        finally:
            for conn in (asking, served):
                with suppress(PacketwireError):
                    conn.close(0.5)
                conn.close(0.0)
            session.join(WAIT)
            assert not session.is_alive(), "nobody is told that the connection has ended"
    left.check()
    return hit


def check_served(
    asking: PacketConnection,
    served: PacketConnection,
    reasons: list[ConnectionEnded | None],
    results: list[Any],
    kind: type[BaseException] | None,
) -> None:
    """Each request is answered, one maybe by a failure; or the connection has ended, which names the exception."""
    failed = 0
    try:
        for i, result in enumerate(results):
            ok, _, payload = result(timeout=WAIT)
            if ok:
                assert payload == (b"%d" % i)[::-1]
            else:
                failed += 1
                assert kind is not None
                assert kind.__name__.encode() in payload, payload
        response = asking(QUICK, b"after", timeout=WAIT)
        if not response[0]:  # the worker slept, and so far nothing could be raised in it
            failed += 1
            assert kind is not None
            assert kind.__name__.encode() in response[2], response
            response = asking(QUICK, b"after", timeout=WAIT)
        assert failed <= 1, f"{failed} requests failed"
        assert response == (True, 0, b"retfa")
    except RequestTimeout:
        raise AssertionError(f"a request gets no answer, and the connection has not ended: {served!r}") from None
    except ConnectionEnded:
        ended = reasons[0]
        assert kind is not None, f"the connection ended though nothing happened: {ended!r}"
        told: list[BaseException] = []
        cause: BaseException | None = ended
        while cause is not None and cause not in told:
            told.append(cause)
            cause = cause.__cause__ or cause.__context__
        assert any(kind.__name__ in repr(each) for each in told), f"the reason is not named: {told}"


def by_strikes(report: Report, seconds: float, case: str, drawn: random.Random) -> None:
    """Strike workers at random times, each time with other settings."""
    ways = {name: settings for name, settings in WORKERS.items() if case in name}
    end = time.monotonic() + seconds
    hits = 0
    while time.monotonic() < end:
        name = drawn.choice(list(ways))
        kind = drawn.choice((Struck, StruckError))
        delay, busy = 0.003 * drawn.random(), drawn.choice((0.0, 0.0, 1e-4, 3e-3))
        watch(f"a worker is struck, {name}")
        report.tried += 1
        hits += 1
        try:
            hits -= not struck(ways[name], kind, delay, busy)
        except Exception as error:
            report.add(f"a worker is struck, {name}, {kind.__name__}", "a random time", f"busy {busy}", error)
    print(f"{hits} of {report.tried} were there to be struck")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--all", action="store_true", help="at every opcode")
    parser.add_argument("--every", type=int, metavar="K", help="at each K-th, from a random one on")
    parser.add_argument("--hits", type=int, default=sys.maxsize, metavar="N", help="each opcode N times at most")
    parser.add_argument("--workers", type=float, metavar="SECONDS", help="exceptions in workers, for so long")
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
    if arguments.all or arguments.every:
        try_uses(report, arguments.case, 1 if arguments.all else arguments.every, arguments.hits, drawn)
    if arguments.workers:
        by_strikes(report, arguments.workers, arguments.case, drawn)
    interruptions.faulthandler.cancel_dump_traceback_later()
    return report.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
