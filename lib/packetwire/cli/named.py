"""Finding MODULE:NAME of the command line, and making a service of it.

NAME is a subclass of `HasPacketConnection`, another callable that takes a `recv_send` and returns one, or a
request map, `{number: class}`. Modules are looked for in the current directory first, as with `python -m`.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import packetwire
from packetwire.cli.failure import EXIT_USAGE, CommandFailed, did_you_mean
from packetwire.core.requests import BaseRequest
from packetwire.service import HasPacketConnection
from packetwire.streams.open import PacketConnectionRecvSend

_PACKAGE = os.path.dirname(packetwire.__file__)

MakeService = Callable[[PacketConnectionRecvSend], Any]
"""Makes a `HasPacketConnection` of a `recv_send`; or any object, if it is a callable of the user's."""


def find_service(name: str, **map_options: Any) -> MakeService:
    """The service with the name MODULE:NAME; `map_options` are for a request map.

    Raises `CommandFailed`, which says what is wrong with the name or with what it names.
    """
    found = find_thing(name)
    if is_typed_service(found):
        return _maker_of_sessions(name, found, map_options)
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
    fields = getattr(found, "__dataclass_fields__", None)
    if fields is not None and "conn" not in fields and not hasattr(found, "conn"):
        raise _wrong(name, "is a dataclass with no connection; a service is a HasPacketConnection class")
    try:
        inspect.signature(found).bind(None)
    except TypeError as error:
        raise _wrong(name, f"cannot be called with a recv_send alone: {error}") from error
    except ValueError:
        pass  # the signature is unknown
    make: MakeService = found
    return make


def is_typed_service(found: object) -> bool:
    """True for a subclass, or an object, of `packetwire.typed.Service`: that is imported, if there is one."""
    module = sys.modules.get("packetwire.typed.service")
    kind = getattr(module, "Service", None)
    return kind is not None and (isinstance(found, kind) or (isinstance(found, type) and issubclass(found, kind)))


def _maker_of_sessions(name: str, found: Any, options: Mapping[str, Any]) -> MakeService:
    """All connections share one object of the service."""
    if "request_handler" in options:  # for a client, which needs no object
        return lambda recv_send: HasPacketConnection(recv_send, rq_type_map=found.request_map(), **options)
    service = found
    if isinstance(found, type):
        try:
            service = found()
        except Exception as error:
            raise _wrong(name, f"cannot be made without arguments: {described(error)}") from error
    made: MakeService = service.session
    return made


def _wrong(name: str, what: str) -> CommandFailed:
    return CommandFailed(f"{name} {what}", EXIT_USAGE)


def _is_request_class(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, BaseRequest)


def _check_request_map(name: str, requests: Mapping[object, object]) -> None:
    for rq_type, rq_class in requests.items():
        if not (type(rq_type) is int and rq_type >= 0 and _is_request_class(rq_class)):
            raise _wrong(
                name,
                "is not a request map: it must have subclasses of BaseRequest by numbers from 0, "
                f"and has {rq_type!r}: {rq_class!r:.100}",
            )
    if not requests:
        raise _wrong(name, "is an empty request map")


def find_thing(name: str) -> Any:
    """The object of any kind with the name MODULE:NAME. Raises `CommandFailed`."""
    module_name, colon, path = name.partition(":")
    if not (colon and all(module_name.split(".")) and all(path.split("."))):
        raise CommandFailed(f"expected MODULE:NAME, such as store:Store, got {name!r}", EXIT_USAGE)
    found: object = _import(module_name)
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            hint = did_you_mean(part, dir(found))
            raise CommandFailed(f"{name}: there is no {part!r} in {_origin(found)}{hint}", EXIT_USAGE) from None
    return found


def _origin(found: object) -> str:
    file = getattr(found, "__file__", None)
    return str(file) if file else repr(found)


def look_in_current_directory() -> None:
    """Have modules found in the current directory first, unless Python is run in its safe mode."""
    if not sys.flags.safe_path and os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())


def _import(module_name: str) -> ModuleType:
    look_in_current_directory()
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
    """A block in which prints go to standard error: they must not get between packets, or into a payload."""
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
