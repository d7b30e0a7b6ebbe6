"""The words for responses that threads and event loops share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from packetwire.core.engine import NOT_BEGUN
from packetwire.core.statuses import Status, StatusCode
from packetwire.errors import DeadlineExceeded, PeerClosed, RequestCancelled, RequestFailed, never_sent

DecodeResponse = Callable[[int, bytes], Any]
"""Makes the payload of an "ok" response from (flags, payload)."""

Response = tuple[bool, int, Any]
"""(ok, flags, payload)"""

RESPONSE = slice(2, 5)
"""The fields of a `ResponseReceived` that make a `Response`. The event itself is not kept: it refers to its
waiter, so a large payload would stay until the garbage collector comes."""


def ending_of(flags: int, payload: bytes) -> PeerClosed | None:
    """The exception for a refusal by which a peer that is about to end says that it does not begin this request."""
    if payload == NOT_BEGUN and not flags:
        return never_sent(PeerClosed(NOT_BEGUN.decode()))
    return None


def failure_of(status: Status, flags: int, payload: bytes, what: str) -> RequestFailed:
    """The exception for a response that is not ok, of the request `what`."""
    error: RequestFailed
    if status.code is StatusCode.CANCELLED:
        error = RequestCancelled(f"{what} was cancelled at the far end: {_text(payload)}", status.begun)
    elif status.code is StatusCode.DEADLINE:
        error = DeadlineExceeded(f"{what} was not done in time at the far end: {_text(payload)}", status.begun)
    else:
        return RequestFailed(flags, payload, what, status.code, status.begun)
    error.flags, error.payload, error.text = flags, payload, _text(payload)
    return error


def _text(payload: bytes) -> str:
    return payload.decode("utf-8", errors="replace")
