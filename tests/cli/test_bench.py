"""`packetwire bench` as a user runs it: a process, its output and its exit status. No figure is judged."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from packetwire import PacketConnection
from packetwire.cli.benchmarks import BULK, PAYLOAD, PRODUCE, REVERSE, SWALLOW

from .terminal import run_in_terminal

PACKETWIRE = [sys.executable, "-m", "packetwire"]
SMALL = ("--rounds", "1", "--seconds", "0.05", "--growth", "2000")
LONG = ("--rounds", "100", "--seconds", "5", "--growth", "1000000000")
SERVED = "packetwire.cli.benchmarks:REQUESTS"
OVER_STDIO = "exec:" + shlex.join([*PACKETWIRE, "serve", SERVED, "stdio:"])
WIDTH = 100

REVERSES_ALL = """
from packetwire import PacketConnection, stdio
with PacketConnection(stdio(), request_handler=lambda rq_type, flags, payload: payload[::-1]) as conn:
    conn.join_recv()
"""

CONTENDERS = ["raw", "multiprocessing", "packetwire", "packetwire-inline"]
FIGURES = {
    "round_trip_us",
    "round_trip_p99_us",
    "in_flight_per_s",
    "cpu_us_per_request",
    "callers_per_s",
    "up_mb_per_s",
    "down_mb_per_s",
    "growth_kib",
}
LABELS = [
    "round trip, µs",
    "99 % within, µs",
    "64 in flight, /s",
    "CPU/request, µs",
    "16 callers, /s",
    "1 MiB up, MB/s",
    "1 MiB down, MB/s",
    "memory growth, KiB",
]

pytestmark = [pytest.mark.timeout(60), pytest.mark.long]


def bench(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PACKETWIRE, "bench", *args], capture_output=True, text=True, check=False, **options)


def check_figures(figures: dict[str, float], expected: set[str]) -> None:
    assert set(figures) == expected
    assert all(value > 0 for figure, value in figures.items() if figure != "growth_kib")
    assert figures["growth_kib"] >= 0
    assert figures["round_trip_us"] <= figures["round_trip_p99_us"]


@pytest.mark.parametrize(("options", "transport"), [((), "unix"), (("--pipe",), "pipe")])
def test_json_has_every_figure_of_every_contender(options: tuple[str, ...], transport: str) -> None:
    done = bench(*SMALL, *options, "--rounds", "2", "--json", "-")
    assert (done.returncode, done.stderr) == (0, "")
    results = json.loads(done.stdout)
    assert (results["transport"], results["address"], results["growth_requests"]) == (transport, None, 2000)
    assert list(results["medians"]) == list(results["rounds"]) == CONTENDERS
    for name in CONTENDERS:
        expected = FIGURES - {"callers_per_s"} if name == "raw" else FIGURES
        assert len(results["rounds"][name]) == 2
        for figures in *results["rounds"][name], results["medians"][name]:
            check_figures(figures, expected)
        low, high = sorted(of_round["in_flight_per_s"] for of_round in results["rounds"][name])
        assert low <= results["medians"][name]["in_flight_per_s"] <= high


def test_ratios_are_those_of_the_medians() -> None:
    results = json.loads(bench(*SMALL, "--json", "-").stdout)
    medians = results["medians"]
    for ours in "packetwire", "packetwire-inline":
        assert set(results["ratios"][ours]) == {"raw", "multiprocessing"}
        for theirs, ratios in results["ratios"][ours].items():
            assert set(ratios) == set(medians[theirs]) - {"growth_kib"}
            for figure, ratio in ratios.items():
                assert ratio == pytest.approx(medians[ours][figure] / medians[theirs][figure])


def test_the_tables_and_the_file_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    done = bench(*SMALL, "--json", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    medians = json.loads(path.read_text())["medians"]
    for label in LABELS:
        assert re.search(rf"^ +{label}( +([\d,.]+|-)){{4}}$", done.stdout, re.MULTILINE), label
    round_trips = re.search(r"^  round trip, µs(.*)$", done.stdout, re.MULTILINE)
    assert round_trips
    assert round_trips[1].split() == [f"{medians[name]['round_trip_us']:,.1f}" for name in CONTENDERS]
    assert "packetwire/raw" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= WIDTH


def test_an_address() -> None:
    done = bench(OVER_STDIO, *SMALL, "--json", "-")
    assert (done.returncode, done.stderr) == (0, "")
    results = json.loads(done.stdout)
    assert (results["transport"], results["ratios"], list(results["medians"])) == (None, {}, ["packetwire"])
    assert results["address"] == OVER_STDIO
    check_figures(results["medians"]["packetwire"], FIGURES)


def test_the_table_of_an_address() -> None:
    done = bench(OVER_STDIO, *SMALL)
    assert (done.returncode, done.stderr) == (0, "")
    for label in LABELS:
        assert re.search(rf"^ +{label} +[\d,.]+$", done.stdout, re.MULTILINE), label


def test_what_is_served() -> None:
    with PacketConnection.spawn([*PACKETWIRE, "serve", SERVED, "stdio:"]) as conn:
        assert conn(REVERSE, PAYLOAD)[2] == PAYLOAD[::-1]
        assert conn(SWALLOW, b"x" * 1000)[2] == (1000).to_bytes(4, "big")
        assert conn(PRODUCE)[2] == BULK
        assert not conn(99)[0]


# what can go wrong


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--rounds", "0"), "argument --rounds: expected a whole number from 1, got '0'"),
        (("--seconds", "0"), "argument --seconds: expected more than 0 seconds, got '0'"),
        (("--seconds", "fast"), "argument --seconds: expected a number of seconds"),
        (("--growth", "0"), "argument --growth: expected a whole number from 1, got '0'"),
        (("--seed", "-1"), "argument --seed: expected a whole number from 0, got '-1'"),
        (("--json", "/nonexistent/x"), "argument --json: cannot write '/nonexistent/x': No such file or directory"),
        (("--json", "/dev/null/x"), "argument --json: cannot write '/dev/null/x': Not a directory"),
        (("--json", "/"), "argument --json: cannot write '/': Is a directory"),
        (("--unknown",), "packetwire bench: unrecognized arguments: --unknown (see packetwire bench --help)"),
        (("nowhere",), "invalid address 'nowhere'"),
        (("exec:",), "there is no command"),
        (("stdio:",), "stdio: is for serving"),
        (("tcp:localhost:0",), "port 0 is for listening"),
        (("unix:/nonexistent", "--pipe"), "--pipe is for this machine"),
    ],
)
def test_bad_arguments_get_one_line(args: tuple[str, ...], expected: str) -> None:
    done = bench(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("unix:/nonexistent", "unix:/nonexistent: No such file or directory"),
        ("exec:/nonexistent", "exec:/nonexistent: No such file or directory"),
        ("exec:false", "exited with status 1"),
        (f"exec:{shlex.join([sys.executable, '-m', 'packetwire.cli.chunkstore'])}", SERVED),
        (f"exec:{shlex.join([sys.executable, '-c', REVERSES_ALL])}", SERVED),
    ],
)
def test_a_server_that_cannot_be_measured_gets_one_line(address: str, expected: str) -> None:
    done = bench(address, *SMALL)
    assert done.returncode == 1
    assert done.stderr.startswith("packetwire: ")
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_benchmark_that_fails_leaves_the_file_of_its_results_alone(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text("before")
    for path in old, tmp_path / "new.json":
        assert bench("unix:/nonexistent", "--json", str(path)).returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    assert old.read_text() == "before"


def test_json_into_a_pipe() -> None:
    with subprocess.Popen(
        ["sh", "-c", 'exec "$@" --json /dev/fd/3 3>&1 >/dev/null', "sh", *PACKETWIRE, "bench", *SMALL],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        output, _ = process.communicate()
    assert process.returncode == 0
    assert list(json.loads(output)["medians"]) == CONTENDERS


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(closed: str, tmp_path: Path) -> None:
    """What is opened instead, here the sockets of the contenders, must not get their numbers."""
    path = tmp_path / "results.json"
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *PACKETWIRE, "bench", *SMALL, "--json", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(json.loads(path.read_text())["medians"]) == CONTENDERS


def test_help() -> None:
    done = bench("--help")
    assert done.returncode == 0
    for option in "--pipe", "--rounds", "--seconds", "--growth", "--seed", "--json":
        assert option in done.stdout


# the end of it by force


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a benchmark in a process group of its own, where Ctrl-C is not ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    started = []

    def start(*args: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*PACKETWIRE, "bench", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    signal.signal(signal.SIGINT, before)


def descendants(pid: int) -> dict[int, str]:
    """The processes that come from `pid`, with their command lines."""
    command = ["ps", "-A", "-ww", "-o", "pid=,ppid=,args="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    found: dict[int, str] = {}
    parents = {str(pid)}
    while parents:
        children = {child: args for child, parent, args in rows if parent in parents}
        found |= {int(child): args for child, args in children.items()}
        parents = set(children)
    return found


def wait_for_processes(process: subprocess.Popen[str], *expected: str) -> dict[int, str]:
    """The benchmark's processes, once there is one for each of these parts of command lines."""
    while process.poll() is None:
        found = descendants(process.pid)
        if len(found) == len(expected) and all(any(part in args for args in found.values()) for part in expected):
            return found
    raise AssertionError("the benchmark ended before it was under way")


