"""A pool of children and servers: each second one is killed, drained, stopped or cut; some calls are slow."""

from __future__ import annotations

import re
import shlex
from contextlib import ExitStack
from pathlib import Path

import pytest

from .__main__ import parsed
from .load import FACES, Tally
from .places import Places

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
COMMANDS = re.findall(r"^python -m tests\.poolload.*$", PAGE.read_text(), re.MULTILINE)


@pytest.mark.timeout(180)
@pytest.mark.long
@pytest.mark.parametrize("face", FACES)
def test_no_call_is_lost_silently_and_none_is_done_twice_unasked(face: str, tmp_path: Path) -> None:
    tally = Tally()
    with ExitStack() as stack:
        places = Places(tmp_path, stack)
        FACES[face](places, tally, seconds=15.0, interval=0.5, seed=1)
        print(tally.report(places.executed(), places.happened))
        tally.check(places.executed())
        assert set(places.happened) >= {"killed", "drained", "stopped"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_can_be_given(command: str) -> None:
    assert parsed(shlex.split(command, comments=True)[3:]).seconds >= 60


def test_there_are_commands() -> None:
    assert len(COMMANDS) == 2
