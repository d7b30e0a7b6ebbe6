"""When a peer counts as gone: by what came and went, and never by time in which this end did not look."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from packetwire.core.engine import ConnectionEngine
from packetwire.core.keepalive import IDLE_KEEPALIVE, LATE, STALL_SECONDS, Keepalive, Verdict
from packetwire.core.packets import EOF_PACKET

NOTHING, PING, SILENT, STALLED = Verdict


class Watched:
    """A connection whose owner looks at it as often as it should."""

    def __init__(self, seconds: float = 16.0, idle: float | None = IDLE_KEEPALIVE, now: float = 1000.0) -> None:
        self.keepalive = Keepalive(seconds, idle, now)
        self.now = self.began = now
        self.received = self.sent = self.unsent = 0

    def look(self, awaits: bool = True) -> Verdict:
        return self.keepalive.look(
            self.now, received=self.received, sent=self.sent, unsent=self.unsent, awaits=awaits
        )

    def verdicts(self, seconds: float, awaits: bool = True) -> Iterator[tuple[float, Verdict]]:
        """What is found for so long, and when."""
        until = self.now + seconds
        while self.now < until:
            self.now += self.keepalive.interval
            verdict = self.look(awaits)
            if verdict is not NOTHING:
                yield round(self.now - self.began, 6), verdict

    def until_end(self, seconds: float = 1000.0, awaits: bool = True) -> list[tuple[float, Verdict]]:
        found = []
        for each in self.verdicts(seconds, awaits):
            found.append(each)
            if each[1] in (SILENT, STALLED):
                break
        return found


def test_a_silent_peer_is_asked_and_then_gone() -> None:
    """From the first look on: it hears of that the peer was there."""
    assert Watched().until_end() == [(18.0, PING), (34.0, SILENT)]


def test_an_idle_peer_has_longer() -> None:
    assert Watched().until_end(awaits=False) == [(122.0, PING), (138.0, SILENT)]


def test_an_idle_peer_may_be_left_alone() -> None:
    watched = Watched(idle=None)
    assert watched.until_end(awaits=False) == []
    watched.began = watched.now
    (asked, first), (gone, second) = watched.until_end()
    assert (first, second) == (PING, SILENT)
    assert 8 <= asked <= 16, "not at once, as it was not listened to before; not later than ever"
    assert gone == asked + 16


def test_any_byte_is_a_sign_of_life() -> None:
    watched = Watched()
    for _ in range(20):
        assert list(watched.verdicts(14)) == []
        watched.received += 1


def test_an_answer_is_enough() -> None:
    watched = Watched()
    pings = 0
    for _, verdict in watched.verdicts(1000):
        assert verdict is PING
        pings += 1
        watched.received += 3
    assert 50 < pings < 60


def test_a_peer_that_takes_nothing() -> None:
    watched = Watched()
    watched.look()
    watched.unsent = 5
    found = []
    for when, verdict in watched.verdicts(1000):
        found.append((when, verdict))
        watched.received += 1  # it is heard all the time
        if verdict is STALLED:
            break
    assert found[-1] == (STALL_SECONDS, STALLED)


def test_a_peer_that_takes_something_now_and_then() -> None:
    watched = Watched()
    watched.unsent = 10_000
    for _ in range(50):
        assert STALLED not in [verdict for _, verdict in watched.verdicts(50)]
        watched.sent += 1
        watched.received += 1


def test_a_peer_has_as_long_to_take_something_as_it_has_to_speak() -> None:
    watched = Watched(seconds=100.0)
    watched.look()
    watched.unsent = 5
    for when, verdict in watched.verdicts(1000):
        watched.received += 1
        if verdict is STALLED:
            assert when == 200
            return
    raise AssertionError("it was not found")


def test_an_end_that_was_paused_asks_before_it_judges() -> None:
    watched = Watched()
    list(watched.verdicts(10))
    watched.now += 3600
    watched.began = watched.now
    assert watched.look() is PING
    assert watched.until_end() == [(16.0, PING), (32.0, SILENT)]


@pytest.mark.parametrize("unsent", [0, 5])
def test_an_end_that_was_paused_after_it_asked(unsent: int) -> None:
    watched = Watched()
    watched.unsent = unsent
    assert next(watched.verdicts(100))[1] is PING
    watched.now += 3600
    watched.began = watched.now
    assert watched.look() is PING
    watched.received += 3
    assert list(watched.verdicts(15)) == []


@pytest.mark.parametrize("seconds", [0.1, 1.0, 2.0, 4.0])
def test_a_pause_of_both_periods_is_noticed_however_short_they_are(seconds: float) -> None:
    watched = Watched(seconds=seconds)
    assert next(watched.verdicts(100))[1] is PING
    watched.now += seconds
    assert watched.look() is PING, "it was asked, but nothing says that its answer would have been heard"


def test_a_look_that_is_a_little_late_counts() -> None:
    watched = Watched()
    watched.look()
    assert watched.keepalive.interval == 2
    watched.now += 2 + LATE
    assert watched.look() is NOTHING
    watched.now += 2 + LATE + 0.1
    assert watched.look() is PING


def test_what_waits_to_be_read_is_a_sign_of_life() -> None:
    """An owner that has not come to read it cannot say that nothing came."""
    watched = Watched()
    assert next(watched.verdicts(100))[1] is PING
    watched.keepalive.forgive(watched.now)
    watched.began = watched.now
    assert watched.until_end() == [(16.0, PING), (32.0, SILENT)]


@pytest.mark.parametrize(("seconds", "interval"), [(15, 1.875), (0.01, 0.01), (1000, LATE), (0.8, 0.1)])
def test_how_often_one_looks(seconds: float, interval: float) -> None:
    assert Keepalive(seconds, None, 0.0).interval == interval


def test_a_short_time_is_kept_everywhere() -> None:
    """For tests, and for who knows the peer: then nothing takes a minute."""
    watched = Watched(seconds=0.1, idle=None)
    watched.look()
    watched.unsent = 5
    found = [each for each in watched.verdicts(0.6) if each[1] is STALLED]
    assert 0.4 <= found[0][0] <= 0.5
    assert Watched(seconds=0.1).until_end(1.0)[-1][1] is SILENT


def test_the_reasons() -> None:
    keepalive = Keepalive(15.0, None, 0.0)
    assert keepalive.text(STALLED) == "it has taken none of the bytes that wait for it for 60 s"
    assert keepalive.text(SILENT) == "it was asked for a sign of life, and sent nothing for 15 s"
    assert keepalive.told(SILENT) == f"this end was unresponsive: {keepalive.text(SILENT)}"


def test_a_look_at_an_engine() -> None:
    """All that counts is in the engine, but for what was written and who waits."""
    engine = ConnectionEngine()
    keepalive = Keepalive(8.0, None, 0.0)
    assert keepalive.look_at(engine, 1.0, 0, 1) is NOTHING
    engine.receive(bytes(EOF_PACKET)[:1])  # even a part of a packet is a sign of life
    assert [keepalive.look_at(engine, float(now), 0, 1) for now in range(2, 11)] == [NOTHING] * 8 + [PING]
    assert keepalive.look_at(engine, 11.0, 0, 0) is NOTHING


def _until_end(watched: Watched, last_taken: float) -> list[tuple[float, Verdict]]:
    """What is found of a peer that sends nothing, and takes 100 bytes between two looks until `last_taken`."""
    found = []
    while not found or found[-1][1] is PING:
        watched.now += watched.keepalive.interval
        if watched.unsent and watched.now - watched.began <= last_taken:
            watched.sent, watched.unsent = watched.sent + 100, watched.unsent - 100
        verdict = watched.look()
        if verdict is not NOTHING:
            found.append((watched.now - watched.began, verdict))
    return found


def test_a_question_that_waits_behind_much_is_not_one_yet() -> None:
    """Over a slow link the PING leaves only when what stands before it was taken: after 100 looks here."""
    watched = Watched()
    watched.unsent = 10_000
    assert _until_end(watched, last_taken=1000.0) == [(18.0, PING), (200.0 + 16.0, SILENT)]


def test_a_peer_that_takes_no_more_before_the_question_is_gone() -> None:
    watched = Watched()
    watched.unsent = 10_000
    assert _until_end(watched, last_taken=50.0) == [(18.0, PING), (50.0 + 16.0, SILENT)]


def test_what_is_sent_behind_the_question_gives_no_time() -> None:
    watched = Watched()
    found = []
    while SILENT not in found:
        watched.now += watched.keepalive.interval
        watched.sent += 100
        found.append(watched.look())
    assert watched.now - watched.began == 18.0 + 16.0
