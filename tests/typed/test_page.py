"""docs/typed.md: its programs run as they stand, its commands print what it says, and its examples are checked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.commands import check_command, commands, write_shell
from docs.pages import tables
from docs.programs import programs, promises, run_program, write_programs
from packetwire.typed import AsyncClient, Client, Codec
from packetwire.typed.msgpack import MAX_DEPTH, MAX_ITEMS

PAGE = Path(__file__).parents[2] / "docs" / "typed.md"
SERVED = {"shop.py"}


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", sorted(programs(PAGE).keys() - SERVED))
def test_the_programs_run(name: str, tmp_path: Path) -> None:
    write_programs(PAGE, tmp_path)
    done = run_program(tmp_path, name)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == promises(programs(PAGE)[name])
    assert done.stdout


@pytest.mark.timeout(90)
def test_the_commands_print_what_their_comments_say(tmp_path: Path) -> None:
    shell = write_shell(PAGE, tmp_path)
    for command in commands(PAGE):
        check_command(command, shell)


def test_what_the_tables_list_is_there() -> None:
    for threads, looped, _ in tables(PAGE)["|withthreads|inaneventloop||"]:
        for cell, client in ((threads, Client), (looped, AsyncClient)):
            for name in re.findall(r"client\.(\w+)", cell):
                assert hasattr(client, name), name


def test_the_bounds_that_are_said() -> None:
    assert (MAX_DEPTH, MAX_ITEMS) == (64, 1_000_000)


def test_all_annotations_of_the_table_are_kinds() -> None:
    from datetime import date, datetime, time, timedelta
    from decimal import Decimal
    from typing import Literal
    from uuid import UUID

    names = {"T": int, "U": str, "K": str, "V": int, "Literal": Literal, "datetime": datetime, "date": date}
    names |= {"time": time, "timedelta": timedelta, "Decimal": Decimal, "UUID": UUID}
    listed = [row[0] for row in tables(PAGE)["|annotation|onthewire|"]]
    found = [code.replace("\\|", "|") for cell in listed for code in re.findall(r"`([^`]+)`", cell)]
    assert len(found) >= 17
    for code in found:
        assert Codec(eval(code, names)).kind.wire, code
