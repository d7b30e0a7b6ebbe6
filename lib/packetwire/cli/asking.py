"""Asking a server for a snapshot, at the Unix socket at which it is inspected."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from typing import Any

from packetwire.cli.failure import EXIT_FAILED, CommandFailed

REQUEST = b"GET /stats HTTP/1.0\r\n\r\n"
HEAD = b"HTTP/1."
MOST_ANSWER = 64 << 20
"""Bytes of an answer."""
WRONG = "it does not answer as the socket of packetwire serve --inspect does"


def ask(path: str, seconds: float) -> dict[str, Any]:
    """A snapshot of the server there. Raises `CommandFailed` that says what is wrong."""
    try:
        answer = _exchange(path, seconds)
    except OSError as error:
        raise CommandFailed(f"{path}: {_reason(path, error)}", EXIT_FAILED) from error
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(HEAD):
        raise CommandFailed(f"{path}: {WRONG}", EXIT_FAILED)
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("format") != 1:
        raise CommandFailed(f"{path}: {WRONG}", EXIT_FAILED)
    return found


def _exchange(path: str, seconds: float) -> bytes:
    deadline = time.monotonic() + seconds
    answer = b""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(seconds)
        sock.connect(path)
        sock.sendall(REQUEST)
        while len(answer) < MOST_ANSWER:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = sock.recv(1 << 16)
            except ConnectionResetError:
                break
            if not data:
                break
            answer += data
    return answer


def _reason(path: str, error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "there is no answer in time"
    if isinstance(error, FileNotFoundError):
        return "there is no such socket"
    if isinstance(error, PermissionError):
        return "only the user whose server it is can look inside"
    if isinstance(error, ConnectionRefusedError):
        return "nobody answers there any more" if _is_socket(path) else "this is no socket"
    if error.errno in (errno.EPIPE, errno.ECONNRESET):
        return WRONG
    return error.strerror or str(error)


def _is_socket(path: str) -> bool:
    import stat

    return stat.S_ISSOCK(os.stat(path).st_mode)
