"""Requests whose answers may be lost: tags, deadlines, sending again."""

from __future__ import annotations

from typing import Any

import pytest

from packetwire import LimitExceeded, LocalProtocolError, Packet
from packetwire.core.pending import PendingRequests
from packetwire.core.settings import DEFAULT_MAX_PACKET_SIZE


class Future:
    cancelled = False


def is_cancelled(future: Future) -> bool:
    return future.cancelled


def pending(attempts: int = 3, most: int = 4) -> PendingRequests[Future]:
    return PendingRequests(attempts, most)


def ask(
    requests: PendingRequests[Future], future: Future, deadline: float = 30.0, **other: Any
) -> tuple[int, bytes]:
    arguments = {"rq_type": 1, "flags": 0, "payload": b"x", "channel": 0, "now": 0.0, "idempotent": False, **other}
    return requests.ask(future, deadline=deadline, **arguments)


def response(tag: int) -> Packet:
    return Packet(is_request=False, tag=tag, flags=1)


def test_a_request_gets_its_answer_once() -> None:
    requests, future = pending(), Future()
    tag, packet = ask(requests, future)
    assert packet == bytes(Packet(is_request=True, tag=tag, rq_type=2, payload=b"x"))
    assert requests.answer(response(tag)) is future
    assert requests.answer(response(tag)) is None
    assert requests.answer(Packet(is_request=True, tag=tag, rq_type=1)) is None
    assert requests.late_responses == 2
    assert requests.due(99.0, is_cancelled) == ([], {}, None)


def test_tags_only_go_up() -> None:
    requests = pending()
    assert [ask(requests, Future())[0] for _ in range(3)] == [2, 3, 4]


def test_room() -> None:
    requests = pending(most=1)
    tag, _ = ask(requests, Future())
    assert requests.is_full
    requests.forget(tag)
    requests.forget(tag)
    assert not requests.is_full
    assert len(requests) == 0


def test_a_request_that_is_late() -> None:
    requests, first, second = pending(), Future(), Future()
    one, _ = ask(requests, first, 10.0)
    other, _ = ask(requests, second, 20.0)
    assert requests.due(4.0, is_cancelled) == ([], {}, 6.0)
    assert requests.due(10.0, is_cancelled) == ([], {one: first}, 10.0)
    assert requests.futures == [second]
    assert requests.due(21.0, is_cancelled) == ([], {other: second}, None)


def test_an_idempotent_request_is_sent_as_often_as_was_said() -> None:
    requests, future = pending(attempts=3), Future()
    tag, packet = ask(requests, future, 30.0, idempotent=True)
    assert requests.due(9.0, is_cancelled) == ([], {}, 1.0)
    assert requests.due(10.0, is_cancelled) == ([packet], {}, 10.0)
    assert requests.due(21.0, is_cancelled) == ([packet], {}, 9.0)
    assert requests.due(30.0, is_cancelled) == ([], {tag: future}, None)


def test_with_one_attempt_nothing_is_sent_again() -> None:
    requests = pending(attempts=1)
    ask(requests, Future(), 30.0, idempotent=True)
    assert requests.due(29.0, is_cancelled) == ([], {}, 1.0)


def test_who_has_given_up_is_sent_nothing_again() -> None:
    requests, future = pending(), Future()
    tag, _ = ask(requests, future, 30.0, idempotent=True)
    future.cancelled = True
    assert requests.due(10.0, is_cancelled) == ([], {tag: future}, None)


def test_the_end() -> None:
    requests, futures = pending(), [Future(), Future()]
    for future in futures:
        ask(requests, future)
    assert requests.take_all() == futures
    assert len(requests) == 0
    assert requests.due(99.0, is_cancelled) == ([], {}, None)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"rq_type": -1}, LocalProtocolError),
        ({"channel": 1}, LocalProtocolError),
        ({"payload": "text"}, TypeError),
        ({"payload": bytes(DEFAULT_MAX_PACKET_SIZE)}, LimitExceeded),
    ],
)
def test_what_cannot_be_asked_leaves_nothing(arguments: dict[str, Any], error: type[Exception]) -> None:
    requests = pending()
    with pytest.raises(error):
        ask(requests, Future(), **arguments)
    assert len(requests) == 0
    assert ask(requests, Future())[0] == 2


@pytest.mark.parametrize(("attempts", "most"), [(0, 1), (1, 0)])
def test_bounds_that_make_no_sense(attempts: int, most: int) -> None:
    with pytest.raises(LocalProtocolError, match="must be more than 0"):
        PendingRequests[Future](attempts, most)
