"""Streams of typed items: what a method reads of its request, and what a client reads of a response.

Strategy. The body of a request or response is read as it comes, and cut into items, see `typed.items`. A client's
stream is an exchange that it has begun: it ends with the response, or is given up when the stream is closed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Generic, Self, TypeVar

from packetwire._async.bodies import AsyncBodyReader, AsyncStreamCall
from packetwire._async.uploading import Upload, dropper
from packetwire.core.faults import caused_by_peer
from packetwire.errors import BodyEnded, ConnectionEnded, RequestCancelled
from packetwire.typed.badvalue import BadValue
from packetwire.typed.call import Call
from packetwire.typed.items import NOTHING, ItemDecoder

ItemT = TypeVar("ItemT")


class AsyncItemReader(Generic[ItemT]):
    """The items of a body."""

    def __init__(self, body: AsyncBodyReader, decoder: ItemDecoder) -> None:
        self._body = body
        self._decoder = decoder

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ItemT:
        try:
            while True:
                item: ItemT = self._decoder.next()
                if item is not NOTHING:
                    return item
                chunk = await anext(self._body, None)
                if chunk is None:
                    self._decoder.finish()
                    raise StopAsyncIteration
                self._decoder.feed(chunk)
        except BadValue as error:
            caused_by_peer(error)
            raise


class AsyncItemStream(Generic[ItemT]):
    """The items that a method yields, as they come: an asynchronous iterator.

        async for item in await client.do(Shop.all("E")):
            ...

    The far end is ahead of it by a window, as with any body. An error of the method is raised behind the items
    that came before it. If it is not read to its end it should be closed, by `aclose` or `async with`: the far end
    is told, and its generator is closed.
    """

    __module__ = "packetwire.typed"  # where it is public

    def __init__(
        self,
        conn: Any,
        call: AsyncStreamCall,
        request: Call[AsyncIterator[ItemT]],
        items: AsyncItemReader[ItemT],
        upload: Upload | None,
    ) -> None:
        self._conn = conn
        self._call = call
        self._request = request
        self._items = items
        self._upload = upload
        self._drop = dropper(call)
        self._is_open = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ItemT:
        """Raises the error of the method, and as a call of the connection does."""
        if not self._is_open:
            raise StopAsyncIteration
        try:
            return await anext(self._items)
        except StopAsyncIteration:
            self._leave()
            _, _, payload = await self._call.result()
            if payload:
                problem = f"expected items in a body, got a payload of {len(payload)} bytes"
                raise BadValue("$", f"{problem} (in the response to {self._request.operation.name})") from None
            raise
        except (BodyEnded, ConnectionEnded, RequestCancelled) as ended:
            raise await self._why(ended) from None
        except Exception:  # but who is cancelled may go on
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """No more items are wanted; does nothing at the end, or a second time."""
        if self._is_open:
            self._leave()
            self._call.give_up()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._is_open:
            self._leave()
            self._drop()

    def _leave(self) -> None:
        self._is_open = False
        if self._upload is not None:
            self._upload.stop()

    async def _why(self, ended: Exception) -> BaseException:
        """The exception to raise for a body that is not whole."""
        if self._upload is not None and self._upload.error is not None:
            self._leave()
            return self._upload.error
        if not isinstance(ended, BodyEnded):
            await self.aclose()
            return ended
        self._leave()
        try:
            _, flags, payload = await self._call.result()
        except Exception as error:
            return error
        name = type(self._request).__name__
        return self._request.decode_failed_response(self._conn.failure(flags, payload, name))
