"""Requests that are given up: the far end is told, in the order of the stream, and each is answered once."""

from __future__ import annotations

from itertools import permutations
from random import Random

import pytest

from packetwire import RequestReceived, ResponseReceived
from packetwire.core.engine import ConnectionEngine
from packetwire.core.events import CancelReceived, Event, PeerCapabilities, event_text
from packetwire.core.frames import FrameType, encode_frame
from packetwire.core.hello import MAX_REASON, Feature, Hello
from packetwire.core.packets import EOF_PACKET, ERQ_PACKET, Packet
from packetwire.core.statuses import UNKNOWN_STATUS, StatusCode, flags_of, status_of

from . import agreed
from .agreed import sent
from .test_capabilities import BROKEN_FRAMES, REQUEST


def agreed_pair() -> tuple[ConnectionEngine, ConnectionEngine]:
    return agreed.agreed_pair(Feature.CANCEL)


@pytest.mark.parametrize("channel", [0, 16])
def test_a_cancel_reaches_the_request(channel: int) -> None:
    a, b = agreed_pair()
    tag = a.request(0, payload=b"hi", channel=channel, waiter="w")
    assert a.cancel(channel, tag, text="no more")
    request, cancel = b.receive(sent(a))
    assert isinstance(request, RequestReceived)
    assert cancel == CancelReceived(channel, tag, StatusCode.CANCELLED, "no more")
    assert event_text(cancel) == f"cancel {channel}:{tag} code=1 'no more'"
    assert b.owed == 1
    assert b.refuse(channel, tag, b"cancelled", StatusCode.CANCELLED, begun=False)
    (response,) = a.receive(sent(b))
    assert response == ResponseReceived(channel, tag, False, 17, b"cancelled", "w")


def test_the_bytes_of_the_specification() -> None:
    a, b = agreed_pair()
    a.request(0, payload=b"hi")
    assert a.cancel(0, 2)
    assert sent(a) == REQUEST + bytes.fromhex("05 02 03 02 06 01")
    b.receive(REQUEST.replace(b"\x02", b"\x07", 1))
    b.refuse(0, 7, b"cancelled", StatusCode.CANCELLED, begun=True)
    assert sent(b) == bytes.fromhex("0b 07 08 63 61 6e 63 65 6c 6c 65 64")
    b.receive(REQUEST.replace(b"\x02", b"\x07", 1))
    b.refuse(0, 7, b"cancelled", StatusCode.CANCELLED, begun=False)
    assert sent(b) == bytes.fromhex("0c 07 81 08 63 61 6e 63 65 6c 6c 65 64")


def test_a_cancel_that_crosses_the_answer_is_dropped() -> None:
    a, b = agreed_pair()
    tag = a.request(0)
    b.receive(sent(a))
    b.respond(0, tag, True)
    assert a.forget(0, tag)
    a.cancel(0, tag)
    assert b.receive(sent(a)) == []
    assert a.receive(sent(b)) == []
    assert a.late_responses == 1


def test_the_result_may_still_come() -> None:
    a, b = agreed_pair()
    tag = a.request(0, waiter="w")
    a.cancel(0, tag)
    b.receive(sent(a))
    b.respond(0, tag, True, 0, b"done")
    assert a.receive(sent(b)) == [ResponseReceived(0, tag, True, 0, b"done", "w")]


def test_a_peer_without_it_is_told_nothing() -> None:
    for engine in (
        ConnectionEngine(),
        agreed.engine_of(own=Hello(features=Feature.CANCEL)),
    ):
        engine.request(0)
        before = sent(engine)
        assert not engine.cancel(0, 2)
        assert sent(engine) == b""
        engine.receive(REQUEST)
        assert engine.refuse(0, 2, b"no", StatusCode.BUSY, begun=False)
        assert sent(engine) == bytes(Packet(is_request=False, tag=2, payload=b"no"))
        assert before


def test_frames_may_follow_the_end_of_requests_but_not_the_end() -> None:
    a, b = agreed_pair()
    tag = a.request(0, waiter="w")
    a.end_requests()
    a.cancel(0, tag)
    data = sent(a)
    assert data.index(bytes(ERQ_PACKET)) < data.index(encode_frame(FrameType.CANCEL, 0, tag, b"\1"))
    assert [type(event).__name__ for event in b.receive(data)] == [
        "RequestReceived",
        "PeerEndedRequests",
        "CancelReceived",
    ]
    b.respond(0, tag, True)
    a.receive(sent(b))
    a.end()
    assert sent(a) == bytes(EOF_PACKET)
    assert not a.cancel(0, tag)
    assert sent(a) == b""


def test_nothing_is_told_when_nothing_can_be_sent() -> None:
    a, _ = agreed_pair()
    tag = a.request(0)
    a.send_failed(BrokenPipeError())
    assert not a.cancel(0, tag)


def test_refusals_of_the_core_say_why() -> None:
    a, b = agreed_pair()
    b.accepts_requests = False
    a.request(0)
    (response,) = a.receive(answer := _answer(a, b))
    assert answer
    assert isinstance(response, ResponseReceived)
    assert status_of(response.flags) == (StatusCode.UNKNOWN, False)
    b.accepts_requests = True
    b.max_inbound = 0
    a.request(0)
    (response,) = a.receive(_answer(a, b))
    assert isinstance(response, ResponseReceived)
    assert status_of(response.flags) == (StatusCode.BUSY, False)


