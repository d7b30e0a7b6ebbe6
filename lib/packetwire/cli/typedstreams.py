"""Streams of items at the command line: those of a parameter from a file, those of a result one a line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from packetwire.cli.failure import EXIT_USAGE, CommandFailed
from packetwire.connection import PacketConnection
from packetwire.core.calloptions import CallOptions
from packetwire.core.varint import encode_varint
from packetwire.errors import BodyEnded
from packetwire.typed.badvalue import BadValue
from packetwire.typed.items import NOTHING, ItemDecoder

READ_SIZE = 128 << 10
"""Bytes that are read of a file at a time."""


@dataclass(frozen=True)
class Body:
    """A stream of a method. `encode` makes the payload of an item of a line, `decode` the other way."""

    name: str
    is_raw: bool
    encode: Callable[[bytes], bytes] = bytes
    decode: Callable[[bytes], object] = bytes


@dataclass(frozen=True)
class Streams:
    """The streams of one call: the bytes that it sends, and the result that it prints."""

    sent: Iterator[bytes] | None
    result: Body | None


class Shown:
    """Decodes items for printing."""

    def __init__(self, body: Body) -> None:
        self.is_raw = body.is_raw
        self._decode = body.decode

    def decode(self, number: int, data: bytes) -> Any:
        """The item as it is printed. Raises `BadValue`."""
        return self._decode(data)

    def refusal(self, number: int, problem: str) -> BadValue:
        """The exception for an item that cannot be decoded."""
        return BadValue(f"$[{number}]", problem)


def sent_items(body: Body, form: str | None, text: str) -> Iterator[bytes]:
    """The bytes of the body that a word gives: FIELD=-, FIELD=@FILE, FIELD:file=FILE, or the items themselves.

    Those of a file are one a line; those in the word are a JSON list, or one item. Raises `CommandFailed`.
    """
    if form == "hex" and not body.is_raw:
        raise CommandFailed(f"{body.name} takes items: give {body.name}=@FILE, or a list", EXIT_USAGE)
    if form is None and text == "-":
        if sys.stdin is None:
            raise CommandFailed("standard input is closed", EXIT_USAGE)
        return _of_file(body, sys.stdin.buffer)
    if form == "file" or text.startswith("@"):
        path = Path(text if form == "file" else text[1:])
        try:
            return _of_file(body, path.open("rb"))
        except OSError as error:
            raise CommandFailed(
                f"{body.name} cannot be read from {str(path)!r}: {error.strerror}", EXIT_USAGE
            ) from None
    if body.is_raw:
        return iter([bytes.fromhex(text) if form == "hex" else os.fsencode(text)])
    return _items(body, iter(_listed(text)))


def _listed(text: str) -> list[bytes]:
    with suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, list):
            return [item.encode() if isinstance(item, str) else json.dumps(item).encode() for item in found]
    return [os.fsencode(text)]


def _of_file(body: Body, file: BinaryIO) -> Iterator[bytes]:
    if body.is_raw:
        return _chunks(file)
    return _items(body, _lines(file))


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    read = getattr(file, "read1", file.read)  # what there is of a pipe or terminal, without waiting for more
    with file:
        while chunk := read(READ_SIZE):
            yield chunk


def _lines(file: BinaryIO) -> Iterator[bytes]:
    with file:
        for line in file:
            yield line.rstrip(b"\r\n")


def _items(body: Body, lines: Iterator[bytes]) -> Iterator[bytes]:
    for number, line in enumerate(lines):
        try:
            data = body.encode(line)
        except BadValue as error:
            path = f"$.{body.name}[{number}]{error.path[1:]}"
            raise CommandFailed(f"{path}: {error.problem}", EXIT_USAGE) from None
        yield encode_varint(len(data)) + data


def ask(
    conn: PacketConnection,
    request: tuple[int, bytes, int, int, str | None],
    streams: Streams,
    timeout: float | None,
    options: CallOptions,
    show: Callable[[object], None],
) -> tuple[bool, int, bytes]:
    """Make a call, (rq_type, payload, flags, channel, name); `show` each item, return the response."""
    from packetwire._sync.uploading import Upload

    rq_type, payload, flags, channel, name = request
    body_timeout: Any = ... if timeout is None else timeout
    call = conn.stream(
        rq_type, payload, flags, channel=channel, label=name, timeout=timeout, body_timeout=body_timeout, **options
    )
    with call:
        upload = None
        if streams.sent is None:
            call.finish()
        elif streams.result is None:
            with suppress(BodyEnded):  # the response says why
                call.send(streams.sent)
            call.finish()
        else:
            upload = Upload(call, streams.sent)
        try:
            if streams.result is not None:
                _show_items(call, ItemDecoder(Shown(streams.result), conn.max_packet_size), show)
            return call.result(timeout)
        except Exception:
            if upload is not None and upload.error is not None:
                raise upload.error from None
            raise


def _show_items(call: Any, decoder: ItemDecoder, show: Callable[[object], None]) -> None:
    with suppress(BodyEnded):  # the response says why
        for chunk in call:
            decoder.feed(chunk)
            while (item := decoder.next()) is not NOTHING:
                show(item)
        decoder.finish()
