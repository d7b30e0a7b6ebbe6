"""How a result ends, and what is said and called then: the same for what `submit` returns and a plain Result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cs.fsm import CancellationError
from cs.result import Result

from packetwire import ConnectionEnded, PacketConnection, Responder

pytestmark = pytest.mark.timeout(30)


@pytest.fixture(params=["ours", "plain"])
def result(request: pytest.FixtureRequest, pending: Callable[[], Any]) -> Any:
    """One that is not done."""
    if request.param == "plain":
        return Result("plain")
    return pending()


@pytest.fixture
def pending(fd_connect: Any) -> Iterator[Callable[[], Any]]:
    """Makes results of requests that nobody answers."""
    responders: list[Responder] = []

    def handler(rq_type: int, flags: int, payload: bytes) -> Responder:
        responders.append(Responder())
        return responders[-1]

    a, _ = fd_connect({"close_timeout": 0.02}, {"request_handler": handler, "close_timeout": 0.02})
    return lambda: a.submit(1)


def test_it_can_be_cancelled_by_an_event(result: Any) -> None:
    assert result.fsm_event("cancel") == "CANCELLED"
    assert result.is_cancelled
    with pytest.raises(CancellationError):
        result()
    with pytest.raises(CancellationError):
        result.exc_info  # noqa: B018


def test_completing_it_by_an_event_is_for_nobody(pending: Callable[[], Any]) -> None:
    result = pending()
    with pytest.raises(ValueError, match="event 'complete' is not for its users"):
        result.fsm_event("complete")
    assert result.fsm_event("dispatch") == "PENDING"
    assert result.is_pending
    result.cancel()


def test_what_is_called_to_complete_it_may_raise(result: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        result(lambda: 1 // 0)
    kind, error, _ = result.exc_info
    assert kind is ZeroDivisionError
    assert isinstance(error, ZeroDivisionError)
    assert result.fsm_state == "DONE"


def test_what_is_called_to_complete_it_gets_all_arguments(pending: Callable[[], Any]) -> None:
    """`timeout` as well: there is nothing to wait for."""
    given: list[Any] = []
    result = pending()
    assert result(lambda *a, **kw: given.append((a, kw)), 1, 2, timeout=3, name="x") is None
    assert given == [((1, 2), {"timeout": 3, "name": "x"})]


def test_a_result_and_an_exception_are_too_much(pending: Callable[[], Any]) -> None:
    result = pending()
    with pytest.raises(ValueError, match="one of"):
        result._complete("result", (KeyError, KeyError("x"), None))
    assert result.is_pending
    result.cancel()


def test_callbacks_that_were_discarded_are_not_called(result: Any) -> None:
    calls: list[str] = []

    def kept(result: Any, transition: Any) -> None:
        calls.append("kept")

    def discarded(result: Any, transition: Any) -> None:
        calls.append("discarded")

    result.fsm_callback("DONE", kept)
    result.fsm_callback("DONE", discarded)
    result.fsm_callback_discard("DONE", discarded)
    result.put("mine")
    assert calls == ["kept"]


def test_nothing_to_discard(pending: Callable[[], Any]) -> None:
    result = pending()
    result.fsm_callback_discard("DONE", print)
    result.cancel()


def test_a_callback_is_told_how_it_ended_by_hand(result: Any) -> None:
    told: list[tuple[str, str, str]] = []
    result.fsm_callback("CANCELLED", lambda r, t: told.append((t.old_state, t.event, t.new_state)))
    result.cancel()
    assert told == [("PENDING", "cancel", "CANCELLED")]


def test_a_callback_for_something_that_was_cancelled_is_no_fault(
    pending: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    def callback(result: Any) -> None:
        raise CancellationError("something else was cancelled", fsm=result)

    calls: list[Any] = []
    result = pending()
    with caplog.at_level(logging.WARNING):
        result.notify(callback)
        result.notify(calls.append)
        result.cancel()
    assert calls == [result]
    assert caplog.text == ""


def test_callbacks_are_called_when_the_connection_ends(fd_ends: Any) -> None:
    states: list[str] = []
    with PacketConnection(fd_ends.a, close_timeout=0.1) as a:
        result = a.submit(1)
        result.notify(lambda r: states.append(r.fsm_state))
        fd_ends.close_b()
        with pytest.raises(ConnectionEnded):
            result()
    assert states == ["CANCELLED"]


def test_no_history_is_kept(pending: Callable[[], Any]) -> None:
    result = pending()
    result.cancel()
    assert result.fsm_history is None
