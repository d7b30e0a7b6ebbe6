"""Requests and responses over every transport."""

from __future__ import annotations

import concurrent.futures
import os
import threading

import pytest
from cs.result import Result

from packetwire import (
    LimitExceeded,
    LocalProtocolError,
    Packet,
    PacketConnection,
    RequestReceived,
    RequestTimeout,
    Responder,
    ResponseReceived,
)

pytestmark = pytest.mark.timeout(30)


def reverse(rq_type, flags, payload):
    return flags, bytes(payload)[::-1]


def test_a_call_returns_ok_flags_and_payload(connect):
    a, _ = connect(b={"request_handler": reverse})
    assert a(7, b"abc", 5) == (True, 5, b"cba")
    assert a(0) == (True, 0, b"")


def test_both_ends_can_ask(connect):
    a, b = connect({"request_handler": reverse}, {"request_handler": reverse})
    assert (a(1, b"xy"), b(1, b"zw")) == ((True, 0, b"yx"), (True, 0, b"wz"))


def test_many_in_flight_keep_their_replies_apart(connect):
    a, _ = connect(b={"request_handler": reverse})
    results = [a.submit(1, i, b"%d" % i) for i in range(1500)]
    for i in reversed(range(1500)):
        assert results[i]() == (True, i, (b"%d" % i)[::-1])


def test_replies_come_in_any_order(connect):
    held = []

    def handler(rq_type, flags, payload):
        responder = Responder()
        held.append((responder, payload))
        if len(held) == 10:
            for earlier, octets in reversed(held):
                earlier.respond(octets)
        return responder

    a, _ = connect(b={"request_handler": handler})
    results = [a.submit(1, payload=b"%d" % i) for i in range(10)]
    assert [result()[2] for result in results] == [b"%d" % i for i in range(10)]


@pytest.mark.parametrize("size", [0, 1, 123, 124, 125, 16380, 65535, 65536, 1 << 20, 5 << 20])
def test_payloads_of_every_size(connect, size):
    a, _ = connect(b={"request_handler": reverse})
    payload = os.urandom(size)
    assert a(1, payload) == (True, 0, payload[::-1])


def test_both_ends_send_megabytes_at_once(connect):
    payload = os.urandom(1 << 20)
    a, b = connect({"request_handler": reverse}, {"request_handler": reverse})
    ready = threading.Barrier(2)
    wrong = []

    def ask(conn):
        ready.wait()
        results = [conn.submit(1, payload=payload) for _ in range(8)]
        wrong.extend(r for r in results if r() != (True, 0, payload[::-1]))

    other = threading.Thread(target=ask, args=(b,))
    other.start()
    ask(a)
    other.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("result", "response"),
    [
        (None, (True, 0, b"")),
        (0, (True, 0, b"")),
        (2**40, (True, 2**40, b"")),
        (True, (True, 1, b"")),
        (b"octets", (True, 0, b"octets")),
        (bytearray(b"array"), (True, 0, b"array")),
        (memoryview(b"view"), (True, 0, b"view")),
        ("tëxt \ud800", (True, 0, b"t\xc3\xabxt &#55296;")),
        ((3, b"both"), (True, 3, b"both")),
        ((3, "both"), (True, 3, b"both")),
        ((3, bytearray(b"both")), (True, 3, b"both")),
    ],
)
def test_what_a_handler_returns(fd_connect, result, response):
    a, _ = fd_connect(b={"request_handler": lambda *rq: result})
    assert a(1) == response


@pytest.mark.parametrize("result", [-1, 2**61, (-1, b""), (1, 2), 1.5, object(), [1], (1, b"", 2), {}])
def test_a_result_that_means_nothing_is_answered_not_ok(fd_connect, result):
    a, _ = fd_connect(b={"request_handler": lambda *rq: result})
    ok, flags, payload = a(1)
    assert (ok, flags) == (False, 0)
    assert b"Error" in payload
    assert a(1)[0] is False  # and the connection lives


def failing(rq_type, flags, payload):
    raise {1: ValueError("no such hash"), 2: KeyError(), 3: SystemExit(3), 4: RuntimeError("x" * 100_000)}[rq_type]


