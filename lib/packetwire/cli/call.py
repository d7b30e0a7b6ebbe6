"""`packetwire call`: one request to an address, and its response on standard output."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packetwire.addresses import CONNECT_TIMEOUT, Address, ExecAddress, SshAddress, StdioAddress, connect_to
from packetwire.cli.addressing import address, seconds
from packetwire.cli.failure import EXIT_TIMEOUT, EXIT_USAGE, CommandFailed
from packetwire.cli.fields import request_from_fields
from packetwire.cli.named import described, find_service
from packetwire.connection import PacketConnection
from packetwire.core.engine import MAX_REQUEST_FLAGS, MAX_RQ_TYPE
from packetwire.core.packets import MAX_UINT
from packetwire.core.requests import BaseRequest
from packetwire.errors import LocalProtocolError, RequestFailed
from packetwire.service import HasPacketConnection

STDIN = "-"

DESCRIPTION = """
Sends one request to ADDRESS and writes the payload of the response to standard output, as it is.
ADDRESS is exec:CMD (a child process), ssh:[OPTIONS] HOST CMD (by the ssh program; an option's value is a word
of its own), unix:PATH or tcp:HOST:PORT. TYPE is the request's number. PAYLOAD is taken as text; - is standard
input. Flags of the response are shown on standard error, if there are any.
With --module, TYPE may also be the name of a request class, and what follows are the fields of that class, if
it is a dataclass: FIELD=VALUE for int, float, bool, str and bytes, FIELD:hex=HEX, or FIELD:file=FILE. The
decoded response is printed: octets as they are, anything else as text.
Exit status: 0 if the response is ok, 1 if it is not or the connection fails, 2 for bad arguments, 124 if the
time is over, 130 after Ctrl-C.
"""


def add_parser(commands: Any) -> None:
    """Add this command and its options to the command line."""
    parser = commands.add_parser("call", help="send one request, print the response", description=DESCRIPTION)
    parser.set_defaults(run=run, late_words="words")
    parser.add_argument("address", metavar="ADDRESS", type=address(_check_callable), help="where to")
    parser.add_argument("type", metavar="TYPE", help="the request type: a number, or with --module a name")
    parser.add_argument("words", metavar="PAYLOAD", nargs="*", help="a text, - for standard input, or FIELD=VALUE …")
    payload = parser.add_mutually_exclusive_group()
    payload.add_argument("--hex", type=_hex, metavar="HEX", dest="payload", help="the payload, in hexadecimal")
    payload.add_argument("--file", type=_file, metavar="FILE", dest="payload", help="the payload is this file")
    parser.add_argument(
        "--flags",
        type=_number(MAX_REQUEST_FLAGS),
        default=0,
        metavar="N",
        help="the request's flags, such as 5 or 0x10 (default: 0)",
    )
    parser.add_argument(
        "--channel", type=_number(MAX_UINT), default=0, metavar="N", help="the channel (default: 0)"
    )
    parser.add_argument(
        "--timeout", type=seconds, metavar="SECONDS", help="for connecting and answering (default: no limit)"
    )
    parser.add_argument("--hex-out", action="store_true", help="print octets in hexadecimal, with a newline")
    parser.add_argument(
        "--module", metavar="MODULE:NAME", help="a request map, or what `packetwire serve` would serve"
    )


@dataclass(frozen=True)
class Question:
    """A request to send, and what makes the answer of its response."""

    rq_type: int
    flags: int
    payload: bytes
    what: str
    decode: Callable[[int, bytes], Any] | None


def run(args: argparse.Namespace) -> int:
    """Ask, print the answer, return the exit status."""
    connect = connect_to(args.address, timeout=_at_most(args.timeout))
    if args.module is None:
        conn, question = PacketConnection(connect), _plain_question(args)
    else:
        conn, question = _typed(args, connect)
    conn.name = str(args.address)
    try:
        flags, payload = _ask(conn, question, args.channel, args.timeout)
    except TimeoutError as error:
        raise CommandFailed(str(error), EXIT_TIMEOUT) from error
    if question.decode is None:
        if flags:
            print(f"flags: 0x{flags:x}", file=sys.stderr)
        answer: Any = payload
    else:
        with _users_code(f"the response to {question.what} cannot be decoded"):
            answer = question.decode(flags, payload)
    _print_answer(answer, args.hex_out)
    return 0


def _ask(conn: PacketConnection, question: Question, channel: int, timeout: float | None) -> tuple[int, bytes]:
    """The (flags, payload) of an "ok" response."""
    deadline = None if timeout is None else time.monotonic() + timeout
    with conn:
        ok, flags, payload = conn(
            question.rq_type,
            question.payload,
            question.flags,
            channel=channel,
            label=question.what,
            timeout=None if deadline is None else max(0.0, deadline - time.monotonic()),
        )
    if not ok:
        raise RequestFailed(flags, payload, question.what)
    return flags, payload


def _print_answer(answer: Any, in_hex: bool) -> None:
    if isinstance(answer, bytes | bytearray | memoryview):
        if in_hex:
            print(bytes(answer).hex())
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(answer)
    elif answer is not None:
        print(answer)
