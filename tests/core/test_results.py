"""What a handler may return, and results that come later."""

from __future__ import annotations

import concurrent.futures
import enum
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from cs.result import Result

from packetwire import BaseRequest, LocalProtocolError, RequestFailed, Responder
from packetwire.core.engine import MAX_RESPONSE_FLAGS
from packetwire.core.requests import Outcome, cancel_deferred, response_parts, subscribe

from .naming import plain


class Colour(enum.IntEnum):
    RED = 3


class Text(str):
    pass


RESULTS: list[tuple[Any, tuple[int, bytes]]] = [
    (None, (0, b"")),
    (0, (0, b"")),
    (7, (7, b"")),
    (True, (1, b"")),
    (False, (0, b"")),
    (Colour.RED, (3, b"")),
    (MAX_RESPONSE_FLAGS, (MAX_RESPONSE_FLAGS, b"")),
    (b"", (0, b"")),
    (b"abc", (0, b"abc")),
    (bytearray(b"abc"), (0, b"abc")),
    (memoryview(b"abcdef")[::2], (0, b"ace")),
    ("", (0, b"")),
    ("héllo", (0, "héllo".encode())),
    (Text("abc"), (0, b"abc")),
    ("a\ud800b", (0, b"a&#55296;b")),
    ((5, b"abc"), (5, b"abc")),
    ((5, bytearray(b"abc")), (5, b"abc")),
    ((5, memoryview(b"abc")), (5, b"abc")),
    ((5, "tuple:é"), (5, "tuple:é".encode())),
    ((Colour.RED, b""), (3, b"")),
    ((True, b"abc"), (1, b"abc")),
]


@pytest.mark.parametrize(
    ("result", "parts"), RESULTS, ids=[plain(re.sub(" at 0x\\w+", "", repr(result))) for result in RESULTS]
)
def test_results(result: Any, parts: tuple[int, bytes]) -> None:
    flags, payload = response_parts(result)
    assert (flags, payload) == parts
    assert type(flags) is int
    assert type(payload) is bytes


BAD_RESULTS: list[tuple[Any, type[Exception], str]] = [
    (-1, LocalProtocolError, f"response flags must be from 0 to {MAX_RESPONSE_FLAGS}, got -1"),
    (MAX_RESPONSE_FLAGS + 1, LocalProtocolError, f"got {MAX_RESPONSE_FLAGS + 1}"),
    ((-5, b""), LocalProtocolError, "got -5"),
    (1.5, TypeError, "got float: 1.5"),
    ([1, b""], TypeError, r"got list: \[1, b''\]"),
    ((), TypeError, r"got tuple: \(\)"),
    ((1,), TypeError, r"got tuple: \(1,\)"),
    ((1, b"", 2), TypeError, r"got tuple: \(1, b'', 2\)"),
    (("1", b""), TypeError, r"got tuple: \('1', b''\)"),
    ((1, None), TypeError, "a response's payload must be bytes-like or str, got NoneType: None"),
    ((1, 2), TypeError, "a response's payload must be bytes-like or str, got int: 2"),
    (object, TypeError, "got type: <class 'object'>"),
    ({"a": "x" * 1000}, TypeError, "got dict: .{100}$"),
]


