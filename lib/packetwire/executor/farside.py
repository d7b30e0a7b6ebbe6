"""Serving the functions of modules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from packetwire.connection import PacketConnection
from packetwire.dedup import Dedup
from packetwire.errors import LocalProtocolError, RequestError
from packetwire.executor.failures import refusal_of
from packetwire.executor.signature import CALL, Signature, call_from, name_of
from packetwire.typed.badvalue import BadValue

if TYPE_CHECKING:
    from packetwire.streams.open import PacketConnectionRecvSend

SERVICE = "packetwire.executor.farside:shipped"
"""The service that is sent to a far end, besides the modules."""


class Functions:
    """The functions of modules, for `serve`: a `PoolExecutor` calls them.

        with serve("unix:work.sock", Functions("work")) as server: ...

    `modules` are modules, or their names. Only functions that are written there can be called: not what they
    import, nor names that begin with an underscore. With `traceback=True` a caller whose call raises an exception
    gets the traceback, too. Further arguments are those of `PacketConnection`; all connections share one `Dedup`.
    """

    def __init__(self, *modules: ModuleType | str, traceback: bool = False, **connection: Any) -> None:
        if not modules:
            raise LocalProtocolError("there are no modules")
        self._begin({each if isinstance(each, str) else each.__name__ for each in modules}, traceback, connection)
        for name in self._modules or ():
            import_module(name)  # whatever is wrong with it is known at once

    def _begin(self, modules: Collection[str] | None, traceback: bool, connection: dict[str, Any]) -> None:
        self._modules = modules
        self._traceback = traceback
        self._connection = {"dedup": Dedup(), **connection}
        self._known: dict[str, tuple[Callable[..., object], Signature]] = {}

    @classmethod
    def of_all(cls) -> Functions:
        """Those of any module there is: for a far end that runs what it is sent anyway."""
        self = cls.__new__(cls)
        self._begin(None, True, {})
        return self

    def __call__(self, recv_send: PacketConnectionRecvSend) -> PacketConnection:
        """A connection that serves them."""
        return PacketConnection(recv_send, request_handler=self.handle, **self._connection)

    def handle(self, rq_type: int, flags: int, payload: bytes) -> bytes:
        """Call a function. Raises `RequestError`, with the exception of the function as its payload."""
        if rq_type != CALL:
            raise RequestError(f"no request type {rq_type}: functions are served here")
        try:
            name, data = call_from(payload)
            function, signature = self._found(name)
            bound = signature.arguments_from(data)
        except BadValue as error:
            raise RequestError(str(error)) from error
        try:
            result = function(*bound.args, **bound.kwargs)
            if inspect.iscoroutine(result):
                import asyncio

                result = asyncio.run(result)
            return signature.result_bytes(result)
        except Exception as error:
            error.__traceback__ = error.__traceback__ and (error.__traceback__.tb_next or error.__traceback__)
            raise refusal_of(error, self._traceback) from None

    def _found(self, name: str) -> tuple[Callable[..., object], Signature]:
        known = self._known.get(name)
        if known is None:
            function = self._function(*name.partition(":")[::2])
            try:
                known = self._known[name] = function, Signature(function)
            except LocalProtocolError as error:
                raise RequestError(str(error)) from error
        return known

    def _function(self, module: str, name: str) -> Callable[..., Any]:
        if self._modules is not None and module not in self._modules:
            raise RequestError(f"no functions of the module {module!r} are served here")
        try:
            found: Any = vars(import_module(module)).get(name)  # waits for a thread that imports it just now
        except ImportError as error:
            raise RequestError(f"there is no module {module!r} here: {error}") from error
        if found is None or name.startswith("_") or not _is_named(found, module, name):
            raise RequestError(f"the module {module!r} has no function {name!r} that can be called")
        function: Callable[..., object] = found
        return function


def _is_named(found: object, module: str, name: str) -> bool:
    try:
        return name_of(found) == (module, name)
    except LocalProtocolError:
        return False


def shipped(recv_send: PacketConnectionRecvSend) -> PacketConnection:
    """The service of a far end to which it was sent."""
    return Functions.of_all()(recv_send)
