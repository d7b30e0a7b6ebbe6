"""The words for responses that threads and event loops share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from packetwire.core.engine import NOT_BEGUN
from packetwire.errors import PeerClosed

DecodeResponse = Callable[[int, bytes], Any]
"""Makes the payload of an "ok" response from (flags, payload)."""

Response = tuple[bool, int, Any]
"""(ok, flags, payload)"""

RESPONSE = slice(2, 5)
"""The fields of a `ResponseReceived` that make a `Response`. The event itself is not kept: it refers to its
waiter, so a large payload would stay until the garbage collector comes."""


def ending_of(flags: int, payload: bytes) -> PeerClosed | None:
    """What a refusal means by which a peer that is about to end says that it does not begin this request."""
    if payload == NOT_BEGUN and not flags:
        return PeerClosed(NOT_BEGUN.decode())
    return None
