"""Who gets a place, who gives one up, and how often something is worth a line in the log."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from packetwire.core.admission import (
    GRACE,
    LEAVING_AT_ONCE,
    LEAVING_SECONDS,
    PAUSE_SECONDS,
    RETRY_SECONDS,
    AdmissionPolicy,
    Answer,
    Limits,
    Places,
    Repetitions,
    Verdict,
    who_gives_way,
)

PATIENCE = 0.5


@dataclass
class Client:
    name: str
    came: float = 0.0
    last_packet: float | None = None
    is_settled: bool = True
    asked_to_leave: float | None = None
    origin: str | None = None


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


# the policy of all that accept clients


def policy(*clients: Client, **limits: object) -> AdmissionPolicy[Client]:
    return AdmissionPolicy(list(clients), Limits(**{"most": 1, **limits}))  # type: ignore[arg-type]


FULL = "all max_connections=1 places are taken"


def test_clients_are_accepted_while_places_are_free() -> None:
    free = policy()
    assert free.ask(10.0) == Verdict(Answer.ADMIT, None, "")
    assert not free.is_paused(10.0)


def test_accepting_is_paused_while_somebody_waits_for_a_place() -> None:
    full = policy(SILENT)
    assert full.ask(10.0) == Verdict(Answer.WAIT, SILENT, FULL)
    assert full.paused_until == 10.0 + RETRY_SECONDS
    assert full.is_paused(10.0)
    assert not full.is_paused(10.0 + RETRY_SECONDS), "the time is over"
    assert full.paused_until is None


def test_accepting_is_resumed_when_a_client_leaves() -> None:
    full = policy(BUSY)
    assert full.ask(10.0) == Verdict(Answer.WAIT, None, FULL)
    full.freed()
    assert not full.is_paused(10.0)


def test_who_is_turned_away_does_not_pause_accepting() -> None:
    full = policy(BUSY, name="max_clients")
    full.ask(10.0)
    assert not full.is_paused(10.0 + PAUSE_SECONDS)
    assert full.ask(10.0 + PAUSE_SECONDS) == (Answer.TURN_AWAY, None, "all max_clients=1 places are taken")
    assert not full.is_paused(10.0 + PAUSE_SECONDS)


@pytest.mark.parametrize(
    ("allowed", "uid", "may_come"), [(None, 7, True), (frozenset({7}), 7, True), (frozenset({7}), -1, False)]
)
def test_users(allowed: frozenset[int] | None, uid: int, may_come: bool) -> None:
    assert policy(allow_uids=allowed).allows_user(uid) is may_come


HERE = "192.0.2.1"


@pytest.mark.parametrize(
    ("clients", "most", "origin", "answer", "leaver"),
    [
        ([SILENT], None, HERE, Answer.ADMIT, None),
        ([SILENT], 1, None, Answer.ADMIT, None),
        ([SILENT], 1, HERE, Answer.ADMIT, None),
        ([Client("busy", origin=HERE, is_settled=False)], 2, HERE, Answer.ADMIT, None),
        ([Client("busy", origin=HERE, is_settled=False)], 1, HERE, Answer.TURN_AWAY, None),
        ([Client("leaving", origin=HERE, asked_to_leave=1.0)], 1, HERE, Answer.ADMIT, None),
        ([Client("silent", origin=HERE)], 1, HERE, Answer.ADMIT, "silent"),
        ([Client("elsewhere"), Client("busy", origin=HERE, is_settled=False)], 1, HERE, Answer.TURN_AWAY, None),
    ],
)
def test_places_of_one_address(
    clients: list[Client], most: int | None, origin: str | None, answer: Answer, leaver: str | None
) -> None:
    verdict = policy(*clients, most=9, most_of_one_address=most).ask_for_address(origin, 10.0)
    assert (verdict.answer, verdict.leaver and verdict.leaver.name) == (answer, leaver)
    if answer is Answer.TURN_AWAY:
        assert verdict.reason == f"all max_per_address=1 places of {HERE} are taken"


def test_running_out_is_news_until_somebody_is_accepted() -> None:
    anyone = policy()
    assert anyone.ran_out(10.0)
    assert anyone.paused_until == 10.0 + PAUSE_SECONDS
    assert not anyone.ran_out(10.6)
    anyone.accepted()
    assert anyone.ran_out(11.0)


def test_where_the_system_has_nothing_left_the_silent_leave_a_few_at_a_time() -> None:
    silent = [Client(f"silent {came}", came=came / 10) for came in range(6)]
    door = policy(IDLE, *reversed(silent), most=99)
    door.ran_out(10.0)
    assert door.make_room(10.0) == silent[:LEAVING_AT_ONCE]
    assert door.paused_until == 10.0 + RETRY_SECONDS
    for one in silent[:LEAVING_AT_ONCE]:
        one.asked_to_leave = 10.0
    assert door.make_room(10.1) == [], "these have not left yet"
    assert door.make_room(10.0 + LEAVING_SECONDS) == silent[LEAVING_AT_ONCE:], "these hang"


@pytest.mark.parametrize(
    ("clients", "pause"),
    [([], PAUSE_SECONDS), ([IDLE, BUSY], PAUSE_SECONDS), ([JUST_COME], RETRY_SECONDS), ([LEAVING], RETRY_SECONDS)],
)
def test_how_long_accepting_is_paused_where_the_system_has_nothing_left(
    clients: list[Client], pause: float
) -> None:
    door = policy(*clients, most=99)
    door.ran_out(10.0)
    assert door.make_room(10.0) == []
    assert door.paused_until == 10.0 + pause
