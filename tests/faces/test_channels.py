"""Who serves which channel, and what becomes of requests that nobody serves."""

from __future__ import annotations

import asyncio
import functools
import logging
import queue
import socket
import threading

import pytest

from packetwire import (
    AsyncPacketConnection,
    LocalProtocolError,
    Packet,
    PacketConnection,
    PeerEndedRequests,
    RequestReceived,
    Responder,
    ResponseReceived,
    StreamEnded,
)
from packetwire.core.packets import MAX_UINT

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("plain_streams")]

RESERVED = (1, 7, 15)
WATCHDOG = 30


def upper(rq_type, flags, payload):
    return payload.upper()


def not_ok(packet):
    assert (packet.is_request, packet.flags) == (False, 0), packet
    return packet.payload.decode()


# what nobody serves


@pytest.mark.parametrize("channel", RESERVED)
@pytest.mark.parametrize(
    "settings",
    [{"channels": {16: upper}}, {"request_handler": upper}, {"handlers": "inline", "request_handler": upper}],
)
def test_a_reserved_channel_is_refused(ends, channel, settings):
    ends.open(**settings)
    packet = ends.peer().ask(2, channel=channel, payload=b"abc")
    assert (packet.channel, packet.tag) == (channel, 2)
    assert not_ok(packet) == "channels 1 to 15 are reserved"


@pytest.mark.parametrize("channel", [16, 300, MAX_UINT])
@pytest.mark.parametrize("settings", [{"request_handler": upper}, {"channels": {17: upper}}])
def test_a_channel_that_nobody_serves_is_refused(ends, channel, settings):
    ends.open(**settings)
    packet = ends.peer().ask(9, channel=channel, payload=b"abc")
    assert (packet.channel, packet.tag) == (channel, 9)
    assert not_ok(packet) == f"channel {channel} is not served"


@pytest.mark.parametrize("channel", [0, *RESERVED, 16])
def test_an_end_that_answers_nothing_says_so(ends, channel):
    ends.open()
    assert not_ok(ends.peer().ask(2, channel=channel)) == "no request handler"


def test_channel_0_is_refused_without_a_request_handler(ends):
    ends.open(channels={16: upper})
    asker = ends.asker()
    assert asker(0, b"abc") == (False, 0, b"no request handler")
    assert asker(0, b"abc", channel=16) == (True, 0, b"ABC")


@pytest.mark.parametrize("channel", [0, *RESERVED, 16])
def test_a_refusal_comes_after_the_observers(ends, channel):
    seen = []
    ends.open(on_event=seen.append)
    packet = ends.peer().ask(2, channel=channel, payload=b"abc")
    assert not_ok(packet) == "no request handler"
    assert seen == [RequestReceived(channel, 2, 0, 0, b"abc")]


@pytest.mark.parametrize("handler", [None, upper])
@pytest.mark.parametrize("channel", [0, *RESERVED, 16])
def test_what_an_observer_takes_is_not_refused(ends, channel, handler):
    def on_event(event):
        if isinstance(event, RequestReceived):
            ends.conn.take(event).respond(b"taken " + event.payload)

    ends.open(on_event=on_event, request_handler=handler)
    packet = ends.peer().ask(2, channel=channel, payload=b"abc")
    assert packet == Packet(is_request=False, channel=channel, tag=2, flags=1, payload=b"taken abc")


def test_an_observer_that_fails_takes_nothing(ends, caplog):
    def on_event(event):
        raise KeyError("observer")

    ends.open(on_event=on_event, request_handler=upper)
    assert not_ok(ends.peer().ask(2, channel=16)) == "channel 16 is not served"
    assert "on_event failed" in caplog.text


# calls


@pytest.mark.parametrize("channel", [*RESERVED, -1, MAX_UINT + 1])
@pytest.mark.parametrize("timeout", [None, 5])
def test_a_call_on_a_reserved_channel_is_refused_and_sends_nothing(ends, channel, timeout):
    ends.open()
    peer = ends.peer()
    with pytest.raises(LocalProtocolError, match="channel"):
        ends.call(0, b"abc", channel=channel, timeout=timeout)
    with pytest.raises(LocalProtocolError, match="channel"):
        ends.do(lambda: ends.conn.submit(0, 0, b"abc", channel=channel, timeout=timeout))
    ends.do(ends.conn.send_erq)
    assert peer.read().tag == 1  # ERQ is the first packet
    assert ends.conn.outstanding == 0


# handlers of channels


