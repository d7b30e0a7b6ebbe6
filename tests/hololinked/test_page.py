"""docs/hololinked.md: its programs run as they stand, and its numbers are those of the code."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from docs.pages import tables
from docs.programs import programs, promises, run_program, write_programs
from packetwire import hololinked
from packetwire.hololinked import constants

PAGE = Path(__file__).parents[2] / "docs" / "hololinked.md"


@pytest.mark.timeout(90)
def test_the_programs_run(tmp_path: Path) -> None:
    write_programs(PAGE, tmp_path)
    done = run_program(tmp_path, "use.py")
    assert (done.returncode, done.stdout.splitlines()) == (0, promises(programs(PAGE)["use.py"])), done.stderr
    # the two operations that fail are in the log of the instrument
    assert "KeyError: 'colour'" in done.stderr
    assert "Warning" not in done.stderr


def test_the_brokers_are_there() -> None:
    for names, _ in tables(PAGE)["|broker|whatitdoes|"]:
        for name in names.split(", "):
            assert inspect.isclass(getattr(hololinked, name.strip("`")))


def test_the_bounds_are_those_of_the_code() -> None:
    told = {
        row[0].partition(":")[0].partition(",")[0].strip("`"): row[1]
        for row in tables(PAGE)["|bound|default|beyondit|"]
    }
    numbers = {name: int(value.replace(",", "")) for name, value in told.items() if "MiB" not in value}
    assert numbers == {
        "max_pending": constants.DEFAULT_MAX_PENDING,
        "max_pending_per_client": constants.DEFAULT_MAX_PENDING_PER_CLIENT,
        "max_clients": constants.DEFAULT_MAX_CLIENTS,
        "running": constants.DEFAULT_RUNNING,
        "responses that a client does not read": constants.DEFAULT_MAX_UNREAD,
        "max_outstanding": constants.DEFAULT_MAX_OUTSTANDING,
        "max_events` that wait for a consumer": constants.DEFAULT_MAX_EVENTS,
    }
    assert told["max_message_size"] == f"{constants.DEFAULT_MAX_MESSAGE_SIZE >> 20} MiB"
