"""Event sockets: attributes that hold one handler and are called whether it is there or not."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Self, overload


class EventHandler:
    """The value of an event socket: call it, and the handler is called if there is one."""

    __slots__ = ("_handler",)

    def __init__(self, handler: Callable[..., object] | None) -> None:
        self._handler = handler

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return None if self._handler is None else self._handler(*args, **kwargs)

    def is_set(self) -> bool:
        """True if there is a handler."""
        return self._handler is not None


UNSET = EventHandler(None)


class eventsocket:  # noqa: N801 - the name that this has in the reference
    """Decorates a method that gives the signature and the docstring of an event.

    The attribute is assigned a handler, or None to have none. The handler is kept by a strong reference,
    so a lambda or a bound method of an object that nobody else holds goes on being called. One that
    could not be called with the event's arguments is refused with a `TypeError` when it is assigned.
    """

    def __init__(self, declaration: Callable[..., None]) -> None:
        self.__doc__ = declaration.__doc__
        self._name = declaration.__name__
        self._key = f"_{declaration.__name__}_handler"
        _, *self._parameters = inspect.signature(declaration).parameters.values()

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> EventHandler: ...

    def __get__(self, instance: object | None, owner: type) -> Self | EventHandler:
        if instance is None:
            return self
        handler: EventHandler = instance.__dict__.get(self._key, UNSET)
        return handler

    def __set__(self, instance: object, handler: Callable[..., object] | None) -> None:
        if handler is None:
            instance.__dict__.pop(self._key, None)
            return
        self.check(handler)
        instance.__dict__[self._key] = EventHandler(handler)

    def check(self, handler: Callable[..., object]) -> None:
        """Raise ValueError for what cannot be called, TypeError for what takes other arguments."""
        if not callable(handler):
            raise ValueError(f"a handler of {self._name} must be callable, not {type(handler).__name__}")
        try:
            signature = inspect.signature(handler)
        except ValueError:
            return  # some callables written in C tell no signature
        try:
            signature.bind(*self._parameters)
        except TypeError as error:
            expected = ", ".join(parameter.name for parameter in self._parameters)
            raise TypeError(f"a handler of {self._name} is called with ({expected}): {error}") from None