def test_each_channel_has_its_own_handler(ends):
    ends.open(request_handler=upper, channels={16: lambda *request: repr(request), 17: lambda *_: b"seventeen"})
    asker = ends.asker()
    assert asker(5, b"abc", 3) == (True, 0, b"ABC")
    assert asker(5, b"abc", 3, channel=16) == (True, 0, b"(5, 3, b'abc')")
    assert asker(5, b"abc", 3, channel=17) == (True, 0, b"seventeen")
    assert asker(5, b"abc", 3, channel=18) == (False, 0, b"channel 18 is not served")


class Told:
    def keyword(self, rq_type, flags, payload, *, channel):
        return b"%d" % channel

    def fourth(self, rq_type, flags, payload, channel=None):
        return b"%d" % channel

    __call__ = keyword


def only_keyword(*request, channel):
    return b"%d" % channel


@functools.wraps(only_keyword)
def wrapped(*request, **more):
    return only_keyword(*request, **more)


TOLD = {
    "method": Told().keyword,
    "fourth": Told().fourth,
    "object": Told(),
    "function": only_keyword,
    "wrapped": wrapped,
    "partial": functools.partial(lambda start, *request, channel: start + b"%d" % channel, b""),
}


@pytest.mark.parametrize("handler", TOLD.values(), ids=TOLD)
@pytest.mark.parametrize("handlers", [4, "inline"])
def test_a_handler_can_be_told_its_channel(ends, handler, handlers):
    ends.open(request_handler=handler, channels={16: handler, 300: handler}, handlers=handlers)
    asker = ends.asker()
    for channel in (0, 16, 300):
        assert asker(0, channel=channel) == (True, 0, b"%d" % channel)


class Silent:
    def __call__(self, channel, flags, payload):
        return repr((channel, flags, payload))


NOT_TOLD = {
    "first": lambda channel, flags, payload: repr((channel, flags, payload)),
    "any": lambda *request, **more: repr((*request, *more)),
    "object": Silent(),
    "bound": functools.partial(lambda *request, channel: repr(request), channel=5),
    "function": lambda *request: repr(request),
}


@pytest.mark.parametrize("name", NOT_TOLD)
def test_a_handler_of_the_reference_is_called_as_ever(ends, name):
    handler = NOT_TOLD[name]
    ends.open(request_handler=handler, channels={16: handler})
    asker = ends.asker()
    for channel in (0, 16):
        assert asker(7, b"abc", 3, channel=channel) == (True, 0, b"(7, 3, b'abc')")


def test_a_coroutine_function_serves_a_channel():
    async def main():
        async def told(rq_type, flags, payload, *, channel):
            await asyncio.sleep(0)
            return b"%d" % channel

        async def reverse(rq_type, flags, payload):
            await asyncio.sleep(0)
            return payload[::-1]

        ours, theirs = socket.socketpair()
        with ours, theirs:
            async with (
                AsyncPacketConnection(theirs, channels={16: told, 17: reverse}),
                AsyncPacketConnection(ours) as conn,
            ):
                assert await conn(0, b"abc", channel=16) == (True, 0, b"16")
                assert await conn(0, b"abc", channel=17) == (True, 0, b"cba")
                assert await conn(0, b"abc") == (False, 0, b"no request handler")

    asyncio.run(main())


def test_inline_types_are_those_of_channel_0(ends):
    where = []

    def handler(rq_type, flags, payload):
        where.append(threading.current_thread())

    ends.open(request_handler=handler, channels={16: handler}, inline={5}, on_event=handler_thread(where))
    asker = ends.asker()
    asker(5)
    assert where[0] is where[1], "the reader runs it"
    if isinstance(ends.conn, AsyncPacketConnection):
        asker(5, channel=16)
        assert where[2] is not where[3], "a worker runs it"


def handler_thread(where):
    def on_event(event):
        if isinstance(event, RequestReceived):
            where.append(threading.current_thread())

    return on_event


@pytest.mark.parametrize("channel", [0, *RESERVED])
@pytest.mark.parametrize("make", [PacketConnection, AsyncPacketConnection])
def test_channels_that_cannot_have_a_handler(make, channel):
    with pytest.raises(LocalProtocolError, match="channel 0 is served by request_handler|1 to 15 are reserved"):
        make((0, 1), channels={channel: upper})


@pytest.mark.parametrize("make", [PacketConnection, AsyncPacketConnection])
def test_what_is_no_channel_or_no_handler(make):
    with pytest.raises(TypeError, match="channel must be an int, got str: 'control'"):
        make((0, 1), channels={"control": upper})
    with pytest.raises(TypeError, match="handler of channel 16 must be callable, got b'abc'"):
        make((0, 1), channels={16: b"abc"})
    with pytest.raises(LocalProtocolError, match="channel must be from 0"):
        make((0, 1), channels={-1: upper})


