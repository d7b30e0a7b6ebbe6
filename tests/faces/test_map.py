"""Many requests at a time, some of which fail."""

from __future__ import annotations

import socket

import pytest

from packetwire import (
    AsyncHasPacketConnection,
    AsyncPacketConnection,
    BaseRequest,
    ConnectionEnded,
    HasPacketConnection,
    LocalProtocolError,
    PacketConnection,
    RequestFailed,
    RequestTimeout,
    Responder,
)

pytestmark = pytest.mark.timeout(60)

NEVER = 9


def handler(rq_type, flags, payload):
    if rq_type == NEVER:
        return Responder()
    if payload == b"bad":
        raise ValueError("bad")
    return payload.upper()


class Shout(BaseRequest):
    def __init__(self, text):
        self.text = text

    @classmethod
    def from_bytes(cls, bs):
        return cls(bs)

    def __bytes__(self):
        return self.text

    def decode_response_payload(self, flags, payload):
        if payload == b"UNDECODABLE":
            raise KeyError("undecodable")
        return payload


def collected(ends, make):
    """All that is yielded, and what was raised in the end."""
    found = []

    async def collect():
        try:
            async for each in make():
                found.append(each)
        except Exception as error:
            return error

    if hasattr(ends.face, "loop"):
        return found, ends.do(collect)
    try:
        found.extend(make())
    except Exception as error:
        return found, error
    return found, None


@pytest.mark.parametrize("window", [1, 3, 64])
def test_the_exception_says_which_request_it_is_about(ends, window):
    conn = ends.open()
    ends.asker(request_handler=handler, close_timeout=0.1)
    requests = [(0, b"a"), (0, b"b"), (NEVER, b"c"), (0, b"d")]
    found, error = collected(ends, lambda: conn.map(requests, window=window, timeout=0.2))
    assert found == [(True, 0, b"A"), (True, 0, b"B")]
    assert isinstance(error, RequestTimeout)
    assert error.request == (NEVER, b"c")
    assert error.__notes__ == ["this is about request 2 of the map, counted from 0: rq_type 9"]
    assert conn.outstanding == 0


@pytest.mark.parametrize("window", [1, 3, 64])
def test_exceptions_can_be_yielded_in_place(ends, window):
    conn = ends.open()
    ends.asker(request_handler=handler, close_timeout=0.1)
    requests = [(0, b"a"), (NEVER, b"b"), (-1, b"c"), "text", (0, b"d"), (0, b"bad")]
    found, error = collected(ends, lambda: conn.map(requests, window=window, timeout=0.2, return_exceptions=True))
    assert error is None
    assert [type(each) for each in found] == [tuple, RequestTimeout, LocalProtocolError, TypeError, tuple, tuple]
    assert [each.request for each in found[1:4]] == requests[1:4]
    assert found[4] == (True, 0, b"D")
    assert found[5][0] is False, "a response that is not ok is a response"
    assert conn.outstanding == 0


def test_the_connection_ends_meanwhile(ends):
    conn = ends.open()
    peer = ends.peer()
    requests = iter([0, 1, 2])

    def some():
        for number in requests:
            if number == 2:
                peer.sock.shutdown(socket.SHUT_RDWR)
            yield number

    found, error = collected(ends, lambda: conn.map(some(), return_exceptions=True))
    assert error is None
    assert [isinstance(each, ConnectionEnded) for each in found] == [True] * 3
    assert [each.request for each in found] == [0, 1, 2]


@pytest.mark.parametrize("return_exceptions", [False, True])
def test_requests_as_classes(ends, return_exceptions):
    service_class = AsyncHasPacketConnection if hasattr(ends.face, "loop") else HasPacketConnection
    service = service_class(ends._sockets[0], rq_type_map={0: Shout})
    ends.conn = service.conn
    ends.open()
    ends.asker(request_handler=handler)
    requests = [Shout(b"a"), Shout(b"bad"), Shout(b"undecodable"), Shout(b"b")]
    found, error = collected(ends, lambda: service.conn_map(requests, return_exceptions=return_exceptions))
    if return_exceptions:
        assert (found[0], found[3], error) == (b"A", b"B", None)
        assert [type(each) for each in found[1:3]] == [RequestFailed, KeyError]
        assert [each.request for each in found[1:3]] == requests[1:3]
    else:
        assert found == [b"A"]
        assert isinstance(error, RequestFailed)
        assert error.request is requests[1]
        assert error.__notes__ == ["this is about request 1 of the map, counted from 0: Shout"]


