"""Bodies of requests and responses, whichever face sends and receives them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from packetwire import (
    AsyncHasPacketConnection,
    BaseRequest,
    BodyEnded,
    CapabilityMissing,
    ConnectionEnded,
    HasPacketConnection,
    LimitExceeded,
    LocalProtocolError,
    PacketConnection,
    RequestCancelled,
    RequestTimeout,
    current_request,
)
from packetwire.testing import connection_pair

from .conftest import WATCHDOG, Ends, Looped

WINDOW = 256 << 10
DIGEST, COUNT, ECHO, STALL, FAIL, EARLY, FILE, SMALL = range(8)
PIECE = bytes(range(256)) * 256  # 64 KiB


class Service:
    """What handlers do with bodies: as plain functions, which run in threads."""

    def __init__(self) -> None:
        self.stalled, self.closed = threading.Event(), threading.Event()
        self.release = threading.Event()
        self.errors: list[BaseException] = []
        self.failed = threading.Event()

    def __call__(self, rq_type: int, flags: int, payload: bytes) -> Any:
        if rq_type == DIGEST:
            digest = hashlib.sha256(payload)
            for chunk in current_request().body:
                digest.update(chunk)
            return digest.digest()
        if rq_type == COUNT:
            return self.counted(int(payload))
        if rq_type == ECHO:
            return self.echoed()
        if rq_type == STALL:
            return self.stall()
        if rq_type == FAIL:
            return self.failing()
        if rq_type == EARLY:
            return current_request().body.read(5)
        if rq_type == FILE:
            return io.BytesIO(payload * 3)
        return payload

    def counted(self, number: int) -> Iterator[bytes]:
        try:
            for _ in range(number):
                yield PIECE
        finally:
            self.closed.set()

    def echoed(self) -> Iterator[bytes]:
        body = current_request().body
        while data := body.read(1000):
            yield data

    def stall(self) -> bytes:
        self.stalled.set()
        try:
            body = current_request().body
            first = body.read(1)
            assert self.release.wait(WATCHDOG)
            return first + b"%d" % len(body.read())
        except BaseException as error:
            self.errors.append(error)
            self.failed.set()
            raise

    def failing(self) -> Iterator[bytes]:
        yield b"first"
        raise ValueError("on purpose")


class Coroutines(Service):
    """The same as coroutines and asynchronous generators."""

    async def answer(self, rq_type: int, flags: int, payload: bytes) -> Any:
        body = current_request().body
        if rq_type == DIGEST:
            digest = hashlib.sha256(payload)
            async for chunk in body:
                digest.update(chunk)
            return digest.digest()
        if rq_type == COUNT:
            return self.counted_later(int(payload))
        if rq_type == ECHO:
            return self.echo(body)
        if rq_type == STALL:
            return await self.stall_here(body)
        if rq_type == FAIL:
            return self.failing()
        if rq_type == EARLY:
            return await body.read(5)
        if rq_type == FILE:
            return io.BytesIO(payload * 3)
        return payload

    async def counted_later(self, number: int) -> AsyncIterator[bytes]:
        try:
            for _ in range(number):
                yield PIECE
        finally:
            self.closed.set()

    async def echo(self, body: Any) -> AsyncIterator[bytes]:
        while data := await body.read(1000):
            yield data

    async def stall_here(self, body: Any) -> bytes:
        self.stalled.set()
        try:
            first = await body.read(1)
            while not self.release.is_set():
                await asyncio.sleep(0.005)
            return first + b"%d" % len(await body.read())
        except BaseException as error:
            self.errors.append(error)
            self.failed.set()
            raise


@pytest.fixture(params=["plain", "coroutine"])
def service(request: pytest.FixtureRequest, face: Any) -> tuple[Service, Callable[..., Any]]:
    if request.param == "plain":
        made = Service()
        return made, made
    if not isinstance(face, Looped):
        pytest.skip("coroutines need a loop")
    coroutines = Coroutines()
    return coroutines, coroutines.answer


@pytest.fixture
def served(ends: Ends, service: tuple[Service, Any]) -> tuple[Service, PacketConnection]:
    """A service behind the face, and a connection with threads to it."""
    ends.open(request_handler=service[1])
    return service[0], ends.asker()


# handlers


def test_a_handler_that_reads_while_its_end_closes_has_not_failed(
    ends: Ends, service: tuple[Service, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Its request is answered by the close, so its body ends."""
    made, handler = service
    conn = ends.make(request_handler=handler, close_timeout=0.1)
    with ends.face.opened(conn):
        asker = ends.asker()
        call = asker.stream(STALL)
        call.__enter__()
        assert made.stalled.wait(WATCHDOG)
    assert made.failed.wait(WATCHDOG)
    assert isinstance(made.errors[0], BodyEnded | ConnectionEnded | asyncio.CancelledError)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_request_with_a_body(served: tuple[Service, Any]) -> None:
    _, asker = served
    whole = PIECE * 40
    assert asker(DIGEST, b"head", body=whole) == (True, 0, hashlib.sha256(b"head" + whole).digest())
    assert asker(DIGEST, body=iter([PIECE] * 40)) == (True, 0, hashlib.sha256(whole).digest())
    assert asker(DIGEST, body=io.BytesIO(whole)) == (True, 0, hashlib.sha256(whole).digest())
    assert asker(DIGEST, body=b"") == (True, 0, hashlib.sha256().digest())