@pytest.mark.parametrize(
    ("detail", "told", "not_told"),
    [
        ("none", b"failed", b"hash"),
        ("message", b"ValueError: no such hash", b"File"),
        ("traceback", b"File", b"\0"),
    ],
)
def test_an_exception_is_answered_with_as_much_as_the_server_tells(fd_connect, caplog, detail, told, not_told):
    a, _ = fd_connect(b={"request_handler": failing, "error_detail": detail})
    ok, _, payload = a(1)
    assert not ok
    assert told in payload
    assert not_told not in payload
    assert "no such hash" in caplog.text  # with its traceback, on the side where it happened
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("handlers", [1, 4, "inline"])
@pytest.mark.parametrize("rq_type", [2, 3, 4])
def test_whatever_a_handler_raises_is_answered(fd_connect, rq_type, handlers):
    a, _ = fd_connect(b={"request_handler": failing, "handlers": handlers})
    assert a(rq_type)[0] is False
    assert a(1)[0] is False


def test_without_a_handler_requests_are_refused(connect):
    a, b = connect()
    assert a(1, b"x") == (False, 0, b"no request handler")
    assert not b.requests_allowed


def test_deferred_results(connect):
    pool = concurrent.futures.ThreadPoolExecutor(1)

    def handler(rq_type, flags, payload):
        if rq_type == 0:
            return pool.submit(lambda: payload * 2)
        if rq_type == 1:
            return pool.submit(lambda: 1 / 0)
        if rq_type == 2:
            result = Result()
            pool.submit(lambda: result.put((4, payload)))
            return result
        responder = Responder()
        pool.submit(lambda: responder.fail("not today") if rq_type == 3 else responder.respond(b"later"))
        return responder

    a, _ = connect(b={"request_handler": handler})
    assert a(0, b"ab") == (True, 0, b"abab")
    assert a(1)[0] is False
    assert b"ZeroDivisionError" in a(1)[2]
    assert a(2, b"cd") == (True, 4, b"cd")
    assert a(3) == (False, 0, b"not today")
    assert a(4) == (True, 0, b"later")
    pool.shutdown()


def test_map_keeps_order_and_window(connect):
    at_once = []
    lock = threading.Lock()
    running = 0

    def handler(rq_type, flags, payload):
        nonlocal running
        with lock:
            running += 1
            at_once.append(running)
        with lock:
            running -= 1
        return flags, payload

    a, _ = connect(b={"request_handler": handler})
    requests = [1, (1, b"x"), (1, 7, b"y"), *[(2, b"%d" % i) for i in range(500)]]
    replies = list(a.map(requests, window=3))
    assert replies[:3] == [(True, 0, b""), (True, 0, b"x"), (True, 7, b"y")]
    assert [payload for _, _, payload in replies[3:]] == [b"%d" % i for i in range(500)]
    assert max(at_once) <= 3
    with pytest.raises(TypeError, match="rq_type"):
        list(a.map([b"nonsense"]))
    with pytest.raises(LocalProtocolError, match="window"):
        a.map([1], window=0)


def test_a_map_that_is_left_early_cancels_what_is_under_way(connect):
    a, _ = connect(b={"request_handler": reverse})
    replies = a.map(((1, b"x") for _ in range(1000)), window=16)
    next(replies)
    replies.close()
    assert a(1, b"ab")[2] == b"ba"
    assert a.outstanding == 0


def test_channels_are_apart(connect):
    serves = {"request_handler": reverse, "channels": dict.fromkeys((16, 25, 2**40), reverse)}
    a, b = connect(serves, serves)
    results = [a.submit(1, channel=c, payload=b"%d" % c) for c in (0, 16, 2**40, 0, 16)]
    assert [r()[2] for r in results] == [(b"%d" % c)[::-1] for c in (0, 16, 2**40, 0, 16)]
    assert [results[i].tag for i in (0, 1, 3, 4)] == [2, 2, 3, 3]
    assert b(1, b"xy", channel=25)[2] == b"yx"


@pytest.mark.parametrize("handlers", [1, 2, 4])
def test_call_backs_nest_a_hundred_deep(fd_connect, handlers):
    conns = []

    def handler(rq_type, flags, payload):
        depth = int(payload)
        if depth == 0:
            return b"bottom"
        other = conns[rq_type]
        ok, _, below = other(1 - rq_type, b"%d" % (depth - 1))
        return below if ok else b"not ok: " + below

    settings = {"request_handler": handler, "handlers": handlers}
    conns.extend(fd_connect(settings, settings))
    # rq_type 0 tells a's handler to ask through a, 1 tells b's to ask through b
    assert conns[0](1, b"100") == (True, 0, b"bottom")