@pytest.mark.parametrize("window", [0, -1, float("nan")])
@pytest.mark.parametrize("kind", [PacketConnection, AsyncPacketConnection])
def test_a_window_that_makes_no_sense(kind, window):
    conn = kind(lambda: None)
    with pytest.raises(LocalProtocolError, match=f"window must be 1 or more, got {window}"):
        conn.map([1], window=window)


def test_a_decoded_response_can_be_collected_later(ends):
    service_class = AsyncHasPacketConnection if hasattr(ends.face, "loop") else HasPacketConnection
    service = service_class(ends._sockets[0], rq_type_map={0: Shout})
    ends.conn = service.conn
    ends.open()
    ends.asker(request_handler=handler)

    async def awaited(answer):
        return await answer

    def collect(answer):
        return ends.do(lambda: awaited(answer)) if hasattr(ends.face, "loop") else answer(timeout=30)

    shout, bad, undecodable = (
        ends.do(lambda text=text: service.conn_begin(Shout(text))) for text in (b"a", b"bad", b"undecodable")
    )
    assert collect(shout) == collect(shout) == b"A"
    assert shout.done()
    for _ in range(2):
        with pytest.raises(RequestFailed, match="bad"):
            collect(bad)
        with pytest.raises(KeyError):
            collect(undecodable)


@pytest.mark.parametrize("window", [1, 2, 64])
def test_responses_as_they_come(ends, window):
    """The far end answers the second request first, where it has both."""
    service_class = AsyncHasPacketConnection if hasattr(ends.face, "loop") else HasPacketConnection
    service = service_class(ends._sockets[0], rq_type_map={0: Shout, 1: Later})
    ends.conn = service.conn
    ends.open()
    waiting = []

    def answer(rq_type, flags, payload):
        if rq_type == 1 and window > 1:
            waiting.append(Responder())
            return waiting[0]
        for responder in waiting:
            responder.respond(b"LATER")
        waiting.clear()
        return payload.upper()

    ends.asker(request_handler=answer, handlers=1)
    requests = [Later(b"later"), Shout(b"a")]
    found, error = collected(ends, lambda: service.conn_map_unordered(requests, window=window))
    assert error is None
    assert sorted(response for _, response in found) == [b"A", b"LATER"]
    assert {id(request): response for request, response in found}[id(requests[1])] == b"A"


class Later(Shout):
    pass


@pytest.mark.parametrize("return_exceptions", [False, True])
def test_some_of_those_that_come_in_any_order_fail(ends, return_exceptions):
    service_class = AsyncHasPacketConnection if hasattr(ends.face, "loop") else HasPacketConnection
    service = service_class(ends._sockets[0], rq_type_map={0: Shout, NEVER: Later}, close_timeout=0.1)
    ends.conn = service.conn
    ends.open()
    ends.asker(request_handler=handler, close_timeout=0.1)
    requests = [Later(b"x"), Shout(b"a"), Shout(b"bad"), object.__new__(BaseRequest), Shout(b"b")]
    found, error = collected(
        ends,
        lambda: service.conn_map_unordered(requests, timeout=0.2, return_exceptions=return_exceptions),
    )
    if return_exceptions:
        kinds = {id(request): type(response) for request, response in found}
        assert [kinds[id(each)] for each in requests] == [
            *(RequestTimeout, bytes, RequestFailed, LocalProtocolError, bytes)
        ]
        assert error is None
    else:
        assert isinstance(error, LocalProtocolError | RequestFailed)
    assert service.conn.outstanding == 0
