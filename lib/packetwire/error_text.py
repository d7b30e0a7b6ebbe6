"""What the peer is told of a handler's exception."""

from __future__ import annotations

import traceback

from packetwire.errors import RequestError

ERROR_TEXT_LIMIT = 16384
"""Characters."""


def error_text(error: BaseException, detail: str) -> bytes:
    """The payload of the failed response, by `detail`: "none", "message" or "traceback"."""
    if isinstance(error, RequestError):
        text = _told(error)
    elif detail == "none":
        return b"the request failed"
    elif detail == "traceback":
        text = "".join(traceback.format_exception(error))
    else:
        text = "".join(traceback.format_exception_only(error)).rstrip()
    return text[:ERROR_TEXT_LIMIT].encode("utf-8", errors="replace")


def _told(error: RequestError) -> str:
    """The text of a `RequestError`, which may be no str, or missing where a subclass does not call `__init__`."""
    try:
        return str(getattr(error, "text", error))
    except Exception:  # of the text's own __str__: the peer is answered all the same
        return "the request failed"