def _answer(a: ConnectionEngine, b: ConnectionEngine) -> bytes:
    b.receive(sent(a))
    return sent(b)


def test_what_the_flags_of_a_refusal_mean() -> None:
    """Flags of a peer that knows no status codes are the application's."""
    a, _ = agreed_pair()
    assert a.status_of(17) == (StatusCode.CANCELLED, False)
    for other in (ConnectionEngine(), agreed.engine_of(), agreed.agreed_pair(Feature.META)[0]):
        assert other.status_of(17) is UNKNOWN_STATUS


@pytest.mark.parametrize("order", list(permutations(["cancel", "answer", "deliver", "forget"])), ids="-".join)
def test_every_order_of_things(order: tuple[str, ...]) -> None:
    """One answer, whatever comes first, and nothing is left."""
    a, b = agreed_pair()
    tag = a.request(0, waiter="w")
    b.receive(sent(a))
    seen: list[Event] = []
    for step in order:
        if step == "cancel":
            assert a.cancel(0, tag)
        elif step == "answer":
            assert b.respond(0, tag, True)
        elif step == "deliver":
            seen += b.receive(sent(a)) + a.receive(sent(b))
        else:
            a.forget(0, tag)
    events_a, events_b = agreed.exchange(a, b)
    seen += events_a + events_b
    responses = [event for event in seen if isinstance(event, ResponseReceived)]
    assert len(responses) + a.late_responses == 1
    cancels = [event for event in seen if isinstance(event, CancelReceived)]
    assert len(cancels) == (order.index("cancel") < order.index("deliver") < order.index("answer"))
    assert a.is_settled
    assert b.is_settled
    assert b.contexts == {}


def test_a_text_of_any_length() -> None:
    a, b = agreed_pair()
    tag = a.request(0)
    assert a.cancel(0, tag, StatusCode.DEADLINE, "\ud800" * 5000)
    cancel = b.receive(sent(a))[-1]
    assert cancel == CancelReceived(0, tag, StatusCode.DEADLINE, "?" * MAX_REASON)


def test_what_is_too_large_for_the_peer_is_not_told() -> None:
    """Else it would end the connection."""
    hello = Hello(features=Feature.CANCEL, max_packet_size=30)
    a, b = agreed.agreed_pair(own_a=Hello(features=Feature.CANCEL), own_b=hello)
    tag = a.request(0)
    assert not a.cancel(0, tag, text="x" * 50)
    assert a.cancel(0, tag, text="x" * 20)
    assert len(b.receive(sent(a))) == 2


def test_cancelling_for_a_channel_that_nobody_serves_any_more() -> None:
    a, b = agreed_pair()
    assert not b.owes(16, 2)
    b.receive(sent(a) + encode_frame(FrameType.CANCEL, 16, 2, b"\1"))
    assert b.is_settled


def test_a_cancel_without_code_is_a_bad_frame() -> None:
    _, b = agreed_pair()
    b.receive(REQUEST)
    (end,) = b.receive(encode_frame(FrameType.CANCEL, 0, 2))
    assert "CANCEL without a code" in event_text(end)
    assert "bad-frame" in BROKEN_FRAMES


@pytest.mark.parametrize("seed", range(5))
def test_cancels_at_random_moments(seed: int) -> None:
    """4,000 requests, most of which are given up: each is answered once, and nothing is left in any table."""
    random = Random(seed)
    a, b = agreed_pair()
    wire_a, wire_b = bytearray(), bytearray()
    asked: dict[int, None] = {}
    answered: dict[int, int] = {}
    queue: list[int] = []
    cancelled: set[int] = set()
    to_ask = 4000

    def happen_at_b(events: list[Event]) -> None:
        for event in events:
            if isinstance(event, CancelReceived):
                assert event.tag in queue
                if random.random() < 0.5:
                    queue.remove(event.tag)
                    b.refuse(0, event.tag, b"cancelled", StatusCode.CANCELLED, begun=False)
            else:
                assert isinstance(event, RequestReceived)
                queue.append(event.tag)

    while to_ask or queue or asked or wire_a or wire_b or a.unsent or b.unsent:
        step = random.random()
        if step < 0.3 and to_ask and a.has_room:
            asked[a.request(1, payload=bytes(random.randrange(20)), waiter=to_ask)] = None
            to_ask -= 1
        elif step < 0.6 and asked:
            tag = random.choice(list(asked)[-20:])
            if tag not in cancelled:
                cancelled.add(tag)
                a.cancel(0, tag)
        elif step < 0.8 and queue:
            tag = queue.pop(random.randrange(len(queue)))
            assert b.respond(0, tag, True)
        elif step < 0.9:
            wire_b += sent(a)
            size = random.randrange(200)
            happen_at_b(b.receive(bytes(wire_b[:size])))
            del wire_b[:size]
        else:
            wire_a += sent(b)
            size = random.randrange(200)
            for event in a.receive(bytes(wire_a[:size])):
                assert isinstance(event, ResponseReceived)
                assert event.ok or event.flags == flags_of(StatusCode.CANCELLED, begun=False)
                assert event.tag not in answered
                answered[event.tag] = event.flags
                del asked[event.tag]
            del wire_a[:size]
    assert len(answered) == 4000
    assert len(cancelled) > 1000
    assert sum(map(bool, answered.values())) > 200
    assert a.is_settled
    assert b.is_settled
    assert not any(isinstance(event, PeerCapabilities) for event in a.receive(b""))
