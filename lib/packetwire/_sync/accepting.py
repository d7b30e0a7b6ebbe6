"""Waiting for clients, in a thread that nothing else waits in."""

from __future__ import annotations

import select
import time
from collections.abc import Iterable
from typing import Any

from packetwire.admission import Admission
from packetwire.listeners import Acceptor, Listener
from packetwire.streams.wakeup import Wakeup


class AcceptLoop:
    """Polls what is listened at, unless accepting is paused, and a wake-up."""

    def __init__(self, listener: Listener, admission: Admission[Any]) -> None:
        self._listener = listener
        self._admission = admission
        self._wakeup = Wakeup()

    def wake(self) -> None:
        """Have `wait` return. From any thread."""
        self._wakeup.set()

    def wait(self, *limits: float | None) -> Iterable[Acceptor]:
        """Wait for a client or `wake`, or until the first of the `limits`, in seconds; where clients wait."""
        poller = select.poll()
        poller.register(self._wakeup.fileno(), select.POLLIN)
        sockets = [] if self._admission.is_paused else self._listener.sockets
        for sock in sockets:
            poller.register(sock.fileno(), select.POLLIN)
        paused = self._admission.paused_until
        left = [] if paused is None else [paused - time.monotonic()]
        left += [limit for limit in limits if limit is not None]
        ready = {fd for fd, _ in poller.poll(max(0.0, min(left)) * 1000 if left else None)}
        self._wakeup.clear()
        return [sock for sock in sockets if sock.fileno() in ready]

    def close(self) -> None:
        """Let go of what `wake` needs. A second call does nothing."""
        self._wakeup.close()