def test_a_response_with_a_body(served: tuple[Service, Any]) -> None:
    service, asker = served
    with asker.stream(COUNT, b"40") as call:
        call.finish()
        assert b"".join(call) == PIECE * 40
        assert call.result(WATCHDOG) == (True, 0, b"")
    with asker.stream(COUNT, b"3") as call:
        assert call.read() == PIECE * 3
        assert call.read() == b""
    with asker.stream(FILE, b"abc") as call:
        assert call.read() == b"abcabcabc"
    assert service.closed.wait(WATCHDOG)


def test_both_at_the_same_time(served: tuple[Service, Any]) -> None:
    _, asker = served
    with asker.stream(ECHO) as call:
        for i in range(50):
            word = b"%d" % i
            call.write(word)
            got = b""
            while len(got) < len(word):
                got += call.read(len(word) - len(got))
            assert got == word
        call.finish()
        assert call.read() == b""
        assert call.result(WATCHDOG) == (True, 0, b"")


def test_a_large_body_each_way_by_two_threads(served: tuple[Service, Any]) -> None:
    _, asker = served
    with asker.stream(ECHO) as call:

        def write() -> None:
            for _ in range(64):
                call.write(PIECE)
            call.finish()

        writer = threading.Thread(target=write)
        writer.start()
        digest = hashlib.sha256()
        for chunk in call:
            digest.update(chunk)
        writer.join(WATCHDOG)
        assert call.result(WATCHDOG)[0]
    assert digest.digest() == hashlib.sha256(PIECE * 64).digest()


def test_a_reader_that_stops_holds_one_window(served: tuple[Service, Any]) -> None:
    service, asker = served
    written = []
    with asker.stream(STALL) as call:

        def write() -> None:
            for _ in range(40):
                call.write(PIECE)
                written.append(None)
            call.finish()

        writer = threading.Thread(target=write)
        writer.start()
        assert service.stalled.wait(WATCHDOG)
        for i in range(50):  # the others go on
            assert asker(SMALL, b"%d" % i) == (True, 0, b"%d" % i)
        assert len(written) <= 2 * WINDOW // len(PIECE) + 1
        service.release.set()
        writer.join(WATCHDOG)
        assert call.result(WATCHDOG) == (True, 0, PIECE[:1] + b"%d" % (40 * len(PIECE) - 1))


def test_a_generator_that_is_stopped(served: tuple[Service, Any]) -> None:
    service, asker = served
    with asker.stream(COUNT, b"1000000") as call:
        assert call.read(10) == PIECE[:10]
    assert service.closed.wait(WATCHDOG)
    assert call.result(WATCHDOG) == (True, 0, b"")
    assert asker(SMALL, b"after") == (True, 0, b"after")