def test_requests_allowed(ends):
    ends.make()
    assert not ends.conn.requests_allowed
    ends.open()
    ends.peer()
    assert not ends.conn.requests_allowed
    ends.conn.attach(16, print)
    assert ends.conn.requests_allowed
    ends.conn.detach(16)
    assert not ends.conn.requests_allowed


# receivers


def test_a_receiver_gets_the_requests_of_its_channel(ends):
    seen = []

    def receiver(event):
        seen.append(event)
        return 3, event.payload.upper()

    ends.open(request_handler=lambda *_: b"handler")
    ends.conn.attach(16, receiver)
    asker = ends.asker()
    assert asker(7, b"abc", 5, channel=16) == (True, 3, b"ABC")
    assert asker(7, b"abc") == (True, 0, b"handler")
    assert asker(7, channel=17) == (False, 0, b"channel 17 is not served")
    assert seen == [RequestReceived(16, 2, 7, 5, b"abc")]


RESULTS = [
    (None, (True, 0, b"")),
    (5, (True, 5, b"")),
    ("é", (True, 0, "é".encode())),
    ((1, b"x"), (True, 1, b"x")),
]


@pytest.mark.parametrize(("result", "response"), RESULTS)
def test_what_a_receiver_returns_is_the_answer(ends, result, response):
    ends.open(channels={17: upper})
    ends.conn.attach(16, lambda event: result)
    assert ends.asker()(0, channel=16) == response


def test_a_receiver_can_answer_later(ends):
    waiting = queue.Queue()

    def receiver(event):
        responder = Responder()
        waiting.put(responder)
        return responder

    ends.open()
    ends.conn.attach(16, receiver)
    asker = ends.asker()
    result = asker.submit(0, channel=16)
    waiting.get(timeout=WATCHDOG).respond(b"later")
    assert result(timeout=WATCHDOG) == (True, 0, b"later")


@pytest.mark.parametrize("detail", ["none", "message"])
def test_an_exception_of_a_receiver_is_answered_as_a_handlers(ends, caplog, detail):
    def receiver(event):
        raise KeyError("no such book")

    ends.open(error_detail=detail, channels={17: lambda *_: receiver(None)})
    ends.conn.attach(16, receiver)
    asker = ends.asker()
    with caplog.at_level(logging.ERROR):
        failed = asker(0, channel=16)
        assert failed == asker(0, channel=17)
    assert failed == (False, 0, b"the request failed" if detail == "none" else b"KeyError: 'no such book'")
    assert "no such book" in caplog.text


def test_a_result_that_means_nothing_is_answered_too(ends):
    ends.open()
    ends.conn.attach(16, lambda event: 1.5)
    ok, _, text = ends.asker()(0, channel=16)
    assert not ok
    assert b"got float" in text


def test_everything_comes_in_the_order_of_the_wire(ends):
    """Requests and responses of the channel, ERQ and the end, one at a time, before the caller has its response."""
    seen, running, ended = [], [], threading.Event()

    def receiver(event):
        assert not running
        running.append(event)
        if isinstance(event, ResponseReceived | RequestReceived):
            seen.append(event.payload)
        else:
            seen.append(type(event))
            if isinstance(event, StreamEnded):
                ended.set()
        running.pop()

    ends.open()
    ends.conn.attach(16, receiver)
    peer = ends.peer()
    result = ends.do(lambda: (ends.conn.submit(0, 0, b"question", channel=16),))
    asked = peer.read()
    wire = []
    for number in range(200):
        wire.append(Packet(is_request=True, channel=16, tag=2 + number, rq_type=1, payload=b"%d" % number))
        if number == 100:
            wire.append(Packet(is_request=False, channel=16, tag=asked.tag, flags=1, payload=b"answer"))
    peer.send(*wire, PacketConnection.ERQ_Packet, PacketConnection.EOF_Packet)
    assert ended.wait(WATCHDOG)
    expected = [packet.payload for packet in wire]
    assert seen == [*expected, PeerEndedRequests, StreamEnded]
    assert result[0].done if isinstance(ends.conn, PacketConnection) else result[0].done()


def test_the_receiver_sees_a_response_before_its_caller_does(ends):
    order = []
    ends.open()
    ends.conn.attach(16, lambda event: order.append("receiver") if isinstance(event, ResponseReceived) else None)
    ends.asker(channels={16: upper})
    assert ends.call(0, b"abc", channel=16) == (True, 0, b"ABC")
    order.append("caller")
    assert order == ["receiver", "caller"]


