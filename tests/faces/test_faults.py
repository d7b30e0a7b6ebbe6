"""Requests that fail: what the peer is told, and what the log says."""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
import threading
from dataclasses import dataclass

import pytest

from packetwire import (
    AsyncHasPacketConnection,
    AsyncPacketConnection,
    BaseRequest,
    HasPacketConnection,
    PacketwireError,
    RequestError,
    RequestFailed,
    Responder,
)

pytestmark = pytest.mark.timeout(60)

DETAILS = ("none", "message", "traceback")


@pytest.fixture(autouse=True)
def _all_is_logged(caplog):
    caplog.set_level(logging.DEBUG, "packetwire")


def logged(caplog, level=logging.INFO):
    return [record for record in caplog.records if record.name == "packetwire" and record.levelno >= level]


# on purpose


def test_what_it_carries():
    error = RequestError("out of stock", code=404, fields={"left": 0})
    assert (str(error), error.text, error.code, error.fields) == ("out of stock", "out of stock", 404, {"left": 0})
    assert isinstance(error, PacketwireError)
    again = pickle.loads(pickle.dumps(error))
    assert (again.text, again.code, again.fields) == (error.text, error.code, error.fields)
    plain = RequestError("no")
    assert (plain.code, plain.fields) == (None, {})


def raising(rq_type, flags, payload):
    raise RequestError("out of stock: é", code="out-of-stock", fields={"left": 0})


def responding(rq_type, flags, payload):
    responder = Responder()
    responder.fail(RequestError("out of stock: é"))
    return responder


def responding_later(rq_type, flags, payload):
    responder = Responder()
    threading.Thread(target=responder.fail, args=("out of stock: é",)).start()
    return responder


async def awaiting(rq_type, flags, payload):
    await asyncio.sleep(0)
    raise RequestError("out of stock: é")


@pytest.mark.parametrize("handler", [raising, responding, responding_later])
@pytest.mark.parametrize("handlers", [4, "inline"])
@pytest.mark.parametrize("detail", DETAILS)
def test_it_is_told_whatever_the_detail_and_not_logged(ends, caplog, handler, handlers, detail):
    ends.open(request_handler=handler, handlers=handlers, error_detail=detail)
    asker = ends.asker()
    assert asker(0) == (False, 0, "out of stock: é".encode())
    assert logged(caplog) == []


@pytest.mark.parametrize("detail", DETAILS)
def test_a_coroutine_function_can_raise_it(caplog, detail):
    async def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            async with (
                AsyncPacketConnection(theirs, request_handler=awaiting, error_detail=detail),
                AsyncPacketConnection(ours) as conn,
            ):
                assert await conn(0) == (False, 0, "out of stock: é".encode())

    asyncio.run(main())
    assert logged(caplog) == []


def test_a_receiver_can_raise_it_too(ends, caplog):
    ends.open(error_detail="none")
    ends.conn.attach(16, lambda event: raising(0, 0, b""))
    assert ends.asker()(0, channel=16) == (False, 0, "out of stock: é".encode())
    assert logged(caplog) == []


class Unfinished(RequestError):
    def __init__(self, number):
        self.number = number  # and forgets super().__init__

    def __str__(self):
        return f"number {self.number}"


class Unspeakable:
    def __str__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize("handlers", [4, "inline"])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RequestError(KeyError("key 5")), b"'key 5'"),
        (RequestError(404), b"404"),
        (RequestError(None), b"None"),
        (Unfinished(7), b"number 7"),
        (RequestError(Unspeakable()), b"the request failed"),
    ],
)
def test_a_text_that_is_no_str_is_made_one(ends, caplog, handlers, error, told):
    def handler(rq_type, flags, payload):
        raise error

    ends.open(request_handler=handler, handlers=handlers)
    assert ends.asker()(0, timeout=20) == (False, 0, told)
    assert logged(caplog) == []


