"""The path without events: `receive_to` does what `receive` says; and what other threads may do in between."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import packetwire
from packetwire import ConnectionEnded, LimitExceeded, PeerEndedRequests, RemoteProtocolError, StreamEnded
from packetwire.core.budget import Budget
from packetwire.core.engine import END_GRACE, NO_HANDLER, NOT_BEGUN, ConnectionEngine
from packetwire.core.engine import ENDINGS as ALL_ENDINGS
from packetwire.core.packets import EOF_PACKET, ERQ_PACKET

from .wire import request, response, sent, sent_packets

ENDINGS = sorted(ALL_ENDINGS)
CAUSE = ConnectionEnded("it was cut")


class Waiter:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def set_response(self, ok: bool, flags: int, payload: bytes) -> None:
        self.told.append((ok, flags, payload))

    def fail(self, cause: ConnectionEnded) -> None:
        self.told.append(str(cause))


def asking(count: int = 3, **settings: Any) -> tuple[ConnectionEngine, list[Waiter]]:
    engine, waiters = ConnectionEngine(**settings), [Waiter() for _ in range(count)]
    for waiter in waiters:
        engine.request(1, waiter=waiter)
    sent(engine)
    return engine, waiters


def received(engine: ConnectionEngine, octets: bytes) -> tuple[list[Any], list[Any]]:
    requests: list[Any] = []
    events: list[Any] = []
    engine.receive_to(octets, requests.append, events)
    return requests, events


PIECES = [
    *(request(tag, rq_type=rq_type, flags=3, payload=b"asked") for tag in (1, 2, 300) for rq_type in (0, 5)),
    request(4, channel=7),
    *(response(tag, payload=b"told") for tag in (2, 3, 4, 9)),
    response(3, flags=0, payload=b"no"),
    response(2, channel=3),
    bytes(ERQ_PACKET),
    bytes(EOF_PACKET),
    b"\x80",
    b"\x03\x01",
    b"\xff" * 12,
]


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.integers(1, 40), st.booleans())
def test_both_ways_of_receiving_agree(pieces: list[bytes], size: int, serves: bool) -> None:
    """Whatever comes, in whatever portions."""
    octets = b"".join(pieces)
    by_events, told = asking(accepts_requests=serves, max_inbound=3)
    directly, waiters = asking(accepts_requests=serves, max_inbound=3)
    asked: list[Any] = []
    for at in range(0, len(octets), size):
        requests, events = received(directly, octets[at : at + size])
        asked += requests
        others: list[Any] = []
        expected: list[Any] = []
        for event in by_events.receive(octets[at : at + size]):
            if type(event).__name__ == "ResponseReceived":
                event.waiter.set_response(*event[2:5])
            elif type(event).__name__ == "RequestReceived":
                key = (event.channel, event.tag) if event.channel else event.tag
                expected.append((key, event.flags, event.rq_type + 1, event.payload))
            else:
                others.append(event)
        assert requests == expected
        assert [type(event) for event in events] == [type(event) for event in others]
        assert [waiter.told for waiter in waiters] == [waiter.told for waiter in told]
        assert sent(directly) == sent(by_events)
        assert directly.octets_wanted == by_events.octets_wanted
    assert (directly.owed, directly.outstanding) == (by_events.owed, by_events.outstanding)


def test_what_ends_it_is_an_event() -> None:
    for octets, kind in ((b"\xff" * 12, RemoteProtocolError), (b"\x87\x68" + bytes(5), LimitExceeded)):
        engine, waiters = asking(max_packet_size=1 << 20 if kind is RemoteProtocolError else 100)
        _, (end,) = received(engine, octets)
        assert isinstance(end, StreamEnded)
        assert isinstance(end.cause.__cause__, RemoteProtocolError | LimitExceeded)
        assert end.lost == tuple(waiters)
        assert received(engine, response(2)) == ([], [])


def test_what_follows_a_clean_end_is_kept() -> None:
    engine, _ = asking(0)
    _, events = received(engine, bytes(ERQ_PACKET) + bytes(EOF_PACKET))
    assert [type(event) for event in events] == [PeerEndedRequests, StreamEnded]
    received(engine, b"behind")
    assert engine.trailing_octets == b"behind"


def test_a_response_behind_the_ending_of_the_requests_of_the_peer_is_delivered() -> None:
    engine, (first, second) = asking(2)
    received(engine, bytes(ERQ_PACKET) + response(2, payload=b"late") + response(3, flags=0, payload=NO_HANDLER))
    assert first.told == [(True, 0, b"late")]
    assert second.told == [(False, 0, NO_HANDLER)]


def test_an_interruption_amid_delivery_leaves_no_waiter_behind() -> None:
    engine, (first, second, third) = asking()

    def interrupted(*response: Any) -> None:
        raise KeyboardInterrupt

    first.set_response = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        received(engine, response(2) + response(3, payload=b"ok") + request(1) + response(9))
    assert "KeyboardInterrupt" in first.told[0]
    assert second.told == [(True, 0, b"ok")]
    assert third.told == []


def test_an_interruption_by_a_request_delivers_the_responses_behind_it() -> None:
    engine, (first, *_) = asking()

    def interrupted(packet: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.receive_to(request(1) + response(2, payload=b"ok"), interrupted, [])
    assert first.told == [(True, 0, b"ok")]


# time


def test_the_end_that_is_expected_comes_when_it_is_due() -> None:
    engine, (waiter,) = asking(1)
    assert engine.tick(1e9) == []
    engine.expect_end(CAUSE, 10.0)
    later = ConnectionEnded("it was cut, and that is why")
    engine.expect_end(later, 10.5)
    assert engine.deadline == 10.0 + END_GRACE
    assert engine.tick(10.0 + END_GRACE - 0.001) == []
    (end,) = engine.tick(10.0 + END_GRACE)
    assert isinstance(end, StreamEnded)
    assert (end.cause, end.lost) == (later, (waiter,))
    assert engine.tick(1e9) == []


# what another thread may do between two steps


class Racing(list[bytes]):
    """What is to be sent, with something that happens when it is used."""

    def __init__(self, meanwhile: Any) -> None:
        super().__init__()
        self.meanwhile = meanwhile

    def append(self, piece: bytes) -> None:
        self.meanwhile()
        super().append(piece)


def test_tags_that_another_thread_took_are_not_counted_back() -> None:
    engine = ConnectionEngine()
    engine.request(1)
    engine._next_tag = 100
    assert engine.request(1) == 3
    assert engine._next_tag == 100
    assert engine.request(1, channel=20) == 2
    engine._next_tags_of[20] = 100
    assert engine.request(1, channel=20) == 3
    assert engine._next_tags_of == {20: 100}


def test_a_request_that_is_interrupted_has_no_waiter() -> None:
    engine = ConnectionEngine()

    def interrupt() -> None:
        raise KeyboardInterrupt

    engine.unsent = Racing(interrupt)
    with pytest.raises(KeyboardInterrupt):
        engine.request(1, waiter=Waiter())
    assert engine.outstanding == 0


class AskedMeanwhile(dict[Any, bytes]):
    """What the peer gave up; another request is made while that is looked at."""

    def __init__(self, engine: ConnectionEngine, given_up: dict[Any, bytes]) -> None:
        super().__init__(given_up)
        self.engine = engine

    def get(self, key: Any, default: Any = None) -> Any:
        self.engine.waiters[1000 + len(self.engine.waiters)] = Waiter()
        return super().get(key, default)


def test_a_request_beside_an_end_that_gives_requests_up() -> None:
    engine = ConnectionEngine()
    tags = [engine.request(1, waiter=Waiter()) for _ in range(3)]
    engine._given_up = AskedMeanwhile(engine, dict.fromkeys(tags, NOT_BEGUN))
    (*_, ended) = engine.receive(bytes(ERQ_PACKET) + bytes(EOF_PACKET))
    assert isinstance(ended, StreamEnded)
    assert NOT_BEGUN.decode() in str(ended.cause)


def test_a_request_beside_the_end_raises_why() -> None:
    engine = ConnectionEngine()

    def end() -> None:
        engine.ended = StreamEnded(CAUSE, (), False)

    engine.unsent = Racing(end)
    with pytest.raises(ConnectionEnded, match="it was cut"):
        engine.request(1, waiter=Waiter())
    assert engine.outstanding == 0


def test_a_request_that_another_thread_answered_just_now() -> None:
    engine = ConnectionEngine()
    engine.receive(request(1) + request(2))
    engine.respond(0, 2, True)  # with something unsent it asks the budget, when it has seen that 1 waits

    class Answering(Budget):
        def is_exhausted(self, owed: int) -> bool:
            engine.budget = None
            engine.respond(0, 1, True)
            return False

    engine.budget = Answering(1000, 1, lambda: None)
    with pytest.raises(Exception, match="no request with tag 1"):
        engine.respond(0, 1, True)


def test_what_was_to_be_sent_may_be_forgotten_meanwhile() -> None:
    class Emptied(list[bytes]):
        def __delitem__(self, index: Any) -> None:
            self.clear()
            super().__delitem__(index)

    engine = ConnectionEngine()
    engine.unsent = Emptied([b"one"])
    assert engine.data_to_send() == [b"one"]
    assert not engine.unsent


def test_what_another_thread_sends_meanwhile_leaves_with_the_next_batch() -> None:
    class Joined(list[bytes]):
        def __delitem__(self, index: Any) -> None:
            self.append(b"late")
            super().__delitem__(index)

    engine = ConnectionEngine()
    engine.unsent = Joined([b"one", b"two"])
    assert engine.data_to_send() == [b"one", b"two"]
    assert engine.unsent == [b"late"]


def test_waiters_may_be_taken_meanwhile() -> None:
    class Emptied(dict[Any, Any]):
        def __bool__(self) -> bool:
            return True

    engine, (waiter,) = asking(1)
    engine.waiters = Emptied(engine.waiters)
    (end,) = engine.fail(CAUSE)
    assert isinstance(end, StreamEnded)
    assert end.lost == (waiter,)

    """A thread that asks may have been overtaken by the one that ends."""
    engine, waiters = ConnectionEngine(), [Waiter() for _ in range(3)]
    for waiter in waiters:
        engine.request(1, payload=bytes(100_000) if waiter is waiters[1] else b"", waiter=waiter)
    late = list(engine.unsent)
    engine.unsent.clear()
    engine.end_requests()
    engine.unsent.extend(late)
    assert [bytes(packet) for packet in sent_packets(engine)] == [bytes(ERQ_PACKET)]
    assert [len(waiter.told) for waiter in waiters] == [1, 1, 1]


def test_nothing_leaves_behind_the_end_and_the_end_of_the_requests_comes_before_it() -> None:
    engine = ConnectionEngine()
    engine.end()
    erq, eof = engine.unsent
    engine.unsent.clear()
    engine.unsent.extend([eof, erq, request(2)])
    assert sent(engine) == bytes(ERQ_PACKET) + bytes(EOF_PACKET)
    engine.unsent.append(response(5))
    assert sent(engine) == b""


def test_a_request_that_is_let_in_though_it_is_larger_than_the_bound() -> None:
    """With nothing else to do."""
    engine = ConnectionEngine(max_inbound_octets=3)
    requests, _ = received(engine, request(1, payload=b"larger"))
    assert requests == [(1, 0, 1, b"larger")]
    assert engine.owed == 1


def test_refusals_that_nobody_reads_end_it() -> None:
    engine = ConnectionEngine(accepts_requests=False)
    events: list[Any] = []
    tag = 0
    while not events:
        tag += 1
        _, events = received(engine, request(tag))
    (end,) = events
    assert isinstance(end.cause.__cause__, LimitExceeded)


def test_a_request_that_the_ending_peer_gives_up_waits_for_its_end() -> None:
    engine, (waiter,) = asking(1)
    received(engine, bytes(ERQ_PACKET) + response(2, flags=0, payload=ENDINGS[0]))
    assert waiter.told == []
    _, (end,) = received(engine, bytes(EOF_PACKET))
    assert end.lost == (waiter,)


@pytest.mark.skipif(packetwire.compiled is True, reason="no thread comes between there")
def test_a_response_that_another_thread_gave_up_meanwhile() -> None:
    class Gone(dict[Any, Any]):
        def pop(self, key: Any, default: Any = None) -> Any:
            return default

    engine, (waiter,) = asking(1)
    received(engine, bytes(ERQ_PACKET))
    engine.waiters = Gone(engine.waiters)
    received(engine, response(2))
    assert waiter.told == []


def test_a_request_behind_the_end_of_the_requests_may_have_been_given_up() -> None:
    engine, waiter = ConnectionEngine(), Waiter()
    tag = engine.request(1, waiter=waiter)
    late = list(engine.unsent)
    engine.unsent.clear()
    engine.end_requests()
    engine.unsent.extend(late)
    assert engine.forget(0, tag)
    assert sent(engine) == bytes(ERQ_PACKET)
    assert waiter.told == []


class GivenUpMeanwhile(dict[Any, Any]):
    """Waiters; another thread gives each request up behind the n-th look for it."""

    def __init__(self, engine: ConnectionEngine, looks: int) -> None:
        super().__init__(engine.waiters)
        self.engine = engine
        self.left = looks

    def _looked(self, key: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.engine.forget(0, key)

    def __contains__(self, key: Any) -> bool:
        found = super().__contains__(key)
        self._looked(key)
        return found

    def get(self, key: Any, default: Any = None) -> Any:
        found = super().get(key, default)
        self._looked(key)
        return found


@pytest.mark.skipif(packetwire.compiled is True, reason="what is compiled cannot be replaced")
@pytest.mark.parametrize("looks", [1, 2])
def test_a_request_that_another_thread_gives_up_as_its_response_comes(looks: int) -> None:
    """Of an engine that makes events of all, as somebody observes."""
    engine = ConnectionEngine()
    tag = engine.request(1, waiter=Waiter())
    engine.waiters = GivenUpMeanwhile(engine, looks)
    assert engine.receive(response(tag)) == []
    assert (engine.outstanding, engine.given_up, engine.late_responses) == (0, 1, 1)


def test_another_thread_ends_it_as_the_peer_ends_its_requests() -> None:
    engine = ConnectionEngine()

    class Ending(list[Any]):
        def append(self, event: Any) -> None:
            super().append(event)
            if isinstance(event, PeerEndedRequests):
                engine.fail(CAUSE)

    events = Ending()
    engine.receive(bytes(ERQ_PACKET), events)
    assert events == [PeerEndedRequests()]
    assert engine.ended is not None
    assert engine.ended.cause is CAUSE


def test_another_thread_ends_it_at_the_same_time() -> None:
    engine = ConnectionEngine()
    engine.receive(request(1))
    engine.respond(0, 1, True)

    class Nothing(dict[Any, int]):
        def __len__(self) -> int:
            engine._inbound = {}
            engine.end()
            return 0

    engine._inbound = Nothing()
    engine.end()
    assert engine.data_to_send()[-2:] == [bytes(ERQ_PACKET), bytes(EOF_PACKET)]
