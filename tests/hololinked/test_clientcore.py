"""What a client does, without a socket and a clock."""

from __future__ import annotations

from typing import Any

import pytest

from packetwire.errors import ConnectionEnded, LimitExceeded, LocalProtocolError, RequestTimeout
from packetwire.hololinked import (
    HandshakeFailed,
    InvalidMessage,
    RequestMessage,
    ResponseMessage,
    SerializableData,
    ServerExecutionContext,
)
from packetwire.hololinked.clientcore import ClientCore, Exchange, response_timeout
from packetwire.hololinked.constants import UNCOLLECTED_SECONDS


def operation(value: Any = None, **context: Any) -> RequestMessage:
    return RequestMessage.craft_from_arguments(
        "server", "client", "thing", "object", "do", SerializableData(value), server_execution_context=context
    )


def reply(to: RequestMessage, value: Any = None, kind: str = "REPLY") -> list[bytes]:
    """A response as the client's ROUTER receives it."""
    frames = ResponseMessage.craft_with_message_type(to, kind, SerializableData(value)).byte_array
    return [b"server", *frames[1:]]


def ask(core: ClientCore, message: RequestMessage, timeout: float | None = 10) -> Exchange:
    exchange = core.request(message, 0, timeout)
    assert exchange is not None
    return exchange


def handshake_reply(core: ClientCore) -> list[bytes]:
    return reply(RequestMessage(core.outbox[-1]), kind="HANDSHAKE")


@pytest.fixture
def core() -> ClientCore:
    return ClientCore("client", "server")


def test_responses_find_their_requests_in_any_order(core: ClientCore) -> None:
    messages = [operation(number) for number in range(20)]
    exchanges = [ask(core, message) for message in messages]
    assert [frames[0] for frames in core.outbox] == [b"server"] * 20
    for number in reversed(range(20)):
        core.receive(reply(messages[number], number * 10), 1)
    for number, exchange in enumerate(exchanges):
        assert exchange.result().payload.deserialize() == number * 10
        core.forget(exchange)
    assert len(core) == 0
    assert core.next_deadline() is None


def test_the_timeout_ends_the_exchange(core: ClientCore) -> None:
    message = operation()
    exchange = ask(core, message, timeout=5)
    assert core.next_deadline() == 5
    core.expire(4.9)
    assert not exchange.done
    core.limit(exchange, 7)
    core.expire(5)
    with pytest.raises(RequestTimeout, match="'server' did not answer in time"):
        exchange.result()
    core.forget(exchange)
    core.receive(reply(message), 6)
    assert core.dropped == 1, "it is too late"
    assert len(core) == 0
    assert core.next_deadline() is None


def test_the_timeout_of_who_waits_counts_if_it_is_less(core: ClientCore) -> None:
    exchange = ask(core, operation(), timeout=None)
    assert core.next_deadline() is None
    core.limit(exchange, 3)
    assert core.next_deadline() == 3


def test_what_nobody_collects_is_forgotten(core: ClientCore) -> None:
    message = operation()
    ask(core, message, timeout=1)
    core.receive(reply(message), 0.5)
    core.expire(UNCOLLECTED_SECONDS)
    assert len(core) == 1
    core.expire(UNCOLLECTED_SECONDS + 1)
    assert len(core) == 0
    ask(core, operation(), timeout=1)
    core.expire(1)
    core.expire(2 + UNCOLLECTED_SECONDS)
    assert len(core) == 0, "neither is a timeout"
    with pytest.raises(LocalProtocolError, match="no response is awaited"):
        core.find(message.id)


def test_a_response_is_waited_for_once(core: ClientCore) -> None:
    exchange = ask(core, operation())
    exchange.waited_for = True
    with pytest.raises(LocalProtocolError, match="waited for already"):
        core.find(exchange.message_id)


def test_a_second_response_is_dropped(core: ClientCore) -> None:
    message = operation()
    exchange = ask(core, message)
    core.receive(reply(message, 1), 0)
    core.receive(reply(message, 2), 0)
    assert exchange.result().payload.deserialize() == 1
    assert core.dropped == 1


def test_one_way_has_no_exchange(core: ClientCore) -> None:
    message = operation(oneway=True)
    assert core.request(message, 0, 5) is None
    assert not core.awaits(message.id)
    assert len(core.outbox) == 1
    assert core.next_deadline() is None


def test_bounds() -> None:
    core = ClientCore("client", "server", max_outstanding=2, max_message_size=1000)
    first = ask(core, operation())
    ask(core, operation())
    with pytest.raises(LimitExceeded, match="2 requests"):
        core.request(operation(), 0, 5)
    core.forget(first)
    ask(core, operation())
    with pytest.raises(LimitExceeded, match="1000 bytes"):
        core.request(operation("x" * 1000), 0, 5)


