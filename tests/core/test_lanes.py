"""Large payloads: they leave in pieces, one each in turn, and nothing small waits for them."""

from __future__ import annotations

from typing import Any

import pytest

import packetwire
from packetwire import (
    ConnectionEnded,
    LimitExceeded,
    Packet,
    RemoteProtocolError,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
)
from packetwire.core.capabilities import MARK
from packetwire.core.control import MAX_UNFINISHED
from packetwire.core.engine import NO_HANDLER, ConnectionEngine
from packetwire.core.events import CancelReceived, Event
from packetwire.core.frames import FRAME_CHANNEL, FrameType, Meta, decode_frame, encode_frame
from packetwire.core.hello import ALL_FEATURES, CONTROL_CHANNEL, Feature, Hello
from packetwire.core.lanes import MAX_ANNOUNCED, MAX_IN_PIECES, QUEUED_BELOW, SHORT_PIECE, Lane
from packetwire.core.packet import payload_size
from packetwire.core.packetcodec import Fields
from packetwire.core.packets import EOF_PACKET, ERQ_PACKET
from packetwire.core.pieces import SMALL
from packetwire.core.statuses import StatusCode

from .agreed import Waiter, agreed_pair, engine_of, exchange, known

PIECES_ABOVE = 128 << 10
"""Less than usual, so that the tests need not have so much."""
LARGE = bytes(range(256)) * (1 << 12)
"""1 MiB"""
PIECE = Hello().max_piece
NOT_COMPILED = pytest.mark.skipif(packetwire.compiled is True, reason="what is compiled cannot be replaced")


@pytest.fixture(autouse=True)
def _pieces_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packetwire.core.engine.PIECES_ABOVE", PIECES_ABOVE)


def named(packet: Packet) -> str:
    """A packet in short: what it is, its tag, and the size of its payload."""
    size = len(packet.payload)
    if packet.channel == FRAME_CHANNEL:
        assert packet.rq_type is not None
        frame = decode_frame(packet.tag, packet.flags, packet.rq_type - 1, packet.payload)
        where = f"{frame.channel}:{frame.tag}" if frame.channel else str(frame.tag)
        return f"{frame.kind.name} {where} {size}"
    where = f"{packet.channel}:{packet.tag}" if packet.channel else str(packet.tag)
    if packet == ERQ_PACKET:
        return "ERQ"
    if packet == EOF_PACKET:
        return "EOF"
    return f"{'request' if packet.is_request else 'response'} {where} {size}"


def parsed(data: bytes) -> list[Packet]:
    packets, offset = [], 0
    while offset < len(data):
        packet, offset = Packet.parse_bytes(data, offset)
        packets.append(packet)
    return packets


def batch(engine: ConnectionEngine) -> list[str]:
    """What leaves with the next batch."""
    data = b"".join(engine.data_to_send())
    engine.data_sent()
    return [named(packet) for packet in parsed(data)]


def all_batches(engine: ConnectionEngine) -> list[str]:
    packets = []
    while engine.unsent:
        packets += batch(engine)
    return packets


def small_and_large(engine: ConnectionEngine, waiter: Any = None) -> int:
    tag = engine.request(1, payload=LARGE, waiter=waiter)
    engine.request(2, payload=b"small")
    return tag


# sending


def test_a_small_request_does_not_wait_for_a_large_one() -> None:
    a, _ = agreed_pair()
    small_and_large(a)
    first = batch(a)
    assert first[:3] == ["PIECE 2 0", "request 3 5", f"PIECE 2 {SHORT_PIECE}"]
    assert a.unsent == [b""]
    a.request(2, payload=b"later")
    assert batch(a)[0] == "request 4 5"
    rest = all_batches(a)
    assert rest[-1] == f"request 2 {SHORT_PIECE}"
    assert a.unsent_octets == 0
    assert a.lane is not None
    assert (a.lane.waiting, a.lane.requests) == (0, {})


