"""One end of a conversation in an event loop: what it answers, and what it asks."""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import AsyncGenerator
from typing import Any

from packetwire import AsyncPacketConnection, Responder, current_request
from packetwire.errors import PacketwireError, RequestError

from .ledgers import HEAD, Ledger, answer_of, filler, number_of, payload_of, seconds_of
from .plans import BACK, BODY, ECHO, LATER, NEVER, PROGRESS, RAISE, SLEEP, EndPlan, Question, draw_question

PIECE = 20_000
FOREVER = 1e9


class End:
    """One end: its handlers, its askers, its connection."""

    def __init__(self, ledger: Ledger, plan: EndPlan, number: int, chance: random.Random) -> None:
        self.ledger = ledger
        self.plan = plan
        self.number = number
        self.chance = random.Random(chance.random())
        self.conn: Any = None
        self._questions = 0

    @property
    def handler(self) -> Any:
        """What answers the peer's requests."""
        return self._answer if self.plan.has_coroutines else self._answer_inline

    # answering

    def _check(self, payload: bytes) -> None:
        if len(payload) < HEAD:
            raise RequestError("this is not a request of the simulation")
        self.ledger.begin(payload)

    async def _answer(self, rq_type: int, flags: int, payload: bytes) -> Any:
        self._check(payload)
        seconds = seconds_of(payload)
        if rq_type in (SLEEP, PROGRESS, BACK):
            await asyncio.sleep(seconds / 2)
        if rq_type == PROGRESS:
            current_request().progress(b"half")
            await asyncio.sleep(seconds / 2)
        elif rq_type == BACK:
            await self._ask_back(payload)
        elif rq_type == NEVER:
            await asyncio.sleep(FOREVER)
        elif rq_type == BODY:
            return await self._answer_body(payload)
        return self._answer_inline(rq_type, flags, payload, checked=True)

    def _answer_inline(self, rq_type: int, flags: int, payload: bytes, *, checked: bool = False) -> Any:
        if not checked:
            self._check(payload)
        if rq_type == RAISE:
            raise RequestError("as asked")
        if rq_type == BODY:
            raise RequestError("no bodies here")
        if rq_type == LATER:
            loop = asyncio.get_running_loop()
            future = loop.create_future() if number_of(payload) % 2 else Responder()
            loop.call_later(seconds_of(payload), _complete, future, answer_of(rq_type, payload))
            return future
        if rq_type == NEVER and not checked:
            never = Responder()
            never.on_cancel(lambda: never.fail("given up"))
            return never
        return answer_of(rq_type, payload)

    async def _ask_back(self, payload: bytes) -> None:
        """A call to the end that asks."""
        question = self._draw(may_ask_back=False)
        self.ledger.ask()
        try:
            response = await self.conn(ECHO, payload_of(question))
        except asyncio.CancelledError:
            self.ledger.outcomes["cancelled"] += 1
            raise
        except PacketwireError as error:
            self.ledger.outcomes["back-failed"] += 1
            raise RequestError(f"calling back failed: {error!r}") from error
        self.ledger.outcomes["answered-back" if response[0] else "refused-back"] += 1

    async def _answer_body(self, payload: bytes) -> Any:
        body = current_request().body
        if body is None:
            raise RequestError("there is no body")
        total = 0
        async for chunk in body:
            total = zlib.crc32(chunk, total)
        return self._produce(payload, total)

    async def _produce(self, payload: bytes, total: int) -> AsyncGenerator[bytes]:
        yield total.to_bytes(4)
        data = filler(number_of(payload), len(payload) * 3)
        for begin in range(0, len(data), PIECE):
            yield data[begin : begin + PIECE]
            if self.chance.random() < 0.1:
                await asyncio.sleep(0.01)

    # asking

    def _draw(self, *, may_ask_back: bool) -> Question:
        self._questions += 1
        return draw_question(
            self.chance, self._questions * 2 + self.number, self.ledger.plan, may_ask_back=may_ask_back
        )

    async def ask_all(self, conn: Any) -> None:
        """Ask all that this end asks, of `conn`, which may be a pool."""
        tasks = [asyncio.create_task(self._ask_many(conn), name=f"asker-{n}") for n in range(self.plan.askers)]
        if tasks:
            await asyncio.wait(tasks)
            for task in tasks:
                task.result()

    async def _ask_many(self, conn: Any) -> None:
        for _ in range(self.plan.requests):
            if isinstance(conn, AsyncPacketConnection) and conn.ended is not None and self.chance.random() < 0.5:
                break
            may_ask_back = self.number == 0 and self.ledger.plan.topology == "pair"
            question = self._draw(may_ask_back=may_ask_back)
            await asyncio.sleep(question.pause)
            if question.cancelled_after is None:
                await self._ask(conn, question)
            else:
                task = asyncio.create_task(self._ask(conn, question), name="cancelled")
                await asyncio.wait([task], timeout=question.cancelled_after)
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    task.result()

    async def _ask(self, conn: Any, question: Question) -> None:
        ledger = self.ledger
        if question.kind == "map":
            await self._map(conn, question)
            return
        ledger.ask()
        try:
            if question.kind in ("ping", "drain") or not isinstance(conn, AsyncPacketConnection):
                await self._ask_simply(conn, question)
                return
            response = await self._response(conn, question)
        except asyncio.CancelledError:
            ledger.cancelled(question)
            raise
        except Exception as error:
            ledger.raised(question, error)
        else:
            ledger.answered(question, response)

    async def _ask_simply(self, conn: Any, question: Question) -> None:
        timeout = question.options.get("timeout")
        if not isinstance(conn, AsyncPacketConnection):
            idempotent = question.number % 3 == 0
            response = await conn(
                question.op,
                payload_of(question),
                timeout=20.0 if timeout is None else timeout,
                idempotent=idempotent,
            )
            self.ledger.answered(question, response)
        elif question.kind == "ping":
            await conn.ping(timeout)
            self.ledger.outcomes["pinged"] += 1
        else:
            await conn.drain(timeout=timeout)
            self.ledger.outcomes["drained"] += 1

    async def _response(self, conn: AsyncPacketConnection, question: Question) -> tuple[bool, int, bytes]:
        payload, options = payload_of(question), question.options
        if question.kind == "stream":
            return await self._stream(conn, question)
        if question.kind == "body":
            return await conn(BODY, payload, body=_chunks(question), **options)  # type: ignore[arg-type]
        if question.kind == "progress":
            return await conn(question.op, payload, on_progress=lambda report: None, **options)  # type: ignore[arg-type]
        if question.kind in ("submit", "dropped"):
            future = conn.submit(question.op, payload=payload, **options)  # type: ignore[arg-type]
            if question.kind == "dropped":
                try:
                    await asyncio.sleep(question.seconds / 10)
                except asyncio.CancelledError:
                    if question.op == NEVER:  # which else goes on, as nobody gives it up
                        future.cancel()
                    raise
            return await future
        return await conn(question.op, payload, **options)  # type: ignore[arg-type]

    async def _stream(self, conn: AsyncPacketConnection, question: Question) -> tuple[bool, int, bytes]:
        payload, options = payload_of(question), question.options
        total = 0
        async with conn.stream(BODY, payload, **options) as call:  # type: ignore[arg-type]
            for chunk in _chunks(question):
                await call.write(chunk)
                total = zlib.crc32(chunk, total)
            await call.finish()
            if question.number % 7 == 0:
                call.cancel("not wanted")
            elif question.number % 5 == 0:
                call.body.stop()
            else:
                came = await call.read()
                expected = total.to_bytes(4) + filler(question.number, len(payload) * 3)
                response = await call.result()
                if response[0] and came != expected and not self.ledger.plan.is_damaged:
                    self.ledger.fail(f"{question}: {len(came)} wrong bytes of {len(expected)}")
                return response
            return await call.result()

    async def _map(self, conn: Any, question: Question) -> None:
        """Several at a time."""
        if not isinstance(conn, AsyncPacketConnection):
            return
        asked = [self._draw(may_ask_back=False) for _ in range(self.chance.randint(0, 8))]
        requests = [(ECHO, payload_of(each)) for each in asked]
        self.ledger.ask()
        timeout = question.options.get("timeout")
        try:
            count = 0
            async for response in conn.map(
                requests, window=self.chance.randint(1, 4), timeout=timeout, return_exceptions=True
            ):
                if isinstance(response, BaseException):
                    raise response
                if response[0] and response[2] != requests[count][1] and not self.ledger.plan.is_damaged:
                    self.ledger.fail(f"request {count} of a map was answered by {response[2][:100]!r}")
                count += 1
                if question.number % 11 == 0:
                    break
            else:
                if count != len(requests):
                    self.ledger.fail(f"a map of {len(requests)} requests had {count} responses")
        except asyncio.CancelledError:
            self.ledger.cancelled(question)
            raise
        except Exception as error:
            self.ledger.raised(question, error)
        else:
            self.ledger.outcomes["mapped"] += 1


def _chunks(question: Question) -> list[bytes]:
    """The body of a request."""
    data = filler(question.number, question.size * 4)
    return [data[begin : begin + PIECE] for begin in range(0, len(data), PIECE)]


def _complete(deferred: Any, answer: bytes) -> None:
    if isinstance(deferred, Responder):
        deferred.respond(answer)
    elif not deferred.done():
        deferred.set_result(answer)
