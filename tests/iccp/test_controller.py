"""Components as children of a controller: their lives, and every way in which they can fail."""

from __future__ import annotations

import gc
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from childprocesses import child_processes
from packetwire import (
    ChildExited,
    ConnectionEnded,
    LimitExceeded,
    LocalProtocolError,
    RemoteProtocolError,
    RequestTimeout,
)
from packetwire.iccp import (
    ComponentError,
    ConfigureRefused,
    Controller,
    Finished,
    InvalidMessageError,
    MsgType,
    Outcome,
    State,
    StopError,
    TimeLimits,
)
from packetwire.iccp.controlling import ThreadLife

from .children import OK, READY, STOP, component, finished
from .faces import FACES, controllers_of
from .fake import PEER, make

pytestmark = pytest.mark.timeout(60)

Control = Callable[..., Any]

WAIT = 30
PATIENT = TimeLimits(ready=WAIT, stop=WAIT, terminate=WAIT, exit=WAIT)
IMPATIENT = TimeLimits(ready=WAIT, stop=0.2, terminate=0.2, exit=0.2)

OBEDIENT = component("say(); wait_stop(); say()", READY, finished(Outcome.OK, "one", "zé"))


def open_fds() -> set[str]:
    found = set()
    for fd in os.listdir("/dev/fd"):
        try:
            found.add(f"{fd} {os.readlink(f'/dev/fd/{fd}')}")
        except OSError:
            pass  # the one that listdir used, or a system where these are no links
    return found


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """After the test there is no child, and threads and descriptors are what they were."""
    threads, fds, children = set(threading.enumerate()), open_fds(), child_processes()
    yield
    assert child_processes() - children == set()
    assert set(threading.enumerate()) - threads == set()
    assert open_fds() - fds == set()


@pytest.fixture(params=FACES)
def control(request: pytest.FixtureRequest) -> Iterator[Control]:
    """Makes controllers for threads, or for an event loop."""
    with ExitStack() as opened:
        yield controllers_of(request.param, opened)


@pytest.fixture
def controller(control: Control) -> Iterator[Any]:
    with control(limits=PATIENT) as controller:
        yield controller


@pytest.fixture
def impatient(control: Control) -> Iterator[Any]:
    with control(limits=IMPATIENT) as controller:
        yield controller


# what goes well


def test_a_whole_life(controller: Any) -> None:
    started = controller.start(OBEDIENT, name="worker")
    assert (started.state, started.peer, started.endpoints) == (State.READY, PEER, {"x": ["ipc://x"]})
    assert started.process
    assert str(started) == f"component worker (pid {started.process.pid})"
    assert controller.components == [started]
    assert started.stop() == Finished(Outcome.OK, ["one", "zé"], 0)
    assert (started.state, controller.components) == (State.ENDED, [])
    assert started.stop() == started.wait() == Finished(Outcome.OK, ["one", "zé"], 0)
    with pytest.raises(ConnectionEnded, match="worker .* has finished"):
        started.configure({})


@pytest.mark.parametrize("outcome", Outcome)
def test_it_ends_by_itself(controller: Any, outcome: Outcome) -> None:
    started = controller.launch(component("say(); say(); leave(); sys.exit(7)", READY, finished(outcome, "why")))
    assert started.wait(WAIT) == Finished(outcome, ["why"], 7)
    started.wait_ready()


@pytest.mark.long
def test_it_exits_right_behind_finished(controller: Any) -> None:
    """Without reading what it is answered, which then cannot be written."""
    argv = component("say(); say(); os._exit(0)", READY, finished())
    for _ in range(100):
        assert controller.launch(argv).wait(WAIT) == Finished(Outcome.OK, [], 0)


