"""Who serves which channel, and what the engine does with requests that nobody serves."""

from __future__ import annotations

from collections import deque
from functools import partial, wraps
from typing import Any

import pytest

from packetwire import LocalProtocolError, Packet, PeerEndedRequests, RequestReceived, ResponseReceived
from packetwire.core.channels import Channels, Receiving, bound_to_channel, takes_channel
from packetwire.core.engine import FIRST_CHANNEL, ConnectionEngine, not_served
from packetwire.core.packets import MAX_UINT

from .wire import ERQ, request, response, sent, sent_packets

RESERVED = (1, 8, 15)


def handler(rq_type: int, flags: int, payload: bytes) -> Any:
    return payload


# the engine


def refused(engine: ConnectionEngine, channel: int, tag: int = 5) -> bytes:
    """The text with which a request is refused, without an event."""
    assert engine.receive(request(tag, channel=channel)) == []
    (packet,) = sent_packets(engine)
    assert packet == Packet(is_request=False, channel=channel, tag=tag, flags=0, payload=packet.payload)
    assert engine.owed == 0
    return packet.payload


@pytest.mark.parametrize("channel", RESERVED)
@pytest.mark.parametrize("channels", [None, Channels(), Channels({16: handler})])
def test_a_request_on_a_reserved_channel_is_refused(channel: int, channels: Channels | None) -> None:
    assert refused(ConnectionEngine(channels=channels), channel) == b"channels 1 to 15 are reserved"


@pytest.mark.parametrize("channel", [16, MAX_UINT])
def test_a_request_that_nobody_serves_is_refused(channel: int) -> None:
    assert refused(ConnectionEngine(channels=Channels()), channel) == b"channel %d is not served" % channel
    others = ConnectionEngine(channels=Channels({17: handler}), accepts_requests=False)
    assert refused(others, channel) == b"channel %d is not served" % channel
    assert refused(others, 0) == b"no request handler"


@pytest.mark.parametrize("channel", [0, *RESERVED, 16])
def test_an_end_that_answers_nothing_says_so(channel: int) -> None:
    assert refused(ConnectionEngine(accepts_requests=False), channel) == b"no request handler"
    assert refused(ConnectionEngine(accepts_requests=False, channels=Channels()), channel) == b"no request handler"


def test_served_channels_are_received() -> None:
    channels = Channels({16: handler})
    engine = ConnectionEngine(accepts_requests=False, channels=channels)
    assert engine.receive(request(2, channel=16)) == [RequestReceived(16, 2, 0, 0, b"")]
    channels.attach(MAX_UINT, print)
    channels.attach(0, print)
    assert engine.receive(request(2, channel=MAX_UINT)) == [RequestReceived(MAX_UINT, 2, 0, 0, b"")]
    assert engine.receive(request(2)) == [RequestReceived(0, 2, 0, 0, b"")]
    sent(engine)
    channels.detach(MAX_UINT)
    assert engine.receive(request(3, channel=MAX_UINT)) == []
    assert sent(engine) == response(3, 0, b"channel %d is not served" % MAX_UINT, channel=MAX_UINT)


def test_without_a_word_about_channels_all_are_received_that_are_not_reserved() -> None:
    engine = ConnectionEngine()
    for channel in (0, FIRST_CHANNEL, MAX_UINT):
        assert engine.receive(request(2, channel=channel)) == [RequestReceived(channel, 2, 0, 0, b"")]


@pytest.mark.parametrize("channel", [0, *RESERVED, 16])
def test_what_is_observed_is_received_whoever_serves_it(channel: int) -> None:
    engine = ConnectionEngine(accepts_requests=False, channels=Channels(), observed=True)
    assert engine.receive(request(2, channel=channel)) == [RequestReceived(channel, 2, 0, 0, b"")]
    assert engine.owed == 1
    assert engine.respond_failure(channel, 2, engine.not_served(channel))
    assert sent(engine) == response(2, 0, b"no request handler", channel=channel)


