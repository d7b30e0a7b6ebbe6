# Made from _async/member.py by tools/unasync.py: change that one, and run it.
"""Making something again when it has ended, for as long as its rules say: above all a connection."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from time import monotonic
from typing import Any

from packetwire._sync.keeping import Background, Change, called
from packetwire.connection import PacketConnection
from packetwire.core.keeping import (
    Attempts,
    MemberEnded,
    MemberEvent,
    MemberGivenUp,
    MemberReady,
    MemberWaits,
    Rules,
)
from packetwire.core.requestids import RequestIds
from packetwire.errors import RequestTimeout

logger = logging.getLogger("packetwire")

READY_INTERVAL = 0.05
"""Seconds between two questions if a far end is ready."""


class Keeper:
    """Makes something again and again, in the background, from `start` to `halt`. Subclasses say what."""

    def __init__(self, name: str, rules: Rules, *, tell: Callable[[MemberEvent], None], changed: Change) -> None:
        self.name = name
        self.cause: BaseException | None = None
        """Why there is none, if that is known."""
        self.given_up = False
        self._attempts = Attempts(rules)
        self._tell = tell
        self._changed = changed
        self._stopping = False
        self._stop = Change()
        self._work = Background()

    def start(self) -> None:
        """Begin."""
        self._work.start(self._keep, f"{self.name}-keeper")

    def halt(self) -> None:
        """Make none any more."""
        self._stopping = True
        self._stop.tell()

    def _one(self) -> BaseException | None:
        """Make one and wait for its end; returns the reason."""
        raise NotImplementedError

    def _keep(self) -> None:
        while not self._stopping:
            cause = self._one()
            if self._stopping:
                break
            self.cause = cause
            self._tell(MemberEnded(self.name, cause))
            logger.info("%s: %s", self.name, cause)
            delay = self._attempts.ended(cause, monotonic(), random.random())
            if delay is None:
                self.given_up = True
                self._changed.tell()
                self._tell(MemberGivenUp(self.name, cause))
                break
            self._changed.tell()
            self._tell(MemberWaits(self.name, delay))
            self._pause(delay)

    def _pause(self, seconds: float) -> None:
        seen = self._stop.count
        if not self._stopping:
            self._stop.wait(seen, seconds)


class Member(Keeper):
    """Keeps one connection, from `start` to `stop`. `conn` is it while it can be used."""

    def __init__(
        self,
        recv_send: Any,
        name: str,
        rules: Rules,
        *,
        on_connect: Callable[[PacketConnection], Any] | None,
        ready: Callable[[PacketConnection], Any] | None,
        ready_timeout: float,
        tell: Callable[[MemberEvent], None],
        changed: Change,
        request_ids: RequestIds,
        options: dict[str, Any],
    ) -> None:
        super().__init__(name, rules, tell=tell, changed=changed)
        self.conn: PacketConnection | None = None
        self._recv_send = recv_send
        self._on_connect = on_connect
        self._ready = ready
        self._ready_timeout = ready_timeout
        self._request_ids = request_ids
        self._options = options
        self._made: PacketConnection | None = None

    def leave(self, conn: PacketConnection) -> None:
        """Have nobody use this connection any more: it has ended, or is about to."""
        if self.conn is conn:
            self.conn = None

    def stop(self, seconds: float) -> None:
        """After `halt`: close the connection; that takes about so many seconds at most."""
        deadline = monotonic() + seconds
        made = self._made
        if made is not None:
            made.close(seconds)
        self._work.stop(deadline - monotonic())

    def _one(self) -> BaseException | None:
        conn = PacketConnection(self._recv_send, self.name, **self._options)
        conn._request_ids = self._request_ids  # so that a service knows the client again
        self._made = conn
        try:
            conn.open()
            self._prepare(conn)
            if self._stopping:
                return None
            self._attempts.ready(monotonic())
            self.conn = conn
            self._tell(MemberReady(self.name))
            self._changed.tell()
            conn.join_recv()
        except Exception as error:
            return error
        finally:
            self.conn = None
            conn.close()
        return conn.ended

    def _prepare(self, conn: PacketConnection) -> None:
        """Call what is to be called for a new connection, and wait until the far end is ready."""
        if self._on_connect is not None:
            called(self._on_connect, conn)
        deadline = monotonic() + self._ready_timeout
        while self._ready is not None and not called(self._ready, conn):
            if conn.ended is not None:
                raise conn.ended.for_waiter()
            if self._stopping:
                return
            if monotonic() >= deadline:
                raise RequestTimeout(f"{self.name} was not ready within {self._ready_timeout:g} s")
            self._pause(READY_INTERVAL)
