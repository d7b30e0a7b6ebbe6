"""Logging of requests that failed, and of handlers whose results are probably mistakes."""

from __future__ import annotations

import logging
import traceback

from packetwire.core.faults import FaultCounter, Worth, is_caused_by_peer
from packetwire.core.requests import HandlerResult, response_parts
from packetwire.errors import RequestError

logger = logging.getLogger("packetwire")

SHOWN = 500
"""Characters of an exception in a line of the log."""
TRACEBACK_SHOWN = 16_384
"""Characters of a traceback; the middle of a longer one is left out."""


class FaultLog:
    """Logs the failures of one connection's requests: the first of each kind singly, then how many there were.

    A `RequestError` is a handler's answer and not logged. A fault of the peer is a line at WARNING, anything else
    an entry at ERROR with the traceback.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._counter = FaultCounter()
        self._summed_up = 0
        self._warned: set[int] = set()  # ids of handlers, which must not be kept alive

    def failed(self, channel: int, tag: int, rq_type: int, error: BaseException) -> None:
        """Log a request that failed with `error`."""
        if isinstance(error, RequestError):
            return
        counted = self._counter.add(error)
        if counted.worth is Worth.NOTHING:
            return
        of_peer = is_caused_by_peer(error)
        level = logging.WARNING if of_peer else logging.ERROR
        if counted.worth is Worth.SINGLE:
            text = "%s: request %d on channel %d (rq_type %d) " + ("is wrong: %s" if of_peer else "failed: %s")
            details = None if of_peer else error
            self._log(level, text, channel, tag, rq_type, error, details)
        elif counted.worth is Worth.FIRST_COUNTED:
            logger.log(
                level, "%s: requests go on failing and are counted from here on: %s", self._name, _shown(error)
            )
        else:
            logger.log(level, "%s: %d more requests failed, at last: %s", self._name, counted.number, _shown(error))

    def _log(
        self,
        level: int,
        text: str,
        channel: int,
        tag: int,
        rq_type: int,
        error: BaseException,
        details: BaseException | None,
    ) -> None:
        shown, exc_info = _shown(error), details
        if details is not None:
            whole = "".join(traceback.format_exception(details))
            if len(whole) > TRACEBACK_SHOWN:  # the peer may have made it so long
                half = TRACEBACK_SHOWN // 2
                shown, exc_info = f"{shown}\n{whole[:half]}\n…\n{whole[-half:]}".rstrip(), None
        logger.log(level, text, self._name, tag, channel, rq_type, shown, exc_info=exc_info)

    def sum_up(self) -> None:
        """At the end of the connection: log how many failures were only counted, unless that was logged."""
        only_counted = self._counter.only_counted()
        if only_counted > self._summed_up:
            self._summed_up = only_counted
            logger.warning("%s: %d more requests failed than are shown above", self._name, only_counted)

    def response_parts(self, handler: object, rq_type: int, result: HandlerResult) -> tuple[int, bytes]:
        """As the function of that name. Accepts a bool, with a warning once for each handler."""
        value = result[0] if type(result) is tuple and result else result
        if type(value) is bool:
            self._warn_of_bool(handler, rq_type, value)
        return response_parts(result)

    def _warn_of_bool(self, handler: object, rq_type: int, value: bool) -> None:
        while (
            inner := getattr(handler, "func", None)
        ) is not None:  # of a partial, or a weak reference to a handler
            handler = inner
        classes = getattr(getattr(handler, "__self__", None), "conn_rq_class_by_type", {})
        if rq_type in classes:
            handler = classes[rq_type].fulfil
        key = id(getattr(handler, "__func__", handler))
        if key in self._warned:
            return
        self._warned.add(key)
        logger.warning(
            "%s: %s returned %s: that is the response ok with flags %d; raise RequestError for one that is not ok",
            self._name,
            getattr(handler, "__qualname__", None) or repr(handler),
            value,
            value,
        )


def _shown(error: BaseException) -> str:
    """An exception in one line of printable characters."""
    try:
        text = repr(error)
    except Exception:
        text = f"<{type(error).__name__}, whose repr fails>"
    shown = "".join(each if each.isprintable() else repr(each)[1:-1] for each in text[:SHOWN])
    return shown + ("…" if len(text) > SHOWN else "")
