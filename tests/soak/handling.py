"""The handlers of an end: they do what a request asks for, and see that none comes twice."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

from packetwire import BaseRequest, Responder, current_request

from .behaviours import MAX_DEPTH, MAX_SIZE, STREAMED, Behaviour, chunks_of, contents, digest
from .later import Later

MAX_MILLISECONDS = 30
"""What a spoilt request can ask for."""


class CallBackFailed(Exception):
    """A handler's own call was answered "not ok"."""


class Handler:
    """`conn` is to be set before it is called."""

    conn: Any

    def __init__(self, later: Later, complain: Callable[[str], None] | None, most_at_work: int) -> None:
        """`complain` is told what should not have come; without it nothing is checked.

        No more than `most_at_work` may run at a time, but for those that wait for calls of their own.
        """
        self._at_work = 0
        self._most_at_work = most_at_work
        self._later = later
        self._complain = complain
        self._lock = threading.Lock()
        self._seen: set[int] = set()
        self._unanswered: list[Responder] = []

    def __call__(self, rq_type: int, flags: int, payload: bytes) -> Any:
        behaviour = self._behaviour(rq_type, flags, payload)
        if behaviour is Behaviour.CALL_BACK:
            return self._call_back(flags, payload)
        if behaviour in STREAMED:  # while it waits for a body another one may be at work
            return self._stream(behaviour, flags, payload)
        with self._counted():
            if behaviour is Behaviour.SLEEP:
                time.sleep(_seconds(payload))
            return self._answer(behaviour, flags, payload)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._at_work += 1
            if self._at_work > self._most_at_work and self._complain is not None:
                self._complain(f"{self._at_work} handlers at work, {self._most_at_work} are allowed")
        try:
            yield
        finally:
            with self._lock:
                self._at_work -= 1

    def _behaviour(self, rq_type: int, flags: int, payload: bytes) -> Behaviour:
        behaviour = Behaviour(rq_type)
        if self._complain is not None:
            with self._lock:
                if flags in self._seen:
                    self._complain(f"request {flags:#x} came twice")
                self._seen.add(flags)
        return behaviour

    def _answer(self, behaviour: Behaviour, flags: int, payload: bytes) -> Any:
        if behaviour is Behaviour.DIGEST:
            return flags, digest(payload)
        if behaviour is Behaviour.PRODUCE:
            return flags, contents(flags >> 4, min(int.from_bytes(payload[:4], "big"), MAX_SIZE))
        if behaviour is Behaviour.DEFER:
            responder = Responder()
            self._later.call(_milliseconds(payload), lambda: responder.respond((flags, payload)))
            return responder
        if behaviour is Behaviour.FUTURE:
            future: Future[Any] = Future()
            self._later.call(_milliseconds(payload), lambda: _set_result(future, (flags, payload)))
            return future
        if behaviour is Behaviour.RAISE:
            raise ValueError(flags)
        if behaviour is Behaviour.NONSENSE:
            return object()
        if behaviour is Behaviour.NEVER:
            responder = Responder()
            self._unanswered.append(responder)
            return responder
        return flags, payload

    def _stream(self, behaviour: Behaviour, flags: int, payload: bytes) -> Any:
        if behaviour is Behaviour.UP:
            return flags, digest(current_request().body.read())
        if behaviour is Behaviour.DOWN:
            return chunks_of(contents(flags >> 4, min(int.from_bytes(payload[:4], "big"), MAX_SIZE)))
        return (chunk for chunk in current_request().body)

    def _call_back(self, flags: int, payload: bytes) -> Any:
        if flags & MAX_DEPTH:
            self._check(flags, payload, self.conn(Behaviour.CALL_BACK, payload, flags - 1))
        return flags, payload

    def _check(self, flags: int, payload: bytes, response: Any) -> None:
        ok, back_flags, back = response
        if not ok:
            raise CallBackFailed(back.decode(errors="replace"))
        if self._complain is not None and (back_flags, back) != (flags - 1, payload):
            self._complain(f"calling back for {flags:#x} got {back_flags:#x}, {len(back)} octets {back[:80]!r}")


class LoopHandler(Handler):
    """A plain function for a loop; what has to wait there is a coroutine."""

    async def _call_back(self, flags: int, payload: bytes) -> Any:
        if flags & MAX_DEPTH:
            self._check(flags, payload, await self.conn(Behaviour.CALL_BACK, payload, flags - 1))
        return flags, payload


class CoroutineHandler(LoopHandler):
    """A coroutine function."""

    async def __call__(self, rq_type: int, flags: int, payload: bytes) -> Any:
        behaviour = self._behaviour(rq_type, flags, payload)
        if behaviour is Behaviour.SLEEP:
            await asyncio.sleep(_seconds(payload))
        elif behaviour is Behaviour.CALL_BACK:
            return await self._call_back(flags, payload)
        elif behaviour is Behaviour.UP:
            return flags, digest(await current_request().body.read())
        elif behaviour is Behaviour.THROUGH:
            body = current_request().body
            return (chunk async for chunk in body)
        elif behaviour is Behaviour.DOWN:
            return self._stream(behaviour, flags, payload)
        elif behaviour is Behaviour.FUTURE:
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            loop.call_later(_seconds(payload), lambda: future.cancelled() or future.set_result((flags, payload)))
            return await future
        return self._answer(behaviour, flags, payload)


def _milliseconds(payload: bytes) -> int:
    return min(payload[0], MAX_MILLISECONDS)


def _seconds(payload: bytes) -> float:
    return _milliseconds(payload) / 1000


class Order(BaseRequest[tuple[int, bytes]]):
    """A request as an object; there is a class for each behaviour."""

    behaviour: ClassVar[Behaviour]

    def __init__(self, payload: bytes, flags: int) -> None:
        self.payload = payload
        self.flags = flags

    def __bytes__(self) -> bytes:
        return self.payload

    @classmethod
    def from_bytes(cls, bs: bytes) -> Order:
        return cls(bs, 0)

    def fulfil(self, context: Any) -> Any:
        return context.handler(self.behaviour, self.flags, self.payload)

    def decode_response_payload(self, flags: int, payload: bytes) -> tuple[int, bytes]:
        return flags, payload


ORDERS = {
    behaviour: type(behaviour.name.title().replace("_", ""), (Order,), {"behaviour": behaviour})
    for behaviour in Behaviour
}


def _set_result(future: Future[Any], result: Any) -> None:
    with suppress(InvalidStateError):  # its request was given up
        future.set_result(result)
