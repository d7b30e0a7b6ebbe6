"""What is said of a request before it: deadlines, metadata, and that progress is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from packetwire import ConnectionEnded, LimitExceeded, LocalProtocolError, RequestReceived, StreamEnded
from packetwire.core.control import MAX_UNFINISHED
from packetwire.core.engine import JOIN_LIMIT, ConnectionEngine
from packetwire.core.events import Event
from packetwire.core.frames import FrameType, Meta, encode_frame, encode_meta
from packetwire.core.hello import Feature, Hello
from packetwire.core.packetcodec import Key
from packetwire.core.packets import Packet
from packetwire.core.requestcontext import RequestContext
from packetwire.core.statuses import StatusCode

from .agreed import agreed_pair, request_from, sent

TWO_SECONDS = Meta(milliseconds_left=2500)


def ask(engine: ConnectionEngine, meta: Meta = TWO_SECONDS, **given: Any) -> int:
    arguments = {"rq_type": 0, "flags": 0, "payload": b"hi", "channel": 0, "waiter": None} | given
    return engine.ask_with(meta, **arguments)


@pytest.mark.parametrize("channel", [0, 16])
@pytest.mark.parametrize("size", [0, JOIN_LIMIT, JOIN_LIMIT + 1])
def test_it_comes_with_its_request(channel: int, size: int) -> None:
    a, b = agreed_pair()
    b.now = 100.0
    meta = Meta(milliseconds_left=2500, progress_interval=50, metadata={"user": b"ada"})
    tag = ask(a, meta, rq_type=5, flags=6, payload=bytes(size), channel=channel, waiter="w")
    data = sent(a)
    assert data.startswith(encode_frame(FrameType.META, channel, tag, encode_meta(meta)))
    (request,) = b.receive(data)
    assert request == RequestReceived(channel, tag, 5, 6, bytes(size))
    key = (channel, tag) if channel else tag
    context = b.contexts[key]
    assert context.meta == meta
    assert context.deadline == 102.5
    assert context.metadata == {"user": b"ada"}
    assert b.respond(channel, tag, True)
    assert b.contexts == {}
    (response,) = a.receive(sent(b))
    assert response[-1] == "w"


def test_the_bytes_of_the_specification() -> None:
    a, _ = agreed_pair()
    for _ in range(5):
        a.request(0)
    sent(a)
    assert ask(a) == 7
    assert sent(a) == bytes.fromhex("08 07 03 02 01 01 02 93 44 05 07 02 01 68 69")


def test_the_deadline_counts_from_when_it_came() -> None:
    """The owner says the time of what is received; META and request may come far apart."""
    a, b = agreed_pair()
    ask(a)
    data = sent(a)
    b.now = 7.0
    assert b.receive(data[:9]) == []
    b.now = 8.0
    assert len(b.receive(data[9:])) == 1
    assert b.contexts[2].deadline == 9.5


def test_what_no_owner_counts_has_no_deadline() -> None:
    a, b = agreed_pair()
    ask(a, Meta())
    b.receive(sent(a))
    assert b.contexts[2].deadline is None
    assert b.contexts[2].metadata == {}


def test_both_leave_in_one_step() -> None:
    """A request of another thread never comes between: all is appended at once."""
    a, _ = agreed_pair()

    class Unsent(list[bytes]):
        calls = 0

        def append(self, piece: bytes) -> None:
            raise AssertionError(piece)

        def extend(self, pieces: Any) -> None:
            Unsent.calls += 1
            super().extend(pieces)

    a.unsent = Unsent()
    ask(a)
    assert Unsent.calls == 1
    assert len(a.unsent) == 2


def test_a_request_that_cannot_be_queued_waits_for_nothing() -> None:
    a, _ = agreed_pair()

    class Unsent(list[bytes]):
        def extend(self, pieces: Any) -> None:
            raise KeyboardInterrupt

    a.unsent = Unsent()
    with pytest.raises(KeyboardInterrupt):
        ask(a)
    assert a.outstanding == 0


def test_meta_for_a_request_under_way_means_nothing() -> None:
    a, b = agreed_pair()
    request_from(a, b)
    assert b.receive(encode_frame(FrameType.META, 0, 2, encode_meta(TWO_SECONDS))) == []
    assert b.contexts == {}


def test_of_two_the_last_counts() -> None:
    _, b = agreed_pair()
    for left in (5000, 1000):
        b.receive(encode_frame(FrameType.META, 0, 2, encode_meta(Meta(milliseconds_left=left))))
    b.receive(bytes(Packet(is_request=True, tag=2, rq_type=1)))
    assert b.contexts[2].deadline == 1.0


def test_requests_that_never_come_are_bounded() -> None:
    _, b = agreed_pair()
    tags = iter(range(2, 10_000))
    events: list[Event] = []
    while b.ended is None:
        b.receive(encode_frame(FrameType.META, 0, next(tags)), events)
        assert len(b.contexts) < 2 * MAX_UNFINISHED
    assert "1024 requests that were announced have not come" in str(b.ended.cause)
    assert b.contexts == {}


def test_requests_that_come_are_not_counted() -> None:
    """Far more than the bound are announced, come, and wait for their answers."""
    a, b = agreed_pair(max_outstanding=10_000)
    for _ in range(3 * MAX_UNFINISHED):
        ask(a)
    assert len(b.receive(sent(a))) == 3 * MAX_UNFINISHED
    assert len(b.contexts) == 3 * MAX_UNFINISHED
    assert b.ended is None
    b.abandon("no")
    assert b.contexts == {}


def test_counting_takes_no_time_for_each() -> None:
    """Just below the bound: they are not all counted again with each META that comes."""
    _, b = agreed_pair()
    for tag in range(2, 2 + MAX_UNFINISHED - 1):
        b.receive(encode_frame(FrameType.META, 16, tag))
    assert b.control is not None
    looked = 0

    class Contexts(dict[Key, RequestContext]):
        def __iter__(self) -> Iterator[Key]:
            nonlocal looked
            looked += len(self)
            return super().__iter__()

    b.control.contexts = Contexts(b.contexts)
    for tag in range(2, 102):
        b.receive(encode_frame(FrameType.META, 0, tag))
    assert b.ended is None
    assert looked < 3 * MAX_UNFINISHED


@pytest.mark.parametrize("settings", [{"accepts_requests": False}, {"max_inbound": 0}])
def test_what_is_refused_is_forgotten(settings: dict[str, Any]) -> None:
    a, b = agreed_pair(**settings)
    ask(a)
    assert b.receive(sent(a)) == []
    assert b.contexts == {}


def test_what_comes_behind_our_end_is_forgotten() -> None:
    a, b = agreed_pair()
    b.end()
    ask(a)
    assert b.receive(sent(a)) == []
    assert b.contexts == {}


def test_a_second_request_with_the_tag_takes_nothing_from_the_first() -> None:
    a, b = agreed_pair()
    ask(a)
    b.receive(sent(a))
    assert b.receive(bytes(Packet(is_request=True, tag=2, rq_type=1))) == []
    assert b.contexts[2].deadline == 2.5


def test_a_cancel_behind_meta_alone() -> None:
    _, b = agreed_pair()
    b.receive(encode_frame(FrameType.META, 0, 2, encode_meta(TWO_SECONDS)))
    assert len(b.contexts) == 1
    assert b.receive(encode_frame(FrameType.CANCEL, 0, 2, b"\1")) == []
    assert b.contexts == {}


def test_malformed_meta() -> None:
    _, b = agreed_pair()
    (end,) = b.receive(encode_frame(FrameType.META, 0, 2, b"\1\5"))
    assert isinstance(end, StreamEnded)
    assert "META: " in str(end.cause)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"rq_type": -1}, LocalProtocolError),
        ({"rq_type": "a"}, TypeError),
        ({"flags": -1}, LocalProtocolError),
        ({"channel": 3}, LocalProtocolError),
        ({"payload": "text"}, TypeError),
        ({"payload": bytes(2000)}, LocalProtocolError),
        ({"meta": Meta(trace_state=bytes(1100))}, LocalProtocolError),
    ],
    ids=lambda value: "".join(value) if isinstance(value, dict) else value.__name__,
)
def test_what_cannot_be_sent(given: dict[str, Any], error: type[Exception]) -> None:
    a, _ = agreed_pair(max_packet_size=1000)
    with pytest.raises(error):
        ask(a, **given)
    assert a.outstanding == 0
    assert sent(a) == b""
    assert ask(a) == 2, "its tag was not used"


def test_meta_is_no_larger_than_the_peer_takes() -> None:
    """Else the peer would end the connection."""
    a, b = agreed_pair(own_b=Hello(features=Feature.META, max_packet_size=200), own_a=Hello(features=Feature.META))
    with pytest.raises(LocalProtocolError, match="exceeds the peer's max_packet_size=200"):
        ask(a, Meta(metadata={"key": bytes(200)}))
    ask(a, Meta(metadata={"key": bytes(100)}))
    assert len(b.receive(sent(a))) == 1


def test_bounds_and_ends() -> None:
    a, b = agreed_pair(max_outstanding=1)
    ask(a)
    with pytest.raises(LimitExceeded, match="1 requests are without an answer"):
        ask(a)
    b.receive(sent(a))
    b.respond(0, 2, True)
    a.receive(sent(b))
    a.end_requests()
    with pytest.raises(ConnectionEnded, match="it cannot ask any more") as caught:
        ask(a)
    assert caught.value.begun is False


def test_an_end_in_between() -> None:
    """The connection ends while a request with metadata is queued: its waiter is told."""
    a, _ = agreed_pair()

    class Unsent(list[bytes]):
        def extend(self, pieces: Any) -> None:
            super().extend(pieces)
            a.ended = StreamEnded(ConnectionEnded("it broke"), (), clean=False)

    a.unsent = Unsent()
    with pytest.raises(ConnectionEnded, match="it broke") as caught:
        ask(a)
    assert caught.value.begun is False
    assert a.outstanding == 0


def test_a_broken_stream_leaves_nothing() -> None:
    a, b = agreed_pair()
    ask(a)
    b.receive(sent(a))
    b.send_failed(BrokenPipeError())
    assert b.contexts[2].deadline is not None, "its handler may only begin"
    assert not b.refuse(0, 2, b"late", StatusCode.DEADLINE, begun=True)
    assert b.contexts == {}


def test_a_tag_that_another_thread_took_later() -> None:
    """The next tag never goes back."""
    a, _ = agreed_pair()
    a._next_tag = 100
    assert ask(a) == 2
    assert a._next_tag == 100
