"""The places where threads differ from an event loop, for streams of typed items."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, Any

from packetwire.errors import BodyEnded
from packetwire.typed.items import ItemCodec

if TYPE_CHECKING:
    from packetwire._sync.bodies import StreamCall


def encoded(codec: ItemCodec, items: Any) -> Iterator[bytes]:
    """The bytes of items that an iterable gives; one that is asynchronous gets a loop. Raises `BadValue`."""
    if hasattr(items, "__aiter__"):
        from packetwire.typed.stepping import stepped

        iterator: AsyncIterator[Any] = aiter(items)
        items = stepped(iterator)
    for number, item in enumerate(items):
        yield codec.encode(number, item)


class Upload:
    """Sends the body of a request while the one of its response is read: a thread."""

    def __init__(self, call: StreamCall, source: Any) -> None:
        self.error: BaseException | None = None
        """Why the source failed."""
        Thread(target=self._run, args=(call, source), name="packetwire-upload", daemon=True).start()

    def _run(self, call: StreamCall, source: Any) -> None:
        try:
            with suppress(BodyEnded):  # the response says why
                call.send(source)
                call.finish()
        except BaseException as error:
            self.error = error
            call.give_up()

    def stop(self) -> None:
        """Nobody needs it any more: it ends with its next item, as the request does."""


def dropper(call: StreamCall) -> Callable[[], object]:
    """A function that gives a call up."""
    return call.give_up
