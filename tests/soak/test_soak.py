"""The soak for a few rounds, and that it finds what it looks for."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from packetwire import PeerClosed, RequestTimeout

from . import plan as plans
from .behaviours import Ask, Behaviour
from .ledger import Ledger
from .leftovers import Memory
from .plan import draw
from .rounds import Tally
from .watching import told_of_stray_errors

ROOT = Path(__file__).parents[2]
SEED = 1911

pytestmark = pytest.mark.timeout(300)


def soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, as it is called in the root of the project."""
    command = [sys.executable, "-m", "tests.soak", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def run(program: str, *, status: int = 0) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as what other tests have in theirs would count."""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done


@pytest.mark.parametrize("rounds", [2, pytest.param(5, marks=pytest.mark.long)])
def test_some_rounds(rounds: int) -> None:
    done = soak("--seed", str(SEED), "--rounds", str(rounds), "--every", "4")
    assert done.returncode == 0, done.stderr
    assert f"seed {SEED}" in done.stdout
    assert f"rounds: {rounds} in " in done.stdout


@pytest.mark.usefixtures("plain_streams")
def test_a_kind_of_transports_can_be_selected() -> None:
    done = soak("--seed", "1", "--rounds", "2", "--only", "zmq")
    assert done.returncode == 0, done.stderr
    assert "rounds: 2 in " in done.stdout
    (transports,) = (line for line in done.stdout.splitlines() if line.startswith("transports: "))
    assert all(name.startswith("zmq+") for name in transports.removeprefix("transports: ").split(", "))


def test_a_word_that_selects_nothing_is_refused() -> None:
    done = soak("--only", "smq")
    assert done.returncode == 2
    assert "no round has the word 'smq'; there are: " in done.stderr


def test_words_that_no_round_has_together() -> None:
    program = """
from tests.soak import rounds
rounds.DRAWN_IN_VAIN = 20
with rounds.soaking(1) as soak:
    try:
        soak.run(rounds=1, only=("child", "tcp"))
    except rounds.NoSuchRound as none:
        print(none)
"""
    assert run(program).stdout == "of 21 rounds none has all of these words: child tcp\n"


def test_every_word_is_one_of_those_that_are_listed() -> None:
    for number in range(300):
        assert draw(SEED, number).words <= plans.WORDS


@pytest.mark.long
@pytest.mark.parametrize("seed", ["1", "2"])
def test_rounds_for_seconds(seed: str) -> None:
    done = soak("--seed", seed, "--seconds", "8")
    assert done.returncode == 0, done.stderr


# what is drawn


def test_a_round_is_drawn_from_its_seed_and_number_alone() -> None:
    assert draw(3, 7) == draw(3, 7)
    assert draw(3, 7) != draw(3, 8)
    assert draw(4, 7) != draw(3, 7)


def test_everything_is_drawn() -> None:
    ends = {*plans.ENDS_OF_PAIRS, *plans.ENDS_OF_FAULTY_LINKS, *plans.ENDS_OF_CHILDREN, *plans.ENDS_OF_SERVERS}
    transports = {*plans.PLAIN_TRANSPORTS, *plans.ZMQ_TRANSPORTS, *plans.TLS_TRANSPORTS, *plans.SERVED}
    handling = {"workers", "inline", "some inline", "coroutines"}
    ways = {"call", "submit", "map", "cancel", "abandon"}
    wanted = {*ends, *transports, *handling, *ways, *plans.FACES, *Behaviour, "service", "nothing", "much"}
    for number in range(3000):
        plan = draw(SEED, number)
        wanted -= plan.words
        for turn in (turn for end in plan.ends for asker in end.askers for turn in asker):
            wanted.discard(turn.way)
            for ask in turn.asks:
                wanted.discard(ask.behaviour)
                wanted -= {"nothing"} if ask.size == 0 else {"much"} if ask.size > 2 << 20 else set()
        if not wanted:
            break
    assert not wanted


# what it finds


def the_faults(ledger: Ledger) -> str:
    ledger.check()
    return "\n".join(ledger.faults)


def entered(ledger: Ledger, **fields: object) -> Ask:
    ask = Ask(1, Behaviour.ECHO, 10, **fields)  # type: ignore[arg-type]
    ledger.enter(ask)
    return ask


@pytest.fixture
def ledger() -> Ledger:
    """That of a round in which every request is answered."""
    return Ledger(may_end=False, is_spoilt=False)


def test_a_right_answer_is_no_fault(ledger: Ledger) -> None:
    ask = entered(ledger)
    ledger.answered(ask, (True, ask.flags, ask.payload))
    assert the_faults(ledger) == ""
    assert ledger.outcomes == {"answered": 1}


def test_a_request_that_has_not_ended(ledger: Ledger) -> None:
    entered(ledger)
    assert "has not ended" in the_faults(ledger)


def test_a_request_that_ends_twice(ledger: Ledger) -> None:
    ask = entered(ledger)
    for _ in range(2):
        ledger.answered(ask, (True, ask.flags, ask.payload))
    assert "ended again: answered, then answered" in the_faults(ledger)


@pytest.mark.parametrize(
    "response", [(True, 2 << 4, b"?"), (False, 0, b"PeerClosed: "), (True, 1 << 4, b""), (True, 1 << 4, bytes(10))]
)
def test_an_answer_that_is_not_its_own(ledger: Ledger, response: tuple[bool, int, bytes]) -> None:
    ledger.answered(entered(ledger), response)
    assert "got a wrong answer" in the_faults(ledger)


@pytest.mark.parametrize("error", [RequestTimeout(), PeerClosed(), CancelledError(), OSError()])
def test_a_reason_that_it_cannot_have(ledger: Ledger, error: Exception) -> None:
    ledger.failed(entered(ledger), error)
    assert "ended by" in the_faults(ledger)


def test_reasons_that_it_can_have() -> None:
    ledger = Ledger(may_end=True, is_spoilt=False)
    ledger.failed(entered(ledger), PeerClosed())
    assert the_faults(ledger) == ""
    ledger = Ledger(may_end=False, is_spoilt=False)
    ledger.failed(entered(ledger, timeout=1.0), RequestTimeout())
    assert the_faults(ledger) == ""


@pytest.mark.parametrize("times", [0, 2])
def test_an_end_that_is_not_told_once(ledger: Ledger, times: int) -> None:
    ask = entered(ledger)
    ledger.watch(ask)
    ledger.answered(ask, (True, ask.flags, ask.payload))
    for _ in range(times):
        ledger.notify(ask)
    assert f"told {times} times" in the_faults(ledger)


def test_what_is_left_behind() -> None:
    program = """
import subprocess, sys, threading
from tests.soak import leftovers
leftovers.PATIENCE = 0.1
before = leftovers.Holdings.now()
assert leftovers.left_since(before) == []
release = threading.Event()
threading.Thread(target=release.wait, name="left").start()
file = open("/dev/null")
with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
    print(*leftovers.left_since(before), f"and its pid is {child.pid}", sep="; ")
release.set()
"""
    told = run(program).stdout
    assert "thread left" in told
    assert "/dev/null; " in told
    assert re.search(r"child process (\d+);.* its pid is \1$", told)


def test_memory_that_grows() -> None:
    levels = [Memory(100 + 10 * i + noise, 7 * i + noise) for i, noise in enumerate((0, 9, 3, 8, 0, 5))]
    assert Tally(memory=levels).growth() == Memory(38, 28)
    assert Tally(memory=levels[:1]).growth() is None


def test_errors_that_nobody_catches() -> None:
    found: list[str] = []
    with told_of_stray_errors(found.append, Counter()):
        thread = threading.Thread(target=lambda: 1 / 0, name="doomed")
        thread.start()
        thread.join()
    assert found == ["thread doomed ended by ZeroDivisionError('division by zero')"]


def test_a_round_that_fails_tells_how_to_repeat_it() -> None:
    program = """
import sys
from tests.soak.__main__ import main
from tests.soak.handling import Handler
Handler._answer = lambda *_: (7, b"mixed up")
sys.argv[1:] = "--seed 1 --rounds 1 --only pair clean pipes".split()
sys.exit(main())
"""
    failed = run(program, status=1)
    assert "got a wrong answer: True, 0x7, 8 octets b'mixed up'" in failed.stderr
    assert "To repeat it: python -m tests.soak --seed 1 --first " in failed.stderr


def test_a_round_that_hangs_shows_where() -> None:
    program = """
import threading
from tests.soak.watching import Watchdog
with Watchdog(0.1, "the round"):
    threading.Event().wait()
"""
    hanging = run(program, status=1)
    assert "HANGS for 0.1 s: the round" in hanging.stderr
    assert 'File "<string>", line 5' in hanging.stderr


def test_the_time_in_which_a_round_is_stopped_does_not_count() -> None:
    program = """
from tests.soak import watching
watching.TICK, watching.SUSPENDED = 0.05, 0.1
with watching.Watchdog(60, "the round") as watchdog:
    print("begun", flush=True)
    input()
print(watchdog.suspended)
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        process.send_signal(signal.SIGCONT)
        told, _ = process.communicate("\n")
    assert process.returncode == 0
    assert float(told) > 0.1