def test_a_request_that_is_given_up(served: tuple[Service, Any]) -> None:
    service, asker = served
    with pytest.raises(ZeroDivisionError), asker.stream(STALL) as call:
        call.write(b"x")
        assert service.stalled.wait(WATCHDOG)
        raise ZeroDivisionError
    service.release.set()
    assert service.failed.wait(WATCHDOG)
    assert isinstance(service.errors[0], RequestCancelled | asyncio.CancelledError)
    assert asker(SMALL, b"after") == (True, 0, b"after")


def test_a_generator_that_raises(served: tuple[Service, Any]) -> None:
    _, asker = served
    with asker.stream(FAIL) as call:
        assert call.read(5) == b"first"
        with pytest.raises(BodyEnded):
            call.read()
        ok, _, payload = call.result(WATCHDOG)
    assert (ok, payload) == (False, b"ValueError: on purpose")


def test_a_handler_that_answers_early(served: tuple[Service, Any]) -> None:
    _, asker = served
    assert asker(EARLY, body=endless()) == (True, 0, PIECE[:5])


def test_a_caller_without_bodies(served: tuple[Service, Any]) -> None:
    _, asker = served
    assert asker(COUNT, b"3") == (True, 0, PIECE * 3)
    assert asker(FILE, b"abc") == (True, 0, b"abcabcabc")
    ok, _, payload = asker(COUNT, b"1000000")
    assert not ok
    assert b"takes no body" in payload


def test_the_end_of_the_connection_wakes_a_handler(ends: Ends, service: tuple[Service, Any]) -> None:
    told, function = service
    ends.open(request_handler=function)
    told.release.set()
    # the handler's failure may be here before the asker sees its own end
    with suppress(ConnectionEnded), ends.asker() as asker, asker.stream(STALL) as call:
        call.write(b"x")
        assert told.stalled.wait(WATCHDOG)
        asker._abort(ConnectionEnded("on purpose"))
        assert not call.result(WATCHDOG)[0]
    assert told.failed.wait(WATCHDOG)


@pytest.mark.parametrize("kind", ["reads", "writes"])
def test_a_body_that_stands_still_ends_a_handler(ends: Ends, service: tuple[Service, Any], kind: str) -> None:
    told, function = service
    ends.open(request_handler=function, body_timeout=0.05)
    asker = ends.asker()
    told.release.set()
    with asker.stream(STALL if kind == "reads" else COUNT, b"1000000") as call:
        ok, _, payload = call.result(WATCHDOG)
        assert not ok
        assert (b"sent nothing for 0.05 s" if kind == "reads" else b"granted nothing for 0.05 s") in payload
    assert asker(SMALL, b"after") == (True, 0, b"after")


def test_both_handlers_write_and_neither_reads(ends: Ends, service: tuple[Service, Any]) -> None:
    """Each waits for the other one, so both are ended; and small calls go on all the time."""
    told, function = service
    theirs = Service()
    ends.open(request_handler=function, body_timeout=0.2)
    asker = ends.asker(request_handler=theirs, body_timeout=0.2)

    def plain() -> Any:
        with ends.conn.stream(COUNT, b"1000000") as call:
            return call.result(WATCHDOG)

    async def looped() -> Any:
        async with ends.conn.stream(COUNT, b"1000000") as call:
            return await call.result(WATCHDOG)

    answers: list[Any] = []
    other = threading.Thread(target=lambda: answers.append(ends.do(looped if is_loop else plain)))
    is_loop = isinstance(ends.face, Looped)
    with asker.stream(COUNT, b"1000000") as call:
        other.start()
        assert asker(SMALL, b"beside", timeout=WATCHDOG) == (True, 0, b"beside")
        answers.append(call.result(WATCHDOG))
    other.join(WATCHDOG)
    assert len(answers) == 2
    for ok, _, payload in answers:
        assert not ok
        assert b"granted nothing for 0.2 s" in payload
    assert told.closed.wait(WATCHDOG)
    assert theirs.closed.wait(WATCHDOG)
    assert asker(SMALL, b"after") == (True, 0, b"after")


# callers


class Caller:
    """Uses the face's connection, by `async with` or `with`."""

    def __init__(self, ends: Ends) -> None:
        self.ends = ends

    def run(self, plain: Callable[[Any], Any], looped: Callable[[Any], Any]) -> Any:
        if isinstance(self.ends.face, Looped):
            return self.ends.do(lambda: looped(self.ends.conn))
        return plain(self.ends.conn)


