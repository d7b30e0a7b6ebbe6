"""The handlers of a connection's channels, and the one way in for more than a request handler.

Channel 0 belongs to the connection's `request_handler`. Any other has a handler of its own, or a *receiver*, which
is attached: it gets all that happens on its channel, in the order of the wire, one event at a time.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Protocol, cast

from packetwire.core.engine import NOT_DONE, check_channel
from packetwire.core.events import Event, RequestReceived, ResponseReceived
from packetwire.core.requests import HandlerResult
from packetwire.errors import LocalProtocolError, RequestError

PlainHandler = Callable[[int, int, bytes], HandlerResult]
"""Called with (rq_type, flags, payload)."""


class ChannelHandler(Protocol):
    """A handler that is told the channel of the request."""

    def __call__(self, rq_type: int, flags: int, payload: bytes, /, *, channel: int) -> HandlerResult: ...


RequestHandler = PlainHandler | ChannelHandler

Receiver = Callable[[Event], HandlerResult]
"""Its result for a `RequestReceived` is the answer, as a handler's; for other events it means nothing."""

Quick = Callable[[ResponseReceived], bool]
"""Deals with what some responses mean, in whichever thread reads; false for all others, which the receiver gets."""


class Weak:
    """Calls what a connection was given, and does not keep it alive.

    The driver of an open connection has nothing else of it: else a connection would never be collected whose
    handler is a method of the object that has the connection, and nobody could see that it was dropped.
    """

    __slots__ = ("function",)

    function: Callable[[], Callable[..., Any] | None]
    """Returns what is called; None if that is gone."""

    def __init__(self, function: Callable[..., Any]) -> None:
        try:
            self.function = weakref.ref(function)
        except TypeError:  # an object of a class with __slots__, say: it is kept
            self.function = lambda: function

    @property
    def func(self) -> Any:
        """The function that is called; None if it is gone."""
        return self.function()


class WeakHandler(Weak):
    """Calls a request handler."""

    __slots__ = ()

    def __call__(self, rq_type: int, flags: int, payload: bytes) -> HandlerResult:
        handler = self.function()
        if handler is None:
            raise RequestError(NOT_DONE.decode())
        return handler(rq_type, flags, payload)


class WeakReceiver(Weak):
    """Calls what is attached to a channel."""

    __slots__ = ()

    def __call__(self, event: Event) -> HandlerResult:
        receiver = self.function()
        if receiver is not None:
            return receiver(event)
        if isinstance(event, RequestReceived):
            raise RequestError(NOT_DONE.decode())
        return None


class WeakQuick(Weak):
    """Calls what deals with some responses."""

    __slots__ = ()

    def __call__(self, event: ResponseReceived) -> bool:
        quick = self.function()
        return quick is not None and bool(quick(event))


class WeakObserver(Weak):
    """Calls a function that sees everything and answers nothing."""

    __slots__ = ()

    def __call__(self, *args: Any) -> None:
        function = self.function()
        if function is not None:
            function(*args)


CO_COROUTINE = 0x80
"""The flag of the code of an `async def`, as `inspect` has it."""


class Channels:
    """The handlers and receivers of a connection, but for its `request_handler`.

    The engine asks by `in` which channels are served. Threads may attach and detach while another one receives:
    each change is a single step of a dict.
    """

    def __init__(self, handlers: Mapping[int, RequestHandler] | None = None) -> None:
        self.handlers: dict[int, PlainHandler] = {}
        """Channel -> its handler, as it is called: one that has a parameter `channel` gets it."""
        self.receivers: dict[int, Receiver] = {}
        """Channel -> what was attached to it."""
        self.quick: dict[int, Quick] = {}
        """Channel -> what deals with some of its responses."""
        self.unhurried: dict[int, Receiver] = {}
        """Those of the receivers that have nothing quick: all that comes for them is for threads of ours."""
        for channel, handler in (handlers or {}).items():
            if channel == 0:
                raise LocalProtocolError("channel 0 is served by request_handler, not by channels")
            self._check(channel, handler, "handler")
            self.handlers[channel] = bound_to_channel(handler, channel)

    def __contains__(self, channel: object) -> bool:
        return channel in self.receivers or channel in self.handlers

    def __bool__(self) -> bool:
        return bool(self.handlers or self.receivers)

    def attach(
        self, channel: int, receiver: Receiver, *, quick: Quick | None = None, weakly: bool = False
    ) -> Receiver:
        """Have `receiver` serve a channel; raises `LocalProtocolError` if that is reserved, or served already.

        Returns what is called: itself, or a `WeakReceiver`.
        """
        self._check(channel, receiver, "receiver")
        if getattr(_code_of(receiver), "co_flags", 0) & CO_COROUTINE:
            raise TypeError(f"a receiver is called for one event at a time and cannot be `async def`: {receiver!r}")
        if channel not in self.handlers:
            called = self.receivers.setdefault(channel, WeakReceiver(receiver) if weakly else receiver)
            if (called.func if isinstance(called, WeakReceiver) else called) is receiver:
                if quick is None:
                    self.unhurried[channel] = called
                else:
                    self.quick[channel] = WeakQuick(quick) if weakly else quick
                return called
        raise LocalProtocolError(f"channel {channel} is served already")

    def detach(self, channel: int) -> Receiver | None:
        """The requests of a channel are refused from here on; returns what was called, None if nothing was."""
        self.quick.pop(channel, None)
        self.unhurried.pop(channel, None)
        return self.receivers.pop(channel, None)

    def _check(self, channel: int, served_by: object, what: str) -> None:
        check_channel(channel)
        if not callable(served_by):
            raise TypeError(f"the {what} of channel {channel} must be callable, got {served_by!r:.100}")