@pytest.mark.parametrize("channel", [0, 16])
@pytest.mark.parametrize("compiled_path", [False, True])
@pytest.mark.parametrize("meta", [None, Meta(milliseconds_left=1000)])
def test_what_was_large_is_whole_again(channel: int, compiled_path: bool, meta: Meta | None) -> None:
    a, b = agreed_pair()
    waiter = Waiter()
    if meta is None:
        a.request(1, 5, LARGE, channel=channel, waiter=waiter)
    else:
        a.ask_with(meta, 1, 5, LARGE, channel, waiter)
    a.request(2, payload=b"small")
    requests: list[Fields] = []
    events: list[Event] = []
    while a.unsent or b.unsent:
        data = b"".join(a.data_to_send())
        a.data_sent()
        if compiled_path:
            b.receive_to(data, requests.append, events)
        else:
            for event in b.receive(data):
                assert isinstance(event, RequestReceived)
                key = (event.channel, event.tag) if event.channel else event.tag
                requests.append((key, event.flags, event.rq_type + 1, event.payload))
    key = (16, 2) if channel else 2
    small = 2 if channel else 3
    assert sorted(requests, key=lambda each: len(each[3])) == [(small, 0, 3, b"small"), (key, 5, 2, LARGE)]
    assert events == []
    assert b.pieces.held == 0
    assert (key in b.contexts) == (meta is not None)
    b.respond(channel, 2, True, 3, LARGE)
    assert b.contexts == {}
    while b.unsent:
        data = b"".join(b.data_to_send())
        b.data_sent()
        if compiled_path:
            a.receive_to(data, requests.append, events)
        else:
            events += a.receive(data)
    if compiled_path:
        assert waiter.told == [(True, 3, LARGE)]
    else:
        assert events == [ResponseReceived(channel, 2, True, 3, LARGE, waiter)]
    assert a.pieces.held == b.unsent_octets == a.unsent_octets == 0


def test_pieces_are_as_long_as_the_peer_takes_while_nothing_else_is_under_way() -> None:
    a, _ = agreed_pair(own_b=Hello(features=ALL_FEATURES, max_piece=200_000))
    a.request(1, payload=LARGE)
    sizes = [name.split()[-1] for name in all_batches(a)]
    assert sizes == ["0", *["200000"] * 4, "183040", str(SHORT_PIECE)]


def test_a_large_response_beside_small_ones() -> None:
    a, b = agreed_pair()
    for _ in range(3):
        a.request(1)
    exchange(a, b)
    b.respond(0, 2, True, 0, LARGE)
    b.respond(0, 3, True, 0, b"small")
    first = batch(b)
    assert first[:2] == ["response 3 5", f"PIECE 2 {SHORT_PIECE}"], "another request is still to be answered"
    b.respond(0, 4, False, 0, b"no")
    assert batch(b)[:2] == ["response 4 2", f"PIECE 2 {PIECE}"]
    assert all_batches(b)[-1] == f"response 2 {SHORT_PIECE}"


def test_few_payloads_are_in_pieces_at_a_time_each_in_turn() -> None:
    a, _ = agreed_pair()
    for _ in range(MAX_IN_PIECES + 2):
        a.request(1, payload=LARGE)
    order = [name.split()[1] for name in all_batches(a)]
    announced, order = order[: MAX_IN_PIECES + 2], order[MAX_IN_PIECES + 2 :]
    assert announced == ["2", "3", "4", "5", "6", "7"]
    assert order[:8] == ["2", "3", "4", "5"] * 2
    assert order.index("6") > len(order) - 1 - order[::-1].index("2")
    assert sorted(set(order)) == announced


def test_not_more_is_queued_than_has_to_be() -> None:
    a, _ = agreed_pair()
    small_and_large(a)
    data = b"".join(a.data_to_send())
    assert QUEUED_BELOW <= len(data) <= QUEUED_BELOW + SHORT_PIECE + 50


