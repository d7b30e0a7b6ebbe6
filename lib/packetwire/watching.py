"""Handlers that are watched: which run now and since when, how long they took.

Strategy: a server that is not inspected has none of this, and its handlers are called as ever. Else there is a
function around each handler, as for hooks. It notes one entry of a dict, which is put in and taken out in single
steps, and at the end a few additions under a lock, under which no code of the user's runs.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from functools import partial

from packetwire.core.channels import PlainHandler
from packetwire.core.durations import Kind, Measures, Rate
from packetwire.hooks import HookedCoroutineHandler, HookedHandler, LabelOf, OpenSpans, is_async
from packetwire.streams import forking


class Handling:
    """One request whose handler has begun, and that is not answered yet."""

    __slots__ = ("_watch", "began", "kind", "label")

    def __init__(self, watch: ConnectionWatch, kind: Kind, label: str | None) -> None:
        self._watch = watch
        self.kind = kind
        self.label = label
        self.began = time.monotonic()
        watch.under_way[id(self)] = self

    def suspend(self) -> None:
        """Its handler has returned; the result comes later."""

    def resume(self) -> None:
        """It goes on."""

    def leave(self, error: BaseException | None = None, size: int | None = None) -> None:
        """It is done; only the first call counts."""
        if self._watch.under_way.pop(id(self), None) is not None:
            self._watch.is_done(self, failed=error is not None)


class ConnectionWatch:
    """The handlers of one connection."""

    def __init__(self, watch: Watch, open_spans: OpenSpans, number: int) -> None:
        self.number = number
        """It is the one with that number of its server."""
        self.under_way: dict[int, Handling] = {}
        self.rate = Rate()
        self._watch = watch
        self._open_spans = open_spans

    def around(
        self, handler: PlainHandler, channel: int, label_of: LabelOf, *, runs_coroutines: bool
    ) -> PlainHandler:
        """A handler that does the same, and is watched."""
        kind = HookedCoroutineHandler if runs_coroutines and is_async(handler) else HookedHandler
        begin: Callable[[int, bytes], Handling] = partial(self._begin, channel=channel, label_of=label_of)
        return kind(begin, handler, self._open_spans, runs_coroutines)

    def _begin(self, rq_type: int, payload: bytes, channel: int, label_of: LabelOf) -> Handling:
        return Handling(self, (channel, rq_type), label_of(rq_type))

    def is_done(self, handling: Handling, *, failed: bool) -> None:
        """One of them is answered."""
        now = time.monotonic()
        with self._watch.lock:
            self.rate.add(now)
            measure = self._watch.measures.of(handling.kind, handling.label)
            measure.add(now, now - handling.began, failed=failed)


class Watch:
    """The handlers of all connections of a server."""

    def __init__(self) -> None:
        self.measures = Measures()
        self.began = time.monotonic()
        self._numbers = itertools.count(1)
        self.after_fork()
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: another thread may have held the lock."""
        self.lock = threading.RLock()  # a signal handler may come here while its thread holds it

    def connection(self, open_spans: OpenSpans) -> ConnectionWatch:
        """For one more connection, which has these deferred results."""
        return ConnectionWatch(self, open_spans, next(self._numbers))
