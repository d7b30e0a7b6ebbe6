"""Signal handlers and finalizers that use a connection, as they come; at all opcodes: `interruption_handlers`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(90)

ROOT = Path(__file__).parents[2]

SIGNALS = """
import faulthandler, signal, sys, threading
from packetwire import PacketConnection, PacketwireError
from packetwire.testing import connection_pair

faulthandler.dump_traceback_later(60, exit=True)
WAY, ASKED = sys.argv[1], 2000
results, refused = [], []

def handler(number, frame):
    global inside
    if inside or closed or len(results) + len(refused) >= ASKED:
        return  # as one that masks its signal while it runs
    inside = True
    try:
        if WAY == "submits":
            results.append(a.submit(0, 0, b"handler"))
        elif WAY == "calls":
            ok, _, payload = a(0, b"handler", timeout=20)
            results.append(lambda timeout: (ok, 0, payload))
        else:
            closed.append(True)
            a.close(5)
    except PacketwireError as error:
        refused.append(str(error))
    finally:
        inside = False

closed, inside = [], False
signal.signal(signal.SIGALRM, handler)
with connection_pair(b={"request_handler": lambda rq_type, flags, payload: payload}) as (a, b):
    a.submit(0)()
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    try:
        for i in range(3000):
            assert a(0, b"%d" % i, timeout=20) == (True, 0, b"%d" % i)
            window = [a.submit(0, 0, b"%d" % j) for j in range(8)]
            assert [result(timeout=20)[2] for result in window] == [b"%d" % j for j in range(8)]
            if len(results) > 500 or closed:
                break
        if WAY == "closes":
            while True:
                a(0, timeout=20)
    except PacketwireError as error:
        assert WAY == "closes", error
    signal.setitimer(signal.ITIMER_REAL, 0)
    if WAY != "closes":
        assert all(result(timeout=20) == (True, 0, b"handler") for result in results)
        assert a(0, b"after", timeout=20) == (True, 0, b"after")
for thread in threading.enumerate():
    if thread.name == "a-closer":  # closed amid reading: by a thread
        thread.join(20)
assert threading.active_count() == 1, threading.enumerate()
assert results or refused or closed
assert all(refused)
print(len(results), "done", len(refused), "refused", set(refused))
"""

FINALIZERS = """
import faulthandler, gc, sys, threading
from packetwire import PacketConnection, PacketwireError, RequestTimeout
from packetwire.testing import connection_pair

faulthandler.dump_traceback_later(60, exit=True)
WAY, COUNT = sys.argv[1], 1500
results, refused, vain = [], [], []

class Garbage:
    def __init__(self):
        self.itself = self

    def __del__(self):
        try:
            if WAY == "submits":
                results.append(a.submit(0, 0, b"finalizer", timeout=20))
            elif WAY == "calls":
                response = a(0, b"finalizer", timeout=20)
                results.append(lambda timeout: response)
            else:
                results.append(None)
                a.close(5)
        except RequestTimeout as error:
            vain.append(error)
        except PacketwireError as error:
            refused.append(str(error))
        if len(results) + len(refused) < COUNT and WAY != "closes":
            Garbage()

gc.collect()
gc.set_threshold(1)
with connection_pair(b={"request_handler": lambda rq_type, flags, payload: payload}) as (a, b):
    a.submit(0)()
    if WAY == "closes":
        Garbage()
    else:
        for _ in range(3):
            Garbage()
    try:
        for i in range(COUNT):
            assert a(0, b"%d" % i, timeout=20) == (True, 0, b"%d" % i)
            assert a.submit(0, 0, b"x")(timeout=20) == (True, 0, b"x")
    except PacketwireError as error:
        assert WAY == "closes", error
    gc.set_threshold(700)
    for result in results:
        assert WAY == "closes" or result(timeout=20) == (True, 0, b"finalizer")
assert not vain, vain
assert threading.active_count() == 1, threading.enumerate()
assert results or refused
assert all(refused)
print(len(results), "done", len(refused), "refused", set(refused))
"""


FIRST = """
import faulthandler, os, random, sys, time
from packetwire import ConnectionEnded, PacketConnection, PacketwireError
from packetwire.testing import connection_pair
from tests.connections.at_opcodes import Steps

refused = []

def submit():
    try:
        results.append(a.submit(0, 0, b"handler"))
    except PacketwireError as error:
        refused.append(str(error))

def in_a_fork(at):
    # each fork has its own first submit, and its own watchdog
    pid = os.fork()
    if not pid:
        faulthandler.dump_traceback_later(30, exit=True)
        global a, results
        results, status = [], 1
        try:
            steps = Steps(at, submit if sys.argv[1] == "used" else interrupt)
            with connection_pair(b={"request_handler": lambda rq_type, flags, payload: payload}) as (a, b):
                try:
                    with steps.counted():
                        results.append(a.submit(0, 0, b"handler"))
                except KeyboardInterrupt:
                    assert sys.argv[1] == "interrupted"
                try:
                    results.append(a.submit(0, 0, b"handler"))
                    for result in results:
                        assert result(timeout=5) == (True, 0, b"handler")
                except ConnectionEnded as error:
                    # amid writing that is right: nobody knows how much has left
                    assert sys.argv[1] == "interrupted" and "KeyboardInterrupt" in str(error), error
            status = 0 if steps.place else 2
        except BaseException as error:
            print(f"at {at}, {steps.place}: {error!r}", flush=True)
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def interrupt():
    raise KeyboardInterrupt

at, failures, until = random.randint(1, 29), 0, time.monotonic() + 3
print("from opcode", at, flush=True)
while (status := in_a_fork(at)) != 2 and time.monotonic() < until:  # as many as a busy machine allows
    failures += status
    at += 29
print(at, "opcodes")
sys.exit(min(failures, 1))
"""


def run(program: str, way: str) -> None:
    """In a process of its own: a hang ends it, with the stacks of all threads."""
    argv = [sys.executable, "-c", program, way]
    done = subprocess.run(argv, check=False, cwd=ROOT, capture_output=True, text=True, timeout=80)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]
    print(done.stdout)


@pytest.mark.parametrize("way", ["submits", "calls", "closes"])
def test_a_signal_handler(way: str) -> None:
    run(SIGNALS, way)


@pytest.mark.parametrize("way", ["submits", "calls", "closes"])
def test_a_finalizer(way: str) -> None:
    """The collector runs as often as it can, in all threads."""
    run(FINALIZERS, way)


@pytest.mark.parametrize("how", ["used", "interrupted"])
def test_the_first_submit(how: str) -> None:
    """What it loads is loaded all the same, though a handler submits meanwhile, or raises."""
    run(FIRST, how)
