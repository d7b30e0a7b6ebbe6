"""The text that the peer gets for a handler's exception."""

from __future__ import annotations

import traceback

from packetwire.errors import RequestError

ERROR_TEXT_LIMIT = 16384
"""Characters of the text, at most."""

ERRORS_OF_A_GROUP = 10
"""How many of an exception group are told."""
GROUPS_WITHIN_EACH_OTHER = 3


class RequestRefused(RequestError):
    """A `RequestError` whose payload was made already, for a peer that understands it."""

    def __init__(self, text: str, payload: bytes) -> None:
        super().__init__(text)
        self.payload = payload


def error_text(error: BaseException, detail: str) -> bytes:
    """The payload of the failed response, by `detail`: "none", "message" or "traceback"."""
    if isinstance(error, RequestRefused):
        return error.payload
    if isinstance(error, RequestError):
        text = _told(error)
    elif detail == "none":
        return b"the request failed"
    elif detail == "traceback":
        text = "".join(traceback.format_exception(error))
    else:
        text = _message(error)
    return text[:ERROR_TEXT_LIMIT].encode("utf-8", errors="replace")


def _message(error: BaseException, depth: int = 0) -> str:
    """The type and text of an exception; of a group, such as a `TaskGroup` raises, those inside it too."""
    text = "".join(traceback.format_exception_only(error)).rstrip()
    if isinstance(error, BaseExceptionGroup) and depth < GROUPS_WITHIN_EACH_OTHER:
        inner = [_message(each, depth + 1) for each in error.exceptions[:ERRORS_OF_A_GROUP]]
        text += ": " + "; ".join(inner) + ("; …" if len(error.exceptions) > len(inner) else "")
    return text


def _told(error: RequestError) -> str:
    """The text of a `RequestError`, even if it is not a str, or missing as a subclass did not call `__init__`."""
    try:
        return str(getattr(error, "text", error))
    except Exception:  # raised by the text's own __str__: the peer must be answered all the same
        return "the request failed"
