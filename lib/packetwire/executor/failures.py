"""An exception of a function, as the payload of the response, and back.

It crosses as data: the name of its class, its arguments where they are plain values, its text, and the traceback.
Only classes of Python's own, and of the modules whose functions are called, are made of that at the near end.
"""

from __future__ import annotations

import builtins
import sys
import traceback
from collections.abc import Collection
from typing import Any

from packetwire.error_text import ERROR_TEXT_LIMIT, RequestRefused
from packetwire.errors import RequestFailed
from packetwire.executor.plain import plain_or_none
from packetwire.typed.badvalue import BadValue
from packetwire.typed.errors import encoded_error, error_from, is_typed_error
from packetwire.typed.msgpack import packed, unpacked


class FunctionFailed(RequestFailed):
    """A function raised an exception at the far end whose class is not known here, or cannot be made again.

    `name` is that of its class, `text` what it says; the traceback is that of `__cause__`.
    """

    def __init__(self, failure: RequestFailed, what: str, name: str, text: str) -> None:
        super().__init__(failure.flags, failure.payload, what, failure.code, failure.begun)
        self.name = name
        self.text = text
        self.args = (f"{what} raised {name} at the far end: {text:.2000}",)

    def __reduce__(self) -> Any:
        failure = RequestFailed(self.flags, self.payload, self._what, self.code, self.begun)
        return type(self), (failure, self._what, self.name, self.text)


class FarTraceback(Exception):
    """The traceback of the far end, as text: the `__cause__` of an exception that was raised there."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def refusal_of(error: Exception, with_traceback: bool) -> RequestRefused:
    """The answer for an exception that a function has raised."""
    cls = type(error)
    text = _text_of(error)[:ERROR_TEXT_LIMIT]
    said: dict[str, Any] = {"$": cls.__qualname__, "module": cls.__module__, "text": text}
    if is_typed_error(error):
        try:
            said["fields"] = encoded_error(error)
        except BadValue:
            pass  # its fields are not what they say
    else:
        args = plain_or_none(list(error.args))
        if args is not None and len(packed_args := packed(args)) <= ERROR_TEXT_LIMIT:
            said["args"] = packed_args
    if with_traceback:
        said["traceback"] = "".join(traceback.format_exception(error))[-ERROR_TEXT_LIMIT:]
    encodable = {
        key: each.encode(errors="replace").decode() if isinstance(each, str) else each for key, each in said.items()
    }
    return RequestRefused(text, packed(encodable))


def _text_of(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # raised by its own __str__
        return f"a {type(error).__name__} without a text"


def exception_of(failure: RequestFailed, what: str, modules: Collection[str]) -> Exception:
    """The exception for the caller: of a class in these modules or Python's own, else a `FunctionFailed`."""
    try:
        said = unpacked(failure.payload)
    except BadValue:
        said = None
    if not isinstance(said, dict) or not all(isinstance(said.get(key), str) for key in ("$", "module", "text")):
        return failure  # a text: the call was refused, and no function has run
    error = _made_again(said, modules) or FunctionFailed(failure, what, said["$"], said["text"])
    if isinstance(said.get("traceback"), str):
        error.__cause__ = FarTraceback(said["traceback"])
    return error


def _made_again(said: dict[str, Any], modules: Collection[str]) -> Exception | None:
    module, name = said["module"], said["$"]
    if module != "builtins" and module not in modules:
        return None
    cls: Any = vars(builtins if module == "builtins" else sys.modules.get(module)).get(name)  # not imported for it
    if not (isinstance(cls, type) and issubclass(cls, Exception)):
        return None
    try:
        if is_typed_error(cls):
            typed: Any = cls
            return error_from("", {typed.error_name: typed}, RequestFailed(0, said["fields"]))
        return cls(*unpacked(said["args"]))
    except Exception:  # its class wants other arguments than it keeps, or the payload is not what it says
        return None
