"""MODULE:NAME on the command line: found, and made into a service.

NAME is a subclass of `HasPacketConnection`, another callable that takes a `recv_send` and returns one, or a
request map, `{number: class}`. Modules are looked for in the current directory first, as with `python -m`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import packetwire
from packetwire.cli.failure import EXIT_USAGE, CommandFailed
from packetwire.core.requests import BaseRequest
from packetwire.service import HasPacketConnection

_PACKAGE = os.path.dirname(packetwire.__file__)

MakeService = Callable[[Any], Any]
"""From a `recv_send` to a `HasPacketConnection`, or, if it is of the user's making, whatever that returns."""


def find_service(name: str, **map_options: Any) -> MakeService:
    """The service that `name`, MODULE:NAME, stands for; `map_options` are used if it is a request map.

    Raises `CommandFailed`, which says what is wrong with the name or with what it names.
    """
    found = _find(name)
    if isinstance(found, Mapping):
        _check_request_map(name, found)
        return lambda recv_send: HasPacketConnection(recv_send, rq_type_map=found, **map_options)
    if _is_request_class(found):
        raise _wrong(name, "is a request class; name the request map that it is in, or a HasPacketConnection class")
    if not callable(found):
        raise _wrong(
            name,
            "is neither a HasPacketConnection class, nor a callable that makes one, nor a request map "
            f"{{number: class}}, but {found!r:.100}",
        )
    try:
        inspect.signature(found).bind(None)
    except TypeError as error:
        raise _wrong(name, f"cannot be called with a recv_send alone: {error}") from error
    except ValueError:
        pass  # a signature that is not known
    make: MakeService = found
    return make


def _wrong(name: str, what: str) -> CommandFailed:
    return CommandFailed(f"{name} {what}", EXIT_USAGE)


def _is_request_class(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, BaseRequest)


def _check_request_map(name: str, requests: Mapping[Any, Any]) -> None:
    for rq_type, rq_class in requests.items():
        if not (type(rq_type) is int and rq_type >= 0 and _is_request_class(rq_class)):
            raise _wrong(
                name,
                "is no request map: it must have subclasses of BaseRequest by numbers from 0, "
                f"and has {rq_type!r}: {rq_class!r:.100}",
            )
    if not requests:
        raise _wrong(name, "is an empty request map")


def _find(name: str) -> Any:
    module_name, colon, path = name.partition(":")
    if not (colon and all(module_name.split(".")) and all(path.split("."))):
        raise CommandFailed(f"expected MODULE:NAME, such as store:Store, got {name!r}", EXIT_USAGE)
    found: Any = _import(module_name)
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            close = difflib.get_close_matches(part, dir(found), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise CommandFailed(f"{name}: there is no {part!r} in {_origin(found)}{hint}", EXIT_USAGE) from None
    return found


def _origin(found: Any) -> str:
    file = getattr(found, "__file__", None)
    return str(file) if file else repr(found)


def _import(module_name: str) -> Any:
    if not sys.flags.safe_path and os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        with _prints_to_stderr():
            return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module_name}.".startswith(f"{missing}."):
            where = "" if sys.flags.safe_path else f", neither in {os.getcwd()} nor installed"
            raise CommandFailed(f"there is no module {missing!r}{where}", EXIT_USAGE) from None
        raise CommandFailed(f"importing {module_name!r} failed: {described(error)}", EXIT_USAGE) from error


def described(error: BaseException) -> str:
    """An exception of the user's code in one line, with the place where it was raised."""
    lines = str(error).splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<", _PACKAGE))
    ]
    if isinstance(error, SyntaxError) or not frames:
        return text
    return f"{text} ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})"


@contextmanager
def _prints_to_stderr() -> Iterator[None]:
    """What a module prints while it is imported must not get between packets, or into a payload."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(kept, 1)
    finally:
        os.close(kept)