def test_a_runaway_chain_of_call_backs_ends_with_an_error(fd_connect):
    conns = []

    def handler(rq_type, flags, payload):
        ok, _, below = conns[rq_type](1 - rq_type)
        if not ok:
            raise RuntimeError(below.decode())
        return below

    conns.extend(fd_connect({"request_handler": handler}, {"request_handler": handler}))
    ok, _, text = conns[0](1)
    assert not ok
    assert LimitExceeded.__name__ in text.decode()


@pytest.mark.parametrize("inline", [{"handlers": "inline"}, {"inline": {1}}])
def test_an_inline_handler_may_not_block_on_its_own_connection(fd_connect, inline):
    conns = []

    def handler(rq_type, flags, payload):
        return conns[1](1)[2]

    conns.extend(fd_connect({"request_handler": reverse}, {"request_handler": handler} | inline))
    ok, _, text = conns[0](1, timeout=20)
    assert not ok
    assert b"wait for itself" in text


def test_inline_handlers_run_one_at_a_time_in_order(connect):
    seen = []
    a, _ = connect(
        b={"handlers": "inline", "request_handler": lambda t, f, p: seen.append((f, threading.get_ident()))}
    )
    for result in [a.submit(1, i) for i in range(300)]:
        assert result() == (True, 0, b"")
    assert [flags for flags, _ in seen] == list(range(300))


def test_no_more_handlers_run_than_asked_for(fd_connect):
    lock = threading.Lock()
    gate = threading.Event()
    running, most = 0, []

    def handler(rq_type, flags, payload):
        nonlocal running
        with lock:
            running += 1
            most.append(running)
            if running == 3:
                gate.set()
        gate.wait(20)
        with lock:
            running -= 1

    a, _ = fd_connect(b={"request_handler": handler, "handlers": 3})
    for result in [a.submit(1) for _ in range(60)]:
        assert result()[0]
    assert max(most) == 3


def test_a_sleeping_handler_delays_no_other(fd_connect):
    gate = threading.Event()
    a, _ = fd_connect(b={"request_handler": lambda t, f, p: gate.wait(30) and b"slow" if t else b"quick"})
    slow = a.submit(1)
    for _ in range(200):
        assert a(0) == (True, 0, b"quick")
    assert not slow.ready
    gate.set()
    assert slow() == (True, 0, b"slow")


def test_timeout_forgets_the_request_and_drops_the_late_response(connect):
    gate = threading.Event()
    a, _ = connect(b={"request_handler": lambda t, f, p: gate.wait(30) and b"late" if t else b"now"})
    with pytest.raises(RequestTimeout, match="rq_type 1, within 0.01 s"):
        a(1, timeout=0.01)
    with pytest.raises(TimeoutError):
        a(1, timeout=0)
    assert a.outstanding == 0
    gate.set()
    assert a(0, timeout=30) == (True, 0, b"now")
    while a.late_responses < 2:
        a(0)


