"""Who gets a place, who gives one up, and how often something is worth a line in the log."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from packetwire.core.admission import GRACE, Answer, Places, Repetitions, who_gives_way

PATIENCE = 0.5


@dataclass
class Client:
    name: str
    came: float = 0.0
    last_packet: float | None = None
    is_settled: bool = True
    asked_to_leave: float | None = None


SILENT = Client("silent", came=5.0)
SILENT_FOR_LONG = Client("silent for long", came=1.0)
JUST_COME = Client("just come", came=10.0 - GRACE / 2)
IDLE = Client("idle", last_packet=8.0)
IDLE_FOR_LONG = Client("idle for long", last_packet=3.0)
JUST_USED = Client("just used", last_packet=10.0 - GRACE / 2)
BUSY = Client("busy", last_packet=2.0, is_settled=False)
UNREAD = Client("not read yet", is_settled=False)
LEAVING = Client("leaving", asked_to_leave=9.9)
LEAVING_IDLE = Client("leaving and idle", last_packet=1.0, asked_to_leave=9.9)


@pytest.mark.parametrize(
    ("clients", "leaver"),
    [
        ([], None),
        ([SILENT], SILENT),
        ([SILENT, SILENT_FOR_LONG], SILENT_FOR_LONG),
        ([IDLE_FOR_LONG, SILENT, BUSY], SILENT),
        ([JUST_COME], None),
        ([UNREAD], None),
        ([UNREAD, SILENT], SILENT),
        ([JUST_COME, IDLE], IDLE),
        ([IDLE, IDLE_FOR_LONG, BUSY], IDLE_FOR_LONG),
        ([JUST_USED, BUSY], None),
        ([LEAVING, LEAVING_IDLE, BUSY], None),
        ([LEAVING, LEAVING_IDLE, IDLE], IDLE),
    ],
)
def test_who_gives_way(clients: list[Client], leaver: Client | None) -> None:
    assert who_gives_way(clients, 10.0) is leaver


def test_nobody_leaves_while_places_are_free() -> None:
    places: Places[Client] = Places(2)
    assert places.ask([SILENT_FOR_LONG], 10.0, PATIENCE) == (Answer.ADMIT, None)


def test_one_at_a_time_leaves_unless_that_one_hangs() -> None:
    places: Places[Client] = Places(2)
    first, second = Client("first", came=1.0), Client("second", came=2.0)
    assert places.ask([first, second], 10.0, PATIENCE) == (Answer.WAIT, first)
    first.asked_to_leave = 10.0
    assert places.ask([first, second], 10.1, PATIENCE) == (Answer.WAIT, None)
    assert places.ask([second], 10.2, PATIENCE) == (Answer.ADMIT, None)
    assert places.ask([first, second], 10.0 + PATIENCE, PATIENCE) == (Answer.WAIT, second)


def test_whom_nobody_gives_a_place_is_turned_away_after_a_while() -> None:
    places: Places[Client] = Places(1)
    assert places.ask([BUSY], 10.0, PATIENCE) == (Answer.WAIT, None)
    assert places.ask([BUSY], 10.4, PATIENCE) == (Answer.WAIT, None)
    assert places.ask([BUSY], 10.5, PATIENCE) == (Answer.TURN_AWAY, None)
    assert places.ask([BUSY], 10.6, PATIENCE) == (Answer.WAIT, None), "the next one waits as long"
    places.freed()
    assert places.ask([BUSY], 11.2, PATIENCE) == (Answer.WAIT, None), "and longer if somebody has left meanwhile"


def test_repetitions_are_counted() -> None:
    repetitions = Repetitions(lines=2)
    assert repetitions.happened("a", 1.0) == ""
    assert repetitions.happened("b", 1.1) == ""
    assert repetitions.happened("a", 1.2) == ""
    assert repetitions.happened("a", 1.3) is None
    assert repetitions.happened("a", 1.9) is None
    assert repetitions.happened("a", 2.0) == " (2 more like this before)"
    assert repetitions.happened("a", 2.5) == ""
    assert repetitions.happened("a", 2.5) is None
    assert repetitions.happened("b", 2.5) == ""
