"""docs/riaps.md: its programs run as they stand, and what it lists is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.pages import tables
from docs.programs import programs, promises, run_program, write_programs
from packetwire import riaps
from packetwire.riaps import Group, PortError, ports
from packetwire.riaps.group import DEFAULT_PEER_TIMEOUT
from packetwire.riaps.sockets import DEFAULT_MAX_FRAME, QUEUE_LIMIT

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "riaps.md"


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", programs(PAGE))
def test_the_programs_run(name: str, tmp_path: Path) -> None:
    write_programs(PAGE, tmp_path)
    done = run_program(tmp_path, name)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == promises(programs(PAGE)[name])
    assert done.stdout


@pytest.mark.long
@pytest.mark.timeout(90)
def test_the_example_with_three_processes(tmp_path: Path) -> None:
    done = run_program(tmp_path, str(DOCS / "examples" / "riaps_members.py"))
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == [
        "valve: welcome, valve",
        "valve: all are here",
        "tank: welcome, tank",
        "tank: all are here",
    ]


def test_what_the_tables_list_is_there() -> None:
    for calls, *_ in tables(PAGE)["|call|whatitdoes|"]:
        for name in re.findall(r"`(\w+)", calls):
            assert hasattr(Group, name), name
    for port, _, sends, receives in tables(PAGE)["|port|socket|sends|receives|"]:
        for name in re.findall(r"`(\w+)\(", sends + receives):
            assert hasattr(getattr(riaps, port.strip("`")), name), name
    for commands, payloads, _ in tables(PAGE)["|command|payload|from→to|"]:
        for command in re.findall(r"`(\w+)`", commands):
            assert getattr(riaps, command.upper()) == command.encode()
        for control in re.findall(r"`(\w+)\(", payloads):
            assert hasattr(riaps, control)
    for number, _ in tables(PAGE)["|`errno`|whathappened|"]:
        for name in re.findall(r"PortError\.(\w+)", number):
            assert isinstance(getattr(PortError, name), int)


def test_numbers_in_the_text() -> None:
    text = PAGE.read_text()
    assert (ports.DEFAULT_SEND_TIMEOUT, ports.DEFAULT_RECV_TIMEOUT) == (1000, -1)
    assert "sending waits one second for a link and for room, and receiving waits for ever" in text
    assert DEFAULT_PEER_TIMEOUT == 10_000
    assert "within `peer_timeout` (10 seconds)" in text
    assert f"A frame has up to {DEFAULT_MAX_FRAME >> 20} MiB" in text
    assert f"({QUEUE_LIMIT} messages)" in text
