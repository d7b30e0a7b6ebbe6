"""Hints for an address that cannot be understood: the one that was probably meant."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection

LONGEST_UNIX_PATH = 107 if sys.platform.startswith("linux") else 103
"""Bytes; what a `sockaddr_un` holds, less its terminating null byte."""

_HOST_AND_PORT = re.compile(r"(?P<host>[\w.-]*|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")


def meant(text: str, schemes: Collection[str]) -> str | None:
    """The address that `text`, which begins with none of the `schemes`, was probably meant to be."""
    from difflib import get_close_matches  # only for a mistake
    from shutil import which

    scheme, colon, rest = text.partition(":")
    if found := _HOST_AND_PORT.fullmatch(text):
        return f"tcp:{found['host'] or 'localhost'}:{found['port']}"
    if colon and scheme in ("http", "https", "ws", "wss"):
        return None  # those speak HTTP, which no address reaches
    if colon and scheme == "zmq":
        return f"zmq+dealer:{rest}"
    if colon and (close := get_close_matches(scheme.lower(), schemes, n=1)):
        return f"{close[0]}:{_without_slashes(rest)}"
    if text.startswith(("/", "./", "../", "~/")) or text.endswith(".sock"):
        return f"unix:{os.path.expanduser(text)}"
    words = text.split()
    if words and which(words[0]) is not None:
        return f"exec:{text}"
    return None


def about_unix_path(path: str) -> str:
    """The end of an error about a Unix socket whose path is probably not the one that was meant; or nothing."""
    if path.startswith("//"):
        return f"; this is no URL: write unix:/{path.lstrip('/')}"
    if path == "~" or path.startswith("~/"):
        return f"; only a shell expands a ~, at the start of a word: write unix:{os.path.expanduser(path)}"
    size = len(os.fsencode(path))
    return f" for a socket: {size} bytes, at most {LONGEST_UNIX_PATH}" if size > LONGEST_UNIX_PATH else ""


def without_slashes(scheme: str, rest: str) -> str | None:
    """The address to write for a URL, such as tcp://HOST:PORT; None if it is none."""
    return f"{scheme}:{_without_slashes(rest)}" if rest.startswith("//") else None


def _without_slashes(rest: str) -> str:
    return rest.removeprefix("//").removesuffix("/")