def test_a_very_long_text_is_cut(ends):
    def handler(rq_type, flags, payload):
        raise RequestError("x" * 100_000)

    ends.open(request_handler=handler)
    ok, _, text = ends.asker()(0)
    assert not ok
    assert text == b"x" * 16_384


# of the code


def failing(rq_type, flags, payload):
    raise KeyError("no such book")


def test_a_fault_of_the_code_is_logged_with_its_traceback(ends, caplog):
    ends.open(request_handler=failing)
    ends.asker()(7, b"abc")
    (record,) = logged(caplog)
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "tried: request 2 on channel 0 (rq_type 7) failed: KeyError('no such book')"
    assert record.exc_info[0] is KeyError
    assert "in failing" in caplog.text


@pytest.mark.parametrize("detail", DETAILS)
def test_repeated_faults_are_counted(ends, caplog, detail):
    ends.make(request_handler=failing, error_detail=detail, handlers=1)
    asker = None
    with ends_open(ends):
        asker = ends.asker()
        responses = list(asker.map([(0, b"%d" % number) for number in range(3000)]))
        assert {ok for ok, _, _ in responses} == {False}
        asker.close()
    texts = [record.getMessage() for record in logged(caplog)]
    assert len(texts) == 3 + 1 + 3 + 1
    assert sum(record.exc_info is not None for record in logged(caplog)) == 3
    assert texts[3] == "tried: requests go on failing and are counted from here on: KeyError('no such book')"
    assert texts[4] == "tried: 10 more requests failed, at last: KeyError('no such book')"
    assert texts[-1] == "tried: 2997 more requests failed than are shown above"
    assert len(caplog.text) < 20_000


def ends_open(ends):
    return ends.face.opened(ends.conn)


def test_a_fault_of_another_kind_is_seen_behind_many(ends, caplog):
    def handler(rq_type, flags, payload):
        if rq_type:
            raise OSError("the disk is full")
        raise KeyError("no such book")

    ends.open(request_handler=handler)
    asker = ends.asker()
    list(asker.map([0] * 100))
    asker(1)
    assert sum("the disk is full" in record.getMessage() for record in logged(caplog)) == 1


def test_a_long_message_is_cut_in_the_log(ends, caplog):
    def handler(rq_type, flags, payload):
        raise ValueError(payload.decode())

    ends.open(request_handler=handler)
    ends.asker()(0, b"x" * 1_000_000)
    assert len(caplog.text) < 50_000
    assert "in handler" in caplog.text


def test_what_the_peer_sends_makes_no_lines_of_its_own(ends, caplog):
    def handler(rq_type, flags, payload):
        raise ValueError(payload.decode())

    ends.open(request_handler=handler)
    ends.asker()(0, b"one\nERROR two\x1b[31m three")
    (record,) = logged(caplog)
    assert record.getMessage().endswith(r"failed: ValueError('one\nERROR two\x1b[31m three')")


# of the peer