def test_decode_response_runs_in_the_caller(connect):
    a, _ = connect(b={"request_handler": reverse})
    threads = []

    def decode(flags, payload):
        threads.append(threading.current_thread())
        return payload.decode()

    assert a(1, b"abc", decode_response=decode) == (True, 0, "cba")
    assert a.submit(1, payload=b"abc", decode_response=decode)() == (True, 0, "cba")
    assert threads == [threading.current_thread()] * 2
    with pytest.raises(ZeroDivisionError):
        a(1, decode_response=lambda flags, payload: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        a.submit(1, decode_response=lambda flags, payload: 1 / 0)()
    assert a(1, b"abc")[0]


@pytest.mark.usefixtures("plain_streams")
def test_on_event_sees_everything_in_wire_order(connect):
    seen = []
    a, b = connect({"on_event": seen.append, "request_handler": reverse}, {"request_handler": reverse})
    for i in range(50):
        a(1, b"%d" % i)
        b(2, b"%d" % i)
    kinds = [(type(event), event.payload) for event in seen]
    expected = []
    for i in range(50):
        expected += [(ResponseReceived, (b"%d" % i)[::-1]), (RequestReceived, b"%d" % i)]
    assert kinds == expected


def test_on_event_can_take_a_request_over(connect):
    taken = []

    def on_event(event):
        if isinstance(event, RequestReceived) and event.rq_type == 9:
            taken.append(conns[1].take(event))

    conns = connect(b={"on_event": on_event})
    a = conns[0]
    waiting = a.submit(9)
    assert a(1) == (False, 0, b"no request handler")
    taken[0].respond((3, b"taken"))
    assert waiting() == (True, 3, b"taken")


def test_an_exception_in_on_event_is_logged_and_harmless(fd_connect, caplog):
    def on_event(event):
        raise RuntimeError("observer is broken")

    a, _ = fd_connect({"on_event": on_event}, {"request_handler": reverse})
    assert a(1, b"ab")[2] == b"ba"
    assert "observer is broken" in caplog.text


@pytest.mark.usefixtures("plain_streams")
def test_trace_log_is_told_of_packets_both_ways(fd_connect):
    lines = []
    a, _ = fd_connect({"trace_log": lambda text, *args: lines.append(text % args)}, {"request_handler": reverse})
    a(1, b"ab")
    assert [line[:4] for line in lines] == ["==> ", "<== "]


def test_sixteen_threads_share_a_connection(connect):
    a, _ = connect(b={"request_handler": reverse})
    wrong = []

    def ask(number):
        for i in range(100):
            payload = b"%d:%d" % (number, i)
            if a(1, payload) != (True, 0, payload[::-1]):
                wrong.append(payload)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("handlers", [1, 4, "inline"])
def test_a_handler_that_is_called_while_the_connection_opens_can_ask_back(fd_ends, handlers):
    first = bytes(Packet(is_request=True, tag=2, rq_type=1))
    asked = []

    def handler(rq_type, flags, payload):
        asked.append(near.submit(0))
        return b"fine"

    near = PacketConnection(fd_ends.a, request_handler=handler, handlers=handlers, leading_octets=first)
    with near:
        far = fd_ends.b
        octets = b""
        while b"fine" not in octets:
            octets += far.recv(1000) if hasattr(far, "recv") else os.read(far[0], 1000)
        eof = bytes(PacketConnection.EOF_Packet)
        far.send(eof) if hasattr(far, "send") else os.write(far[1], eof)
    assert len(asked) == 1


def test_a_request_that_cannot_be_sent_changes_nothing(fd_connect):
    a, _ = fd_connect({"max_packet_size": 1000}, {"request_handler": reverse})
    for call, error, named in (
        (lambda: a(-1), LocalProtocolError, "rq_type .* -1"),
        (lambda: a(1, b"", -5), LocalProtocolError, "flags .* -5"),
        (lambda: a(1, b"", 2**61), LocalProtocolError, "flags"),
        (lambda: a(1, channel=-2), LocalProtocolError, "channel .* -2"),
        (lambda: a("x"), TypeError, "rq_type .* str: 'x'"),
        (lambda: a(1, "text"), TypeError, "payload .* str: 'text'"),
        (lambda: a(1, b"x" * 1001), LocalProtocolError, "1001 .* max_packet_size=1000"),
        (lambda: a.submit(1, -1), LocalProtocolError, "flags .* -1"),
    ):
        with pytest.raises(error, match=named):
            call()
        assert a.outstanding == 0
    assert a.submit(1, payload=b"ab")() == (True, 0, b"ba")


def test_a_reply_that_is_too_large_is_answered_not_ok(fd_connect):
    a, _ = fd_connect(b={"request_handler": lambda *rq: b"x" * 2000, "max_packet_size": 1000})
    ok, _, text = a(1)
    assert not ok
    assert b"max_packet_size=1000" in text


@pytest.mark.parametrize(
    "settings",
    [
        {"handlers": 0},
        {"handlers": "many"},
        {"error_detail": "all"},
        {"max_packet_size": 0},
        {"max_outstanding": 0},
    ],
)
def test_bad_settings_are_named(settings):
    (name, value), *_ = settings.items()
    with pytest.raises(LocalProtocolError, match=f"{name}.*{value!r}"):
        PacketConnection((0, 1), **settings)