def test_the_end_of_requests_is_told_rather_than_the_channel() -> None:
    engine = ConnectionEngine()
    engine.receive(ERQ)
    assert refused(engine, 1) == b"requests no longer allowed"


@pytest.mark.parametrize("channel", RESERVED)
def test_nothing_is_asked_on_a_reserved_channel(channel: int) -> None:
    engine = ConnectionEngine()
    with pytest.raises(LocalProtocolError, match=f"channels 1 to 15 are reserved, got {channel}"):
        engine.request(0, channel=channel)
    assert (engine.outstanding, sent(engine)) == (0, b"")
    assert engine.request(0, channel=16) == 2
    assert engine.request(0) == 2


def test_replies_that_are_not_taken() -> None:
    engine = ConnectionEngine(max_inbound_octets=100)
    engine.receive(request(2) + request(3))
    engine.respond(0, 2, True, 0, bytes(97))
    assert (engine.unsent_octets, engine.overdue) == (100, b"")
    engine.respond(0, 3, True)
    assert engine.overdue == b"too much to do: 103 bytes wait to be written"
    sent(engine)
    assert engine.overdue == b""


def test_the_text_for_each_channel() -> None:
    assert [not_served(channel) for channel in (0, 1, 15, 16)] == [
        b"no request handler",
        *[b"channels 1 to 15 are reserved"] * 2,
        b"channel 16 is not served",
    ]


# channels


def test_handlers_and_receivers() -> None:
    channels = Channels()
    assert not channels
    channels.attach(20, print)
    assert channels
    assert 20 in channels
    channels.detach(20)
    channels.detach(20)
    assert 20 not in channels
    assert not channels
    channels = Channels({20: handler})
    assert channels
    assert 20 in channels
    assert 0 not in channels
    assert channels.handlers == {20: handler}


@pytest.mark.parametrize("channel", RESERVED)
def test_reserved_channels_are_not_served(channel: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"1 to 15 are reserved, got {channel}"):
        Channels({channel: handler})
    with pytest.raises(LocalProtocolError, match=f"1 to 15 are reserved, got {channel}"):
        Channels().attach(channel, print)


def test_channel_0_is_not_for_a_handler() -> None:
    with pytest.raises(LocalProtocolError, match="channel 0 is served by request_handler"):
        Channels({0: handler})


def test_a_channel_is_served_by_one() -> None:
    channels = Channels({16: handler})
    channels.attach(17, print)
    channels.attach(17, print)  # the same again
    for channel in (16, 17):
        with pytest.raises(LocalProtocolError, match=f"channel {channel} is served already"):
            channels.attach(channel, len)
    assert channels.receivers == {17: print}


def test_what_does_not_serve() -> None:
    channels = Channels()

    async def later(event: object) -> None: ...

    class Later:
        async def __call__(self, event: object) -> None: ...

    for receiver in (later, Later(), Later().__call__):
        with pytest.raises(TypeError, match="cannot be `async def`"):
            channels.attach(16, receiver)
    with pytest.raises(TypeError, match="the receiver of channel 16 must be callable, got 5"):
        channels.attach(16, 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the handler of channel 16 must be callable, got 'text'"):
        Channels({16: "text"})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="channel must be an int, got float"):
        channels.attach(16.0, print)  # type: ignore[arg-type]
    assert not channels


# being told


class Told:
    def method(self, rq_type: int, flags: int, payload: bytes, *, channel: int) -> Any:
        return rq_type, flags, payload, channel

    def __call__(self, rq_type: int, flags: int, payload: bytes, channel: int = 0) -> Any:
        return rq_type, flags, payload, channel


class Other:
    def method(self, channel: int, flags: int, payload: bytes) -> Any:
        return channel, flags, payload

    def __call__(self, rq_type: int, flags: int, channel: bytes) -> Any:
        return rq_type, flags, channel


def keyword(*request: Any, channel: int) -> Any:
    return (*request, channel)


def fourth(rq_type: int, flags: int, payload: bytes, channel: int) -> Any:
    return rq_type, flags, payload, channel


