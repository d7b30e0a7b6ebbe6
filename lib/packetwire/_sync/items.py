# Made from _async/items.py by tools/unasync.py: change that one, and run it.
"""Streams of typed items: what a method reads of its request, and what a client reads of a response.

Strategy. The body of a request or response is read as it comes, and cut into items, see `typed.items`. A client's
stream is an exchange that it has begun: it ends with the response, or is given up when the stream is closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, Self, TypeVar

from packetwire._sync.bodies import BodyReader, StreamCall
from packetwire._sync.uploading import Upload, dropper
from packetwire.core.faults import caused_by_peer
from packetwire.errors import BodyEnded, ConnectionEnded, RequestCancelled
from packetwire.typed.badvalue import BadValue
from packetwire.typed.call import Call
from packetwire.typed.items import NOTHING, ItemDecoder

ItemT = TypeVar("ItemT")


class ItemReader(Generic[ItemT]):
    """The items of a body."""

    def __init__(self, body: BodyReader, decoder: ItemDecoder) -> None:
        self._body = body
        self._decoder = decoder

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ItemT:
        try:
            while True:
                item: ItemT = self._decoder.next()
                if item is not NOTHING:
                    return item
                chunk = next(self._body, None)
                if chunk is None:
                    self._decoder.finish()
                    raise StopIteration
                self._decoder.feed(chunk)
        except BadValue as error:
            caused_by_peer(error)
            raise


class ItemStream(Generic[ItemT]):
    """The items that a method yields, as they come: an iterator.

        for item in client.do(Shop.all("E")):
            ...

    The far end is ahead of it by a window, as with any body. An error of the method is raised behind the items
    that came before it. If it is not read to its end it should be closed, by `close` or `with`: the far end
    is told, and its generator is closed.
    """

    __module__ = "packetwire.typed"  # where it is public

    def __init__(
        self,
        conn: Any,
        call: StreamCall,
        request: Call[Iterator[ItemT]],
        items: ItemReader[ItemT],
        upload: Upload | None,
    ) -> None:
        self._conn = conn
        self._call = call
        self._request = request
        self._items = items
        self._upload = upload
        self._drop = dropper(call)
        self._is_open = True

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ItemT:
        """Raises the error of the method, and as a call of the connection does."""
        if not self._is_open:
            raise StopIteration
        try:
            return next(self._items)
        except StopIteration:
            self._leave()
            _, _, payload = self._call.result()
            if payload:
                problem = f"expected items in a body, got a payload of {len(payload)} bytes"
                raise BadValue("$", f"{problem} (in the response to {self._request.operation.name})") from None
            raise
        except (BodyEnded, ConnectionEnded, RequestCancelled) as ended:
            raise self._why(ended) from None
        except Exception:  # but who is cancelled may go on
            self.close()
            raise

    def close(self) -> None:
        """No more items are wanted; does nothing at the end, or a second time."""
        if self._is_open:
            self._leave()
            self._call.give_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._is_open:
            self._leave()
            self._drop()

    def _leave(self) -> None:
        self._is_open = False
        if self._upload is not None:
            self._upload.stop()

    def _why(self, ended: Exception) -> BaseException:
        """The exception to raise for a body that is not whole."""
        if self._upload is not None and self._upload.error is not None:
            self._leave()
            return self._upload.error
        if not isinstance(ended, BodyEnded):
            self.close()
            return ended
        self._leave()
        try:
            _, flags, payload = self._call.result()
        except Exception as error:
            return error
        name = type(self._request).__name__
        return self._request.decode_failed_response(self._conn.failure(flags, payload, name))
