"""A function as the wire has it: its name, and the codecs of its parameters and its result.

Both ends make it of the same source. A call is a map with the function under `function`, and its arguments under
`arguments`, by the names of the parameters; those that were not given take their default at the far end.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from packetwire.errors import LocalProtocolError
from packetwire.executor.plain import Plain
from packetwire.typed.annotations import hints_of
from packetwire.typed.badvalue import BadValue
from packetwire.typed.codec import Codec
from packetwire.typed.msgpack import map_head, read_map_head, read_str, skip, str_bytes, unpacked

CALL = 1
"""The type of the request that is a call."""
FUNCTION, ARGUMENTS = str_bytes("function"), str_bytes("arguments")
_PLAIN = Plain()
_SAYS_NOTHING = (inspect.Parameter.empty, Any, object, list, dict)
"""Annotations that say nothing of the values, or not of all of them."""


class _Codec(Protocol):
    def encode(self, value: Any) -> bytes: ...

    def decode(self, data: bytes) -> Any: ...


def name_of(function: object) -> tuple[str, str]:
    """The module and the name of a function. Raises `LocalProtocolError` for what cannot be called by its name."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not callable(function) or isinstance(function, type) or not isinstance(name, str) or module is None:
        raise LocalProtocolError(f"expected a function of a module, got {function!r:.100}")
    if not name.isidentifier():
        raise LocalProtocolError(
            f"{module}.{name} cannot be called at a far end: it is not a function at the top of its module"
        )
    return module, name


class Signature:
    """The parameters and the result of a function. Raises `LocalProtocolError` if these cannot be sent."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.module, self.function_name = name_of(function)
        self.name = f"{self.module}.{self.function_name}"
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise LocalProtocolError(f"{self.name} yields, which a call cannot: return a list")
        try:
            self._signature = inspect.signature(function)
            hints = hints_of(function)
            self._codecs: Mapping[str, _Codec] = {
                each.name: _codec_of(each, hints.get(each.name, each.empty))
                for each in self._signature.parameters.values()
            }
            self._result = _codec_for(hints.get("return", inspect.Parameter.empty))
        except (TypeError, ValueError, NameError) as error:
            raise LocalProtocolError(f"{self.name} cannot be called at a far end: {error}") from error

    def call_bytes(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> bytes:
        """The payload of a call. Raises TypeError if they do not fit the parameters, `BadValue` for a value."""
        try:
            given = self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{self.name}: {error}") from None
        parts = [map_head(2), FUNCTION, str_bytes(f"{self.module}:{self.function_name}"), ARGUMENTS]
        parts.append(map_head(len(given)))
        for name, value in given.items():
            try:
                parts += str_bytes(name), self._codecs[name].encode(value)
            except BadValue as error:
                raise self._about(name, error) from error.__cause__
        return b"".join(parts)

    def arguments_from(self, data: bytes) -> inspect.BoundArguments:
        """The arguments that came in. Raises `BadValue`."""
        bound = inspect.BoundArguments(self._signature, {})
        for name, value in _entries(data):
            if name not in self._codecs:
                raise BadValue(f"$.{name}", f"{self.name} has no such parameter")
            try:
                bound.arguments[name] = self._codecs[name].decode(value)
            except BadValue as error:
                raise self._about(name, error) from error.__cause__
        for name, parameter in self._signature.parameters.items():
            is_variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if name not in bound.arguments and parameter.default is parameter.empty and not is_variadic:
                raise BadValue("$", f"the argument {name!r} of {self.name} is missing")
        bound.apply_defaults()
        return bound

    def result_bytes(self, result: object) -> bytes:
        """The payload of a response. Raises TypeError for a result that is not of the kind, or cannot be sent."""
        try:
            return self._result.encode(result)
        except BadValue as error:
            raise TypeError(f"the result of {self.name} cannot be sent: {error}") from error

    def result_from(self, payload: bytes) -> Any:
        """The result that came back. Raises `BadValue`."""
        try:
            return self._result.decode(payload)
        except BadValue as error:
            raise BadValue(error.path, f"{error.problem} (in the result of {self.name})") from error

    def _about(self, name: str, error: BadValue) -> BadValue:
        return BadValue(f"$.{name}{error.path[1:]}", f"{error.problem} (in a call of {self.name})")


def call_from(payload: bytes) -> tuple[str, bytes]:
    """The function that is called, MODULE:NAME, and its arguments. Raises `BadValue`."""
    call = dict(_entries(payload))
    function = unpacked(call.get("function", b""))
    if not isinstance(function, str) or "arguments" not in call:
        raise BadValue("$", "it is not a call of a function")
    return function, call["arguments"]


def _codec_of(parameter: inspect.Parameter, hint: Any) -> _Codec:
    if hint in _SAYS_NOTHING:
        return _PLAIN
    if parameter.kind is parameter.VAR_POSITIONAL:
        return Codec(list[hint])
    return Codec(dict[str, hint]) if parameter.kind is parameter.VAR_KEYWORD else Codec(hint)


def _codec_for(hint: object) -> _Codec:
    return _PLAIN if hint in _SAYS_NOTHING else Codec(hint)


def _entries(data: bytes) -> list[tuple[str, bytes]]:
    """The entries of the map that the bytes are, with values as bytes. Raises `BadValue`."""
    unpacked(data)  # whole, and of bounded size and depth; from here on nothing can be wrong with its form
    try:
        size, at = read_map_head(data, 0)
        found = []
        for _ in range(size):
            name, at = read_str(data, at)
            end = skip(data, at)
            found.append((name, data[at:end]))
            at = end
    except Exception as error:
        raise BadValue("$", f"it is not a map of names: {error}") from None
    return found