def still_running(pids: Iterable[int]) -> list[str]:
    """What `ps` says of those that have not ended; one that has may not be reaped yet."""
    command = ["ps", "-ww", "-o", "stat=,pid=,args=", "-p", ",".join(map(str, pids))]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return [line for line in listed.splitlines() if not line.startswith("Z")]


@pytest.mark.parametrize(
    ("args", "processes"),
    [
        ((), ("contenders serve", "contenders ask")),
        ((OVER_STDIO,), ("contenders ask-address", f"serve {SERVED}")),
    ],
)
def test_ctrl_c(
    start: Callable[..., subprocess.Popen[str]], args: tuple[str, ...], processes: tuple[str, ...]
) -> None:
    process = start(*args, *LONG)
    measured = wait_for_processes(process, *processes)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
    _, errors = process.communicate()
    assert (process.returncode, errors) == (130, "packetwire: interrupted\n")
    assert still_running(measured) == []


def test_a_benchmark_that_is_killed_leaves_nothing(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start(OVER_STDIO, *LONG)
    measured = wait_for_processes(process, "contenders ask-address", f"serve {SERVED}")
    process.kill()
    process.communicate()
    while still_running(measured):
        pass  # they end by themselves


def test_a_measured_process_that_dies_gets_one_line(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start(*LONG)
    measured = wait_for_processes(process, "contenders serve", "contenders ask")
    (asker,) = [pid for pid, args in measured.items() if "contenders ask" in args]
    os.kill(asker, signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "has ended with status -9" in errors
    assert errors.count("\n") == 1
    assert still_running(measured) == []


# where it is shown


def test_on_a_terminal_there_is_a_bar() -> None:
    status, shown = run_in_terminal("bench", *SMALL)
    assert status == 0
    assert "━" in shown
    assert "100%" in shown
    for label in LABELS:
        assert re.search(rf"{label}( +([\d,.]+|-)){{4}}", shown), label
    assert max(map(len, re.split(r"[\r\n]+", shown))) <= WIDTH


def test_without_rich_a_terminal_gets_plain_lines(tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ImportError('rich is not installed')\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    status, shown = run_in_terminal("bench", *SMALL, PYTHONPATH=path)
    assert status == 0
    assert "━" not in shown
    assert "measuring 100 %" in shown
    assert "packetwire/raw" in shown
