"""The peer's requests that are owed an answer, for what runs their handlers: which may begin, which are cancelled.

Strategy: a request that the peer says nothing more about is not known here; `contexts` and `cancelled` are empty
then, and whoever runs handlers looks at that alone. Threads may call this at the same time, as they may the engine:
a callback, a queued request and an answer are each claimed in one step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from packetwire.core.cancelled import CancelledRequests
from packetwire.core.control import channel_and_tag as channel_and_tag
from packetwire.core.engine import ConnectionEngine
from packetwire.core.packetcodec import Fields, Key
from packetwire.core.requestcontext import RequestContext
from packetwire.core.requestids import Repeated
from packetwire.core.requests import HandlerResult, cancel_deferred
from packetwire.core.statuses import StatusCode
from packetwire.errors import BodyEnded, DeadlineExceeded, LocalProtocolError, RequestCancelled

Interrupt = Callable[[], object]
"""Has a handler that runs know that it is to stop."""


class OwedRequests:
    """Those of one connection. `call(function)` calls a function of the user."""

    def __init__(self, engine: ConnectionEngine, call: Callable[[Callable[[], object]], object]) -> None:
        self.contexts = engine.contexts
        """Requests with metadata, or that are cancelled."""
        self._queued = CancelledRequests()
        self.cancelled = self._queued.keys
        """Cancelled ones that still stand in a queue."""
        self.deferred: dict[Key, HandlerResult] = {}
        """The results that are not there yet."""
        self._engine = engine
        self._call = call

    def may_begin(self, key: Key, now: float) -> bool:
        """False if a request was cancelled before, or its deadline has passed; then it is answered."""
        context = self.contexts.get(key)
        if self._queued.claim(key) or (context is not None and context.cancelled is not None):
            self.refuse(key, b"cancelled", StatusCode.CANCELLED)
            return False
        if context is not None and context.is_over(now):
            self.refuse(key, b"the deadline passed before this request was begun", StatusCode.DEADLINE)
            return False
        return True

    def refuse(self, key: Key, text: bytes, code: StatusCode, *, begun: bool = False) -> bool:
        """Answer it by a status code; false if another thread has answered it."""
        try:
            self._engine.refuse(*channel_and_tag(key), text, code, begun=begun)
        except LocalProtocolError:
            return False
        return True

    def context_of(self, key: Key) -> RequestContext:
        """The context of a request; made now if there is none."""
        context = self.contexts.get(key)
        if context is None:
            context = self.contexts.setdefault(key, RequestContext())
            if not self._engine.owes(*channel_and_tag(key)):
                self.contexts.pop(key, None)  # it was answered meanwhile
        return context

    def is_cancelled(self, key: Key) -> bool:
        """The peer has given it up, and its handler has not said that it goes on."""
        context = self.contexts.get(key)
        return context is not None and context.cancelled is not None and not context.is_detached

    def cancel(
        self,
        key: Key,
        is_attached: bool,
        running: Callable[[Key], Interrupt | None],
        queues: tuple[deque[Fields], ...],
    ) -> None:
        """The peer gave a request up: what has not begun never begins, what has is told.

        `is_attached`: a receiver has it. `running` looks for who runs its handler, and `queues` are where it stands
        otherwise.
        """
        context = self.contexts.get(key)
        if context is None:
            return  # it was answered just now
        interrupt: Interrupt | None = None
        if not is_attached and key not in self.deferred:
            self._queued.add(key)  # first this, as `CancelledRequests` says
            interrupt = running(key)
            if interrupt is None and key not in self.deferred:
                if not self.refuse(key, b"cancelled", StatusCode.CANCELLED):
                    self._queued.claim(key)  # its handler has answered just now, so it stands in no queue
                self._queued.sweep(*queues)
                return
            if not self._queued.claim(key):
                return  # whoever was about to begin it has seen that
        if not context.is_detached:
            if interrupt is not None:
                interrupt()
            self._tell(context, key)

    def _tell(self, context: RequestContext, key: Key) -> None:
        """Call what a handler has asked for, and cancel the result that it waits for."""
        while context.on_cancel:
            try:
                callback = context.on_cancel.pop()
            except IndexError:  # another thread was first
                break
            self._call(callback)
        deferred = self.deferred.get(key)
        if deferred is not None:
            self._call(lambda: cancel_deferred(deferred))

    def was_deferred(self, key: Key) -> None:
        """Its result is in `deferred` now; it may have been cancelled the moment before."""
        context = self.contexts.get(key)
        if context is not None and context.cancelled is not None and not context.is_detached:
            self._tell(context, key)

    def answer_over(self, key: Key, error: BaseException, now: float) -> bool:
        """If a handler ended by `error` as nobody waits for it, or it was done before, answer that.

        True also if that was answered already, as this end was closed.
        """
        if isinstance(error, Repeated):
            self.refuse(key, str(error).encode(), StatusCode.REPEATED, begun=True)
            return True
        context = self.contexts.get(key)
        if context is None and (isinstance(error, BodyEnded | LocalProtocolError) or _is_cancellation(error)):
            # which its handler learns by such an error, or whoever answers for it
            return not self._engine.owes(*channel_and_tag(key))
        if context is None or not context.is_over(now) or not _is_cancellation(error):
            return False
        code = StatusCode.DEADLINE if context.cancelled is None else StatusCode.CANCELLED
        text = str(error).encode(errors="replace") or code.name.lower().encode()
        self.refuse(key, text, code, begun=True)
        return True

    def clear(self) -> None:
        """Nothing more is received: nobody is cancelled any more."""
        self.deferred.clear()


def _is_cancellation(error: BaseException) -> bool:
    """True for what handlers raise when they are told to stop, and what cancelled futures do."""
    # a body that ends is that of this request, or of a call that its handler makes and that ends with it
    kinds = RequestCancelled, DeadlineExceeded, BodyEnded
    return isinstance(error, kinds) or type(error).__name__ == "CancelledError"
