"""Askers: each makes its requests one turn after the other, and enters what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing, closing, suppress
from dataclasses import replace
from typing import Any

from packetwire import BodyEnded, ConnectionEnded, Draining, RequestFailed

from .behaviours import Ask, Behaviour, Response, chunks_of
from .handling import ORDERS
from .ledger import Ledger
from .plan import Turn

COLLECTING = 60.0
"""Seconds for a result that must be there already."""
CANCELLED_AGAIN = 1 << 20
"""What is added to the number of a request that is made once more."""


def order_of(ask: Ask) -> Any:
    return ORDERS[ask.behaviour](ask.payload, ask.flags)


def as_arguments(ask: Ask) -> tuple[int, int, bytes]:
    return ask.behaviour, ask.flags, ask.payload


def as_call(ask: Ask) -> tuple[int, bytes, int]:
    return ask.behaviour, ask.payload, ask.flags


def limit_of(ask: Ask) -> dict[str, float | None]:
    """The time limit of a call: its own, or one that the far end is told of."""
    return {"deadline" if ask.is_deadline and ask.timeout is not None else "timeout": ask.timeout}


class Asker:
    """What both faces have in common. `service` is the object with the connection, if it has request classes."""

    def __init__(self, conn: Any, service: Any, turns: Iterable[Turn], ledger: Ledger, *, reopens: bool) -> None:
        """`reopens`: whether it does no harm that `conn_do_remote` opens a connection that was closed."""
        self._conn = conn
        self._service = service
        self._turns = turns
        self._ledger = ledger
        self._reopens = reopens
        self._abandoned: list[tuple[Ask, Any]] = []
        self._ended = 0

    def _submitted(self, ask: Ask) -> Any:
        """Its result or future."""
        if self._service is not None:
            return self._service.conn_submit(order_of(ask), channel=ask.channel)
        return self._conn.submit(*as_arguments(ask), channel=ask.channel)

    def _submit(self, ask: Ask) -> Any | None:
        """The same, or None if that failed."""
        self._ledger.enter(ask)
        try:
            return self._submitted(ask)
        except (ConnectionEnded, Draining) as error:
            self._failed(ask, error)
            return None

    def _failed(self, ask: Ask, error: BaseException, *, cancelled: bool = False) -> None:
        self._ended += isinstance(error, ConnectionEnded | Draining)
        self._ledger.failed(ask, error, cancelled=cancelled)

    @property
    def _is_over(self) -> bool:
        """Whether the connection has ended; asking once more must not harm."""
        return self._ended > 1

    def _entered(self, asks: Iterable[Ask], entered: list[Ask]) -> Iterator[Ask]:
        for ask in asks:
            self._ledger.enter(ask)
            entered.append(ask)
            yield ask

    def _map_arguments(self, turn: Turn, entered: list[Ask]) -> tuple[Callable[..., Any], Iterator[Any]]:
        asks = self._entered(turn.asks, entered)
        if self._service is not None:
            return self._service.conn_map, map(order_of, asks)
        return self._conn.map, map(as_arguments, asks)

    def _mapped(self, ask: Ask, response: Any) -> None:
        self._ledger.answered(ask, response if self._service is None else (True, *response))

    def _streamed(self, ask: Ask, response: Response, got: bytes) -> None:
        """`got` is the body that came."""
        ok, flags, payload = response
        if ok and ask.behaviour is not Behaviour.UP:
            flags, payload = ask.flags, got
        self._ledger.answered(ask, (ok, flags, payload))

    def _end_map(self, left: list[Ask], error: BaseException | None) -> None:
        """`left` were asked, and have no answer; `error` is that of the first of them."""
        if isinstance(error, RequestFailed):  # by `conn_map`: `map` gives the response
            self._ledger.answered(left.pop(0), (False, error.flags, error.payload))
        elif error is not None and left:
            self._failed(left.pop(0), error)
        for ask in left:
            self._ledger.gave_up(ask)


class ThreadAsker(Asker):
    """For `PacketConnection` and `HasPacketConnection`; runs in a thread of its own."""

    def run(self) -> None:
        """All turns, up to the end of the connection."""
        for turn in self._turns:
            if self._is_over:
                return
            getattr(self, f"_{turn.way}_turn")(turn)

    def _call_turn(self, turn: Turn) -> None:
        for ask in turn.asks:
            if self._is_over:
                return
            self._ledger.enter(ask)
            try:
                response = self._response_of(ask)
            except Exception as error:
                self._failed(ask, error)
            else:
                self._ledger.answered(ask, response)

    def _stream_turn(self, turn: Turn) -> None:
        for ask in turn.asks:
            if self._is_over:
                return
            self._ledger.enter(ask)
            got = b""
            try:
                with self._conn.stream(*as_call(ask)) as call:
                    with suppress(BodyEnded):  # the response says why
                        for chunk in chunks_of(ask.body) if ask.behaviour is not Behaviour.DOWN else ():
                            call.write(chunk)
                            if ask.behaviour is Behaviour.THROUGH and len(chunk) > 10:
                                got += call.read(len(chunk) // 2)  # it goes both ways at once
                        call.finish()
                        got += call.read()
                    response = call.result()
            except Exception as error:
                self._failed(ask, error)
            else:
                self._streamed(ask, response, got)

    def _response_of(self, ask: Ask) -> Response:
        if self._service is None:
            response: Response = self._conn(
                ask.behaviour, ask.payload, ask.flags, channel=ask.channel, **limit_of(ask)
            )
            return response
        if not self._reopens:
            result = self._service.conn_submit(order_of(ask), channel=ask.channel)
            try:
                return result(timeout=ask.timeout)
            finally:
                result.cancel()
        try:
            return True, *self._service.conn_do_remote(order_of(ask), channel=ask.channel, timeout=ask.timeout)
        except RequestFailed as error:
            return False, error.flags, error.payload

    def _results(self, turn: Turn) -> list[tuple[Ask, Any]]:
        results = []
        for ask in turn.asks:
            if self._is_over:
                break
            result = self._submit(ask)
            if result is not None:
                self._ledger.watch(ask)
                result.notify(lambda _, ask=ask: self._ledger.notify(ask))
                results.append((ask, result))
        return results

    def _submit_turn(self, turn: Turn) -> None:
        for ask, result in self._results(turn):
            self._collect(ask, result, ask.timeout)

    def _cancel_turn(self, turn: Turn) -> None:
        for ask, result in self._results(turn):
            result.cancel()
            self._collect(ask, result, COLLECTING, cancelled=True)

    def _abandon_turn(self, turn: Turn) -> None:
        self._abandoned += self._results(turn)

    def collect_abandoned(self) -> None:
        """Behind the close: all of them are done."""
        for ask, result in self._abandoned:
            if not result.ready:
                self._ledger.complain(f"{ask} is not done though its connection is closed")
                result.cancel()
            self._collect(ask, result, COLLECTING)

    def _collect(self, ask: Ask, result: Any, timeout: float | None, *, cancelled: bool = False) -> None:
        try:
            response = result(timeout=timeout)
        except Exception as error:
            result.cancel()
            self._failed(ask, error, cancelled=cancelled)
        else:
            self._ledger.answered(ask, response)

    def _map_turn(self, turn: Turn) -> None:
        entered: list[Ask] = []
        call, requests = self._map_arguments(turn, entered)
        timeout = turn.asks[0].timeout
        got = 0
        problem: BaseException | None = None
        with closing(call(requests, window=turn.window, timeout=timeout)) as responses:
            while got < turn.taken:
                try:
                    response = next(responses)
                except StopIteration:
                    break
                except Exception as error:
                    problem = error
                    break
                self._mapped(entered[got], response)
                got += 1
        self._end_map(entered[got:], problem)


class LoopAsker(Asker):
    """For `AsyncPacketConnection` and `AsyncHasPacketConnection`; runs in a task of its own."""

    async def run(self) -> None:
        """All turns, up to the end of the connection."""
        for turn in self._turns:
            if self._is_over:
                return
            await getattr(self, f"_{turn.way}_turn")(turn)

    async def _call_turn(self, turn: Turn) -> None:
        for ask in turn.asks:
            if self._is_over:
                return
            self._ledger.enter(ask)
            try:
                response = await self._response_of(ask)
            except Exception as error:
                self._failed(ask, error)
            else:
                self._ledger.answered(ask, response)

    async def _stream_turn(self, turn: Turn) -> None:
        for ask in turn.asks:
            if self._is_over:
                return
            self._ledger.enter(ask)
            got = b""
            try:
                async with self._conn.stream(*as_call(ask)) as call:
                    with suppress(BodyEnded):
                        for chunk in chunks_of(ask.body) if ask.behaviour is not Behaviour.DOWN else ():
                            await call.write(chunk)
                            if ask.behaviour is Behaviour.THROUGH and len(chunk) > 10:
                                got += await call.read(len(chunk) // 2)
                        await call.finish()
                        got += await call.read()
                    response = await call.result()
            except Exception as error:
                self._failed(ask, error)
            else:
                self._streamed(ask, response, got)

    async def _response_of(self, ask: Ask) -> Response:
        if self._service is None:
            response: Response = await self._conn(
                ask.behaviour, ask.payload, ask.flags, channel=ask.channel, **limit_of(ask)
            )
            return response
        if not self._reopens:
            await self._conn.drain()
            return await self._service.conn_submit(order_of(ask), channel=ask.channel, timeout=ask.timeout)
        try:
            return True, *await self._service.conn_do_remote(
                order_of(ask), channel=ask.channel, timeout=ask.timeout
            )
        except RequestFailed as error:
            return False, error.flags, error.payload

    async def _futures(self, turn: Turn) -> list[tuple[Ask, Any]]:
        futures = []
        for ask in turn.asks:
            if self._is_over:
                break
            try:
                await self._conn.drain()
            except ConnectionEnded:
                self._ended += 1
                continue
            future = self._submit(ask)
            if future is not None:
                self._ledger.watch(ask)
                future.add_done_callback(lambda _, ask=ask: self._ledger.notify(ask))
                futures.append((ask, future))
        return futures

    async def _submit_turn(self, turn: Turn) -> None:
        for ask, future in await self._futures(turn):
            try:
                async with asyncio.timeout(ask.timeout):
                    response = await future
            except Exception as error:
                self._failed(ask, error)
            else:
                self._ledger.answered(ask, response)

    async def _cancel_turn(self, turn: Turn) -> None:
        for ask, future in await self._futures(turn):
            future.cancel()
            await self._collect(ask, future, cancelled=True)
        if not self._is_over:
            await self._cancel_a_task(turn)

    async def _cancel_a_task(self, turn: Turn) -> None:
        """Once more, with another number each: a call in a task that is cancelled when it has begun."""
        for ask in turn.asks[:2]:
            again = replace(ask, number=ask.number + CANCELLED_AGAIN)
            self._ledger.enter(again)
            task = asyncio.ensure_future(self._conn(again.behaviour, again.payload, again.flags))
            await asyncio.sleep(0)
            task.cancel()
            await self._collect(again, task, cancelled=True)

    async def _abandon_turn(self, turn: Turn) -> None:
        self._abandoned += await self._futures(turn)

    async def collect_abandoned(self) -> None:
        """Behind the close: all of them are done."""
        for ask, future in self._abandoned:
            if not future.done():
                self._ledger.complain(f"{ask} is not done though its connection is closed")
                future.cancel()
            await self._collect(ask, future)

    async def _collect(self, ask: Ask, future: Any, *, cancelled: bool = False) -> None:
        try:
            response = await future
        except asyncio.CancelledError as error:
            self._failed(ask, error, cancelled=cancelled)
        except Exception as error:
            self._failed(ask, error)
        else:
            self._ledger.answered(ask, response)

    async def _map_turn(self, turn: Turn) -> None:
        entered: list[Ask] = []
        call, requests = self._map_arguments(turn, entered)
        got = 0
        problem: BaseException | None = None
        timeout = turn.asks[0].timeout
        async with aclosing(call(requests, window=turn.window, timeout=timeout)) as responses:
            while got < turn.taken:
                try:
                    response = await anext(responses)
                except StopAsyncIteration:
                    break
                except Exception as error:
                    problem = error
                    break
                self._mapped(entered[got], response)
                got += 1
        self._end_map(entered[got:], problem)