def test_configurations_are_answered_in_turn(controller: Any) -> None:
    argv = component(
        "say(); [(wait_for(b'CONF'), say()) for _ in range(3)]; wait_stop(); say()",
        READY,
        OK,
        make(MsgType.ERROR, error="no such disk"),
        OK,
        finished(),
    )
    started = controller.start(argv, name="store")
    started.configure({"disk": 1}, WAIT)
    with pytest.raises(
        ConfigureRefused, match="component store .* refused its configuration: no such disk"
    ) as caught:
        started.configure({"disk": 2}, WAIT)
    assert caught.value.error == "no such disk"
    started.configure(timeout=WAIT)
    with pytest.raises(ValueError, match="cannot be sent"):
        started.configure({"disk": object()})
    assert started.stop().outcome is Outcome.OK


def test_a_late_answer_is_not_that_to_the_next_question(controller: Any) -> None:
    argv = component(
        "say(); wait_for(b'second'); say(); say(); wait_stop(); say()",
        READY,
        make(MsgType.ERROR, error="the first"),
        OK,
        finished(),
    )
    started = controller.start(argv)
    with pytest.raises(RequestTimeout, match="did not answer CONFIGURE within 0.1 s"):
        started.configure({"first": 1}, timeout=0.1)
    started.configure({"second": 2}, timeout=WAIT)


def test_several_components_end_together(control: Control) -> None:
    with control(limits=PATIENT) as controller:
        launched = [controller.launch(OBEDIENT, name=str(number)) for number in range(5)]
        for each in launched:
            each.wait_ready()
        assert len({each.process.pid for each in launched if each.process}) == 5
        launched[2].kill()
        with pytest.raises(ChildExited):
            launched[2].wait(WAIT)
        assert len(controller.components) == 4
    assert [each.wait(0).outcome for each in launched if each is not launched[2]] == [Outcome.OK] * 4
    with pytest.raises(LocalProtocolError, match="was closed"):
        controller.start(OBEDIENT)


def test_a_component_that_is_ready_costs_its_controller_no_thread(controller: Any) -> None:
    launched = [controller.launch(OBEDIENT) for _ in range(3)]
    for each in launched:
        each.wait_ready()
    ours = [each for each in threading.enumerate() if each.name.startswith("packetwire-component")]
    for each in ours:
        each.join(WAIT)  # the one for all goes when there is no deadline left, the others when a process is started
        assert not each.is_alive()


def test_components_are_bounded(control: Control) -> None:
    with pytest.raises(LocalProtocolError, match="max_components"):
        control(max_components=0)
    for seconds in (-1, math.inf, math.nan):
        with pytest.raises(LocalProtocolError, match="stop is a number of seconds"):
            TimeLimits(stop=seconds)
    with control(limits=PATIENT, max_components=2) as controller:
        first, _ = controller.start(OBEDIENT), controller.start(OBEDIENT)
        with pytest.raises(LimitExceeded, match="2 components live"):
            controller.start(OBEDIENT)
        first.stop()
        controller.start(OBEDIENT)


@pytest.mark.parametrize("control", ["threads"], indirect=True)
def test_many_threads_wait_for_one_component(controller: Any) -> None:
    started = controller.start(component("say(); wait_stop(); sys.exit(3)", READY))
    raised: list[Exception] = []

    def wait() -> None:
        try:
            started.wait()
        except ChildExited as error:
            raised.append(error)

    waiting = [threading.Thread(target=wait) for _ in range(4)]
    for each in waiting:
        each.start()
    with pytest.raises(ChildExited):
        started.stop()
    for each in waiting:
        each.join(WAIT)
    assert len({id(each) for each in raised}) == 4
    assert len({str(each) for each in raised}) == 1