@wraps(keyword)
def wrapped(*request: Any, **more: Any) -> Any:
    return keyword(*request, **more)


@pytest.mark.parametrize(
    "each", [keyword, fourth, wrapped, partial(keyword, 7), partial(partial(fourth)), Told().method, Told()]
)
def test_a_handler_that_is_told_its_channel(each: Any) -> None:
    assert takes_channel(each)
    assert bound_to_channel(each, 33)(1, 2, b"3")[-4:] == (1, 2, b"3", 33)


@pytest.mark.parametrize(
    "each",
    [
        handler,
        lambda channel, flags, payload: (channel, flags, payload),
        lambda *request, **more: (*request, *more),
        partial(keyword, channel=5),
        Other(),
        Other().method,
        print,
        dict,
        Told,
    ],
)
def test_a_handler_that_is_not(each: Any) -> None:
    assert not takes_channel(each)
    assert bound_to_channel(each, 33) is each


# the order of events


class Heard:
    """What receivers were called with, in order; each looks that no other one runs."""

    def __init__(self) -> None:
        self.channels = Channels()
        self.events: list[tuple[str, Any]] = []
        self.running: list[Any] = []
        self.meanwhile: deque[Any] = deque()
        """Events that are given while the next ones are handled."""
        self.receiving = Receiving(self.channels, self._run)

    def attach(self, channel: int, name: str) -> None:
        self.channels.attach(channel, lambda event: self.events.append((name, event)))

    def _run(self, event: Any, receiver: Any) -> None:
        assert not self.running
        self.running.append(event)
        if self.meanwhile:
            assert self.receiving.give(self.meanwhile.popleft())
        receiver(event)
        self.running.pop()


ASKED = RequestReceived(16, 2, 0, 0, b"")
ASKED_ON_17 = RequestReceived(17, 2, 0, 0, b"")
ANSWERED = ResponseReceived(16, 2, True, 0, b"", None)


def test_each_event_goes_to_whom_it_concerns() -> None:
    heard = Heard()
    assert not heard.receiving
    assert not heard.receiving.give(ASKED)
    heard.attach(16, "a")
    heard.attach(17, "b")
    assert heard.receiving
    for event in (ASKED, ANSWERED, ASKED_ON_17, PeerEndedRequests()):
        assert heard.receiving.give(event)
    assert not heard.receiving.give(RequestReceived(0, 2, 0, 0, b""))
    assert heard.events == [
        ("a", ASKED),
        ("a", ANSWERED),
        ("b", ASKED_ON_17),
        ("a", PeerEndedRequests()),
        ("b", PeerEndedRequests()),
    ]


def test_one_at_a_time_whoever_gives_them() -> None:
    """What is given while a receiver runs, by itself or by another thread, comes behind it."""
    heard = Heard()
    heard.attach(16, "a")
    heard.attach(17, "b")
    heard.meanwhile += (ANSWERED, ASKED_ON_17)
    assert heard.receiving.give(ASKED)
    assert heard.events == [("a", ASKED), ("a", ANSWERED), ("b", ASKED_ON_17)]


def test_what_is_given_as_the_turn_is_given_up_is_not_forgotten() -> None:
    heard = Heard()
    heard.attach(16, "a")

    class Late(deque[None]):
        """The turn; another thread adds an event just before it is given back."""

        def append(self, item: None) -> None:
            if len(heard.events) == 1:
                heard.receiving._waiting.append((ANSWERED, heard.channels.receivers[16]))
            super().append(item)

    heard.receiving._turn = Late([None])
    heard.receiving.give(ASKED)
    assert heard.events == [("a", ASKED), ("a", ANSWERED)]


def test_an_exception_gives_the_turn_up() -> None:
    channels = Channels()
    receiving = Receiving(channels, lambda event, receiver: receiver(event))
    heard: list[Any] = []

    def receiver(event: Any) -> None:
        heard.append(event)
        if event == ASKED:
            raise KeyboardInterrupt

    channels.attach(16, receiver)
    with pytest.raises(KeyboardInterrupt):
        receiving.give(ASKED)
    receiving.give(ANSWERED)
    assert heard == [ASKED, ANSWERED]