@pytest.fixture
def caller(ends: Ends) -> Caller:
    return Caller(ends)


def test_a_stream_of_either_face(ends: Ends, caller: Caller) -> None:
    ends.open()
    ends.asker(request_handler=Service())

    def plain(conn: Any) -> Any:
        with conn.stream(ECHO) as call:
            call.write(b"one")
            assert call.read(3) == b"one"
            call.write(b"two")
            call.finish()
            assert b"".join(call) == b"two"
            return call.result(WATCHDOG)

    async def looped(conn: Any) -> Any:
        async with conn.stream(ECHO) as call:
            await call.write(b"one")
            assert await call.read(3) == b"one"
            await call.write(b"two")
            await call.finish()
            assert b"".join([chunk async for chunk in call]) == b"two"
            return await call.result(WATCHDOG)

    assert caller.run(plain, looped) == (True, 0, b"")


@pytest.mark.parametrize("kind", ["bytes", "iterable", "file"])
def test_calls_with_a_body_of_either_face(ends: Ends, kind: str) -> None:
    ends.open()
    ends.asker(request_handler=Service())
    whole = PIECE * 40
    body: Any = {"bytes": whole, "iterable": [PIECE] * 40, "file": io.BytesIO(whole)}[kind]
    assert ends.call(DIGEST, body=body) == (True, 0, hashlib.sha256(whole).digest())


def test_an_asynchronous_body(ends: Ends) -> None:
    if not isinstance(ends.face, Looped):
        pytest.skip("it needs a loop")
    ends.open()
    ends.asker(request_handler=Service())

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            await asyncio.sleep(0)
            yield PIECE

    assert ends.call(DIGEST, body=chunks()) == (True, 0, hashlib.sha256(PIECE * 40).digest())


def test_what_is_no_body(ends: Ends) -> None:
    ends.open()
    ends.asker(request_handler=Service())
    for wrong in 5, "text", ["text"], [5]:
        with pytest.raises(TypeError, match="bod"):
            ends.call(DIGEST, body=wrong)
    assert ends.call(SMALL, b"after") == (True, 0, b"after")


def test_a_caller_whose_body_stands_still(ends: Ends, caller: Caller) -> None:
    ends.open()
    service = Service()
    ends.asker(request_handler=service)

    def plain(conn: Any) -> None:
        with conn.stream(STALL, body_timeout=0.05) as call:
            while True:
                call.write(PIECE)

    async def looped(conn: Any) -> None:
        async with conn.stream(STALL, body_timeout=0.05) as call:
            while True:
                await call.write(PIECE)

    with pytest.raises(RequestTimeout, match=r"granted nothing for 0\.05 s"):
        caller.run(plain, looped)
    service.release.set()
    assert service.failed.wait(WATCHDOG)
    assert "granted nothing" in str(service.errors[0])
    assert ends.call(SMALL, b"after") == (True, 0, b"after")


def test_a_response_that_stands_still(ends: Ends, caller: Caller) -> None:
    ends.open()
    service = Service()
    ends.asker(request_handler=service)

    def plain(conn: Any) -> None:
        with conn.stream(STALL, body_timeout=0.05) as call:
            call.read()

    async def looped(conn: Any) -> None:
        async with conn.stream(STALL, body_timeout=0.05) as call:
            await call.read()

    with pytest.raises(RequestTimeout, match=r"sent nothing for 0\.05 s"):
        caller.run(plain, looped)
    service.release.set()
    assert ends.call(SMALL, b"after") == (True, 0, b"after")


def test_the_end_of_the_connection_wakes_a_caller(ends: Ends, caller: Caller) -> None:
    ends.open()
    service = Service()
    asker = ends.asker(request_handler=service)

    def plain(conn: Any) -> None:
        with conn.stream(STALL) as call:
            assert service.stalled.wait(WATCHDOG)
            asker._abort(ConnectionEnded("on purpose"))
            call.read()

    async def looped(conn: Any) -> None:
        async with conn.stream(STALL) as call:
            while not service.stalled.is_set():
                await asyncio.sleep(0.005)
            asker._abort(ConnectionEnded("on purpose"))
            await call.read()

    with pytest.raises(ConnectionEnded):
        caller.run(plain, looped)
    service.release.set()


