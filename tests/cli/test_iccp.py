"""`packetwire iccp run` as a user runs it: a process, what it shows, how it ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from iccp.children import OK, READY, component, finished
from iccp.fake import PEER, make
from packetwire.iccp import MsgType, Outcome

RUN = [sys.executable, "-m", "packetwire", "iccp", "run"]
LIMIT = 30

pytestmark = pytest.mark.timeout(60)


class Running:
    """A running `packetwire iccp run`, up to a line of what it shows."""

    def __init__(self, *args: str) -> None:
        self.process = subprocess.Popen(
            [*RUN, "--stop-timeout", str(LIMIT), *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def show(self, label: str) -> str:
        """Wait for a line with this label; its text."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line.split()[0] == label:
                return line.strip()
        raise AssertionError(f"it does not show {label}: {self.end()}")

    def end(self) -> tuple[int, str, str]:
        """Its exit status, and what else it said on both outputs."""
        stdout, stderr = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, stdout, stderr


Start = Callable[..., Running]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Running] = []

    def start(*args: str) -> Running:
        started.append(Running(*args))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


OBEDIENT = "say(); wait_stop(); say()"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_stop(start: Start, signum: signal.Signals) -> None:
    running = start(*component(OBEDIENT, READY, finished(Outcome.OK, "as told")))
    assert str(PEER.uid) in running.show("ready")
    assert running.show("endpoint") == "endpoint    x: ipc://x"
    running.process.send_signal(signum)
    status, stdout, stderr = running.end()
    assert (status, stderr) == (0, "")
    assert re.fullmatch(
        r"  stopping +again to kill it\n  detail +as told\n  ok +outcome OK, exit status 0\n", stdout
    )


@pytest.mark.parametrize(("outcome", "status"), [(Outcome.OK, 0), (Outcome.UNKNOWN, 1)])
def test_the_exit_status_is_that_of_the_outcome(start: Start, outcome: Outcome, status: int) -> None:
    returncode, stdout, _ = start(*component("say(); say(); leave(); sys.exit(3)", READY, finished(outcome))).end()
    assert returncode == status
    assert stdout.splitlines()[-1].split(maxsplit=1)[1] == f"outcome {outcome.value}, exit status 3"


def test_a_second_ctrl_c_kills(start: Start) -> None:
    running = start("--stop-timeout", "1000", *component("signal.signal(15, signal.SIG_IGN); say(); hang()", READY))
    running.show("ready")
    running.process.send_signal(signal.SIGINT)
    running.show("stopping")
    running.process.send_signal(signal.SIGINT)
    running.show("killing")
    assert running.end() == (130, "", "packetwire: interrupted\n")


def test_one_that_ignores_stop(start: Start) -> None:
    running = start("--stop-timeout", "0.1", *component("say(); hang()", READY))
    running.show("ready")
    running.process.send_signal(signal.SIGTERM)
    status, _, stderr = running.end()
    assert status == 1
    assert "did not say FINISHED within 0.1 s of STOP" in stderr
    assert stderr.count("\n") == 1


def test_one_that_crashes_is_told_in_a_line_behind_its_own(start: Start) -> None:
    status, _, stderr = start(*component("1/0")).end()
    assert status == 1
    assert stderr.startswith("Traceback"), "its standard error is passed on"
    last = stderr.splitlines()[-1]
    assert last.startswith("packetwire: component ")
    assert last.endswith("ZeroDivisionError: division by zero")


@pytest.mark.long
def test_one_that_is_late(start: Start) -> None:
    status, _, stderr = start("--ready-timeout", "0.1", "sleep", "60").end()
    assert status == 1
    assert "component sleep" in stderr
    assert "did not say READY within 0.1 s" in stderr


def test_a_configuration(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"name": "value", "inside": {"n": 1}}))
    body = "say(); wait_for(b'value'); say(); wait_stop(); say()"
    running = start("--config", str(file), *component(body, READY, OK, finished()))
    running.show("configured")
    running.process.send_signal(signal.SIGTERM)
    assert running.end()[0] == 0
    no = make(MsgType.ERROR, error="no such name")
    status, stdout, stderr = start("--config", str(file), *component(body, READY, no, finished())).end()
    assert (status, "configured" in stdout) == (1, False)
    assert stderr.endswith("refused its configuration: no such name\n")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "the following arguments are required: CMD (see packetwire iccp run --help)"),
        (("--ready-timeout", "x", "true"), "expected a number of seconds"),
        pytest.param(("--nonsense", "true"), "unrecognized arguments: --nonsense", marks=pytest.mark.long),
        pytest.param(
            ("--config", "/dev/null", "true"),
            "argument --config: '/dev/null' is not valid JSON: ",
            marks=pytest.mark.long,
        ),
    ],
)
def test_mistakes(start: Start, args: tuple[str, ...], said: str) -> None:
    status, stdout, stderr = start(*args).end()
    assert (status, stdout) == (2, "")
    assert said in stderr
    assert stderr.count("\n") == 1


def test_a_command_or_a_configuration_that_does_not_exist(start: Start, tmp_path: Path) -> None:
    status, _, stderr = start("no-such-command", "--option").end()
    assert (status, stderr) == (1, "packetwire: No such file or directory: 'no-such-command'\n")
    status, _, stderr = start("--config", "absent.json", "true").end()
    assert status == 2
    assert stderr == "packetwire: argument --config: cannot read 'absent.json': No such file or directory\n"
    (tmp_path / "list.json").write_text("[]")
    status, _, stderr = start("--config", str(tmp_path / "list.json"), "true").end()
    assert status == 2
    assert stderr.endswith("list.json' is not a JSON object\n")