def test_many_small_ones_do_not_stop_a_large_one_for_ever() -> None:
    a, _ = agreed_pair()
    a.request(1, payload=LARGE)
    batch(a)
    for expected in (False, True, False, True):
        for _ in range(4):
            a.request(2, payload=bytes(QUEUED_BELOW // 4))
        assert any(name.startswith("PIECE") for name in batch(a)) is expected


@pytest.mark.parametrize("features", [ALL_FEATURES & ~Feature.PIECES, None])
def test_a_peer_that_does_not_join_pieces_gets_none(features: Feature | None) -> None:
    if features is None:
        a, b = ConnectionEngine(), ConnectionEngine()
    else:
        a, b = agreed_pair(features)
    a.request(1, payload=LARGE)
    (request,) = b.receive(b"".join(a.data_to_send()))
    assert isinstance(request, RequestReceived)
    assert request.payload == LARGE
    assert a.lane is None


def test_what_is_not_large_goes_as_ever() -> None:
    a, _ = agreed_pair()
    a.request(1, payload=bytes(PIECES_ABOVE))
    assert batch(a) == [f"request 2 {PIECES_ABOVE}"]
    assert a.lane is None


def test_requests_on_one_channel_stay_in_order() -> None:
    a, _ = agreed_pair()
    a.request(1, payload=LARGE, channel=16)
    a.request(1, payload=b"", channel=16)
    a.request(1, payload=bytes(PIECES_ABOVE), channel=16)
    a.request(1, payload=b"x", channel=17)
    a.request(1, payload=b"x")
    order = all_batches(a)
    assert order[:2] == ["request 17:2 1", "request 2 1"]
    requests = [name for name in order if name.startswith("request 16")]
    assert requests == [f"request 16:2 {SHORT_PIECE}", "request 16:3 0", f"request 16:4 {SHORT_PIECE}"]
    a.request(1, payload=b"", channel=16)
    assert batch(a) == ["request 16:5 0"]
    a.request(1, payload=LARGE, channel=16)
    assert all_batches(a)[-1] == f"request 16:6 {SHORT_PIECE}"


def test_responses_on_one_channel_stay_in_order_too() -> None:
    """A conversation on a channel may go on in responses and in requests."""
    a, b = agreed_pair()
    for _ in range(2):
        a.request(1, channel=16)
    exchange(a, b)
    b.respond(16, 2, True, 0, LARGE)
    b.respond(16, 3, True, 0, b"x")
    b.request(1, channel=16)
    order = all_batches(b)
    assert order[-3:] == [f"response 16:2 {SHORT_PIECE}", "response 16:3 1", "request 16:2 0"]
    assert b.unsent_octets == 0
    assert b.lane is not None
    assert b.lane.replies == 0


def test_the_first_packet_is_marked_all_the_same() -> None:
    a, b = engine_of(), engine_of(own=Hello(features=ALL_FEATURES))
    a.ask_capabilities()
    b.receive(b"".join(a.data_to_send()))
    b.request(1, payload=LARGE)
    data = b"".join(b.data_to_send())
    assert data[:1] == MARK
    assert named(parsed(data)[0]).startswith("response 1:2")
    b.data_sent()
    all_batches(b)
    assert b.unsent_octets == 0


def test_what_becomes_ready_as_it_leaves_the_lane_comes_back() -> None:
    unsent: list[bytes] = []
    lane = Lane(unsent)

    class Late:
        """More is added by another thread, the moment after it was seen that there is nothing."""

        idle: list[None] = [None]
        is_counted = False
        answers = [False, True, False, False]

        @property
        def is_ready(self) -> bool:
            return self.answers.pop(0)

        def take(self, lane: Lane, most: int) -> list[bytes | memoryview]:
            return [b"x"]

    lane.wake(Late())
    assert lane.take(0, 10) == [b"x", b"x"]
    assert unsent == [b"", b""]


def test_so_many_requests_are_announced_and_not_more() -> None:
    a, _ = agreed_pair()
    large = bytes(PIECES_ABOVE + 1)
    for _ in range(MAX_ANNOUNCED + 2):
        a.request(1, payload=large)
    assert a.lane is not None
    assert len(a.lane.requests) == MAX_ANNOUNCED
    assert batch(a)[MAX_ANNOUNCED:] == [f"request {MAX_ANNOUNCED + tag} {len(large)}" for tag in (2, 3)]


def test_unsent_bytes_are_all_that_wait_and_small_requests_have_room() -> None:
    a, b = agreed_pair()
    assert a.is_full(-1)
    small_and_large(a)
    assert a.unsent_octets > len(LARGE)
    assert a.is_full(len(LARGE), PIECES_ABOVE + 1)
    assert not a.is_full(1000, PIECES_ABOVE)
    assert a.owed_bytes == a.unsent_octets
    b.receive(b"".join(a.data_to_send()))
    assert b.waits_for_peer
    assert b.owed_bytes > SHORT_PIECE
    b.let_go()
    assert b.owed_bytes < SHORT_PIECE


def test_handlers_are_held_by_several_large_replies_not_by_one() -> None:
    a, b = agreed_pair()
    for _ in range(MAX_IN_PIECES):
        a.request(1)
    exchange(a, b)
    for tag in range(2, MAX_IN_PIECES + 2):
        assert not b.is_held(1000)
        b.respond(0, tag, True, 0, LARGE)
    assert b.is_held(1000)
    all_batches(b)
    assert not b.is_held(0)


def test_replies_count_until_their_packet_is_taken() -> None:
    a, b = agreed_pair(max_inbound=1)
    a.request(1)
    exchange(a, b)
    b.respond(0, 2, True, 0, LARGE)
    batch(b)
    a.request(1)
    assert b.receive(b"".join(a.data_to_send())) == []
    a.data_sent()
    assert all_batches(b)[0].startswith("response 3")
    a.request(1)
    assert len(b.receive(b"".join(a.data_to_send()))) == 1


# ends


def test_the_end_of_requests_stands_behind_those_in_pieces() -> None:
    a, b = agreed_pair()
    waiter = Waiter()
    small_and_large(a, waiter)
    a.end_requests()
    names: list[str] = []
    events: list[Event] = []
    while a.unsent:
        data = b"".join(a.data_to_send())
        a.data_sent()
        names += map(named, parsed(data))
        events += b.receive(data)
    assert names[-2:] == [f"request 2 {SHORT_PIECE}", "ERQ"]
    assert a.unsent_octets == 0
    assert sum(isinstance(event, RequestReceived) for event in events) == 2


def test_the_end_stands_behind_everything() -> None:
    a, b = agreed_pair()
    a.request(1)
    exchange(a, b)
    b.request(1, payload=LARGE)
    b.respond(0, 2, True, 0, LARGE)
    b.end()
    b.control.report(b, 0, 9, b"", 0.0)  # type: ignore[union-attr]
    names = all_batches(b)
    assert names[-2:] == ["ERQ", "EOF"] or names[-1] == "EOF"
    assert names.index("EOF") == len(names) - 1
    assert names.index("ERQ") > names.index(f"request 2 {SHORT_PIECE}")
    assert b.unsent_octets == 0


def test_an_end_without_its_first_half_behind_pieces() -> None:
    """A thread that ended its requests may have been overtaken by one that ended all."""
    a, _ = agreed_pair()
    a.request(1, payload=LARGE)
    batch(a)
    a.end()
    a.unsent.reverse()
    assert all_batches(a)[-2:] == ["ERQ", "EOF"]


def test_a_request_that_came_behind_the_end_of_requests() -> None:
    """As by a thread that was about to ask."""
    a, _ = agreed_pair()
    a.request(1, payload=LARGE)
    all_batches(a)
    a.end_requests()
    batch(a)
    late, given_up = Waiter(), Waiter()
    for tag, waiter in ((3, late), (4, given_up)):
        a.waiters[tag] = waiter
        a._send_long(0, tag, b"\2\2", LARGE, (), is_request=True)
    a.waiters.pop(4)
    names = all_batches(a)
    assert [name for name in names if name.endswith(str(SHORT_PIECE))] == []
    assert isinstance(late.told[0], ConnectionEnded)
    assert given_up.told == []
    assert a.unsent_octets == 0


def test_nothing_leaves_behind_the_end() -> None:
    a, _ = agreed_pair()
    a.request(1, payload=LARGE)
    all_batches(a)
    a.end()
    assert batch(a) == ["ERQ", "EOF"]
    a._send_long(0, 3, b"\2\2", LARGE, (), is_request=True)
    assert batch(a) == []


def test_the_answer_to_drain_stands_behind_requests_in_pieces() -> None:
    a, b = agreed_pair()
    small_and_large(a)
    batch(a)
    b.drain(None, "", None)
    a.receive(b"".join(b.data_to_send()))
    assert a.barred is not None
    names = all_batches(a)
    assert names[-2:] == [f"request 2 {SHORT_PIECE}", f"response {CONTROL_CHANNEL}:2 0"]
    assert a.unsent_octets == 0


@pytest.mark.parametrize("ends", ["receive", "fail", "send_failed"])
def test_when_the_connection_ends_nothing_is_left(ends: str) -> None:
    a, b = agreed_pair()
    a.request(1)
    b.receive(b"".join(a.data_to_send()))
    a.data_sent()
    b.respond(0, 2, True, 0, LARGE)
    data = b"".join(b.data_to_send())
    a.receive(data)
    waiter = Waiter()
    small_and_large(a, waiter)
    batch(a)
    if ends == "receive":
        b.end()
        (*_, end) = a.receive(b"".join(b.data_to_send()) + bytes(EOF_PACKET))
    elif ends == "fail":
        (end,) = a.fail(ConnectionEnded("it broke"))
    else:
        a.send_failed(BrokenPipeError())
        (end,) = a.receive_eof()
    assert isinstance(end, StreamEnded)
    assert waiter in end.lost
    assert a.pieces.held == 0
    names = all_batches(a)
    assert not [name for name in names if name.startswith(("PIECE", "request"))]
    assert a.unsent_octets == 0


@NOT_COMPILED
def test_a_request_is_not_left_behind_if_the_connection_ends_while_it_is_made() -> None:
    for meta in (None, Meta()):
        a, _ = agreed_pair()
        a.request(1, payload=LARGE)

        class Ending(dict[Any, Any]):
            """Another thread ends the connection the moment before the waiter is there."""

            def __setitem__(self, key: Any, value: Any, engine: ConnectionEngine = a) -> None:
                engine.fail(ConnectionEnded("just now"))
                super().__setitem__(key, value)

        a.waiters = Ending(a.waiters)
        with pytest.raises(ConnectionEnded, match="just now"):
            if meta is None:
                a.request(1, payload=LARGE)
            else:
                a.ask_with(meta, 1, 0, LARGE, 0, None)
        assert a.lane is not None
        assert a.lane.requests == {}


@pytest.mark.parametrize("meta", [None, Meta()])
def test_an_interrupted_request_is_not_left_behind(meta: Meta | None) -> None:
    a, _ = agreed_pair()
    small_and_large(a)
    lane = a.lane
    assert lane is not None

    class Interrupting(list[bytes]):
        def append(self, item: bytes) -> None:
            raise KeyboardInterrupt

    a.unsent = Interrupting(a.unsent)
    with pytest.raises(KeyboardInterrupt):
        if meta is None:
            a.request(1, payload=LARGE)
        else:
            a.ask_with(meta, 1, 0, LARGE, 0, None)
    assert list(lane.requests) == [2]
    assert list(a.waiters) == [2, 3]


# cancelling


@pytest.mark.parametrize("channel", [0, 16])
@pytest.mark.parametrize("forgotten", [False, True])
def test_a_request_that_is_cancelled_in_pieces_never_comes(channel: int, forgotten: bool) -> None:
    a, b = agreed_pair()
    waiter = Waiter()
    tag = a.request(1, payload=LARGE, channel=channel, waiter=waiter)
    a.request(1, payload=LARGE, channel=channel)
    b.receive(b"".join(a.data_to_send()))
    a.data_sent()
    assert b.pieces.held > 0
    if forgotten:
        a.forget(channel, tag)
    assert a.cancel(channel, tag)
    assert waiter.told == ([] if forgotten else [(False, 17, b"cancelled")])
    assert not a.take_back((channel, tag) if channel else tag)
    events = exchange(a, b)[1]
    assert [type(event) for event in events] == [RequestReceived]
    assert b.owed == 1
    assert b.pieces.held == 0
    assert a.unsent_octets == 0


def test_a_request_that_was_cancelled_before_its_first_piece() -> None:
    a, _ = agreed_pair()
    tag = a.request(1, payload=LARGE)
    a.forget(0, tag)
    a.cancel(0, tag)
    assert batch(a) == ["PIECE 2 0", "CANCEL 2 1"]
    assert a.unsent_octets == 0
    assert a.lane is not None
    assert a.lane.waiting == 0


def test_a_request_whose_packet_has_left_is_cancelled_as_ever() -> None:
    a, b = agreed_pair()
    waiter = Waiter()
    tag = a.request(1, payload=LARGE, waiter=waiter)
    exchange(a, b)
    a.cancel(0, tag)
    assert waiter.told == []
    assert exchange(a, b)[1] == [CancelReceived(0, tag, StatusCode.CANCELLED, "")]


# receiving


def piece(tag: int, payload: bytes, *, channel: int = 0, of_receiver: bool = False) -> bytes:
    return encode_frame(FrameType.PIECE, channel, tag, payload, of_receiver=of_receiver)


def request(tag: int, payload: bytes = b"") -> bytes:
    return bytes(Packet(is_request=True, tag=tag, rq_type=3, payload=payload))


def response(tag: int, payload: bytes = b"", flags: int = 1) -> bytes:
    return bytes(Packet(is_request=False, tag=tag, flags=flags, payload=payload))


def refused(engine: ConnectionEngine, data: bytes) -> tuple[str, str]:
    (*_, end) = engine.receive(data)
    assert isinstance(end, StreamEnded)
    error = end.cause.__cause__
    assert isinstance(error, RemoteProtocolError)
    assert engine.pieces.held == 0
    return error.code, str(error)


def test_pieces_beyond_the_bound_of_all_are_dropped_and_the_request_is_refused() -> None:
    _, b = agreed_pair(max_inbound_octets=1000)
    assert b.receive(piece(2, bytes(600)) + piece(3, bytes(600)) + piece(3, bytes(600))) == []
    b.pieces.drop(b.pieces.requests[3], b.pieces.requests[3].problem)
    assert b.pieces.held == 600
    (event,) = b.receive(request(3, b"!") + request(2, b"!"))
    assert isinstance(event, RequestReceived)
    assert event.payload == bytes(600) + b"!"
    (answer,) = parsed(b"".join(b.data_to_send()))
    assert (answer.tag, answer.flags) == (3, StatusCode.BUSY + 16 << 1)
    assert answer.payload == b"too much at once: payloads of 1200 bytes are arriving"
    assert b.pieces.held == 0


def test_crumbs_take_little_more_than_their_size() -> None:
    """Each piece by itself would take many times its size; those without any would never be too many."""
    _, b = agreed_pair()
    whole = bytes(range(250)) * 40
    crumbs = [piece(2, whole[begin : begin + 2]) + piece(2, b"") for begin in range(0, len(whole), 2)]
    assert b.receive(b"".join(crumbs)) == []
    collected = b.pieces.requests[2]
    assert len(collected.pieces) <= len(whole) // SMALL + 1
    assert b.pieces.held == collected.size == len(whole)
    (event,) = b.receive(piece(2, bytes(SMALL)) + request(2, b"!"))
    assert isinstance(event, RequestReceived)
    assert event.payload == whole + bytes(SMALL) + b"!"


@pytest.mark.parametrize("compiled_path", [False, True])
def test_the_caller_is_told_of_a_response_that_is_too_much(compiled_path: bool) -> None:
    a, _ = agreed_pair(max_inbound_octets=1000)
    waiter, other = Waiter(), Waiter()
    a.request(1, waiter=waiter)
    a.request(1, waiter=other)
    data = piece(2, bytes(1001), of_receiver=True) + response(2) + response(3)
    if compiled_path:
        a.receive_to(data, list.clear, [])  # type: ignore[arg-type]
        assert other.told == [(True, 0, b"")]
    else:
        assert len(a.receive(data)) == 1
    assert isinstance(waiter.told[0], LimitExceeded)
    assert "the response of 1001 bytes" in str(waiter.told[0].for_waiter())
    assert a.waiters == {}


def test_a_caller_that_gave_up_gets_no_response() -> None:
    a, _ = agreed_pair(max_inbound_octets=1000)
    a.request(1)
    a.receive(piece(2, bytes(500), of_receiver=True))
    assert a.pieces.held == 500
    a.forget(0, 2)
    a.receive(piece(2, bytes(500), of_receiver=True))
    assert a.pieces.held == 0
    assert a.receive(response(2)) == []
    a.request(1)
    a.receive(piece(3, bytes(500), of_receiver=True))
    a.forget(0, 3)
    assert a.receive(response(3)) == []
    assert a.pieces.held == 0
    assert a.late_responses == 2


class Impatient(dict[Any, Any]):
    """Waiters of which one gives up the moment before it is told."""

    def pop(self, key: Any, default: Any = None) -> Any:
        super().pop(key, default)
        return default


@NOT_COMPILED
@pytest.mark.parametrize("size", [10, 2000])
def test_a_caller_that_gives_up_just_now(size: int) -> None:
    a, _ = agreed_pair(max_inbound_octets=1000)
    waiter = Waiter()
    a.request(1, waiter=waiter)
    a.receive(piece(2, bytes(size), of_receiver=True))
    a.waiters = Impatient(a.waiters)
    a.receive_to(response(2), list.clear, [])  # type: ignore[arg-type]
    assert waiter.told == []


def test_more_pieces_than_a_packet_may_have() -> None:
    for data in (piece(2, bytes(900)) * 2, piece(2, bytes(900)) + request(2, bytes(900))):
        _, b = agreed_pair(max_packet_size=1000)
        code, text = refused(b, data)
        assert code == "bad-frame"
        assert "the payload has 1800 bytes, the limit is 1000" in text
    a, _ = agreed_pair(max_packet_size=1000)
    a.request(1)
    assert refused(a, piece(2, bytes(900), of_receiver=True) + response(2, bytes(900)))[0] == "bad-frame"


def test_pieces_that_are_refused() -> None:
    own = Hello(features=ALL_FEATURES, max_piece=1024)
    for data, code, what in (
        (piece(2, bytes(1025)), "bad-frame", "1025 bytes in one PIECE, the limit is 1024"),
        (piece(2, b"x", channel=2), "bad-frame", "PIECE about channel 2"),
        (request(2) + piece(2, b"x"), "bad-frame", "a request that is whole"),
        (piece(2, b"x", of_receiver=True), "response-never-asked", "tag 2"),
        (b"".join(piece(tag, b"") for tag in range(2, MAX_UNFINISHED + 3)), "too-many-unfinished", "a PIECE frame"),
        (
            b"".join(piece(tag, b"", channel=16) for tag in range(2, MAX_UNFINISHED + 3)),
            "too-many-unfinished",
            f"tag {MAX_UNFINISHED + 2}",
        ),
        (piece(0, b"x") + bytes(EOF_PACKET) + b"", None, ""),
    ):
        _, b = agreed_pair(own_b=own)
        if code is None:
            (end,) = b.receive(data)
            assert isinstance(end, StreamEnded)
            assert end.clean
        else:
            assert refused(b, data)[0] == code
            assert b.ended is not None
            assert what in str(b.ended.cause)


def test_pieces_of_a_request_that_is_refused_are_forgotten() -> None:
    _, b = agreed_pair(accepts_requests=False)
    assert b.receive(piece(2, b"abc") + request(2, b"def")) == []
    (answer,) = parsed(b"".join(b.data_to_send()))
    assert answer.payload == NO_HANDLER
    assert b.pieces.held == 0


class Pressed:
    """A budget with no room left."""

    def __init__(self) -> None:
        self.limit = 10

    def holds(self, owed: int) -> bool:
        return owed > self.limit

    def is_exhausted(self, owed: int) -> bool:
        return False


def test_a_server_with_too_much_to_do_drops_pieces() -> None:
    _, b = agreed_pair()
    b.budget = Pressed()  # type: ignore[assignment]
    b.receive(piece(2, bytes(11)))
    assert b.pieces.held == 0
    assert b.receive(request(2)) == []
    (answer,) = parsed(b"".join(b.data_to_send()))
    assert answer.payload.startswith(b"too much to do: all clients")


def test_a_packet_that_is_refused_before_it_is_there_takes_its_pieces_along() -> None:
    _, b = agreed_pair()
    b.receive(piece(2, bytes(11)))
    b.budget = Pressed()  # type: ignore[assignment]
    data = request(2, bytes(1000))
    assert b.receive(data[:500]) == []
    assert b.pieces.held == 0
    assert b.receive(data[500:]) == []
    assert len(parsed(b"".join(b.data_to_send()))) == 1


def test_interrupted_while_pieces_are_read() -> None:
    """What was read with the interrupted packet is partly lost: no payload is delivered with a hole in it."""
    a, _ = agreed_pair()
    waiters = [Waiter() for _ in range(4)]
    for waiter in waiters:
        a.request(1, waiter=waiter)
    a.receive(piece(3, b"abc", of_receiver=True))

    def interrupt(packet: Fields) -> None:
        raise KeyboardInterrupt

    data = (
        request(2)
        + piece(3, b"def", of_receiver=True)
        + response(3)
        + piece(4, b"x", of_receiver=True)
        + response(4)
        + piece(9, b"", channel=16)
        + piece(2, b"")
        + request(7)
        + response(5, b"whole")
        + response(5)
    )
    with pytest.raises(KeyboardInterrupt):
        a.receive_to(data, interrupt, [])
    assert [len(waiter.told) for waiter in waiters] == [0, 1, 1, 1]
    assert isinstance(waiters[1].told[0], LimitExceeded)
    assert isinstance(waiters[2].told[0], LimitExceeded)
    assert waiters[3].told == [(True, 0, b"whole")]
    b = ConnectionEngine()
    with pytest.raises(KeyboardInterrupt):
        b.receive_to(request(2) + request(3), interrupt, [])


def test_what_this_end_says_it_joins_it_joins_from_any_pieces() -> None:
    a, b = agreed_pair()
    assert known(b).own.max_piece == PIECE
    data = b"".join(piece(2, LARGE[begin : begin + 1000]) for begin in range(0, 50_000, 1000))
    events = b.receive(data + request(2, LARGE[50_000:100_000]))
    assert [event.payload for event in events if isinstance(event, RequestReceived)] == [LARGE[:100_000]]
    assert a.pieces.held == 0


def test_the_size_of_what_may_be_a_payload() -> None:
    assert [payload_size(each) for each in (b"abc", memoryview(b"ab"), "text", 5)] == [3, 2, 0, 0]  # type: ignore[arg-type]
