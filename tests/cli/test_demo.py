"""`packetwire demo` as a user runs it: a process, its output and its exit status."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import packetwire
from packetwire.cli.sources import find_files

from .forked import packetwire_text
from .terminal import run_in_terminal

PACKETWIRE = [sys.executable, "-m", "packetwire"]
SMALL = ("--size", "300kB")
LARGE = ("--size", "200MB")
PACKAGE = Path(packetwire.__file__).parent
WIDTH = 80

pytestmark = pytest.mark.timeout(60)


def run(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PACKETWIRE, *args], capture_output=True, text=True, check=False, **options)


def labelled(output: str, label: str) -> str:
    """The text behind `label`, with the lines that continue it."""
    found = re.search(rf"^  {label} +(.*\n(?: {{14}}.*\n)*)", output, re.MULTILINE)
    assert found, f"no {label!r} in:\n{output}"
    return " ".join(found[1].split())


def too_wide(text: str) -> list[str]:
    """Lines that do not fit, but for single words that are too long for any line."""
    return [line for line in re.split(r"[\r\n]+", text) if len(line) > WIDTH and max(map(len, line.split())) < 60]


def test_all_comes_back() -> None:
    done = run("demo", *SMALL)
    assert (done.returncode, done.stderr) == (0, "")
    files = find_files()
    assert labelled(done.stdout, "files").startswith(f"{len(files)}, ")
    total = int(labelled(done.stdout, "chunks").split()[0])
    assert labelled(done.stdout, "look up").startswith(f"{total} of {total} chunks are there")
    assert labelled(done.stdout, "ok") == f"all {total} chunks came back as they are on the disk (SHA-256)"
    assert too_wide(done.stdout) == []


def test_the_files_are_the_fixtures_and_the_sources() -> None:
    paths = {file.path for file in find_files()}
    assert PACKAGE / "cli" / "demo.py" in paths
    fixtures = PACKAGE.parent.parent / "fixtures"
    if fixtures.is_dir():
        assert {path for path in fixtures.rglob("*") if path.is_file()} <= paths


def test_the_table_has_rates_and_round_trips() -> None:
    output = run("demo", *SMALL).stdout
    for what, has_rate in ("Add", True), ("Contains", False), ("Get", True), ("Contains, one by one", False):
        row = re.search(
            rf"^  {what} +([\d,]+) +(?:([\d,.]+) +)?([\d,.]+) [µm]s +([\d,.]+) [µm]s$", output, re.MULTILINE
        )
        assert row, output
        assert (row[2] is not None) == has_rate
        assert all(float(figure.replace(",", "")) > 0 for figure in row.groups() if figure)


def test_a_killed_store_is_shown() -> None:
    output = run("demo", *SMALL).stdout
    error = labelled(output, "ChildExited")
    assert "was killed by signal 9 (SIGKILL)" in error
    assert "-m packetwire.cli.chunkstore" in error
    counts = re.fullmatch(r"(\d+) submitted, (\d+) answered, (\d+) lost, none waits", labelled(output, "requests"))
    assert counts
    submitted, answered, lost = map(int, counts.groups())
    assert lost > 0
    assert answered + lost == submitted


@pytest.mark.parametrize("seed", ["1", "2"])
def test_a_flipped_byte_is_found(seed: str) -> None:
    done = run("demo", "--corrupt", "--size", "0", "--chunk-size", "4KiB", "--seed", seed)
    assert (done.returncode, done.stderr) == (1, "")
    place = re.fullmatch(r"(.*), bytes ([\d,]+) to ([\d,]+)", labelled(done.stdout, "mismatch"))
    assert place
    (path,) = (file.path for file in find_files() if file.name == place[1])
    first, last = (int(number.replace(",", "")) for number in place.groups()[1:])
    chunk = bytearray(path.read_bytes()[first : last + 1])
    assert labelled(done.stdout, "  expected") == hashlib.sha256(chunk).hexdigest()
    chunk[len(chunk) // 2] ^= 0xFF
    assert labelled(done.stdout, "  got") == hashlib.sha256(chunk).hexdigest()
    chunk[len(chunk) // 2] ^= 0xFF
    alike = sum(
        data[at : at + 4096] == chunk
        for data in [file.path.read_bytes() for file in find_files()]
        for at in range(0, len(data), 4096)
    )
    assert re.match(rf"{alike} of [\d,]+ chunks did not come back", labelled(done.stdout, "FAILED"))
    assert "ok  " not in done.stdout


def test_options_are_followed() -> None:
    done = run("demo", "--size", "100KiB", "--seed", "7", "--chunk-size", "1024", "--in-flight", "3")
    assert done.returncode == 0
    expected = 100 + sum(-(-file.size // 1024) for file in find_files())
    assert labelled(done.stdout, "chunks") == f"{expected:,} of up to 1,024 bytes, 3 requests in flight"
    assert labelled(done.stdout, "generated") == "0.1 MB from seed 7"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (
            ("demo", "--size", "lots"),
            "argument --size: expected a size up to 1GB, such as 300kB or 4MiB, got 'lots'",
        ),
        (("demo", "--size", "2GB"), "argument --size: expected a size up to 1GB, such as 300kB or 4MiB, got '2GB'"),
        (("demo", "--size", "MB"), "got 'MB'"),
        (("demo", "--size", "-1"), "got '-1'"),
        (("demo", "--chunk-size", "1"), "argument --chunk-size: expected a size from 1KiB to 16MiB"),
        (("demo", "--in-flight", "0"), "argument --in-flight: expected a whole number from 1 to 1024, got '0'"),
        (("demo", "--in-flight", "1025"), "got '1025'"),
        (("demo", "--seed", "x"), "argument --seed: expected a whole number from 0, got 'x'"),
        (("demo", "--unknown"), "unrecognized arguments: --unknown"),
        (("nonsense",), "invalid choice: 'nonsense'"),
        ((), "the following arguments are required: COMMAND"),
    ],
)
def test_bad_arguments_get_one_line(args: tuple[str, ...], expected: str) -> None:
    done = packetwire_text(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_and_version() -> None:
    how = "compiled" if packetwire.compiled is True else f"not compiled: {packetwire.compiled}"
    assert run("--version").stdout == f"packetwire {packetwire.__version__} ({how})\n"
    output = run("demo", "--help").stdout
    for option in "--seed", "--size", "--in-flight", "--chunk-size", "--corrupt":
        assert option in output


# the end of it by force


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command line in a process group of its own, where Ctrl-C is not ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    started = []

    def start(*args: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*PACKETWIRE, *args],
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


def children_of(pid: int) -> list[int]:
    rows = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(child) for child, parent in map(str.split, rows.splitlines()) if int(parent) == pid]


def store_in_transfer(process: subprocess.Popen[str]) -> int:
    """Wait until the demo is in the middle of its work; the pid of its store."""
    assert process.stdout
    for line in process.stdout:
        if "store " in line and " % " in line:
            (store,) = children_of(process.pid)
            return store
    raise AssertionError("the demo ended before it was under way")


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_ctrl_c(start: Callable[..., subprocess.Popen[str]]) -> None:
    demo = start("demo", *LARGE)
    store = store_in_transfer(demo)
    os.killpg(demo.pid, signal.SIGINT)  # as a terminal does it
    _, errors = demo.communicate()
    assert (demo.returncode, errors) == (130, "packetwire: interrupted\n")
    assert not is_running(store)


def test_ctrl_c_twice_with_a_store_that_does_not_react(start: Callable[..., subprocess.Popen[str]]) -> None:
    demo = start("demo", *LARGE)
    store = store_in_transfer(demo)
    os.kill(store, signal.SIGSTOP)
    os.kill(demo.pid, signal.SIGINT)
    os.kill(demo.pid, signal.SIGINT)
    _, errors = demo.communicate()
    assert (demo.returncode, errors) == (130, "packetwire: interrupted\n")
    assert not is_running(store)


def test_a_store_that_dies_gets_one_line(start: Callable[..., subprocess.Popen[str]]) -> None:
    demo = start("demo", *LARGE)
    os.kill(store_in_transfer(demo), signal.SIGKILL)
    _, errors = demo.communicate()
    assert demo.returncode == 1
    assert errors.startswith("packetwire: ")
    assert "killed by signal 9 (SIGKILL)" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "statuses"),
    [
        (("demo", *SMALL), {128 + signal.SIGPIPE}),
        (("demo", "--help"), {128 + signal.SIGPIPE, 0}),  # argparse keeps some failures to itself
    ],
)
def test_nobody_reads_the_output(args: tuple[str, ...], statuses: set[int]) -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    try:
        done = subprocess.run([*PACKETWIRE, *args], stdout=write_fd, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(write_fd)
    assert done.stderr == ""
    assert done.returncode in statuses


# where it is shown


def test_on_a_terminal_there_are_bars() -> None:
    status, shown = run_in_terminal("demo", *SMALL)
    assert status == 0
    assert "━" in shown
    assert "100%" in shown
    assert re.search(r"✓ +all \d+ chunks came back", shown)
    assert too_wide(shown) == []


def test_without_rich_a_terminal_gets_plain_lines(tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ImportError('rich is not installed')\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    status, shown = run_in_terminal("demo", *SMALL, PYTHONPATH=path)
    assert status == 0
    assert "━" not in shown
    assert "100 %" in shown
    assert re.search(r"ok +all \d+ chunks came back", shown)


def test_an_output_without_special_characters_is_no_failure() -> None:
    done = run("demo", *SMALL, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
