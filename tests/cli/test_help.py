"""`--help` of every command: its examples can be typed as they stand, and it fits."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from packetwire.cli.helptext import EXAMPLES, example_lines
from packetwire.cli.main import COMMANDS, parser_for

from .forked import packetwire_text
from .terminal import PACKETWIRE

pytestmark = pytest.mark.timeout(60)

WIDTH = 80


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parsers of all commands, and of those in groups."""
    found: dict[str, argparse.ArgumentParser] = {}
    waiting = [("", parser_for())]
    while waiting:
        name, parser = waiting.pop()
        found[name] = parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting += [(f"{name} {inner}".strip(), each) for inner, each in action.choices.items()]
    return found


PARSERS = parsers()


def test_all_commands_are_there() -> None:
    assert {*COMMANDS, "fbsp hello", "fbsp call", "fbsp gateway", "iccp run", ""} < PARSERS.keys()


@pytest.mark.parametrize("name", PARSERS, ids=lambda name: name.replace(" ", "-") or "packetwire")
def test_it_ends_with_examples(name: str) -> None:
    examples = example_lines(PARSERS[name].epilog)
    assert 1 <= len(examples) <= 2
    *_, heading, last = PARSERS[name].format_help().rstrip().rsplit("\n", len(examples)), examples[-1]
    assert heading[0].endswith(f"\n{EXAMPLES}")
    assert heading[-1].strip() == last
    for line in examples:
        assert len(line) + 2 <= WIDTH, line
        program, *words = shlex.split(line)
        assert program == "packetwire"
        if "--help" not in words:
            args = parser_for(words).parse_args(words)
            assert callable(args.run)
            assert name in " ".join(words)


@contextmanager
def running(line: str, place: Path, socket_path: str) -> Iterator[None]:
    """Run an example that serves, from when its socket is there."""
    with subprocess.Popen(
        [*PACKETWIRE, *shlex.split(line)[1:]],
        cwd=place,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as server:
        try:
            assert server.stderr is not None
            assert socket_path in server.stderr.readline()
            yield
        finally:
            server.send_signal(signal.SIGTERM)


def test_they_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a directory of their own: each one has what those before it have made."""
    lines = {name: example_lines(parser.epilog) for name, parser in PARSERS.items()}

    def check(line: str) -> str:
        done = packetwire_text(*shlex.split(line)[1:], cwd=tmp_path)
        assert done.returncode == 0, (line, done.stderr)
        return done.stdout

    monkeypatch.setattr(socket, "gethostname", lambda: "here")
    with running(lines["serve"][0], tmp_path, "chunks"), running(lines["bridge"][0], tmp_path, "front"):
        address = check(lines["call"][0])
        assert len(address) == 64 + 1
        assert check(lines["call"][0].replace("unix:chunks", "unix:front")) == address
        for name in ("describe", "conformance"):
            for line in lines[name]:
                check(line)
    for name in ("dump", "report"):
        for line in lines[name]:
            check(line)
    with running(lines["serve"][0], tmp_path, "chunks"):
        for line in lines["replay"]:
            check(line)
    with running(lines["serve"][1], tmp_path, "bench"):
        assert check(lines["top"][1]).startswith("{")
    check(lines["wireshark"][1])
    assert (tmp_path / "talk.html").exists()
    assert (tmp_path / "plugins").is_dir()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_narrow_terminal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for usage, titles, words that cannot be broken, and examples, which can be copied."""
    monkeypatch.setenv("COLUMNS", "40")
    _, text = PARSERS[name].format_help().partition(EXAMPLES)[0].split("\n\n", 1)
    too_wide = [line for line in text.splitlines() if len(line) > 40 and not line.endswith(":")]
    assert [line for line in too_wide if max(map(len, line.split())) < 16] == []
