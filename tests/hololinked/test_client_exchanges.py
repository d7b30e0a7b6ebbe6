"""Exchanges of a hololinked client at their edges, without a socket and a clock."""

from __future__ import annotations

import pytest

from packetwire.hololinked.clientcore import ClientCore
from packetwire.hololinked.constants import UNREACHABLE_INTERVAL

from .test_clientcore import ask, handshake_reply, operation, reply


@pytest.fixture
def core() -> ClientCore:
    return ClientCore("client", "server")


def test_who_asks_late_to_be_called_is_called_at_once(core: ClientCore) -> None:
    calls: list[str] = []
    message = operation()
    exchange = ask(core, message)
    exchange.when_done(lambda: calls.append("before"))
    core.receive(reply(message), 1)
    exchange.when_done(lambda: calls.append("after"))
    assert calls == ["before", "after"]


def test_an_exchange_is_forgotten_by_its_id(core: ClientCore) -> None:
    message = operation()
    ask(core, message)
    assert core.awaits(message.id)
    core.forget_id(message.id)
    assert not core.awaits(message.id)
    core.forget_id(message.id)
    core.forget_id("which never was")
    assert len(core) == 0
    assert core.next_deadline() is None


def test_a_handshake_without_a_limit_is_repeated_for_ever(core: ClientCore) -> None:
    exchange = core.handshake(0, None)
    for times in range(2, 50):
        due = core.next_deadline()
        assert due is not None
        core.expire(due)
        assert len(core.outbox) == times
    assert not exchange.done
    core.receive(handshake_reply(core), 100)
    assert exchange.done
    assert core.next_deadline() is None


def test_a_handshake_that_nobody_waits_for_any_more_is_not_repeated(core: ClientCore) -> None:
    core.forget(core.handshake(0, 10))
    assert core.next_deadline() is None
    answer = handshake_reply(core)
    core.receive(answer, 1)
    assert core.dropped == 0


def test_without_a_link_only_a_handshake_is_tried_again(core: ClientCore) -> None:
    assert core.unreachable(0) is False
    assert core.next_deadline() is None
    core.handshake(0, 10)
    assert core.unreachable(1) is True
    assert core.next_deadline() == min(1 + UNREACHABLE_INTERVAL, 10)
