"""Serving at the far end what was sent there."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

from packetwire._sync.service import HasPacketConnection
from packetwire.connection import PacketConnection
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.stdio import say_line, stdio


def serve(service: str, digits: str) -> None:
    """Serve MODULE:NAME to the process at standard input and output, until that ends.

    The line with the digits is printed when the service is made, so whatever is wrong with that is known before.
    """
    stream = stdio()  # nothing that the module prints gets into the stream
    made = make(find(service), stream)
    say_line(stream, digits)
    with made:
        connection: Any = getattr(made, "conn", made)
        connection.join_recv()


def find(service: str) -> Any:
    """The object MODULE:NAME."""
    module, _, path = service.partition(":")
    found: object = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def make(found: Any, stream: ByteStream) -> AbstractContextManager[Any]:
    """The service: of a request map, a function of (rq_type, flags, payload), or what makes one of a stream."""
    if hasattr(found, "session") and hasattr(found, "request_map"):  # a typed service, whose module may not be here
        service = found() if isinstance(found, type) else found
        session: AbstractContextManager[object] = service.session(stream)
        return session
    if isinstance(found, Mapping):
        return HasPacketConnection(stream, rq_type_map=found)
    if _is_request_handler(found):
        return PacketConnection(stream, request_handler=found)
    made: AbstractContextManager[object] = found(stream)
    return made


def _is_request_handler(found: Any) -> bool:
    """True for a plain function that needs three arguments."""
    code = getattr(found, "__code__", None)
    return code is not None and code.co_argcount - len(found.__defaults__ or ()) == 3