def test_a_caller_that_gives_up_while_it_reads(ends: Ends, caller: Caller) -> None:
    """From another thread, or another task."""
    ends.open()
    service = Service()
    ends.asker(request_handler=service)

    def plain(conn: Any) -> None:
        with conn.stream(STALL) as call:

            def give_up() -> None:
                service.stalled.wait(WATCHDOG)
                call.cancel("enough")

            thread = threading.Thread(target=give_up)
            thread.start()
            with pytest.raises(BodyEnded):
                call.read()
            thread.join(WATCHDOG)
            call.result(WATCHDOG)

    async def looped(conn: Any) -> None:
        async with conn.stream(STALL) as call:
            reading = asyncio.ensure_future(call.read())
            while not service.stalled.is_set():
                await asyncio.sleep(0.005)
            call.cancel("enough")
            with pytest.raises(BodyEnded):
                await reading
            await call.result(WATCHDOG)

    with pytest.raises(RequestCancelled, match="enough"):
        caller.run(plain, looped)
    service.release.set()
    assert ends.call(SMALL, b"after") == (True, 0, b"after")


# requests that are submitted


def submitted(ends: Ends, *args: Any, **options: Any) -> Any:
    """The response to a request that the face's connection submits."""

    def submit() -> Any:
        result = ends.conn.submit(*args, **options)
        return result if isinstance(ends.face, Looped) else result(timeout=WATCHDOG)

    return ends.do(submit)


@pytest.mark.parametrize("source", ["bytes", "generator", "file"])
def test_a_body_of_a_request_that_is_submitted(ends: Ends, source: str) -> None:
    ends.open()
    ends.asker(request_handler=Service())
    whole = PIECE * 40
    body = {"bytes": whole, "generator": (PIECE for _ in range(40)), "file": io.BytesIO(whole)}[source]
    digest = hashlib.sha256(b"head" + whole).digest()
    assert submitted(ends, DIGEST, 0, b"head", body=body) == (True, 0, digest)
    decoded = submitted(ends, DIGEST, body=b"x", decode_response=lambda flags, payload: len(payload))
    assert decoded == (True, 0, 32)


class Digest(BaseRequest[bytes]):
    def __bytes__(self) -> bytes:
        return b"head"


def test_a_body_of_a_request_class_that_is_submitted(ends: Ends) -> None:
    kind = AsyncHasPacketConnection if isinstance(ends.face, Looped) else HasPacketConnection
    ends.asker(request_handler=Service())
    service = kind(ends._sockets[0], rq_type_map={DIGEST: Digest})

    def submit() -> Any:
        result = service.conn_submit(Digest(), body=PIECE)
        return result if isinstance(ends.face, Looped) else result(timeout=WATCHDOG)

    with ends.face.opened(service.conn):
        assert ends.do(submit) == (True, 0, hashlib.sha256(b"head" + PIECE).digest())


def test_one_that_is_answered_before_its_body_is_whole(ends: Ends) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield PIECE

    ends.open()
    ends.asker(request_handler=Service())
    assert submitted(ends, EARLY, body=endless()) == (True, 0, PIECE[:5])
    assert ends.call(SMALL, b"after") == (True, 0, b"after")


def test_a_body_that_fails_while_it_is_submitted(ends: Ends) -> None:
    def failing() -> Iterator[bytes]:
        yield b"first"
        assert service.stalled.wait(WATCHDOG)
        raise ValueError("on purpose")

    ends.open()
    service = Service()
    service.release.set()
    ends.asker(request_handler=service)
    with pytest.raises(ValueError, match="on purpose"):
        submitted(ends, STALL, body=failing())
    assert service.failed.wait(WATCHDOG)
    assert isinstance(service.errors[0], RequestCancelled)