@pytest.mark.parametrize("frames", [[], [b""], [b"server", b"", b"{}"], [b"server", b"", b"nothing", b"", b""]])
def test_what_is_no_response_is_dropped(core: ClientCore, frames: list[bytes]) -> None:
    exchange = ask(core, operation())
    core.receive(frames, 0)
    assert core.dropped == 1
    assert not exchange.done


def test_a_response_that_is_broken_ends_its_exchange(core: ClientCore) -> None:
    message = operation()
    exchange = ask(core, message)
    core.receive(reply(message)[:4], 0)
    with pytest.raises(InvalidMessage, match="5 frames"):
        exchange.result()


def test_a_lost_server_ends_all_exchanges(core: ClientCore) -> None:
    done = operation()
    exchanges = [ask(core, done), ask(core, operation()), ask(core, operation(), timeout=None)]
    handshake = core.handshake(0, 100)
    core.receive(reply(done), 0)
    core.lose(lambda: ConnectionEnded("gone"), 0)
    assert exchanges[0].result().type == "REPLY"
    errors = set()
    for exchange in exchanges[1:]:
        with pytest.raises(ConnectionEnded, match="gone") as raised:
            exchange.result()
        errors.add(id(raised.value))
    assert len(errors) == 2, "each has its own"
    assert not handshake.done
    core.lose(lambda: ConnectionEnded("exit"), 0, handshake=True)
    with pytest.raises(ConnectionEnded, match="exit"):
        handshake.result()


# handshake


def test_a_handshake_is_repeated_until_it_is_answered(core: ClientCore) -> None:
    exchange = core.handshake(0, 60)
    assert core.handshake(0, 60) is exchange, "there is one at a time"
    assert core.next_deadline() == 0.5
    for count in range(1, 10):
        core.expire(count / 2)
        assert len(core.outbox) == count + 1
    assert len({RequestMessage(frames).id for frames in core.outbox}) == 10
    core.receive(handshake_reply(core), 5)
    assert exchange.done
    assert not core.handshaking
    assert core.next_deadline() is None
    core.receive(handshake_reply(core), 5)  # several answers are fine
    assert core.dropped == 0


def test_a_handshake_without_a_link_is_tried_again_soon(core: ClientCore) -> None:
    core.handshake(0, 60)
    core.unreachable(0)
    assert core.next_deadline() == pytest.approx(0.02)


def test_a_handshake_fails_in_time(core: ClientCore) -> None:
    told: list[str] = []
    exchange = core.handshake(0, 1)
    exchange.when_done(lambda: told.append("one"))
    exchange.when_done(lambda: told.append("two"))
    core.expire(1)
    with pytest.raises(HandshakeFailed, match="did not answer the handshake") as failure:
        exchange.result()
    assert isinstance(failure.value, ConnectionError)
    assert isinstance(failure.value, RequestTimeout)
    assert told == ["one", "two"]
    assert core.next_deadline() is None


def test_other_responses_may_come_before_that_of_the_handshake(core: ClientCore) -> None:
    message = operation()
    exchange = ask(core, message)
    handshake = core.handshake(0, 5)
    core.receive(reply(message, "first"), 0)
    assert not handshake.done
    assert exchange.result().payload.deserialize() == "first"


def test_how_long_a_client_waits() -> None:
    assert response_timeout(ServerExecutionContext(1, 2.5)) == 8.5
    assert response_timeout(ServerExecutionContext(None, 2.5)) is None
    assert response_timeout(ServerExecutionContext(1, None)) is None


def test_idle_is_when_nothing_is_to_come(core: ClientCore) -> None:
    def ends() -> list[Exchange]:
        """One exchange each that is answered, times out, is forgotten, lost; all were open at the same time."""
        answered, late, forgotten, lost = (operation() for _ in range(4))
        exchanges = [ask(core, answered), ask(core, late, timeout=1), ask(core, forgotten), ask(core, lost)]
        core.receive(reply(answered), 0)
        core.expire(1)
        core.forget(exchanges[2])
        core.receive(reply(forgotten), 1)
        assert not core.idle
        core.lose(lambda: ConnectionEnded("gone"), 1)
        return exchanges

    assert core.idle
    core.request(operation(oneway=True), 0, 5)
    assert core.idle
    for exchange in ends():
        assert core.idle
        core.forget(exchange)
    assert core.idle
    core.handshake(0, 5)
    assert not core.idle
    core.receive(handshake_reply(core), 0)
    assert core.idle
