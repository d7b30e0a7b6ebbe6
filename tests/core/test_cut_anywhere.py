"""A conversation with bodies up, down and both ways, and payloads in pieces, which ends at each of its bytes."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from packetwire.core.hello import ALL_FEATURES, Hello
from packetwire.core.requestcontext import RequestContext

from .bulk import Side, check_that_nothing_is_left

BODY, LARGE, CREDIT = 230, 300, 80
UP, DOWN, BOTH, LARGE_UP, LARGE_DOWN = range(5)
EVERY = 13
"""Of the bytes one in so many is tried in the shorter test."""


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PIECES_ABOVE", 150), ("JOIN_LIMIT", 50), ("SHORT_PIECE", 70)):
        monkeypatch.setattr(f"packetwire.core.engine.{name}", value)
    monkeypatch.setattr("packetwire.core.lanes.SHORT_PIECE", 70)


class End(Side):
    """One end: its calls and its answers are always the same. What it sends ends behind `most` bytes."""

    def __init__(self) -> None:
        super().__init__(Random(1), Hello(features=ALL_FEATURES, body_credit=CREDIT, max_piece=1024))
        self.sent = 0
        self.most: int | None = None
        self.reach: Callable[[], None] = lambda: None
        """Called once when so many have been sent."""

    def ask_all(self) -> None:
        self.ask(UP, 5, body_size=BODY)
        self.ask(DOWN, 5, takes=True)
        self.ask(BOTH, 5, body_size=BODY, takes=True, announced=True)
        self.ask(LARGE_UP, LARGE)
        self.ask(LARGE_DOWN, 5)

    def answer(self) -> None:
        for key, (context, kind) in list(self.todo.items()):
            if self.has_read(context):
                self.respond(key, LARGE if kind == LARGE_DOWN else 5, BODY)

    def has_read(self, context: RequestContext | None) -> bool:
        body = None if context is None else context.body
        return body is None or body.at_end or body.failure is not None

    def write(self) -> None:
        data = b"".join(self.engine.data_to_send())
        self.engine.data_sent()
        room = len(data) if self.most is None else max(0, self.most - self.sent)
        if not self.is_cut:
            self.peer.stream += data[:room]
        before = self.sent
        self.sent += len(data)
        if self.most is not None and before <= self.most < self.sent:
            self.reach()

    def step(self) -> bool:
        """All that can be done now; true if there was something."""
        before = self.sent, len(self.stream), len(self.writers), len(self.readers), len(self.todo), self.ended
        read = sum(reader.read for reader in self.readers)
        while self.engine.unsent:
            self.write()
        self.see_end()
        self.read(37)
        self.write_body()
        for reader in list(self.readers):
            while reader.take(None):
                pass
            reader.body.wait()
            if reader.body.at_end or reader.body.failure is not None:
                self.readers.remove(reader)
        read -= sum(reader.read for reader in self.readers)
        self.answer()
        now = self.sent, len(self.stream), len(self.writers), len(self.readers), len(self.todo), self.ended
        return now != before or read != 0 or bool(self.engine.unsent)


def conversation() -> tuple[End, End]:
    a, b = End(), End()
    a.peer, b.peer = b, a
    a.engine.ask_capabilities()
    go_on(a, b)
    a.sent = b.sent = 0
    a.ask_all()
    return a, b


def go_on(a: End, b: End) -> None:
    """Until there is nothing more to be done."""
    while a.step() | b.step():
        pass


def lengths() -> tuple[int, int]:
    """Bytes that each end sends if nothing goes wrong."""
    a, b = conversation()
    go_on(a, b)
    assert [call["told"] for call in a.calls.values()] == [[True]] * 5
    return a.sent, b.sent


def cut(end: End) -> None:
    """The rest gets lost, in both directions."""
    end.is_cut = end.peer.is_cut = True
    end.stream.clear()


def reset(end: End) -> None:
    """The same, and what the far end has not read yet is lost, too."""
    cut(end)
    end.peer.stream.clear()


def stall(end: End) -> None:
    """No byte of this end passes any more, and nobody is told."""


def deaf(end: End) -> None:
    """Writing fails, though the far end is still heard."""
    end.lose_writing()


ENDINGS = (cut, reset, stall, deaf)


@pytest.mark.parametrize("who", [0, 1], ids=["asking", "answering"])
@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.__name__)
def test_it_ends_at_some_bytes(who: int, ending: Callable[[End], None]) -> None:
    for most in range(who, lengths()[who], EVERY):
        end_at(most, who, ending)


@pytest.mark.long
@pytest.mark.parametrize("who", [0, 1], ids=["asking", "answering"])
@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.__name__)
def test_it_ends_at_every_byte(who: int, ending: Callable[[End], None]) -> None:
    for most in range(lengths()[who]):
        end_at(most, who, ending)


def end_at(most: int, who: int, ending: Callable[[End], None]) -> None:
    """The conversation ends behind so many bytes of one end."""
    a, b = ends = conversation()
    end = ends[who]
    end.most = most
    end.reach = lambda: ending(end)
    go_on(a, b)
    if ending is stall:  # nobody waits for ever
        for each in ends:
            each.fail()
    elif ending is deaf:  # whoever cannot write is left alone by the far end
        end.peer.engine.end()
    go_on(a, b)
    check_that_nothing_is_left(a, b)
    for each in ends:
        assert each.ended is not None
        assert str(each.ended.cause)


@pytest.mark.parametrize("who", [0, 1], ids=["asking", "answering"])
def test_it_is_closed_at_any_moment(who: int) -> None:
    """What was asked before is answered; of a body of a request the rest may never be sent."""
    steps = 0
    while True:
        a, b = ends = conversation()
        for _ in range(steps):
            if not a.step() | b.step():
                break
        else:
            ends[who].engine.end()
            go_on(a, b)
            for each in ends:
                each.engine.end()
            go_on(a, b)
            check_that_nothing_is_left(a, b)
            steps += 1
            continue
        return