def test_what_makes_no_sense_is_not_submitted(ends: Ends) -> None:
    ends.open()
    ends.asker(request_handler=Service())
    for options in {"once": True}, {"fallback": "none"}:
        with pytest.raises(LocalProtocolError):
            submitted(ends, DIGEST, body=b"x", **options)
    with pytest.raises(TypeError, match="a body must be bytes"):
        submitted(ends, DIGEST, body="text")


def test_one_that_is_submitted_and_given_up(ends: Ends) -> None:
    ends.open()
    service = Service()
    ends.asker(request_handler=service)
    result = ends.do(lambda: [ends.conn.submit(STALL, body=PIECE * 6)])[0]
    assert service.stalled.wait(WATCHDOG)
    ends.do(result.cancel)
    service.release.set()
    assert service.failed.wait(WATCHDOG)
    assert isinstance(service.errors[0], RequestCancelled)


def test_a_submitted_body_to_a_peer_without_bodies(ends: Ends) -> None:
    ends.open()
    ends.asker(request_handler=Service(), capabilities="off")
    assert submitted(ends, SMALL, 0, b"head", body=[b"bo", b"dy"], fallback="join") == (True, 0, b"headbody")
    with pytest.raises(CapabilityMissing):
        submitted(ends, SMALL, body=b"x")


class Letters:
    """An asynchronous iterator that is no generator."""

    def __init__(self) -> None:
        self.left = [b"c", b"b", b"a"]
        self.is_closed = False

    def __aiter__(self) -> Letters:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop()

    async def aclose(self) -> None:
        self.is_closed = True


ITERATORS: dict[str, Callable[[], Any]] = {
    "iter": lambda: iter([b"a", b"b", b"c"]),
    "map": lambda: map(bytes.lower, [b"A", b"B", b"C"]),
}


@pytest.mark.parametrize("kind", ITERATORS)
def test_an_iterator_that_is_no_generator_is_a_body(ends: Ends, kind: str) -> None:
    ends.open(request_handler=lambda rq_type, flags, payload: ITERATORS[kind]())
    asker = ends.asker()
    with asker.stream(5) as call:
        assert b"".join(call) == b"abc"
        assert call.result(WATCHDOG) == (True, 0, b"")
    assert asker(5) == (True, 0, b"abc")


@pytest.mark.parametrize("kind", [*ITERATORS, "asynchronous"])
def test_the_same_of_a_coroutine(ends: Ends, kind: str) -> None:
    letters = Letters()

    async def handler(rq_type: int, flags: int, payload: bytes) -> Any:
        return letters if kind == "asynchronous" else ITERATORS[kind]()

    if not isinstance(ends.face, Looped):
        pytest.skip("coroutines need a loop")
    ends.open(request_handler=handler)
    asker = ends.asker()
    with asker.stream(5) as call:
        assert b"".join(call) == b"abc"
        assert call.result(WATCHDOG) == (True, 0, b"")
    assert letters.is_closed is (kind == "asynchronous")


def test_an_iterator_of_something_else(ends: Ends) -> None:
    ends.open(request_handler=lambda rq_type, flags, payload: iter([1]))
    ok, _, text = ends.asker()(5)
    assert not ok
    assert b"a body consists of bytes, got int: 1" in text


def test_a_stream_that_is_given_up_is_no_fault_of_its_handler(
    ends: Ends, served: tuple[Service, PacketConnection], caplog: pytest.LogCaptureFixture
) -> None:
    _, asker = served
    for _ in range(50):
        with suppress(KeyError), asker.stream(ECHO) as call:
            call.write(b"x" * 1000)
            assert call.read(1000)
            raise KeyError  # as any exception in the block
    while ends.do(ends.conn.stats).owed or ends.do(ends.conn.stats).cancelled < 50:
        asker.ping(WATCHDOG)
    assert [record.getMessage() for record in caplog.records] == []


def test_a_peer_without_bodies(ends: Ends, caller: Caller) -> None:
    ends.open(max_packet_size=1 << 20)
    ends.asker(request_handler=Service(), capabilities="off")

    def plain(conn: Any) -> None:
        with conn.stream(SMALL):
            pass

    async def looped(conn: Any) -> None:
        async with conn.stream(SMALL):
            pass

    with pytest.raises(CapabilityMissing):
        caller.run(plain, looped)
    with pytest.raises(CapabilityMissing):
        ends.call(SMALL, body=b"x")
    assert ends.call(SMALL, b"a", body=[b"b", b"c"], fallback="join") == (True, 0, b"abc")
    with pytest.raises(LimitExceeded):
        ends.call(SMALL, body=[PIECE] * 20, fallback="join")
    assert ends.call(SMALL, b"after") == (True, 0, b"after")