@dataclass
class Half(BaseRequest):
    number: int = 0

    @classmethod
    def from_bytes(cls, bs):
        if len(bs) != 4:
            raise ValueError(f"4 bytes are needed, got {len(bs)}")
        return cls(int.from_bytes(bs))

    def __bytes__(self):
        return self.number.to_bytes(4)

    def fulfil(self, context):
        if self.number % 2:
            raise RequestError(f"{self.number} is odd", code=3)
        return b"%d" % (self.number // 2)


REQUESTS = {5: Half}


def handler_of(ends):
    """The handler of a service of that face, without a connection of its own."""
    service_class = AsyncHasPacketConnection if hasattr(ends.face, "loop") else HasPacketConnection
    return service_class((0, 1), rq_type_map=REQUESTS).conn_handle_request


def test_what_the_peer_did_wrong_is_a_line(ends, caplog):
    ends.open(request_handler=handler_of(ends))
    asker = ends.asker()
    assert asker(5, b"abc") == (False, 0, b"ValueError: 4 bytes are needed, got 3")
    ok, _, text = asker(6)
    assert not ok
    assert b"unknown request type 6" in text
    assert [(record.levelno, record.exc_info) for record in logged(caplog)] == [(logging.WARNING, None)] * 2
    unknown = "LocalProtocolError('unknown request type 6; known are 5: Half')"
    assert [record.getMessage() for record in logged(caplog)] == [
        "tried: request 2 on channel 0 (rq_type 5) is wrong: ValueError('4 bytes are needed, got 3')",
        f"tried: request 3 on channel 0 (rq_type 6) is wrong: {unknown}",
    ]


def test_a_flood_of_wrong_requests_is_a_few_lines(ends, caplog):
    ends.make(request_handler=handler_of(ends))
    with ends_open(ends):
        asker = ends.asker()
        list(asker.map([(5 + number % 2, b"") for number in range(3000)]))
        asker.close()
    assert len(logged(caplog)) <= 12
    assert len(caplog.text) < 5_000


def test_a_request_class_can_raise_it(ends, caplog):
    ends.open(request_handler=handler_of(ends))
    asker = HasPacketConnection(ends._sockets[1], rq_type_map=REQUESTS)
    with asker:
        assert asker.conn_do_remote(Half(8)) == (0, b"4")
        with pytest.raises(RequestFailed) as caught:
            asker.conn_do_remote(Half(7))
    assert caught.value.text == "7 is odd"
    assert logged(caplog) == []


# bools


BOOLS = [(False, 0, b""), (True, 1, b""), ((False, b"x"), 0, b"x"), ((True, "x"), 1, b"x")]


def soon(result):
    responder = Responder()
    responder.respond(result)
    return responder


@pytest.mark.parametrize(("result", "flags", "payload"), BOOLS)
@pytest.mark.parametrize("handlers", [4, "inline"])
def test_a_bool_is_taken_as_flags_with_one_warning(ends, caplog, result, flags, payload, handlers):
    def verdict(rq_type, flags, payload):
        return result

    def other(rq_type, flags, payload):
        return result

    ends.open(request_handler=verdict, channels={16: other}, handlers=handlers)
    asker = ends.asker()
    for _ in range(5):
        assert asker(0) == (True, flags, payload)
    (record,) = logged(caplog)
    assert record.levelno == logging.WARNING
    assert f"verdict returned {bool(flags)}: that is the response ok with flags {flags}" in record.getMessage()
    assert asker(0, channel=16) == (True, flags, payload)
    assert len(logged(caplog)) == 2


def test_a_bool_that_comes_later_is_warned_of_too(caplog):
    async def verdict(rq_type, flags, payload):
        return False

    async def main():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            async with (
                AsyncPacketConnection(theirs, request_handler=verdict),
                AsyncPacketConnection(ours) as conn,
            ):
                assert await conn(0) == await conn(0) == (True, 0, b"")

    asyncio.run(main())
    assert ["verdict returned False" in record.getMessage() for record in logged(caplog)] == [True]


def test_a_request_class_that_returns_a_bool(ends, caplog):
    class Yes(BaseRequest):
        @classmethod
        def from_bytes(cls, bs):
            return cls()

        def fulfil(self, context):
            return True

    class No(Yes):
        def fulfil(self, context):
            return False

    service_class = AsyncHasPacketConnection if hasattr(ends.face, "loop") else HasPacketConnection
    ends.open(request_handler=service_class((0, 1), rq_type_map={1: Yes, 2: No}).conn_handle_request)
    asker = ends.asker()
    for _ in range(3):
        assert asker(1) == (True, 1, b"")
        assert asker(2) == (True, 0, b"")
    assert ["Yes.fulfil returned True" in record.getMessage() for record in logged(caplog)] == [True, False]
    assert "No.fulfil returned False" in logged(caplog)[1].getMessage()


@pytest.mark.parametrize("result", [0, 1, None, b"", "", (0, b""), (1, b"x")])
def test_what_is_no_bool_is_not_warned_of(ends, caplog, result):
    ends.open(request_handler=lambda *request: result)
    assert ends.asker()(0)[0]
    assert logged(caplog) == []