def test_responses_of_other_channels_are_not_its_business(ends):
    seen = []
    ends.open()
    ends.conn.attach(16, seen.append)
    ends.asker(request_handler=upper)
    assert ends.call(0, b"abc") == (True, 0, b"ABC")
    assert seen == []


def test_a_failure_for_what_is_no_request_is_logged_and_harmless(ends, caplog):
    def receiver(event):
        if not isinstance(event, RequestReceived):
            raise KeyError("not my day")
        return b"fine"

    ends.open()
    ends.conn.attach(16, receiver)
    asker = ends.asker(channels={16: upper})
    with caplog.at_level(logging.ERROR):
        assert ends.call(0, b"abc", channel=16) == (True, 0, b"ABC")
        assert asker(0, channel=16) == (True, 0, b"fine")
    assert "ResponseReceived" in caplog.text
    assert "not my day" in caplog.text


def test_what_an_observer_takes_does_not_reach_the_receiver(ends):
    seen = []

    def on_event(event):
        if isinstance(event, RequestReceived):
            ends.conn.take(event).respond(b"taken")

    ends.open(on_event=on_event)
    ends.conn.attach(16, seen.append)
    assert ends.asker()(0, channel=16) == (True, 0, b"taken")
    assert seen == []


def test_a_receiver_may_serve_channel_0_if_no_handler_does(ends):
    ends.open()
    ends.conn.attach(0, lambda event: event.payload.upper())
    assert ends.asker()(0, b"abc") == (True, 0, b"ABC")


def test_attached_before_the_opening_and_detached_while_open(ends):
    conn = ends.make()
    conn.attach(16, lambda event: b"first")
    ends.open()
    asker = ends.asker()
    assert asker(0, channel=16) == (True, 0, b"first")
    conn.attach(17, print)
    conn.detach(16)
    conn.detach(16)
    assert asker(0, channel=16) == (False, 0, b"channel 16 is not served")
    conn.attach(16, lambda event: b"second")
    assert asker(0, channel=16) == (True, 0, b"second")


@pytest.mark.parametrize("make", [PacketConnection, AsyncPacketConnection])
def test_what_cannot_be_attached(make):
    conn = make((0, 1), request_handler=upper, channels={16: upper})
    for channel in RESERVED:
        with pytest.raises(LocalProtocolError, match="reserved"):
            conn.attach(channel, print)
    with pytest.raises(LocalProtocolError, match="channel 0 is served by the request_handler already"):
        conn.attach(0, print)
    with pytest.raises(LocalProtocolError, match="channel 16 is served already"):
        conn.attach(16, print)
    conn.attach(17, print)
    with pytest.raises(LocalProtocolError, match="channel 17 is served already"):
        conn.attach(17, upper)
    with pytest.raises(TypeError, match="channel must be an int"):
        conn.attach("17", print)
    with pytest.raises(TypeError, match="receiver of channel 18 must be callable, got None"):
        conn.attach(18, None)

    async def later(event):
        pass

    with pytest.raises(TypeError, match="cannot be `async def`"):
        conn.attach(18, later)
    assert not conn._channels.receivers.keys() - {17}


def test_a_receiver_may_close_the_connection(ends):
    """Its end comes behind the event that it is at work on."""
    seen, ended = [], threading.Event()

    def receiver(event):
        seen.append(type(event))
        if isinstance(event, RequestReceived):
            ends.conn.send_eof()
            return b"bye"
        if isinstance(event, StreamEnded):
            ended.set()
        return None

    ends.open()
    ends.conn.attach(16, receiver)
    asker = ends.asker()
    assert asker(0, channel=16) == (True, 0, b"bye")
    assert ended.wait(WATCHDOG)
    assert seen[0] is RequestReceived
    assert seen[-1] is StreamEnded


@pytest.mark.long
def test_a_peer_that_takes_no_replies_is_refused_in_the_end(ends):
    """A receiver is called whatever is unsent, so what it answers has a bound of its own."""
    called = []

    def receiver(event):
        called.append(event.tag)
        return bytes(1 << 20)

    ends.open()
    ends.conn.attach(16, receiver)
    peer = ends.peer()
    count = 400
    for tag in range(2, count + 2):
        peer.send(Packet(is_request=True, channel=16, tag=tag, rq_type=1))
    answers = [peer.read() for _ in range(count)]
    refused = [packet for packet in answers if packet.flags == 0]
    assert len(answers) - len(refused) == len(called)
    assert 256 <= len(called) < count
    assert all(packet.payload.endswith(b"wait to be written") for packet in refused)