def test_a_file_of_a_response() -> None:
    served = {"request_handler": Service()}
    with connection_pair(b=served, capabilities="auto") as (asker, _), asker.stream(COUNT, b"20") as call:
        file = io.BufferedReader(call.body.file())
        assert file.read(100) == PIECE[:100]
        assert file.read() == (PIECE * 20)[100:]


# ends, transports, sizes


class Interrupted(BaseException):
    """Raised by a signal handler."""


@pytest.mark.parametrize("what", ["read", "write", "call"])
def test_an_interruption_leaves_the_connection_usable_or_is_its_end(what: str) -> None:
    """As by Ctrl-C: in the middle of reading a body, or of writing one that nobody takes."""
    service = Service()

    def interrupt(*_: object) -> None:
        raise Interrupted

    def later() -> None:
        assert service.stalled.wait(WATCHDOG)
        signal.pthread_kill(main, signal.SIGUSR1)

    def be_interrupted(asker: PacketConnection) -> None:
        if what == "call":
            asker(STALL, body=endless())
        with asker.stream(STALL) as call:
            if what == "read":
                call.read()
            for chunk in endless():
                call.write(chunk)

    main = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, interrupt)
    thread = threading.Thread(target=later)
    try:
        with connection_pair(b={"request_handler": service}, capabilities="auto") as (asker, _):
            thread.start()
            with pytest.raises(Interrupted):
                be_interrupted(asker)
            service.release.set()
            ended: ConnectionEnded | None = None
            try:
                assert asker(SMALL, b"after", timeout=WATCHDOG) == (True, 0, b"after")
            except ConnectionEnded as error:
                ended = error
            if ended is not None:  # it was in a system call that wrote: nobody knows how much has left
                assert isinstance(ended.__cause__, Interrupted)
                assert "interrupted while writing" in str(ended)
            else:
                assert service.failed.wait(WATCHDOG)
                assert isinstance(service.errors[0], RequestCancelled), "its handler is told"
                assert asker(DIGEST, body=PIECE * 20)[0], "and bodies go on"
    finally:
        thread.join(WATCHDOG)
        signal.signal(signal.SIGUSR1, before)


def endless() -> Iterator[bytes]:
    while True:
        yield PIECE


def test_bodies_of_ends_that_take_only_small_packets() -> None:
    settings = {"max_packet_size": 5000}
    served = {"request_handler": Service(), **settings}
    with connection_pair(a=settings, b=served, capabilities="auto") as (asker, _):
        assert asker(DIGEST, body=PIECE) == (True, 0, hashlib.sha256(PIECE).digest())
        with asker.stream(COUNT, b"3") as call:
            assert call.read() == PIECE * 3


@pytest.mark.parametrize("over", ["socketpair", "pipes"])
def test_64_mib_each_way(over: str) -> None:
    served = {"request_handler": Service()}
    with connection_pair(b=served, over=over, capabilities="auto") as (asker, _):
        block = PIECE * 16
        whole = hashlib.sha256(block * 64).digest()
        assert asker(DIGEST, body=[block] * 64) == (True, 0, whole)
        digest, size = hashlib.sha256(), 0
        with asker.stream(COUNT, b"1024") as call:
            for chunk in call:
                digest.update(chunk)
                size += len(chunk)
        assert (size, digest.digest()) == (64 << 20, whole)


CHILD = """
import sys
sys.path[:0] = {path!r}
from packetwire import stdio, PacketConnection
from tests.faces.test_bodies import Service
with PacketConnection(stdio(), request_handler=Service()) as conn:
    conn.join_recv()
"""


def child() -> PacketConnection:
    """A connection over pipes to a process with a service."""
    return PacketConnection.spawn([sys.executable, "-c", CHILD.format(path=sys.path)], forward_stderr=True)


