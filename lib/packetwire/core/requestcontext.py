"""The context of a request of the peer: its metadata, its deadline, and whether it is given up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from packetwire.core.bodies import ReceivingBody, SendingBody
from packetwire.core.frames import Meta

_NO_META = Meta()
_NOTHING: Mapping[str, bytes] = MappingProxyType({})


class RequestContext:
    """One request of the peer that has more to it than its packet.

    It exists from its META or CANCEL on, until the request is answered; a request that has neither has none. The
    face makes it known to the request's handler.
    """

    __slots__ = (
        "body", "cancelled", "deadline", "is_detached", "is_dropped", "meta", "next_progress", "on_cancel",
        "reader", "response_body",
    )  # fmt: skip

    def __init__(self, meta: Meta = _NO_META, now: float = 0.0) -> None:
        self.meta = meta
        self.deadline = None if meta.milliseconds_left is None else now + meta.milliseconds_left / 1000
        """The time until which the caller waits."""
        self.cancelled: tuple[int, str] | None = None
        """(code, text) of its CANCEL."""
        self.on_cancel: list[Callable[[], object]] = []
        """To be called, once, when it is cancelled; popped by whoever calls it."""
        self.is_detached = False
        """Its handler goes on whatever becomes of the caller."""
        self.is_dropped = False
        """It has come, and cannot be answered any more."""
        self.next_progress = 0.0
        """The time before which the caller wants no further report."""
        self.body: ReceivingBody | None = None
        """Its body, if it has one."""
        self.reader: Any = None
        """The reader of the body, once its handler has asked for that."""
        self.response_body: SendingBody | None = None
        """The body of its response, if the caller takes one."""

    @property
    def metadata(self) -> Mapping[str, bytes]:
        """The mapping that the caller gave with the request."""
        return self.meta.metadata or _NOTHING

    def is_over(self, now: float) -> bool:
        """Nobody waits for it any more: it is cancelled, or its deadline has passed."""
        if self.is_detached:
            return False
        return self.cancelled is not None or (self.deadline is not None and now >= self.deadline)

    def may_report(self, now: float) -> bool:
        """The caller wants to know how far it is, and this is not too soon after the last report."""
        interval = self.meta.progress_interval
        if interval is None or now < self.next_progress:
            return False
        self.next_progress = now + interval / 1000
        return True