@pytest.mark.parametrize(("result", "error", "text"), BAD_RESULTS, ids=[plain(text) for *_, text in BAD_RESULTS])
def test_results_that_mean_nothing(result: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        response_parts(result)
    responder = Responder()
    with pytest.raises(error, match=text):
        responder.respond(result)
    assert not responder.answered
    responder.respond(1)


def test_what_a_handler_must_return_is_said() -> None:
    with pytest.raises(TypeError) as caught:
        response_parts(1.5)
    what = "None, an int, bytes-like, str, (int, bytes-like) or a deferred result"
    assert str(caught.value) == f"a handler must return {what}, got float: 1.5"


# Responder


class Heard:
    """A callback that keeps the outcomes it got."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def __call__(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    @property
    def parts(self) -> tuple[int, bytes]:
        (outcome,) = self.outcomes
        return response_parts(outcome())

    @property
    def error(self) -> BaseException:
        (outcome,) = self.outcomes
        try:
            result = outcome()
        except BaseException as error:
            return error
        raise AssertionError(f"no error but {result!r}")


def before(responder: Responder, heard: Heard, answer: Callable[[], None]) -> None:
    responder.when_done(heard)
    assert heard.outcomes == []
    answer()


def after(responder: Responder, heard: Heard, answer: Callable[[], None]) -> None:
    answer()
    responder.when_done(heard)


@pytest.mark.parametrize("subscribed", [before, after])
@pytest.mark.parametrize(
    ("result", "parts"), RESULTS, ids=[plain(re.sub(" at 0x\\w+", "", repr(result))) for result in RESULTS]
)
def test_a_responder_answers(subscribed: Callable[..., None], result: Any, parts: tuple[int, bytes]) -> None:
    responder, heard = Responder(), Heard()
    assert not responder.answered
    subscribed(responder, heard, lambda: responder.respond(result))
    assert responder.answered
    assert heard.parts == parts


@pytest.mark.parametrize("subscribed", [before, after])
@pytest.mark.parametrize("error", [KeyError("missing"), "a text", KeyboardInterrupt()])
def test_a_responder_fails(subscribed: Callable[..., None], error: BaseException | str) -> None:
    responder, heard = Responder(), Heard()
    subscribed(responder, heard, lambda: responder.fail(error))
    assert responder.answered
    if isinstance(error, str):
        assert isinstance(heard.error, RuntimeError)
        assert str(heard.error) == "a text"
    else:
        assert heard.error is error


@pytest.mark.parametrize("first", [lambda r: r.respond(1), lambda r: r.fail("no")], ids=["respond", "fail"])
@pytest.mark.parametrize("second", [lambda r: r.respond(2), lambda r: r.fail("no!")], ids=["respond", "fail"])
@pytest.mark.parametrize("subscribed", [True, False])
def test_a_responder_answers_once(
    first: Callable[[Responder], None], second: Callable[[Responder], None], subscribed: bool
) -> None:
    responder, heard = Responder(), Heard()
    if subscribed:
        responder.when_done(heard)
    first(responder)
    with pytest.raises(LocalProtocolError, match=r"^this request was answered before$"):
        second(responder)
    if not subscribed:
        responder.when_done(heard)
    assert len(heard.outcomes) == 1


@pytest.mark.parametrize("answered", [True, False])
def test_a_responder_belongs_to_one_request(answered: bool) -> None:
    responder, heard, other = Responder(), Heard(), Heard()
    responder.when_done(heard)
    if answered:
        responder.respond(1)
    with pytest.raises(LocalProtocolError, match=r"^this Responder answers another request already$"):
        responder.when_done(other)
    if not answered:
        responder.respond(1)
    assert heard.parts == (1, b"")
    assert other.outcomes == []


def test_of_two_threads_that_both_find_a_responder_complete_one_calls() -> None:
    """Who gives the answer and who subscribes may each see that both are there."""
    responder, heard = Responder(), Heard()
    responder.when_done(heard)
    responder.respond(1)
    responder._fire()
    assert heard.parts == (1, b"")


def test_an_answer_is_taken_when_it_is_given() -> None:
    responder, heard = Responder(), Heard()
    payload = bytearray(b"abc")
    responder.respond(payload)
    payload[:] = b"xyz"
    responder.when_done(heard)
    assert heard.parts == (0, b"abc")


def race(threads: int) -> tuple[list[int], Heard]:
    """Answer one Responder from many threads at once, and subscribe to it from one more."""
    responder, heard = Responder(), Heard()
    start = threading.Barrier(threads + 1)
    winners: list[int] = []

    def answer(number: int) -> None:
        start.wait()
        try:
            responder.respond(number)
        except LocalProtocolError:
            return
        winners.append(number)

    def listen() -> None:
        start.wait()
        responder.when_done(heard)

    racing = [threading.Thread(target=answer, args=(number,)) for number in range(threads)]
    racing.append(threading.Thread(target=listen))
    for thread in racing:
        thread.start()
    for thread in racing:
        thread.join()
    return winners, heard


@pytest.mark.timeout(60)
@pytest.mark.parametrize("threads", [2, 8])
def test_many_threads_answer_and_one_wins(threads: int) -> None:
    """The callback is given by one of the racing threads too, so every order of the two steps comes up."""
    for _ in range(200):
        winners, heard = race(threads)
        (winner,) = winners
        assert heard.parts == (winner, b"")


# subscribe


DEFERRED: dict[str, tuple[Callable[[], Any], Callable[[Any, Any], None], Callable[[Any, BaseException], None]]] = {
    "future": (concurrent.futures.Future, lambda d, v: d.set_result(v), lambda d, e: d.set_exception(e)),
    "Result": (
        Result,
        lambda d, v: setattr(d, "result", v),
        lambda d, e: setattr(d, "exc_info", (type(e), e, e.__traceback__)),
    ),
    "Responder": (Responder, lambda d, v: d.respond(v), lambda d, e: d.fail(e)),
}
"""What makes a deferred result, completes it, and fails it."""


@pytest.mark.parametrize("done", [True, False], ids=["done before", "done after"])
@pytest.mark.parametrize("kind", DEFERRED)
def test_subscribe_to_a_result(kind: str, done: bool) -> None:
    make, complete, _ = DEFERRED[kind]
    deferred, heard = make(), Heard()
    if done:
        complete(deferred, (5, b"abc"))
    assert subscribe(deferred, heard) is True
    if not done:
        assert heard.outcomes == []
        complete(deferred, (5, b"abc"))
    assert heard.parts == (5, b"abc")


@pytest.mark.parametrize("done", [True, False], ids=["failed before", "failed after"])
@pytest.mark.parametrize("kind", DEFERRED)
def test_subscribe_to_a_failure(kind: str, done: bool) -> None:
    make, _, fail = DEFERRED[kind]
    deferred, heard, error = make(), Heard(), KeyError("missing")
    if done:
        fail(deferred, error)
    assert subscribe(deferred, heard) is True
    if not done:
        fail(deferred, error)
    assert heard.error is error


@pytest.mark.parametrize("kind", ["future", "Result"])
def test_subscribe_to_what_is_cancelled(kind: str) -> None:
    deferred, heard = DEFERRED[kind][0](), Heard()
    subscribe(deferred, heard)
    deferred.cancel()
    assert "Cancel" in type(heard.error).__name__


@pytest.mark.parametrize(
    "result", [*(result for result, _ in RESULTS), *(result for result, *_ in BAD_RESULTS), Heard, len]
)
def test_what_is_not_deferred_is_left_alone(result: Any) -> None:
    heard = Heard()
    assert subscribe(result, heard) is False
    assert heard.outcomes == []


# results that nobody waits for any more


def test_a_responder_is_told_that_it_was_cancelled() -> None:
    responder = Responder()
    told: list[str] = []
    responder.on_cancel(lambda: told.append("first"))
    responder.on_cancel(lambda: told.append("second"))
    assert not responder.cancelled
    cancel_deferred(responder)
    assert responder.cancelled
    assert told == ["second"], "the last one counts"
    cancel_deferred(responder)
    assert told == ["second"], "once"
    responder.on_cancel(lambda: told.append("late"))
    assert told == ["second", "late"], "at once, if it was cancelled before"
    assert not responder.answered
    responder.respond(b"all the same")
    assert responder.answered


def test_a_responder_without_a_callback() -> None:
    responder = Responder()
    responder.cancel()
    assert responder.cancelled


def test_a_responder_is_cancelled_while_the_callback_is_given() -> None:
    """From both sides at the same time: it is called once."""
    for _ in range(200):
        responder, told, start = Responder(), list[int](), threading.Barrier(2)

        def cancel(responder: Responder = responder, start: threading.Barrier = start) -> None:
            start.wait()
            responder.cancel()

        thread = threading.Thread(target=cancel, daemon=True)
        thread.start()
        start.wait()
        responder.on_cancel(lambda told=told: told.append(1))  # type: ignore[misc]
        thread.join(30)
        assert told == [1]


def test_other_deferred_results_are_cancelled() -> None:
    future = concurrent.futures.Future[None]()
    cancel_deferred(future)
    assert future.cancelled()
    result = Result()
    cancel_deferred(result)
    assert result.fsm_state == "CANCELLED"
    cancel_deferred(object())


def test_a_responder_that_is_answered_is_not_told() -> None:
    responder, told = Responder(), list[str]()
    responder.on_cancel(lambda: told.append("cancelled"))
    responder.respond(b"done")
    cancel_deferred(responder)
    assert not responder.cancelled
    assert told == []


def test_a_failure_is_raised_as_it_is_unless_its_class_says_otherwise() -> None:
    failure = RequestFailed(0, b"text")
    assert BaseRequest[bytes]().decode_failed_response(failure) is failure
