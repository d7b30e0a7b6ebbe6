"""What is known of a request beside its packet."""

from __future__ import annotations

import pytest

from packetwire.core.frames import Meta
from packetwire.core.requestcontext import RequestContext


def test_one_of_which_nothing_was_said() -> None:
    context = RequestContext()
    assert context.deadline is None
    assert context.metadata == {}
    assert not context.is_over(1e9)
    assert not context.may_report(1e9)
    with pytest.raises(TypeError):
        context.metadata["key"] = b""  # type: ignore[index]


def test_its_deadline() -> None:
    context = RequestContext(Meta(milliseconds_left=1500), 10.0)
    assert context.deadline == 11.5
    assert [context.is_over(now) for now in (10.0, 11.4, 11.5, 12.0)] == [False, False, True, True]
    assert RequestContext(Meta(milliseconds_left=0), 10.0).is_over(10.0)


def test_it_is_cancelled() -> None:
    context = RequestContext()
    context.cancelled = 1, ""
    assert context.is_over(0.0)


def test_a_handler_that_goes_on() -> None:
    context = RequestContext(Meta(milliseconds_left=0), 10.0)
    context.cancelled = 1, ""
    context.is_detached = True
    assert not context.is_over(100.0)


def test_its_metadata() -> None:
    assert RequestContext(Meta(metadata={"key": b"value"})).metadata == {"key": b"value"}


@pytest.mark.parametrize(
    ("interval", "expected"), [(1000, [True, False, True]), (0, [True] * 3), (None, [False] * 3)]
)
def test_how_often_it_may_report(interval: int | None, expected: list[bool]) -> None:
    context = RequestContext(Meta(progress_interval=interval))
    assert [context.may_report(now) for now in (5.0, 5.5, 6.0)] == expected