class Receiving:
    """Gives events to the receivers of `channels`, one at a time and in order, whichever thread brings them.

    `run(event, receiver)` calls the receiver and does something with its result. A thread that brings an event
    while another one runs a receiver leaves it to that one; so does a receiver that brings one itself.
    """

    def __init__(self, channels: Channels, run: Callable[[Event, Receiver], object]) -> None:
        self._receivers = channels.receivers
        self._quick = channels.quick
        self._run = run
        self._waiting: deque[tuple[Event, Receiver]] = deque()
        self._turn = deque([None])  # held by whoever runs receivers: popped in one step, so no lock is needed

    def __bool__(self) -> bool:
        return bool(self._receivers)

    def give(self, event: Event) -> bool:
        """Have the event's receiver called: that of its channel, or each if it is about all of them.

        Returns whether there is one.
        """
        if not self._receivers:
            return False
        if isinstance(event, RequestReceived | ResponseReceived):
            receiver = self._receivers.get(event.channel)
            if receiver is None:
                return False
            if not self._waiting and self._turn:
                return self._run_now(event, receiver)
            self._waiting.append((event, receiver))
        else:
            self.postpone_for_all(event)
        self.run()
        return True

    def _run_now(self, event: Event, receiver: Receiver) -> bool:
        """The usual case: nothing waits, and no other receiver runs."""
        try:
            self._turn.pop()
        except IndexError:  # now one does
            self._waiting.append((event, receiver))
        else:
            try:
                self._run(event, receiver)
            finally:
                self._turn.append(None)
        if self._waiting:
            self.run()
        return True

    def give_quickly(self, event: ResponseReceived) -> bool:
        """Have a response dealt with at once, if that can be done in any thread, and it is its turn."""
        quick = self._quick.get(event.channel)
        if quick is None or self._waiting:
            return False
        try:
            self._turn.pop()
        except IndexError:
            return False
        try:
            return quick(event)
        finally:
            self._turn.append(None)

    def postpone(self, event: RequestReceived | ResponseReceived) -> bool:
        """Leave an event to `run`, which the caller has called by another thread; false if nobody gets it."""
        receiver = self._receivers.get(event.channel)
        if receiver is not None:
            self._waiting.append((event, receiver))
        return receiver is not None

    def postpone_for_all(self, event: Event) -> None:
        """The same, of an event that is about all channels."""
        self._waiting.extend((event, receiver) for receiver in list(self._receivers.values()))

    @property
    def is_behind(self) -> bool:
        """True if events wait, and nobody may be about to give them to their receivers."""
        return bool(self._waiting)

    def run(self) -> None:
        """Give those that wait to their receivers, unless another thread does."""
        while self._waiting:  # again: one may have been added just before the turn was given up
            try:
                self._turn.pop()
            except IndexError:
                break
            try:
                self._run_waiting()
            finally:
                self._turn.append(None)

    def _run_waiting(self) -> None:
        while self._waiting:
            self._run(*self._waiting.popleft())


def bound_to_channel(handler: RequestHandler, channel: int) -> PlainHandler:
    """`handler`, or if it has a parameter `channel` behind the usual three, one that passes it."""
    if takes_channel(handler):
        return partial(cast(ChannelHandler, handler), channel=channel)
    return cast(PlainHandler, handler)


def takes_channel(handler: object) -> bool:
    """True if a handler has a parameter `channel` behind the usual three."""
    while isinstance(handler, partial):
        if "channel" in handler.keywords:
            return False
        handler = handler.func
    while isinstance(handler, FunctionType | MethodType):
        wrapped = getattr(handler, "__wrapped__", None)
        if wrapped is None:
            break
        handler = wrapped
    code = _code_of(handler)
    if code is None:
        return False
    usual = 3 if isinstance(handler, FunctionType) else 4  # `self` comes first
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return "channel" in names[min(usual, code.co_argcount) :]


def _code_of(function: Any) -> Any:
    """The code object of what is called. `inspect` knows it too, but is slow to import."""
    if not isinstance(function, FunctionType | MethodType):
        function = type(function).__call__
    return getattr(function, "__code__", None)
