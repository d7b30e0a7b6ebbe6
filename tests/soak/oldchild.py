"""The other end of a round on packetwire 0.1.0: run by an interpreter that imports that from its wheel."""

from __future__ import annotations

import logging
import sys
import threading
import time
from concurrent.futures import Future
from typing import Any

from tests.soak.behaviours import MAX_DEPTH, MAX_SIZE, Behaviour, contents, digest

import packetwire

unanswered: list[object] = []


def later(milliseconds: int, call: Any, *args: object) -> None:
    threading.Timer(milliseconds / 1000, call, args).start()


def handle(rq_type: int, flags: int, payload: bytes) -> Any:
    """As `handling.Handler`, with what there was then."""
    behaviour = Behaviour(rq_type)
    if behaviour is Behaviour.DIGEST:
        return flags, digest(payload)
    if behaviour is Behaviour.PRODUCE:
        return flags, contents(flags >> 4, min(int.from_bytes(payload[:4], "big"), MAX_SIZE))
    if behaviour is Behaviour.SLEEP:
        time.sleep(payload[0] / 1000)
    elif behaviour is Behaviour.DEFER:
        responder = packetwire.Responder()
        later(payload[0], responder.respond, (flags, payload))
        return responder
    elif behaviour is Behaviour.FUTURE:
        future: Future[Any] = Future()
        later(payload[0], future.set_result, (flags, payload))
        return future
    elif behaviour is Behaviour.CALL_BACK and flags & MAX_DEPTH:
        ok, _, back = conn(Behaviour.CALL_BACK, payload, flags - 1)
        if not ok:
            raise RuntimeError(back.decode(errors="replace"))
    elif behaviour is Behaviour.RAISE:
        raise ValueError(flags)
    elif behaviour is Behaviour.NONSENSE:
        return object()
    elif behaviour is Behaviour.NEVER:
        unanswered.append(packetwire.Responder())
        return unanswered[-1]
    return flags, payload


if __name__ == "__main__":
    logging.getLogger("packetwire").addHandler(logging.NullHandler())
    assert packetwire.__version__ == "0.1.0"
    assert ".whl" in packetwire.__file__
    conn: Any = packetwire.PacketConnection(packetwire.stdio(), request_handler=handle, handlers=4)
    with conn:
        conn.join_recv()
    sys.exit(0)
