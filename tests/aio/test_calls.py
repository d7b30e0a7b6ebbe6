"""Requests and responses in an event loop, over every transport."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading

import pytest
from cs.result import Result

from packetwire import LimitExceeded, LocalProtocolError, RequestReceived, Responder, ResponseReceived

from .conftest import connected, socketpair

pytestmark = pytest.mark.timeout(60)


def reverse(rq_type, flags, payload):
    return flags, payload[::-1]


async def reverse_later(rq_type, flags, payload):
    await asyncio.sleep(0)
    return flags, payload[::-1]


KINDS = {
    "plain": {"request_handler": reverse},
    "inline": {"request_handler": reverse, "handlers": "inline"},
    "async": {"request_handler": reverse_later},
}
"""The kinds of handlers: in a worker thread, in the loop, as a task."""


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def test_a_call_returns_ok_flags_and_payload(run, ends, kind):
    async def main():
        async with connected(ends, kind, kind) as (a, b):
            assert await a(7, b"abc", 5) == (True, 5, b"cba")
            assert await b(0) == (True, 0, b"")

    run(main)


@pytest.mark.parametrize("size", [1, 124, 65536, 5 << 20])
def test_payloads_of_every_size_both_ways_at_once(run, ends, kind, size):
    async def main():
        payload = os.urandom(size)
        async with connected(ends, kind, kind) as (a, b):
            replies = await asyncio.gather(*(conn(1, payload) for conn in (a, b) for _ in range(4)))
            assert replies == [(True, 0, payload[::-1])] * 8

    run(main)


def test_many_tasks_and_futures_keep_their_replies_apart(run, ends, kind):
    async def main():
        async def ask(conn, number):
            for i in range(20):
                assert await conn(1, b"%d:%d" % (number, i), i) == (True, i, (b"%d:%d" % (number, i))[::-1])

        async with connected(ends, kind, kind) as (a, b):
            futures = [a.submit(1, i, b"%d" % i) for i in range(500)]
            await asyncio.gather(*(ask(conn, number) for conn in (a, b) for number in range(16)))
            for i in reversed(range(500)):
                assert await futures[i] == (True, i, (b"%d" % i)[::-1])
            assert all(isinstance(future, asyncio.Future) for future in futures)
            assert (a.outstanding, b.outstanding) == (0, 0)

    run(main)


def test_map_keeps_order_and_window(run, ends, kind):
    async def main():
        most = 0

        async with connected(ends, None, kind) as (a, _):
            requests = [1, (1, b"x"), (1, 7, b"yz"), *[(2, b"%d" % i) for i in range(500)]]
            replies = []
            async for reply in a.map(requests, window=3):
                most = max(most, a.outstanding)
                replies.append(reply)
            assert replies[:3] == [(True, 0, b""), (True, 0, b"x"), (True, 7, b"zy")]
            assert [payload[::-1] for _, _, payload in replies[3:]] == [b"%d" % i for i in range(500)]
            assert most <= 3
            with pytest.raises(TypeError, match="rq_type"):
                await anext(a.map([b"nonsense"]))
            with pytest.raises(LocalProtocolError, match="window"):
                a.map([1], window=0)

    run(main)


def test_a_map_that_is_left_early_cancels_what_is_under_way(run, fd_ends):
    async def main():
        gate = asyncio.Event()

        async def handler(rq_type, flags, payload):
            if flags:
                await gate.wait()

        async with connected(fd_ends, None, {"request_handler": handler}) as (a, _):
            replies = a.map(((1, i, b"") for i in range(1000)), window=16)
            await anext(replies)
            assert a.outstanding == 15
            await replies.aclose()
            assert a.outstanding == 0
            gate.set()
            assert await a(1) == (True, 0, b"")

    run(main)


class Awaited:
    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return 3, b"awaited"


async def returned():
    return b"inner"


def result_put():
    result = Result()
    threading.Thread(target=lambda: result.put((4, b"result"))).start()
    return result


def answered_in_a_thread():
    responder = Responder()
    threading.Thread(target=lambda: responder.respond(b"responder")).start()
    return responder


def done_soon():
    future = concurrent.futures.Future()
    threading.Thread(target=lambda: future.set_result("future")).start()
    return future


RESULTS = [
    (lambda: None, (True, 0, b"")),
    (lambda: 7, (True, 7, b"")),
    (lambda: "tëxt", (True, 0, "tëxt".encode())),
    (lambda: (3, bytearray(b"both")), (True, 3, b"both")),
    (Awaited, (True, 3, b"awaited")),
    (returned, (True, 0, b"inner")),
    (result_put, (True, 4, b"result")),
    (answered_in_a_thread, (True, 0, b"responder")),
    (done_soon, (True, 0, b"future")),
]


@pytest.mark.parametrize(("make", "response"), RESULTS)
def test_what_handlers_of_each_kind_return(run, make, response):
    async def later(*rq):
        return make()

    async def main():
        for settings in (
            {"request_handler": lambda *rq: make()},
            {"request_handler": lambda *rq: make(), "inline": {1}},
            {"request_handler": later},
        ):
            async with connected(socketpair, None, settings) as (a, _):
                assert await a(1) == response

    run(main)


def test_an_asyncio_future_or_task_is_a_deferred_result(run):
    async def main():
        loop = asyncio.get_running_loop()

        def handler(rq_type, flags, payload):
            if rq_type == 0:
                return asyncio.ensure_future(reverse_later(rq_type, flags, payload), loop=loop)
            future = loop.create_future()
            loop.call_soon(future.cancel) if rq_type == 1 else loop.call_soon(future.set_exception, KeyError("k"))
            return future

        async with connected(socketpair, None, {"request_handler": handler, "handlers": "inline"}) as (a, _):
            assert await a(0, b"ab") == (True, 0, b"ba")
            for rq_type, name in ((1, b"CancelledError"), (2, b"KeyError")):
                ok, _, text = await a(rq_type)
                assert not ok
                assert name in text

    run(main)


@pytest.mark.parametrize("error", [ValueError("no such hash"), SystemExit(3), StopIteration(1), KeyError()])
def test_whatever_a_handler_raises_is_answered_and_logged(run, caplog, error):
    def failing(*rq):
        raise error

    async def failing_later(*rq):
        await asyncio.sleep(0)
        raise error if not isinstance(error, StopIteration) else ValueError("StopIteration")

    async def main():
        for settings in (
            {"request_handler": failing},
            {"request_handler": failing, "handlers": "inline"},
            {"request_handler": failing_later},
        ):
            async with connected(socketpair, None, settings) as (a, b):
                for _ in range(2):
                    ok, flags, text = await a(1)
                    assert (ok, flags) == (False, 0)
                    assert type(error).__name__.encode() in text
                b.request_handler = None

    run(main)
    assert caplog.text.count("Traceback") >= 6


def test_a_result_that_means_nothing_is_answered_not_ok(run, kind):
    async def main():
        settings = kind | {"request_handler": lambda *rq: 1.5}
        async with connected(socketpair, None, settings) as (a, _):
            ok, _, text = await a(1)
            assert not ok
            assert b"TypeError" in text

    run(main)


def test_without_a_handler_requests_are_refused(run, ends):
    async def main():
        async with connected(ends) as (a, b):
            assert await a(1, b"x") == (False, 0, b"no request handler")
            assert not b.requests_allowed

    run(main)


def test_async_handlers_that_ask_back_nest_a_hundred_deep(run, fd_ends):
    async def main():
        conns = []

        async def handler(rq_type, flags, payload):
            depth = int(payload)
            if depth == 0:
                return b"bottom"
            ok, _, below = await conns[rq_type](1 - rq_type, b"%d" % (depth - 1))
            return below if ok else b"not ok: " + below

        settings = {"request_handler": handler, "handlers": 1}
        async with connected(fd_ends, settings, settings) as both:
            conns.extend(both)
            assert await conns[0](1, b"100") == (True, 0, b"bottom")

    run(main)


def test_no_more_plain_handlers_run_than_asked_for(run, fd_ends):
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

    async def main():
        async with connected(fd_ends, None, {"request_handler": handler, "handlers": 3}) as (a, _):
            assert {ok for ok, _, _ in await asyncio.gather(*(a(1) for _ in range(60)))} == {True}

    run(main)
    assert max(most) == 3


def test_a_sleeping_handler_delays_no_other(run, fd_ends):
    gate = threading.Event()

    def handler(rq_type, flags, payload):
        return b"slow" if rq_type and gate.wait(30) else b"quick"

    async def main():
        async with connected(fd_ends, None, {"request_handler": handler}) as (a, _):
            slow = a.submit(1)
            for _ in range(100):
                assert await a(0) == (True, 0, b"quick")
            assert not slow.done()
            gate.set()
            assert await slow == (True, 0, b"slow")

    run(main)


def test_where_handlers_run(run, fd_ends):
    seen = {}

    def plain(rq_type, flags, payload):
        seen.setdefault(rq_type, set()).add(threading.current_thread())

    async def main():
        async with connected(fd_ends, None, {"request_handler": plain, "inline": {1}}) as (a, _):
            await asyncio.gather(*(a(rq_type) for rq_type in (0, 1) * 50))

    run(main)
    assert seen[1] == {threading.current_thread()}
    assert threading.current_thread() not in seen[0]
    assert 1 <= len(seen[0]) <= 4
    assert all(thread.daemon for thread in seen[0])


def test_inline_handlers_run_in_order(run, ends):
    seen = []
    settings = {"request_handler": lambda rq_type, flags, payload: seen.append(flags), "handlers": "inline"}

    async def main():
        async with connected(ends, None, settings) as (a, _):
            await asyncio.gather(*[a.submit(1, i) for i in range(300)])

    run(main)
    assert seen == list(range(300))


def test_channels_are_apart(run, fd_ends):
    async def main():
        serves = {"request_handler": reverse, "channels": {16: reverse, 2**40: reverse}}
        async with connected(fd_ends, None, serves) as (a, _):
            futures = [a.submit(1, channel=c, payload=b"%d" % c) for c in (0, 16, 2**40, 0, 16)]
            replies = await asyncio.gather(*futures)
            assert [payload[::-1] for _, _, payload in replies] == [b"%d" % c for c in (0, 16, 2**40, 0, 16)]
            assert [futures[i].tag for i in (0, 1, 3, 4)] == [2, 2, 3, 3]

    run(main)


def test_decode_response(run, fd_ends):
    def refuse(flags, payload):
        raise StopIteration(payload)

    async def main():
        async with connected(fd_ends, None, {"request_handler": reverse}) as (a, _):
            decode = {"decode_response": lambda flags, payload: (flags, payload.decode())}
            assert await a(1, b"ab", 4, **decode) == (True, 4, (4, "ba"))
            assert await a.submit(1, 4, b"ab", **decode) == (True, 4, (4, "ba"))
            for asked in (a(1, decode_response=refuse), a.submit(1, decode_response=refuse)):
                with pytest.raises(RuntimeError, match="StopIteration"):
                    await asked
            assert await a(1, b"ab") == (True, 0, b"ba")

    run(main)


def test_on_event_sees_the_order_of_the_wire_and_can_take_a_request(run, fd_ends):
    seen, taken = [], []

    async def main():
        def on_event(event):
            seen.append(type(event))
            if isinstance(event, RequestReceived) and event.rq_type == 9:
                taken.append(b.take(event))

        async with connected(fd_ends, {"on_event": seen.append}, {"on_event": on_event}) as (a, b):
            waiting = a.submit(9)
            assert await a(1) == (False, 0, b"no request handler")
            taken[0].respond((3, b"taken"))
            assert await waiting == (True, 3, b"taken")
        assert seen.count(RequestReceived) == 2
        assert len([event for event in seen if isinstance(event, ResponseReceived)]) == 2

    run(main)


def test_an_exception_in_on_event_is_logged_and_harmless(run, fd_ends, caplog):
    def on_event(event):
        raise RuntimeError("observer is broken")

    async def main():
        async with connected(fd_ends, {"on_event": on_event}, {"request_handler": reverse}) as (a, _):
            assert (await a(1, b"ab"))[2] == b"ba"

    run(main)
    assert "observer is broken" in caplog.text


@pytest.mark.usefixtures("plain_streams")
def test_trace_log_is_told_of_packets_both_ways(run, fd_ends):
    lines = []
    trace = {"trace_log": lambda text, *args: lines.append(text % args)}

    async def main():
        async with connected(fd_ends, trace, {"request_handler": reverse} | trace) as (a, _):
            await a(1, b"ab")
            assert [line[:9] for line in lines] == ["==> reque", "<== reque", "==> respo", "<== respo"]

    run(main)


def test_a_request_that_cannot_be_sent_changes_nothing(run, fd_ends):
    async def main():
        async with connected(fd_ends, {"max_packet_size": 1000}, {"request_handler": reverse}) as (a, _):
            for arguments, error, named in (
                ((-1,), LocalProtocolError, "rq_type .* -1"),
                ((1, b"", -5), LocalProtocolError, "flags .* -5"),
                (("x",), TypeError, "rq_type .* str: 'x'"),
                ((1, "text"), TypeError, "payload .* str: 'text'"),
                ((1, b"x" * 1001), LocalProtocolError, "1001 .* max_packet_size=1000"),
            ):
                with pytest.raises(error, match=named):
                    await a(*arguments)
                assert a.outstanding == 0
            with pytest.raises(LocalProtocolError, match="flags"):
                a.submit(1, -1)
            assert await a(1, b"ab") == (True, 0, b"ba")

    run(main)


def test_a_request_that_cannot_be_sent_fails_when_its_turn_comes_if_it_waited(run, fd_ends):
    async def main():
        async with connected(fd_ends, {"max_outstanding": 2}, {"request_handler": reverse}) as (a, _):
            first, second, bad, last = a.submit(1), a.submit(1), a.submit(-1), a.submit(1, 0, b"ab")
            assert (await first)[0] == (await second)[0]
            with pytest.raises(LocalProtocolError, match="rq_type"):
                await bad
            assert await last == (True, 0, b"ba")

    run(main)


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
    from packetwire import AsyncPacketConnection

    ((name, value),) = settings.items()
    with pytest.raises(LocalProtocolError, match=f"{name}.*{value!r}"):
        AsyncPacketConnection((0, 1), **settings)


def test_submit_keeps_a_bounded_number_of_requests_without_room(run, fd_ends):
    async def main():
        gate = asyncio.Event()

        async def handler(rq_type, flags, payload):
            await gate.wait()
            return flags

        async with connected(fd_ends, {"max_outstanding": 3}, {"request_handler": handler}) as (a, _):
            futures = [a.submit(1, i) for i in range(6)]
            with pytest.raises(LimitExceeded, match="3 of 3 unanswered.*3 more wait.*drain"):
                a.submit(1)
            assert a.outstanding == 6
            more = asyncio.create_task(a(1, b"", 6))  # a call waits for as long as it takes
            await asyncio.sleep(0)
            gate.set()
            assert [flags for _, flags, _ in await asyncio.gather(*futures)] == list(range(6))
            assert await more == (True, 6, b"")

    run(main)