def test_its_directory_environment_and_standard_error(
    controller: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    body = "print(os.getcwd(), os.environ['NAME'], file=sys.stderr, flush=True); say(); wait_stop(); say()"
    argv = component(body, READY, finished())
    started = controller.start(argv, cwd=tmp_path, env={"NAME": "value"}, forward_stderr=True)
    assert started.stop().outcome is Outcome.OK
    assert capfd.readouterr().err == f"{tmp_path} value\n"


def test_it_is_stopped_before_it_is_ready(controller: Any) -> None:
    launched = controller.launch(component("wait_stop(); say(); say()", READY, finished()))
    with pytest.raises(LocalProtocolError, match="is not ready"):
        launched.configure({})
    assert launched.stop().outcome is Outcome.OK


def test_one_that_nobody_refers_to_lives_on() -> None:
    before = set(threading.enumerate())
    started = Controller(limits=PATIENT).start(OBEDIENT)
    ended, process = started._life.ended, started.process
    del started
    gc.collect()
    assert process
    assert (process.poll(), ended.done()) == (None, False)
    process.terminate()
    assert isinstance(ended.exception(WAIT), ChildExited)
    for each in set(threading.enumerate()) - before:
        each.join(WAIT)


def test_one_for_which_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("can't start new thread")

    with Controller(limits=PATIENT) as controller:
        with monkeypatch.context() as patched:
            patched.setattr(ThreadLife, "_run_in_thread", fail)
            with pytest.raises(RuntimeError, match="new thread"):
                controller.launch(OBEDIENT)
        assert controller.start(OBEDIENT).stop().outcome is Outcome.OK


# what fails: one exception that says so


def test_a_command_that_does_not_exist(controller: Any) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-command"):
        controller.start(["no-such-command"])
    for argv in ("a text", []):
        with pytest.raises((TypeError, ValueError), match="argv"):
            controller.start(argv)
    assert controller.components == []


def test_it_crashes_at_import(controller: Any) -> None:
    with pytest.raises(ChildExited, match="(?s)ended before READY: .* status 1; .*ZeroDivisionError") as caught:
        controller.start(component("1/0"), name="broken")
    assert caught.value.returncode == 1
    assert b"ZeroDivisionError" in caught.value.stderr


@pytest.mark.parametrize("status", [0, 5])
def test_it_exits_before_ready(controller: Any, status: int) -> None:
    with pytest.raises(ChildExited, match=f"(?s)ended before READY: .* exited with status {status}"):
        controller.start(component(f"sys.exit({status})"))


def test_it_hangs_before_ready(control: Control) -> None:
    with control(limits=TimeLimits(ready=0.2, terminate=WAIT)) as controller:
        with pytest.raises(RequestTimeout, match=r"did not say READY within 0\.2 s; child sleep 60 .*SIGTERM"):
            controller.start(["sleep", "60"])


def test_it_says_ready_when_that_is_too_late(control: Control) -> None:
    body = """
    def say_all(signum, frame):
        say()
        say()
        os._exit(0)
    signal.signal(signal.SIGTERM, say_all)
    hang()
    """
    with control(limits=TimeLimits(ready=0.2, terminate=WAIT)) as controller:
        with pytest.raises(RequestTimeout, match="did not say READY"):
            controller.start(component(body, READY, finished()))


@pytest.mark.long
@pytest.mark.parametrize("where", ["stderr", "stdout"])
def test_what_it_printed_is_quoted_if_it_is_late(control: Control, where: str) -> None:
    body = f"print('waiting for the disk', file=sys.{where}, flush=True); hang()"
    with control(limits=TimeLimits(ready=5)) as controller:
        if where == "stdout":
            body = "os.write(1, b'hi'); hang()"
        with pytest.raises(RequestTimeout, match="did not say READY within 5 s(.|\n)*(waiting for the disk|hi)"):
            controller.start(component(body))


def test_it_prints_noise_and_lives(controller: Any) -> None:
    with pytest.raises(ComponentError, match="component noisy .*Welcome to the machine.*does it print") as caught:
        controller.start(component("print('Welcome to the machine', flush=True); hang()"), name="noisy")
    assert isinstance(caught.value.__cause__, ConnectionEnded)
    assert isinstance(caught.value.__cause__.__cause__, RemoteProtocolError)


def test_it_prints_noise_and_exits(controller: Any) -> None:
    with pytest.raises((ComponentError, ChildExited), match="Last login"):
        controller.start(component("print('Last login: today', flush=True); os._exit(0)"))


def test_it_prints_noise_later(controller: Any) -> None:
    started = controller.start(component("say(); print('Welcome to the machine', flush=True); hang()", READY))
    with pytest.raises(ComponentError, match="Welcome"):
        started.wait(WAIT)
    assert started.state is State.ENDED


def test_it_is_killed(controller: Any) -> None:
    started = controller.start(component("say(); hang()", READY))
    assert started.process
    started.process.kill()
    with pytest.raises(ChildExited, match="(?s)ended without FINISHED: .* killed by signal 9") as caught:
        started.wait(WAIT)
    assert caught.value.signal == signal.SIGKILL
    with pytest.raises(ChildExited):
        started.configure({})


def test_we_kill_it(controller: Any) -> None:
    started = controller.start(component("say(); hang()", READY))
    started.kill()
    with pytest.raises(ChildExited, match="killed by signal 9"):
        started.wait(WAIT)
    started.kill()


def test_it_is_killed_while_a_configuration_is_awaited(controller: Any) -> None:
    started = controller.start(component("say(); wait_for(b'CONF'); os.kill(os.getpid(), 9)", READY))
    with pytest.raises(ChildExited, match="ended without FINISHED"):
        started.configure({"n": 1}, timeout=WAIT)


def test_it_hangs_when_it_is_configured(impatient: Any) -> None:
    started = impatient.start(component("say(); hang()", READY))
    with pytest.raises(RequestTimeout, match="did not answer CONFIGURE within 0.2 s"):
        started.configure({"n": 1}, timeout=0.2)
    assert started.state is State.READY


@pytest.mark.parametrize(
    ("body", "signum"),
    [("", signal.SIGTERM), ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", signal.SIGKILL)],
    ids=["heeds SIGTERM", "ignores SIGTERM"],
)
def test_it_ignores_stop(impatient: Any, body: str, signum: signal.Signals) -> None:
    started = impatient.start(component(f"{body}\nsay(); hang()", READY))
    with pytest.raises(
        ChildExited, match=r"(?s)did not say FINISHED within 0\.2 s of STOP; .* was killed"
    ) as caught:
        started.stop()
    assert caught.value.signal == signum


def test_it_is_frozen(impatient: Any) -> None:
    started = impatient.start(component("say(); os.kill(os.getpid(), signal.SIGSTOP)", READY))
    with pytest.raises(ChildExited, match="SIGKILL"):
        started.stop()


@pytest.mark.timeout(25)  # less than a channel waits for room by itself
def test_it_does_not_read(impatient: Any) -> None:
    """More is sent to it than the pipe holds."""
    started = impatient.start(component("say(); hang()", READY))
    with pytest.raises(RequestTimeout):
        started.configure({"large": bytes(1 << 20)}, timeout=0.1)
    with pytest.raises(ChildExited, match="of STOP"):
        started.stop()


def test_it_lives_on_after_finished(impatient: Any) -> None:
    started = impatient.start(component("say(); say(); hang()", READY, finished()))
    ending = started.wait(WAIT)
    assert ending.outcome is Outcome.OK
    assert ending.returncode in (-signal.SIGTERM, -signal.SIGKILL)


@pytest.mark.long
def test_it_closes_its_output_and_lives(impatient: Any) -> None:
    started = impatient.start(component("say(); os.close(1); hang()", READY))
    with pytest.raises(ComponentError, match="closed its standard output and still runs"):
        started.wait(WAIT)


def test_it_floods_standard_error(controller: Any) -> None:
    flood = "os.write(2, b'x' * 65536)\n"
    body = f"for _ in range(50): {flood}say()\nfor _ in range(50): {flood}wait_stop()\nsys.exit('the end')"
    started = controller.start(component(body, READY))
    with pytest.raises(ChildExited, match="the end") as caught:
        started.stop()
    assert 60_000 < len(caught.value.stderr) <= 65536


@pytest.mark.long
@pytest.mark.parametrize("ready", [False, True])
def test_it_leaves_a_grandchild_with_its_pipes(controller: Any, tmp_path: Path, ready: bool) -> None:
    os.mkfifo(tmp_path / "held")
    holder = "import time; held = open('held', 'w'); held.write('!'); held.flush(); time.sleep(60)"
    body = f"subprocess.Popen([sys.executable, '-I', '-S', '-c', {holder!r}]); {'say();' * ready} sys.exit(5)"
    launched = controller.launch(component(body, READY), cwd=tmp_path)
    with open(tmp_path / "held") as held:
        with pytest.raises(ChildExited, match="status 5"):
            launched.wait(WAIT)
        assert held.read() in ("!", "")  # its end: whoever could write there is gone


def test_it_leaves_a_grandchild_and_finishes(controller: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "held")
    holder = "import time; held = open('held', 'w'); held.write('!'); held.flush(); time.sleep(60)"
    body = f"subprocess.Popen([sys.executable, '-I', '-S', '-c', {holder!r}]); say(); wait_stop(); say()"
    started = controller.start(component(body, READY, finished()), cwd=tmp_path)
    with open(tmp_path / "held") as held:
        assert held.read(1) == "!"
        assert started.stop() == Finished(Outcome.OK, [], 0)
        assert held.read() == ""


# the rules of ICCP: what breaks them ends the component


@pytest.mark.parametrize(
    ("messages", "cause", "said"),
    [
        ([READY, READY], StopError, "Unexpected READY message"),
        ([OK], StopError, "Unexpected OK message from component, which is not ready"),
        ([finished()], StopError, "Unexpected FINISHED message from component, which is not ready"),
        ([STOP], StopError, "Wrong message received from component"),
        ([READY, STOP], StopError, "Wrong message received from component"),
        ([[b"\0\x63", b"?"]], InvalidMessageError, "there is no message type 99"),
        ([READY, [b"\0\4", b"\xff"]], InvalidMessageError, "not UTF-8"),
    ],
    ids=["double READY", "OK first", "FINISHED first", "STOP first", "STOP", "unknown type", "garbage"],
)
def test_it_breaks_a_rule(controller: Any, messages: list[Any], cause: type[Exception], said: str) -> None:
    launched = controller.launch(component(f"{'say();' * len(messages)} hang()", *messages))
    with pytest.raises(ComponentError, match=f"broke the protocol: .*{said}") as caught:
        launched.wait(WAIT)
    assert isinstance(caught.value.__cause__, cause)


def test_an_error_before_ready_and_an_answer_unasked_are_logged(
    controller: Any, caplog: pytest.LogCaptureFixture
) -> None:
    error = make(MsgType.ERROR, error="no licence")
    started = controller.start(component("say(); say(); say(); wait_stop(); say()", error, READY, OK, finished()))
    assert started.stop().outcome is Outcome.OK
    assert "says ICCPMessage[ERROR] unasked: no licence" in caplog.text
    assert "says ICCPMessage[OK] unasked" in caplog.text


# waiting is interrupted


INTERRUPTED = """
import asyncio, os, signal, sys, threading
from packetwire.iccp import AsyncController, Controller

interrupt = threading.Timer(0, os.kill, (os.getpid(), signal.SIGINT))

def threads():
    with Controller() as controller:
        interrupt.start()
        controller.start(sys.argv[2:])

async def loop():
    async with AsyncController() as controller:
        interrupt.start()
        await controller.start(sys.argv[2:])

try:
    threads() if sys.argv[1] == "threads" else asyncio.run(loop())
except KeyboardInterrupt:
    interrupt.join()
    print("interrupted", threading.active_count())
"""


@pytest.mark.parametrize("face", FACES)
def test_ctrl_c_while_it_starts(face: str) -> None:
    """The controller goes on to stop what it has started."""
    argv = [sys.executable, "-c", INTERRUPTED, face, *component("wait_stop(); say(); say()", READY, finished())]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=WAIT)
    assert (done.stdout, done.returncode) == ("interrupted 1\n", 0), done.stderr
