"""Requests of ours with bodies, from threads."""

from __future__ import annotations

import time
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, Any

from packetwire._sync.bodies import BodyWriter
from packetwire._sync.bodyhost import chunks_of
from packetwire.bodylimits import BodyLimits
from packetwire.core.bodies import CallBodies
from packetwire.errors import BodyEnded, PacketwireError, copy_of
from packetwire.hosts.threads.bodies import ThreadExchange
from packetwire.hosts.threads.slots import inheriting
from packetwire.plannedcalls import submit_planned

if TYPE_CHECKING:
    from packetwire.core.calloptions import CallOptions
    from packetwire.core.responses import DecodeResponse, Response
    from packetwire.core.varint import BytesLike
    from packetwire.hooks import ConnectionHooks
    from packetwire.lightresult import LightResult


class CalledExchange(ThreadExchange):
    """A request of ours."""

    def __init__(self, driver: object, result: LightResult, bodies: CallBodies, timeout: float | None) -> None:
        super().__init__(driver, BodyLimits(result.name, time.monotonic, timeout, result.deadline))
        self.bodies = bodies
        self.result = result

    def timed_out(self, text: str) -> PacketwireError:
        """End it; returns why."""
        error = self._limits.error(text)
        self.result.cancel(str(error))
        return error

    def why(self, error: PacketwireError) -> PacketwireError:
        """The exception to raise for the end of a body."""
        return copy_of(error)

    def response(self, timeout: float | None) -> Response:
        """Wait for the response."""
        response: Response = self.result(timeout=timeout)
        return response

    def give_up(self, text: str) -> None:
        """Nobody wants the response any more."""
        self.result.cancel(text or None)


def begin(
    driver: Any,
    request: tuple[int, int, BytesLike, int],
    options: CallOptions,
    limit: float | None,
    label: str | None,
    hooks: ConnectionHooks | None,
    timeout: float | None,
    *,
    takes_body: bool,
    decode_response: DecodeResponse | None = None,
) -> CalledExchange:
    """Send a request with a body, (rq_type, flags, payload, channel); `limit` are seconds for finding room."""
    bodies = CallBodies()
    outer = inheriting.get(get_ident())
    result = submit_planned(
        driver, request, options, outer, limit, label, decode_response, hooks, bodies=bodies, takes_body=takes_body
    )
    return CalledExchange(driver, result, bodies, timeout)


def send_body(exchange: CalledExchange, source: object) -> LightResult:
    """Send the body of a request that takes none back; returns its result once no more than 256 KiB are unsent."""
    assert exchange.bodies.request is not None
    writer = BodyWriter(exchange.bodies.request, exchange)
    try:
        with suppress(BodyEnded):  # the response says why
            for chunk in chunks_of(source):
                writer.write(chunk)
        writer.finish()
    except BaseException:
        exchange.give_up("")
        raise
    return exchange.result