def test_a_peer_that_is_killed_in_the_middle() -> None:
    with child() as asker, pytest.raises(ConnectionEnded), asker.stream(COUNT, b"1000000") as call:
        assert call.read(10) == PIECE[:10]
        assert asker.process is not None
        asker.process.kill()
        while call.read(1 << 20):
            pass


def memory_of(pid: int | str) -> int:
    """The most bytes that a process ever had."""
    with open(f"/proc/{pid}/status") as status:
        (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


@pytest.mark.long
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc")
@pytest.mark.timeout(300)
def test_a_gib_each_way_within_a_few_mib() -> None:
    with child() as asker:
        assert asker.process is not None
        pid = asker.process.pid
        with asker.stream(COUNT, b"16") as call:  # so that all is there that is needed once
            call.read()
        before = memory_of("self"), memory_of(pid)
        digest, size = hashlib.sha256(), 0
        with asker.stream(COUNT, b"16384") as call:
            for chunk in call:
                digest.update(chunk)
                size += len(chunk)
        assert size == 1 << 30
        block = PIECE * 16
        assert asker(DIGEST, body=(block for _ in range(1024))) == (True, 0, digest.digest())
        after = memory_of("self"), memory_of(pid)
    assert all(most - least < 24 << 20 for most, least in zip(after, before, strict=True)), (before, after)


class Count(BaseRequest[bytes]):
    """Answered by a generator."""

    def __init__(self, number: int) -> None:
        self.number = number

    @classmethod
    def from_bytes(cls, bs: bytes) -> Count:
        return cls(int(bs))

    def __bytes__(self) -> bytes:
        return b"%d" % self.number

    def fulfil(self, context: Any) -> Iterator[bytes]:
        for i in range(self.number):
            yield b"%d," % i

    def decode_response_payload(self, flags: int, payload: bytes) -> bytes:
        return payload


def test_request_classes_that_are_answered_by_generators() -> None:
    ours, theirs = socket.socketpair()
    kinds = {COUNT: Count}
    with (
        ours,
        theirs,
        HasPacketConnection(theirs, rq_type_map=kinds),
        HasPacketConnection(ours, rq_type_map=kinds) as asker,
    ):
        assert asker.conn_do_remote(Count(3)) == b"0,1,2,"
        with asker.conn_stream(Count(3)) as call:
            assert call.read() == b"0,1,2,"
            assert call.result(WATCHDOG) == (True, 0, b"")


def echo_all(rq_type: int, flags: int, payload: bytes) -> Iterator[bytes]:
    yield payload
    yield from current_request().body


async def echo_all_later(rq_type: int, flags: int, payload: bytes) -> AsyncIterator[bytes]:
    yield payload
    async for chunk in current_request().body:
        yield chunk


@pytest.mark.parametrize("handler", [echo_all, echo_all_later])
def test_handlers_that_are_generators(ends: Ends, handler: Any) -> None:
    if handler is echo_all_later and not isinstance(ends.face, Looped):
        with pytest.raises(TypeError, match="async def"):
            ends.make(request_handler=handler)
        return
    ends.open(request_handler=handler)
    asker = ends.asker()
    with asker.stream(0, b"head") as call:
        call.write(b"body")
        call.finish()
        assert call.read() == b"headbody"


def test_a_handler_that_waits_for_a_body_is_not_counted() -> None:
    service = Service()
    with connection_pair(b={"request_handler": service, "handlers": 1}, capabilities="auto") as (asker, _):
        service.release.set()
        with asker.stream(STALL) as call:
            assert service.stalled.wait(WATCHDOG)
            assert asker(SMALL, b"beside", timeout=WATCHDOG) == (True, 0, b"beside")
            call.write(b"abc")
            call.finish()
            assert call.result(WATCHDOG) == (True, 0, b"a2")


def test_an_inline_handler_cannot_wait_for_a_body() -> None:
    served = {"request_handler": Service(), "handlers": "inline"}
    with connection_pair(b=served, capabilities="auto") as (asker, _):
        with asker.stream(EARLY) as call:
            ok, _, payload = call.result(WATCHDOG)
        assert not ok
        assert b"would wait for itself" in payload
