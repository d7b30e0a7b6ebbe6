"""Bodies: bytes that stream to and fro before a response, each as far as its credit goes."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from packetwire import (
    BodyEnded,
    CapabilityMissing,
    ChildExited,
    ConnectionEnded,
    LimitExceeded,
    LocalProtocolError,
    Packet,
    RemoteProtocolError,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
)
from packetwire.core.bodies import MOST_UNSENT, CallBodies, ReceivingBody, SendingBody
from packetwire.core.engine import BODY_LOST, ConnectionEngine
from packetwire.core.events import CancelReceived, Event
from packetwire.core.frames import FrameType, Meta, encode_frame, encode_meta
from packetwire.core.hello import ALL_FEATURES, Feature, Hello
from packetwire.core.lanes import SHORT_PIECE
from packetwire.core.packets import EOF_PACKET, ERQ_PACKET
from packetwire.core.receivingbody import MANY, MAX_WINDOW, POOL, SMALL
from packetwire.core.requestcontext import RequestContext
from packetwire.core.sendingbody import LEAST_CREDIT
from packetwire.core.statuses import StatusCode

from .agreed import Waiter, agreed_pair, exchange, sent
from .test_lanes import LARGE, all_batches, parsed

CREDIT = Hello().body_credit


class Call:
    """A request with bodies, at both ends."""

    def __init__(
        self,
        a: ConnectionEngine,
        b: ConnectionEngine,
        *,
        body: bool = True,
        takes: bool = True,
        size: int | None = None,
        credit: int | None = None,
        channel: int = 0,
        payload: bytes = b"hi",
    ) -> None:
        self.a, self.b, self.channel = a, b, channel
        self.waiter = Waiter()
        self.bodies = CallBodies()
        first = a.first_credit if credit is None else credit
        meta = Meta(has_body=body, body_size=size, response_credit=first if takes else None)
        self.tag = a.ask_with(meta, 7, 0, payload, channel, self.waiter, self.bodies)
        self.key = (channel, self.tag) if channel else self.tag

    @property
    def context(self) -> RequestContext:
        return self.b.contexts[self.key]

    @property
    def request(self) -> SendingBody:
        assert self.bodies.request is not None
        return self.bodies.request

    @property
    def response(self) -> ReceivingBody:
        assert self.bodies.response is not None
        return self.bodies.response

    @property
    def body(self) -> ReceivingBody:
        body = self.context.body
        assert body is not None
        return body

    @property
    def response_body(self) -> SendingBody:
        body = self.context.response_body
        assert body is not None
        return body


def begun(**options: Any) -> Call:
    """A call that has come to the other end."""
    a, b = agreed_pair()
    call = Call(a, b, **options)
    (event,) = b.receive(sent(a))
    assert isinstance(event, RequestReceived)
    return call


def read_all(body: ReceivingBody) -> bytes:
    data = b""
    while chunk := body.take():
        data += chunk
    return data


@pytest.mark.parametrize("channel", [0, 16])
def test_a_request_with_both(channel: int) -> None:
    a, b = agreed_pair()
    call = Call(a, b, channel=channel)
    call.request.write(b"abc")
    call.request.finish()
    call.request.finish()
    (event,) = b.receive(sent(a))
    assert event == RequestReceived(channel, call.tag, 7, 0, b"hi")
    assert (call.body.take(2), call.body.available, call.body.at_end) == (b"ab", 1, False)
    assert (call.body.take(), call.body.take(), call.body.at_end) == (b"c", b"", True)
    assert call.body.failure is None
    body = call.response_body
    assert body.write(b"xyz") == 3
    b.respond(channel, call.tag, True, 0, b"done")
    assert b.contexts == {}
    a.receive_to(sent(b), list.clear, [])  # type: ignore[arg-type]
    assert call.waiter.told == [(True, 0, b"done")]
    assert (call.response.take(), call.response.at_end, call.response.is_whole) == (b"xyz", True, True)
    assert isinstance(call.request.ended, BodyEnded)
    for engine in (a, b):
        assert engine.bodies is not None
        assert engine.bodies.exchanges == engine.bodies.held == engine.unsent_octets == 0
        assert engine.bodies.windows.open == {}
        assert engine.bodies.trailing == {}
        assert engine.is_settled


def test_the_bytes_on_the_wire() -> None:
    a, b = agreed_pair()
    call = Call(a, b)
    call.request.write(b"abc")
    call.request.finish()
    data = sent(a)
    assert data.hex(" ") == (
        "0b 02 03 02 01 02 00 03 03 90 80 00 05 02 02 08 68 69 07 02 03 02 03 61 62 63 04 02 03 02 04"
    )
    b.receive(data)
    call.body.take()
    call.response_body.write(b"xyz")
    b.respond(0, 2, True)
    assert sent(b).hex(" ") == "07 02 07 02 03 78 79 7a 02 02 04"


def test_only_what_was_announced_is_there() -> None:
    call = begun(takes=False)
    assert call.bodies.response is None
    assert call.context.response_body is None
    call = begun(body=False)
    assert call.bodies.request is None
    assert call.context.body is None
    call.b.respond(0, call.tag, True)
    assert len(call.a.receive(sent(call.b))) == 1
    assert call.response.at_end


# credit


def test_a_sender_stops_where_its_credit_ends() -> None:
    call = begun()
    assert call.request.write(bytes(MOST_UNSENT)) == MOST_UNSENT
    assert call.request.write(bytes(100_000)) == MOST_UNSENT + 100_000
    assert call.a.owed_bytes > MOST_UNSENT
    call.b.receive(sent(call.a))
    assert call.request.unsent == MOST_UNSENT + 100_000 - CREDIT
    assert call.request.waits_for_credit
    assert call.a.unsent == []
    assert call.body.available == call.b.owed_bytes - 2 == CREDIT
    # a window is granted anew when half of it is taken
    taken = len(call.body.take(CREDIT // 2 - 1))
    while taken < CREDIT // 2 - 1:
        taken += len(call.body.take(CREDIT // 2 - 1 - taken))
    assert call.b.unsent == []
    call.body.take(1)
    credit = sent(call.b)
    assert credit == encode_frame(FrameType.CREDIT, 0, call.tag, b"\x88\x80\x00", of_receiver=True)
    call.a.receive(credit)
    assert not call.request.waits_for_credit
    exchange(call.a, call.b)
    assert call.request.unsent == 0
    assert call.request.credit == CREDIT // 2 - 100_000


def test_a_consumer_that_waits_is_granted_all_that_it_took() -> None:
    call = begun(credit=40_000)
    body = call.response_body
    body.write(bytes(19_000))
    call.a.receive(sent(call.b))
    assert len(read_all(call.response)) == 19_000
    call.response.wait()
    assert call.a.unsent == [], "the peer has credit enough"
    body.write(bytes(7_000))
    call.a.receive(sent(call.b))
    taken = call.response.take(900)
    assert len(taken) == 900
    call.response.wait()
    assert call.a.unsent != []
    call.response.wait()
    call.b.receive(sent(call.a))
    assert body.credit == 40_000 - 7_000 + 900


def test_a_sender_waits_for_some_credit_unless_less_is_left() -> None:
    call = begun(credit=CREDIT)
    body = call.response_body
    body.write(bytes(CREDIT))
    sent(call.b)
    body.write(bytes(LEAST_CREDIT))
    for credit, leaves in ((LEAST_CREDIT - 1, False), (1, True)):
        body.grant(credit)
        assert body.waits_for_credit is not leaves
    sent(call.b)
    body.write(b"abc")
    body.grant(2)
    assert body.waits_for_credit
    body.grant(1)
    assert not body.waits_for_credit


def test_a_small_first_credit_is_enough_to_begin() -> None:
    call = begun(credit=1)
    body = call.response_body
    body.write(b"abc")
    data = b""
    for _ in range(3):
        exchange(call.b, call.a)
        data += call.response.take()
        call.response.wait()
    assert data == b"abc"
    with pytest.raises(LocalProtocolError, match="1 or more"):
        Call(call.a, call.b, credit=0)
    assert len(call.a.waiters) == 1


def test_the_window_grows_while_its_consumer_keeps_up() -> None:
    call = begun(takes=False)
    call.request.write(bytes(8 << 20))
    while call.request.unsent:
        exchange(call.a, call.b)
        read_all(call.body)
        call.body.wait()
    assert call.body.window == MAX_WINDOW
    call.request.finish()
    exchange(call.a, call.b)
    read_all(call.body)
    assert call.b.bodies is not None
    assert call.b.bodies.windows.open == {}


def test_a_window_does_not_grow_beyond_the_pool() -> None:
    a, b = agreed_pair()
    calls = [Call(a, b, takes=False) for _ in range(40)]
    b.receive(sent(a))
    for _ in range(4):
        for call in calls:
            call.request.write(bytes(MAX_WINDOW))
        exchange(a, b)
        for call in calls:
            read_all(call.body)
    grown = [call.body.window - CREDIT for call in calls]
    assert sum(grown) == POOL
    assert max(grown) == MAX_WINDOW - CREDIT


def test_a_large_first_window_stays() -> None:
    own = Hello(features=ALL_FEATURES, body_credit=2 * MAX_WINDOW)
    a, b = agreed_pair(own_b=own)
    call = Call(a, b, takes=False)
    call.request.write(bytes(2 * MAX_WINDOW))
    b.receive(sent(a))
    read_all(call.body)
    assert call.body.window == 2 * MAX_WINDOW


def test_no_more_is_granted_than_was_announced() -> None:
    call = begun(size=CREDIT + 10, takes=False)
    call.request.write(bytes(CREDIT + 10))
    call.request.finish()
    exchange(call.a, call.b)
    while not call.body.at_end:
        read_all(call.body)
        call.body.wait()
        exchange(call.b, call.a)
    assert call.body.received == CREDIT + 10
    assert call.body.size == CREDIT + 10


def test_an_unread_body_stops_nobody() -> None:
    a, b = agreed_pair()
    stuck, other = Call(a, b, takes=False), Call(a, b, takes=False)
    b.receive(sent(a))
    stuck.request.write(bytes(2 * CREDIT))
    other.request.write(bytes(4 << 20))
    while other.request.unsent:
        exchange(a, b)
        read_all(other.body)
        other.body.wait()
        assert stuck.body.available <= CREDIT
    a.request(1)
    assert len(exchange(a, b)[1]) == 1


def test_bodies_in_turn_and_short_pieces_beside_others() -> None:
    a, b = agreed_pair()
    calls = [Call(a, b, takes=False) for _ in range(2)]
    sent(a)
    for call in calls:
        call.request.write(bytes(CREDIT))
    assert all_batches(a) == [f"DATA 2 {CREDIT}", f"DATA 3 {CREDIT}"], "nothing else is under way"
    for call in calls:
        call.request.grant(CREDIT)
        call.request.write(bytes(CREDIT))
    a.request(1)
    names = all_batches(a)
    assert names == ["request 4 0", *[f"DATA 2 {SHORT_PIECE}", f"DATA 3 {SHORT_PIECE}"] * 4]


# what cannot be written


def test_more_or_less_than_was_announced_cannot_be_written() -> None:
    call = begun(size=5)
    with pytest.raises(LocalProtocolError, match="announced with 5 bytes, this would be more"):
        call.request.write(b"abcdef")
    call.request.write(b"abcd")
    with pytest.raises(LocalProtocolError, match="announced with 5 bytes, it has 4"):
        call.request.finish()
    call.request.write(b"e")
    call.request.write(b"")
    call.request.finish()
    with pytest.raises(LocalProtocolError, match="behind its end"):
        call.request.write(b"")
    with pytest.raises(TypeError):
        call.response_body.write("text")  # type: ignore[arg-type]
    call.response_body.finish()
    call.b.receive(sent(call.a))
    assert read_all(call.body) == b"abcde"
    assert call.body.at_end


def test_a_peer_without_bodies() -> None:
    for a in (agreed_pair(ALL_FEATURES & ~Feature.BODIES)[0], ConnectionEngine()):
        with pytest.raises(CapabilityMissing, match="bodies: "):
            a.ask_with(Meta(has_body=True), 7, 0, b"", 0, None, CallBodies())
        assert a.waiters == {}
        a.ask_with(Meta(), 7, 0, b"", 0, None) if a.control else None
        assert a.bodies is None
    a, b = agreed_pair(ALL_FEATURES & ~Feature.BODIES)
    b.receive(encode_frame(FrameType.META, 0, 2, encode_meta(Meta(has_body=True, response_credit=5))))
    assert b.bodies is None


def test_callbacks() -> None:
    told: list[str] = []
    call = begun()
    call.request.on_change = lambda: told.append("less is unsent")
    call.request.write(b"abc")
    data = sent(call.a)
    call.body.on_change = lambda: told.append("received")
    call.b.receive(data)
    call.request.finish()
    call.b.receive(sent(call.a))
    call.response.on_change = lambda: told.append("over")
    call.b.respond(0, call.tag, True)
    call.a.receive(sent(call.b))
    assert told == ["less is unsent", "received", "less is unsent", "received", "less is unsent", "over"]


# the end of a body


def test_the_response_ends_the_request_body() -> None:
    call = begun()
    call.request.write(bytes(2 * CREDIT))
    call.b.receive(sent(call.a))
    body = call.body
    call.b.respond(0, call.tag, True, 0, b"enough")
    assert isinstance(body.failure, BodyEnded)
    assert body.take() == b""
    late = encode_frame(FrameType.DATA, 0, call.tag, b"late") + encode_frame(FrameType.END, 0, call.tag)
    assert call.b.receive(late) == []
    (response,) = call.a.receive(sent(call.b))
    assert isinstance(response, ResponseReceived)
    assert call.request.unsent == 0
    with pytest.raises(BodyEnded, match="the request is answered"):
        call.request.write(b"more")
    call.request.finish()
    assert call.a.receive(encode_frame(FrameType.CREDIT, 0, call.tag, b"\5", of_receiver=True)) == []
    assert call.a.data_to_send() == []


def test_a_whole_request_body_that_was_not_read_is_dropped_with_the_answer() -> None:
    call = begun()
    call.request.write(b"abc")
    call.request.finish()
    call.b.receive(sent(call.a))
    body = call.body
    assert call.b.bodies is not None
    assert list(call.b.bodies.windows.open) == [body]
    call.b.respond(0, call.tag, True)
    assert call.b.bodies.windows.open == {}
    assert (body.available, body.is_whole, body.failure) == (0, True, None)


def test_a_response_that_is_not_ok_leaves_at_once_and_its_body_is_not_whole() -> None:
    call = begun()
    call.response_body.write(bytes(2 * CREDIT))
    body = call.response_body
    data = b"".join(call.b.data_to_send())
    call.b.data_sent()
    call.b.respond(0, call.tag, False, 0, b"it broke")
    assert body.unsent == 0
    data += sent(call.b)
    call.a.receive(data)
    while call.response.take():
        assert call.response.failure is not None
    assert not call.response.at_end
    assert isinstance(call.response.failure, BodyEnded)
    call.response.wait()
    assert call.a.unsent == []


def test_a_response_waits_behind_its_body() -> None:
    call = begun()
    call.response_body.write(bytes(CREDIT + 50_000))
    call.b.respond(0, call.tag, True, 0, LARGE)
    assert call.b.contexts == {}
    call.a.receive(sent(call.b))
    assert not call.b.is_settled
    assert call.b.bodies is not None
    assert call.b.owed_bytes == 50_000
    assert len(call.b.bodies.trailing) == 1
    assert call.waiter.told == []
    read_all(call.response)
    events = exchange(call.a, call.b)[0]
    (response,) = events
    assert isinstance(response, ResponseReceived)
    assert response.payload == LARGE
    assert len(read_all(call.response)) == 50_000
    assert call.response.at_end
    assert call.b.bodies.trailing == {}
    assert call.b.is_settled


def test_a_trailer_to_a_peer_that_does_not_join_pieces_is_in_one() -> None:
    a, b = agreed_pair(ALL_FEATURES & ~Feature.PIECES)
    call = Call(a, b)
    b.receive(sent(a))
    call.response_body.write(b"abc")
    b.respond(0, call.tag, True, 0, LARGE)
    assert all_batches(b) == ["DATA 2 3", f"response 2 {len(LARGE)}"]


def test_a_reader_stops_a_request_body() -> None:
    call = begun()
    call.request.write(bytes(CREDIT + 10))
    call.b.receive(sent(call.a))
    body = call.body
    body.stop(StatusCode.BUSY, "too long")
    assert (body.available, body.take()) == (0, b"")
    body.stop()
    assert call.b.receive(encode_frame(FrameType.DATA, 0, call.tag, b"late")) == []
    assert call.b.receive(encode_frame(FrameType.END, 0, call.tag)) == []
    stop = sent(call.b)
    assert stop == encode_frame(FrameType.STOP, 0, call.tag, b"\4too long", of_receiver=True)
    call.a.receive(stop + stop)
    assert call.request.stopped == (StatusCode.BUSY, "too long")
    with pytest.raises(BodyEnded, match="too long"):
        call.request.write(b"more")
    assert not call.request.lost
    assert call.b.respond(0, call.tag, True, 0, b"fine")
    (response,) = call.a.receive(sent(call.b))
    assert isinstance(response, ResponseReceived)
    assert response.ok


def test_a_reader_stops_a_response_body_and_the_response_comes_all_the_same() -> None:
    for answers_first in (False, True):
        call = begun()
        body = call.response_body
        body.write(bytes(CREDIT + 10))
        if answers_first:
            assert call.b.respond(0, call.tag, True, 0, b"fine")
        call.a.receive(sent(call.b))
        call.response.stop()
        call.b.receive(sent(call.a))
        assert body.stopped == (StatusCode.CANCELLED, "")
        if not answers_first:
            with pytest.raises(BodyEnded):
                body.write(b"more")
            assert call.b.respond(0, call.tag, True, 0, b"fine")
        (response,) = call.a.receive(sent(call.b))
        assert isinstance(response, ResponseReceived)
        assert (response.ok, response.payload) == (True, b"fine")
        assert isinstance(call.response.failure, BodyEnded)
        call.response.stop()


def test_a_body_that_is_whole_can_be_stopped() -> None:
    call = begun()
    call.request.write(b"abc")
    call.request.finish()
    call.b.receive(sent(call.a))
    body = call.body
    body.stop()
    assert body.at_end
    assert call.b.unsent == []


@pytest.mark.parametrize("forgets", [False, True])
def test_a_cancelled_request_ends_its_bodies_at_both_ends(forgets: bool) -> None:
    call = begun()
    call.request.write(bytes(2 * CREDIT))
    call.response_body.write(bytes(2 * CREDIT))
    call.b.receive(sent(call.a))
    body, response_body = call.body, call.response_body
    if forgets:
        call.a.forget(0, call.tag)
    call.a.cancel(0, call.tag)
    for reason in (call.request.ended, call.response.failure):
        assert isinstance(reason, BodyEnded)
    assert not call.request.waits_for_credit
    data = sent(call.b)
    assert call.a.receive(data) == []
    events = call.b.receive(sent(call.a))
    assert events == [CancelReceived(0, call.tag, StatusCode.CANCELLED, "")]
    for reason in (body.failure, response_body.ended):
        assert isinstance(reason, BodyEnded)
    assert call.b.respond(0, call.tag, True, 0, b"fine")
    (answer,) = parsed(sent(call.b))
    assert (answer.flags, answer.payload) == (StatusCode.CANCELLED << 1, BODY_LOST)
    assert len(call.a.receive(bytes(answer))) == (0 if forgets else 1)
    assert call.a.bodies is not None
    assert call.a.bodies.ours == {}


def test_whoever_reads_a_body_that_ends_by_a_cancel_can_see_that() -> None:
    """Its handler may run in another thread, which looks why at that moment."""
    call = begun()
    seen = []
    call.body.on_change = lambda: seen.append(call.context.cancelled)
    call.a.cancel(0, call.tag, text="enough")
    call.b.receive(sent(call.a))
    assert seen == [(StatusCode.CANCELLED, "enough")]


def test_a_cancelled_request_whose_bodies_were_sent_whole_may_still_be_done() -> None:
    call = begun(body=False)
    call.response_body.write(b"abc")
    call.a.receive(sent(call.b))
    call.a.cancel(0, call.tag)
    call.b.receive(sent(call.a))
    assert call.b.respond(0, call.tag, True, 0, b"fine")
    (answer,) = parsed(sent(call.b))
    assert answer.payload == b"fine"


def test_a_response_that_waits_behind_its_body_is_given_up_by_cancel() -> None:
    call = begun()
    call.response_body.write(bytes(2 * CREDIT))
    call.b.respond(0, call.tag, True, 0, b"fine")
    data = sent(call.b)
    call.a.cancel(0, call.tag)
    call.b.receive(sent(call.a))
    call.a.receive(data)
    call.a.receive_to(sent(call.b), list.clear, [])  # type: ignore[arg-type]
    assert call.waiter.told == [(False, StatusCode.CANCELLED, BODY_LOST)]
    assert call.b.is_settled


def test_a_response_that_has_begun_to_leave_behind_its_body_goes_on() -> None:
    call = begun()
    call.response_body.write(b"abc")
    call.b.respond(0, call.tag, True, 0, LARGE)
    data = b"".join(call.b.data_to_send())
    call.b.data_sent()
    call.b.receive(encode_frame(FrameType.CANCEL, 0, call.tag, b"\1"))
    call.a.receive_to(data + sent(call.b), list.clear, [])  # type: ignore[arg-type]
    assert call.waiter.told == [(True, 0, LARGE)]
    assert call.response.take() == b"abc"


def test_a_request_that_was_refused_or_taken_back_ends_its_bodies() -> None:
    a, b = agreed_pair(accepts_requests=False)
    call = Call(a, b)
    call.request.write(b"abc")
    b.receive(sent(a))
    assert b.contexts == {}
    (response,) = a.receive(sent(b))
    assert isinstance(response, ResponseReceived)
    assert isinstance(call.request.ended, BodyEnded)
    assert isinstance(call.response.failure, BodyEnded)
    a, b = agreed_pair()
    meta = encode_meta(Meta(has_body=True))
    b.receive(encode_frame(FrameType.META, 0, 2, meta) + encode_frame(FrameType.DATA, 0, 2, b"abc"))
    body = b.contexts[2].body
    assert body is not None
    b.receive(encode_frame(FrameType.META, 0, 2, meta))
    assert isinstance(body.failure, BodyEnded)
    body = b.contexts[2].body
    assert body is not None
    b.receive(encode_frame(FrameType.CANCEL, 0, 2, b"\1"))
    assert isinstance(body.failure, BodyEnded)
    assert b.contexts == {}
    assert b.bodies is not None
    assert b.bodies.served == {}


def test_so_many_bodies_may_be_open_and_no_more() -> None:
    a, b = agreed_pair(
        own_a=Hello(features=ALL_FEATURES, max_bodies=1), own_b=Hello(features=ALL_FEATURES, max_bodies=1)
    )
    first, second = Call(a, b, takes=False), Call(a, b, takes=False)
    second.request.write(b"abc")
    assert len(b.receive(sent(a))) == 1
    (response,) = a.receive(sent(b))
    assert isinstance(response, ResponseReceived)
    assert (response.ok, response.flags) == (False, StatusCode.BUSY + 16)
    assert response.payload == b"too many bodies are open"
    assert isinstance(second.request.ended, BodyEnded)
    first.request.write(b"abc")
    first.request.finish()
    b.receive(sent(a))
    third = Call(a, b, takes=False)
    assert b.receive(sent(a)) == [], "as the first is not read yet"
    a.receive(sent(b))
    assert third.request.ended is not None
    read_all(first.body)
    fourth = Call(a, b, body=False)
    assert len(b.receive(sent(a))) == 1
    with pytest.raises(LimitExceeded, match="too many bodies"):
        Call(a, b, body=False)
    assert len(Call(a, b, takes=False).a.waiters) == 3
    b.respond(0, fourth.tag, True)
    a.receive(sent(b))
    Call(a, b, body=False)


def test_no_frame_is_larger_than_the_peer_takes_a_packet() -> None:
    a, b = agreed_pair(own_b=Hello(features=ALL_FEATURES, max_packet_size=5000))
    call = Call(a, b)
    call.request.write(bytes(12_000))
    packets = parsed(sent(a))
    assert sum(len(packet.payload) for packet in packets if packet.rq_type == FrameType.DATA + 1) == 12_000
    assert max(len(bytes(packet)) for packet in packets) <= 5000


def test_a_request_with_a_body_and_a_large_payload() -> None:
    a, b = agreed_pair()
    call = Call(a, b, payload=LARGE)
    call.request.write(b"abc")
    call.request.finish()
    (event,) = b.receive(sent(a))
    assert isinstance(event, RequestReceived)
    assert event.payload == LARGE
    assert read_all(call.body) == b"abc"
    assert call.body.at_end


# frames that are refused, or late


def data(tag: int, payload: bytes = b"x", *, of_receiver: bool = False, kind: FrameType = FrameType.DATA) -> bytes:
    return encode_frame(kind, 0, tag, payload, of_receiver=of_receiver)


def refused(engine: ConnectionEngine, octets: bytes) -> str:
    (*_, end) = engine.receive(octets)
    assert isinstance(end, StreamEnded)
    error = end.cause.__cause__
    assert isinstance(error, RemoteProtocolError)
    return f"{error.code}: {error}"


PEERS = {
    "DATA": data(2),
    "END": data(2, b"", kind=FrameType.END),
    "CREDIT": data(2, b"\5", kind=FrameType.CREDIT),
    "STOP": data(2, b"\1", kind=FrameType.STOP),
}


@pytest.mark.parametrize("kind", PEERS)
def test_frames_about_what_was_never_announced(kind: str) -> None:
    _, b = agreed_pair()
    assert b.receive(PEERS[kind]) == [], "late"
    b.receive(bytes(Packet(is_request=True, tag=2, rq_type=1)))
    assert f"{kind} of a body that was not announced" in refused(b, PEERS[kind])


@pytest.mark.parametrize("kind", [kind for kind in FrameType if kind in (2, 4, 7)])
def test_frames_about_requests_of_ours(kind: FrameType) -> None:
    frame = data(2, b"\5", kind=kind, of_receiver=True)
    a, b = agreed_pair()
    assert "response-never-asked" in refused(a, frame)
    a, b = agreed_pair()
    a.request(1)
    assert "was not announced" in refused(a, frame)
    a, b = agreed_pair()
    call = Call(a, b)
    a.forget(0, call.tag)
    assert a.receive(frame) == []


def test_malformed_frames() -> None:
    for octets, text in (
        (data(2, b""), "DATA without any"),
        (data(2, b"x", kind=FrameType.END), "END with a payload"),
        (data(2, b"", kind=FrameType.END) * 2, "a second END"),
        (data(2, b"", kind=FrameType.END) + data(2), "behind the end of a body"),
        (data(2, b"\0", kind=FrameType.CREDIT), "CREDIT: field 0 must be 1 or more"),
        (data(2, b"", kind=FrameType.CREDIT), "CREDIT: "),
        (data(2, b"", kind=FrameType.STOP), "STOP without a code"),
        (data(2, bytes(CREDIT)) + data(2), "credit-exceeded"),
        (data(2, bytes(CREDIT + 1)), "bytes in one DATA, the limit is 262144"),
        (encode_frame(FrameType.DATA, 1, 2, b"x"), "DATA about channel 1"),
    ):
        assert text in refused(begun().b, octets)
    for octets, text in (
        (data(2, b"abcdef"), "more than the 5 bytes that were announced"),
        (data(2, b"abcd") + data(2, b"", kind=FrameType.END), "END behind 4 of 5 bytes"),
    ):
        assert text in refused(begun(size=5).b, octets)


def test_a_tag_whose_response_is_under_way_is_not_announced_again() -> None:
    call = begun()
    call.response_body.write(bytes(2 * CREDIT))
    call.b.respond(0, call.tag, True)
    meta = encode_meta(Meta(has_body=True))
    assert "whose response is under way" in refused(call.b, encode_frame(FrameType.META, 0, call.tag, meta))


def test_credit_does_not_grow_without_bound() -> None:
    call = begun()
    most = bytes.fromhex("ff ff ff ff ff ff ff ff 7f")
    call.b.receive(data(2, most, kind=FrameType.CREDIT) * 3)
    assert call.response_body.credit == (1 << 63) - 1


# the end of the connection


@pytest.mark.parametrize("end", ["EOF", "cut", "fail", "broken", "let go"])
def test_everyone_is_told_why_the_connection_ended(end: str) -> None:
    call, theirs = begun(), None
    a, b = call.a, call.b
    theirs = Call(b, a)
    a.receive(sent(b))
    changed: list[object] = []
    bodies: list[Any] = [
        *(call.request, call.response, call.body, call.response_body),
        *(theirs.request, theirs.response, theirs.body, theirs.response_body),
    ]
    for each in bodies:
        each.on_change = lambda each=each: changed.append(each)
    call.request.write(bytes(2 * CREDIT))
    theirs.response_body.write(b"rest")
    sent(a)
    changed.clear()
    match end:
        case "EOF":
            a.receive(bytes(ERQ_PACKET) + bytes(EOF_PACKET))
        case "cut":
            a.receive_eof()
        case "fail":
            a.fail(ConnectionEnded("it broke"))
        case "broken":
            a.receive(b"\xff" * 10)
        case _:
            a.send_failed(BrokenPipeError())
            a.receive_eof()
    mine = [bodies[0], bodies[1], bodies[6], bodies[7]]
    for body in mine:
        reason = body.ended if isinstance(body, SendingBody) else body.failure
        assert isinstance(reason, ConnectionEnded)
        assert changed.count(body) == 1
    assert call.request.unsent == 0
    assert a.bodies is not None
    assert a.bodies.ours == {}
    assert a.bodies.windows.open == {}
    a.forget(0, call.tag)


def test_a_response_behind_a_body_when_the_peer_ends() -> None:
    """It leaves if the peer has granted all of it; else it says that its body is not whole."""
    for size, whole in ((10, True), (2 * CREDIT, False)):
        call = begun(body=False)
        call.response_body.write(bytes(size))
        call.b.respond(0, call.tag, True, 0, b"fine")
        call.b.receive(bytes(ERQ_PACKET) + bytes(EOF_PACKET))
        erq, *_, answer, eof = parsed(sent(call.b))
        assert (erq, eof) == (ERQ_PACKET, EOF_PACKET)
        assert answer.payload == (b"fine" if whole else BODY_LOST)
        assert call.b.is_settled


@pytest.mark.parametrize("body", [False, True])
def test_the_end_of_requests_with_one_body_only(body: bool) -> None:
    call = begun(body=body, takes=not body)
    received, sending = call.context.body, call.context.response_body
    for engine in (call.a, call.b):
        engine.receive_eof()
    ends = [
        call.bodies.request and call.bodies.request.ended,
        call.bodies.response and call.bodies.response.failure,
    ]
    ends += [received and received.failure, sending and sending.ended]
    assert sum(isinstance(each, ConnectionEnded) for each in ends) == 2


def test_a_response_behind_a_body_when_nothing_can_be_sent() -> None:
    call = begun(body=False)
    call.response_body.write(bytes(2 * CREDIT))
    body = call.response_body
    call.b.respond(0, call.tag, True, 0, b"fine")
    call.b.send_failed(BrokenPipeError())
    assert isinstance(body.ended, ConnectionEnded)
    assert call.b.bodies is not None
    assert call.b.bodies.trailing == {}


def test_a_request_with_bodies_that_comes_when_nothing_can_be_sent() -> None:
    a, b = agreed_pair()
    b.send_failed(BrokenPipeError("gone"))
    for takes in (True, False):
        call = Call(a, b, takes=takes)
        call.request.write(b"abc")
        assert [type(event) for event in b.receive(sent(a))] == [RequestReceived]
        if takes:
            with pytest.raises(ConnectionEnded, match="nothing can be sent any more: gone"):
                call.response_body.write(b"abc")
        assert call.body.take() == b"abc", "what was asked before is not lost"
        assert not b.respond(0, call.tag, True)
    assert b.contexts == {}
    assert b.bodies is not None
    assert b.bodies.served == {}
    assert b.bodies.windows.open == {}


@pytest.mark.parametrize("end", ["EOF", "cut"])
def test_of_a_request_that_never_comes_nothing_is_kept(end: str) -> None:
    _, b = agreed_pair()
    meta = encode_meta(Meta(has_body=True, response_credit=5))
    b.receive(encode_frame(FrameType.META, 0, 2, meta) + data(2, b"abc"))
    b.receive(bytes(ERQ_PACKET) + bytes(EOF_PACKET)) if end == "EOF" else b.receive_eof()
    assert b.contexts == {}
    assert b.bodies is not None
    assert b.bodies.served == {}
    assert b.bodies.held == 0


def test_the_end_waits_for_a_response_behind_its_body() -> None:
    call = begun(body=False)
    call.response_body.write(bytes(CREDIT + 20_000))
    call.b.respond(0, call.tag, True, 0, b"fine")
    call.b.end()
    call.a.receive(sent(call.b))
    assert call.a.ended is None
    while call.a.ended is None:
        read_all(call.response)
        call.response.wait()
        exchange(call.a, call.b)
    assert call.response.is_whole


def test_what_waits_for_credit_is_nothing_that_could_be_written() -> None:
    """Whoever writes until nothing is unsent would never come to an end."""
    call = begun(body=False)
    call.response_body.write(bytes(CREDIT + 20_000))
    call.b.respond(0, call.tag, True, 0, b"fine")
    call.b.end()
    data = sent(call.b)  # which looks that nothing is unsent
    assert not call.b.is_settled
    call.a.receive(data)
    read_all(call.response)
    call.response.wait()
    call.b.receive(sent(call.a))
    assert call.b.unsent_octets == 0
    call.a.receive(sent(call.b))
    assert call.a.ended is not None
    assert call.b.is_settled


def test_our_end_gives_bodies_of_requests_up() -> None:
    call = begun()
    call.request.write(bytes(2 * CREDIT))
    sent(call.a)
    call.a.end()
    names = all_batches(call.a)
    assert names == ["ERQ", "EOF"]
    assert isinstance(call.request.ended, ConnectionEnded)
    call.response.stop()
    assert call.a.data_to_send() == []


def test_an_answer_behind_our_end_drops_what_was_announced() -> None:
    a, b = agreed_pair()
    b.end()
    Call(a, b)
    assert [event for event in b.receive(sent(a)) if isinstance(event, RequestReceived)] == []
    assert b.contexts == {}
    assert b.bodies is not None
    assert b.bodies.served == {}


# in between: another thread


def test_it_ends_while_it_is_written() -> None:
    call = begun()
    body = call.request

    class Ending(type(body._chunks)):  # type: ignore[misc]
        def append(self, chunk: bytes) -> None:
            body.end(BodyEnded("just now"))
            super().append(chunk)

    body._chunks = Ending()
    body.write(b"abc")
    assert body.unsent == 0
    assert body.lost
    assert call.a.data_to_send() == []


def test_it_is_dropped_while_it_is_taken() -> None:
    call = begun()
    body = call.request
    body.write(b"abc")
    body._chunks.clear()
    assert body.take(call.a.lane, 10) == []  # type: ignore[arg-type]
    body.end(BodyEnded("so"))
    assert body._take_last(call.a.lane, 10) == []  # type: ignore[arg-type]


def test_it_is_stopped_while_it_is_received() -> None:
    call = begun()
    body = call.body

    class Stopping(type(body._chunks)):  # type: ignore[misc]
        def append(self, chunk: bytes) -> None:
            body.stop()
            super().append(chunk)

    body._chunks = Stopping()
    body.receive(b"abc")
    assert body.take() == b""


def test_an_exception_while_a_request_with_bodies_is_made() -> None:
    a, b = agreed_pair()

    class Interrupting(list[bytes]):
        def extend(self, item: Any) -> None:
            raise KeyboardInterrupt

    a.unsent = Interrupting()
    bodies = CallBodies()
    with pytest.raises(KeyboardInterrupt):
        a.ask_with(Meta(has_body=True), 7, 0, b"", 0, None, bodies)
    assert bodies.request is not None
    assert bodies.request.ended is not None
    assert a.waiters == {}
    _ = b, Event


def test_breaking_off_ends_the_bodies_of_what_is_owed() -> None:
    call = begun()
    body, response_body = call.body, call.response_body
    call.b.break_off("tired of it")
    assert isinstance(body.failure, ConnectionEnded)
    assert isinstance(response_body.ended, ConnectionEnded)
    assert str(response_body.ended) == "tired of it"


def test_a_body_that_ends_with_a_child() -> None:
    call = Call(*agreed_pair())
    call.request.end(ChildExited("gone", argv=["child"], returncode=1, stderr=b"why"))
    with pytest.raises(ChildExited) as caught:
        call.request.write(b"more")
    assert caught.value.returncode == 1


def test_many_small_ones_take_little_more_than_their_size() -> None:
    """A peer may send a body in crumbs, each of which would take many times its size."""
    call = begun()
    sent_all = bytes(range(250)) * 40
    for begin in range(0, len(sent_all), 2):
        call.b.receive(data(call.tag, sent_all[begin : begin + 2]))
    assert len(call.body._chunks) < MANY + len(sent_all) // SMALL + 3
    call.b.receive(data(call.tag, bytes(SMALL)))
    assert call.body.available == len(sent_all) + SMALL
    assert read_all(call.body) == sent_all + bytes(SMALL)


def test_the_consumer_is_through_with_small_ones_just_as_another_comes() -> None:
    class Emptied(deque[bytes]):
        def pop(self) -> bytes:
            self.clear()
            return super().pop()

    call = begun()
    for _ in range(MANY + 1):
        call.b.receive(data(call.tag, b"ab"))
    call.body._chunks = Emptied(call.body._chunks)
    call.b.receive(data(call.tag, b"later"))
    assert read_all(call.body) == b"later"


@pytest.mark.parametrize("most", [1, 7, 400])
def test_it_is_taken_in_small_parts(most: int) -> None:
    call = begun()
    whole = bytes(range(250)) * 4
    call.b.receive(data(call.tag, whole))
    parts = []
    while part := call.body.take(most):
        assert type(part) is bytes
        parts.append(part)
    assert {len(part) for part in parts[:-1]} == {most}
    assert b"".join(parts) == whole


class Meanwhile(list[bytes]):
    """What an engine has to send; behind the moment in which it is copied another thread does something."""

    act: Any = None

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        act, self.act = self.act, None
        if act is not None:
            act()
        return found


@pytest.mark.parametrize("has_lane", [True, False])
def test_a_body_does_not_overtake_its_request(has_lane: bool) -> None:
    """One that begins while another thread takes what is to be sent."""
    a, b = agreed_pair()
    a.unsent = unsent = Meanwhile(a.unsent)
    if has_lane:
        a.bodies_now()
    calls: list[Call] = []

    def begin() -> None:
        calls.append(Call(a, b))
        calls[0].request.write(b"abc")
        calls[0].request.finish()

    unsent.act = begin
    assert a.data_to_send() == []
    a.data_sent()
    assert unsent
    b.receive(sent(a))
    assert read_all(calls[0].body) == b"abc"
    assert calls[0].body.at_end