# what is quick


RESPONSE = ResponseReceived(16, 2, True, 0, b"", None)
REQUEST = RequestReceived(16, 2, 0, 0, b"")


def test_a_receiver_with_something_quick() -> None:
    channels = Channels()
    assert not channels.unhurried
    channels.attach(16, lambda event: None, quick=lambda event: True)
    assert not channels.unhurried
    unhurried = channels.attach(17, lambda event: None)
    assert channels.unhurried == {17: unhurried}
    channels.detach(16)
    channels.detach(17)
    assert [channels.quick, channels.unhurried, channels.receivers] == [{}, {}, {}]


def quick_and_not(takes: bool) -> tuple[Receiving, list[Any]]:
    """Receiving on channel 16, and what came where; `takes` is what the quick one says."""
    came: list[Any] = []
    channels = Channels()

    def quick(event: ResponseReceived) -> bool:
        came.append(("quick", event))
        return takes

    channels.attach(16, lambda event: None, quick=quick, weakly=True)
    quick.kept = quick  # type: ignore[attr-defined]
    return Receiving(channels, lambda event, receiver: came.append(("receiver", event))), came


@pytest.mark.parametrize("takes", [True, False])
def test_a_response_is_dealt_with_quickly_or_not(takes: bool) -> None:
    receiving, came = quick_and_not(takes)
    assert receiving.give_quickly(RESPONSE) is takes
    assert came == [("quick", RESPONSE)]
    assert not receiving.give_quickly(RESPONSE._replace(channel=17))


def test_what_waits_comes_first() -> None:
    receiving, came = quick_and_not(True)
    assert receiving.postpone(REQUEST)
    assert not receiving.postpone(REQUEST._replace(channel=17))
    assert receiving.is_behind
    assert not receiving.give_quickly(RESPONSE)
    assert receiving.postpone(RESPONSE)
    receiving.postpone_for_all(PeerEndedRequests())
    assert came == []
    receiving.run()
    assert came == [("receiver", REQUEST), ("receiver", RESPONSE), ("receiver", PeerEndedRequests())]
    assert not receiving.is_behind
    assert receiving.give_quickly(RESPONSE)


def test_nothing_is_quick_while_a_receiver_runs() -> None:
    channels = Channels()
    channels.attach(16, lambda event: None, quick=lambda event: True)
    tried: list[bool] = []
    receiving = Receiving(channels, lambda event, receiver: tried.append(receiving.give_quickly(RESPONSE)))
    receiving.give(REQUEST)
    assert tried == [False]


def test_a_quick_one_that_fails_gives_the_turn_up() -> None:
    channels = Channels()

    def fail(event: ResponseReceived) -> bool:
        raise RuntimeError("this fault")

    came: list[Any] = []
    channels.attach(16, lambda event: None, quick=fail)
    receiving = Receiving(channels, lambda event, receiver: came.append(event))
    with pytest.raises(RuntimeError, match="this fault"):
        receiving.give_quickly(RESPONSE)
    receiving.give(REQUEST)
    assert came == [REQUEST]


def test_another_thread_takes_the_turn_just_before() -> None:
    class TakenNow(deque[None]):
        def __bool__(self) -> bool:
            return True

    came: list[Any] = []
    channels = Channels()
    channels.attach(16, lambda event: None)
    receiving = Receiving(channels, lambda event, receiver: came.append(event))
    receiving._turn = TakenNow()
    assert receiving.give(REQUEST)
    assert came == []
    receiving._turn.append(None)
    receiving.run()
    assert came == [REQUEST]


def test_a_quick_one_that_is_gone_takes_nothing() -> None:
    channels = Channels()

    def attach() -> None:
        channels.attach(16, lambda event: None, quick=lambda event: True, weakly=True)

    attach()
    assert not Receiving(channels, lambda event, receiver: None).give_quickly(RESPONSE)
