"""`packetwire call`: one request to an address, and its response on standard output."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packetwire.addresses import CONNECT_TIMEOUT, ShipAddress, connect_to
from packetwire.cli import completing, curve
from packetwire.cli.addressing import add_sync_option, address, check_connectable, seconds
from packetwire.cli.arguments import Commands
from packetwire.cli.callbodies import Bodies, body_source
from packetwire.cli.completing import completed_by
from packetwire.cli.failure import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TIMEOUT, EXIT_USAGE, CommandFailed
from packetwire.cli.fields import field_values
from packetwire.cli.helptext import examples
from packetwire.cli.named import described, find_service, look_in_current_directory
from packetwire.cli.tls import add_client_options, client_ssl_context
from packetwire.connection import PacketConnection
from packetwire.core.calloptions import CallOptions
from packetwire.core.engine import MAX_REQUEST_FLAGS, MAX_RQ_TYPE, NO_HANDLER, check_channel
from packetwire.core.requests import BaseRequest
from packetwire.core.varint import MAX_UINT
from packetwire.errors import DeadlineExceeded, LocalProtocolError, RequestFailed, RequestTimeout
from packetwire.printable import printable
from packetwire.service import HasPacketConnection

if TYPE_CHECKING:
    from packetwire.cli.typedstreams import Streams

STDIN = "-"
CLOSE_TIMEOUT = 1.0
"""Seconds for the peer to end the connection, too, after its answer."""

DESCRIPTION = """
Sends one request to ADDRESS and writes the payload of the response to standard output, as it is.
ADDRESS is exec:CMD (a child process), ssh:[OPTIONS] HOST CMD (by the ssh program; an option's value is a word
of its own), unix:PATH, tcp:HOST:PORT, tls:HOST:PORT, or zmq+dealer:ENDPOINT and zmq+pair:ENDPOINT for a ZMQ ROUTER
and PAIR, where ENDPOINT is tcp://HOST:PORT or ipc://PATH. ship:[OPTIONS] HOST:MODULE:NAME sends a service to
HOST, which needs only Python 3.11 or newer, by ssh, and asks it. TYPE is the request's number. PAYLOAD is taken as
text; - is standard input. Flags of the response are shown on standard error, if there are any.
A last word @FILE is the body of the request: it is sent piece by piece, however long it is; @-, or - behind other
words, is standard input as it comes. The body of the response is written to standard output as it comes; so it is
without one of the request by --stream.
TYPE may also be the name of a method of a packetwire.typed.Service that describes itself, and what follows are its
arguments: FIELD=VALUE, FIELD:hex=HEX, or FIELD:file=FILE; a VALUE may be JSON. The decoded response is printed:
bytes as they are, anything else as text, or all as JSON with --json. A parameter that is a stream takes its items
from FIELD=@FILE or FIELD=- (standard input), one a line, or from a JSON list; if it is one of bytes it takes the
file as it is. The items of a result are printed as they come, one a line. With --module the far end need not
describe itself, and TYPE may be the name of a request class, with its fields, if it is a dataclass, whose types are
int, float, bool, str and bytes.
Exit status: 0 if the response is ok, 1 if it is not or the connection fails, 2 for bad arguments, 124 if the
time is over, 130 after Ctrl-C.
"""


EXAMPLES = examples(
    "packetwire call unix:chunks 0 'a chunk' --hex-out",
    "packetwire call 'exec:python3 -m packetwire.cli.chunkstore' 3 --hex-out",
)


def add_parser(commands: Commands) -> None:
    """Add this command and its options to the command line."""
    parser = commands.add_parser(
        "call", help="send one request, print the response", description=DESCRIPTION, epilog=EXAMPLES
    )
    parser.set_defaults(run=run, late_words="words")
    where = parser.add_argument("address", metavar="ADDRESS", type=address(check_connectable), help="where to")
    method = parser.add_argument("type", metavar="TYPE", help="the request type: a number, or the name of a method")
    words = parser.add_argument(
        "words",
        metavar="PAYLOAD",
        nargs="*",
        default=(),
        help="a text, - for standard input, or FIELD=VALUE …; and @FILE for a body",
    )
    completed_by(where, completing.addresses)
    completed_by(method, completing.methods)
    completed_by(words, completing.fields)
    payload = parser.add_mutually_exclusive_group()
    payload.add_argument("--hex", type=hex_bytes, metavar="HEX", dest="payload", help="it, in hexadecimal")
    payload.add_argument("--file", type=file_bytes, metavar="FILE", dest="payload", help="it is this file")
    parser.add_argument(
        "--flags",
        type=_number(MAX_REQUEST_FLAGS),
        metavar="N",
        help="the request's flags, such as 5 or 0x10 (default: 0)",
    )
    parser.add_argument(
        "--channel", type=_channel, default=0, metavar="N", help="the channel, 0 or from 16 (default: 0)"
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="for connecting and answering, or for a body to stand still (default: no limit)",
    )
    parser.add_argument(
        "--deadline", type=seconds, metavar="SECONDS", help="the same for the answer, which the far end is told"
    )
    parser.add_argument(
        "--idle-timeout",
        type=seconds,
        metavar="SECONDS",
        help="end it if nothing comes for so long",
    )
    parser.add_argument("--progress", action="store_true", help="show reports of progress on standard error")
    parser.add_argument(
        "--meta", type=_meta, metavar="KEY=VALUE", action="append", default=[], help="metadata; may be repeated"
    )
    parser.add_argument(
        "--stream", action="store_true", help="write the body of the response as it comes, however long it is"
    )
    parser.add_argument("--hex-out", action="store_true", help="print bytes in hexadecimal, with a newline")
    parser.add_argument("--json", action="store_true", help="print the result of a method as JSON, one item a line")
    parser.add_argument(
        "--module", metavar="MODULE:NAME", help="a request map, or what `packetwire serve` would serve"
    )
    add_sync_option(parser)
    parser.add_argument(
        "--ship",
        metavar="MODULE:NAME",
        help="with exec:PYTHON: send this service to that Python, which needs nothing else, and ask it",
    )
    add_client_options(parser)
    curve.add_client_options(parser)


@dataclass(frozen=True)
class Question:
    """A request to send. `decode`, if its class is known, decodes the response for printing."""

    rq_type: int
    flags: int
    payload: bytes
    name: str | None = None
    decode: Callable[[int, bytes], object] | None = None
    fail: Callable[[RequestFailed], Exception] | None = None
    streams: Streams | None = None
    of_method: bool = False
    """True if `decode` returns what MessagePack can have."""


def run(args: argparse.Namespace) -> int:
    """Ask, print the answer, return the exit status."""
    with body_source(_take_body(args)) as source:
        bodies = None
        if args.stream or source is not None:
            bodies = Bodies(source, args.hex_out, args.timeout)
        try:
            return _run(args, bodies)
        except KeyboardInterrupt:
            if bodies is None or not bodies.begun:
                raise
            text = f"interrupted: the request was given up, {bodies.progress}"
            raise CommandFailed(text, EXIT_INTERRUPTED) from None


def _take_body(args: argparse.Namespace) -> str | None:
    """Take the word for the body of the request out of the others, if there is one."""
    words = list(args.words)
    is_file = bool(words) and words[-1][:1] == "@" and words[-1] != "@"
    is_given = is_file or (len(words) > 1 and words[-1] == STDIN)
    args.words = words[:-1] if is_given else words
    return words[-1] if is_given else None


def _run(args: argparse.Namespace, bodies: Bodies | None) -> int:
    if args.ship is not None or isinstance(args.address, ShipAddress):
        look_in_current_directory()
    connect = connect_to(
        curve.to_connect(args.address, args.curve_server, args.curve_key),
        timeout=_connect_timeout(args.timeout),
        ssl_context=client_ssl_context(args),
        server_name=args.server_name,
        sync=args.sync,
        ship=args.ship,
    )
    service: PacketConnection | HasPacketConnection
    module = args.module or _shipped_module(args)
    if module is None:
        service = conn = PacketConnection(connect, request_handler=None)
        question = None if args.type.isidentifier() else _plain_question(args)
    else:
        service = _make_service(module, connect)
        conn = service.conn
        question = _typed_question(args, service.conn_rq_class_by_type, module)
    conn.name = str(args.address)
    conn.close_timeout = CLOSE_TIMEOUT
    deadline = None if args.timeout is None else time.monotonic() + args.timeout
    try:
        with service:
            question = question or _described_question(args, conn, deadline)
            printer = Printer(args.hex_out, args.json)
            flags, payload = _ask(conn, question, args.channel, deadline, _options(args), bodies, printer.show)
            if question.streams is None or question.streams.result is None:
                is_behind = bodies is not None and bodies.received > 0
                _print_answer(question, flags, payload, printer, is_behind=is_behind)
    except DeadlineExceeded as error:
        raise CommandFailed(str(error), EXIT_TIMEOUT) from error
    except RequestTimeout as error:
        if args.timeout is None or bodies is not None:
            raise CommandFailed(str(error), EXIT_TIMEOUT) from error
        asked = "the request" if question is None or question.name is None else question.name
        raise CommandFailed(
            f"{conn.name}: no response to {asked} within {args.timeout:g} s", EXIT_TIMEOUT
        ) from error
    except TimeoutError as error:
        raise CommandFailed(str(error), EXIT_TIMEOUT) from error
    return 0


def _shipped_module(args: argparse.Namespace) -> str | None:
    """The service that is sent there, which knows the names of its requests, if the type is such a name."""
    if args.type[:1].isdigit():
        return None
    sent: str | None = args.address.ship.service if isinstance(args.address, ShipAddress) else args.ship
    return sent


def _connect_timeout(timeout: float | None) -> float:
    return CONNECT_TIMEOUT if timeout is None else min(CONNECT_TIMEOUT, max(timeout, 0.001))


def _options(args: argparse.Namespace) -> CallOptions:
    """The options that go with the request."""
    options: CallOptions = {}
    if args.deadline is not None:
        options["deadline"] = args.deadline
    if args.idle_timeout is not None:
        options["idle_timeout"] = args.idle_timeout
    if args.progress:
        options["on_progress"] = _show_progress
    if args.meta:
        options["meta"] = dict(args.meta)
    return options


def _show_progress(payload: bytes) -> None:
    print(f"progress: {printable(payload.decode(errors='replace'))}", file=sys.stderr, flush=True)


def _meta(text: str) -> tuple[str, bytes]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"KEY=VALUE is expected, got {text!r}")
    return key, os.fsencode(value)


def _ask(
    conn: PacketConnection,
    question: Question,
    channel: int,
    deadline: float | None,
    options: CallOptions,
    bodies: Bodies | None,
    show: Callable[[object], None],
) -> tuple[int, bytes]:
    """The (flags, payload) of an "ok" response; `show` prints items that come before it."""
    request = question.rq_type, question.payload, question.flags
    if question.streams is None:
        ask = conn if bodies is None else partial(bodies.ask, conn)
        ok, flags, payload = ask(
            *request, channel=channel, label=question.name, timeout=_time_left(deadline), **options
        )
    else:
        from packetwire.cli import typedstreams

        named = *request, channel, question.name
        ok, flags, payload = typedstreams.ask(conn, named, question.streams, _time_left(deadline), options, show)
    if not ok:
        if payload == NO_HANDLER and conn.stats().refused:
            raise CommandFailed(f"{conn.name} returns what is sent to it: it is no packetwire service", EXIT_FAILED)
        failure = conn.failure(flags, payload, question.name or "the request")
        if bodies is None and "the caller takes no body" in failure.text:
            raise CommandFailed(f"{failure}; --stream takes it as it comes", EXIT_FAILED)
        raise failure if question.fail is None else question.fail(failure)
    return flags, payload


def _time_left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


class Printer:
    """Prints results: bytes as they are or in hexadecimal, anything else as a line, or all of it as JSON."""

    def __init__(self, in_hex: bool, as_json: bool) -> None:
        self._in_hex = in_hex
        self._as_json = as_json

    def show(self, result: object, *, of_method: bool = True) -> None:
        """Print one; `of_method` if it is what MessagePack can have."""
        if self._as_json and of_method:
            from packetwire.cli.typedvalues import json_of

            print(json_of(result))
        elif isinstance(result, bytes | bytearray | memoryview):
            if self._in_hex:
                print(bytes(result).hex())
            else:
                sys.stdout.buffer.write(result)
        elif of_method:
            from packetwire.cli.typedvalues import text_of

            print(text_of(result))
        else:
            print(result)
        sys.stdout.flush()


def _print_answer(question: Question, flags: int, payload: bytes, printer: Printer, *, is_behind: bool) -> None:
    """Print it; on standard error if it `is_behind` a body, which stays as it is then."""
    answer: object = payload
    if question.decode is not None:
        with _users_code(f"the response to {question.name} cannot be decoded", EXIT_FAILED):
            answer = question.decode(flags, payload)
    elif flags:
        print(f"flags: 0x{flags:x}", file=sys.stderr)
    if answer is None:
        return
    if is_behind:
        if answer != b"":
            print(f"response: {answer if isinstance(answer, str) else repr(answer)}", file=sys.stderr)
        return
    printer.show(answer, of_method=question.of_method)


# the question, from the arguments


def _plain_question(args: argparse.Namespace) -> Question:
    try:
        rq_type = _number(MAX_RQ_TYPE)(args.type)
    except argparse.ArgumentTypeError as error:
        raise _usage(f"argument TYPE: {error}, which is no name either") from None
    payload = _payload(args)
    if payload is None:
        if len(args.words) > 1:
            raise _usage(f"one PAYLOAD is expected, got {len(args.words)}; quote one that has spaces")
        payload = os.fsencode("".join(args.words))
    return Question(rq_type, args.flags or 0, payload)


def _no_such_method(name: str, schema: Mapping[str, Any]) -> str:
    for number, request in schema.get("requests", {}).items():
        if request.get("name") == name:
            return f"{name} has a payload of plain bytes: give its number, {number}, and those, or --module"
    methods = ", ".join(schema["methods"])
    text = f"{schema['name']} has no method {name!r}"
    return f"{text}; it has {methods}" if methods else f"{text}, or any: see packetwire describe"


def _described_question(args: argparse.Namespace, conn: PacketConnection, deadline: float | None) -> Question:
    """The question for a method that the far end knows, and describes."""
    from packetwire.cli.describe import schema_of_peer
    from packetwire.cli.typedvalues import described_request, shown_payload

    schema = schema_of_peer(conn, _time_left(deadline), "a name needs --module")
    methods = schema["methods"]
    if args.type not in methods:
        raise _usage(f"argument TYPE: {_no_such_method(args.type, schema)}")
    payload, streams = _payload(args), None
    if payload is None:
        payload, streams = described_request(args.type, schema, args.words)
    return Question(
        methods[args.type]["number"],
        args.flags or 0,
        payload,
        args.type,
        lambda flags, payload: shown_payload(payload),
        streams=streams,
        of_method=True,
    )


def _payload(args: argparse.Namespace) -> bytes | None:
    """The payload, if it is given by an option or by standard input."""
    payload: bytes | None = args.payload
    if payload is not None and args.words:
        raise _usage(f"the payload is given twice: as an option, and as {args.words[0]!r}")
    if list(args.words) != [STDIN]:
        return payload
    if sys.stdin is None:
        raise _usage("standard input is closed")
    return sys.stdin.buffer.read()


def _make_service(name: str, connect: Callable[[], object]) -> HasPacketConnection:
    make = find_service(name, request_handler=None)
    with _users_code(f"{name} failed", EXIT_FAILED):
        service = make(connect)
    if not isinstance(service, HasPacketConnection):
        raise _usage(f"{name} makes no HasPacketConnection, whose requests would be known, but {service!r:.100}")
    return service


def _typed_question(
    args: argparse.Namespace, requests: Mapping[int, type[BaseRequest[object]]], module: str
) -> Question:
    rq_type, rq_class = _find_request(args.type, requests, module)
    name = rq_class.__name__
    payload = _payload(args)
    is_typed = hasattr(rq_class, "operation")  # a request of packetwire.typed, which is imported then
    if is_typed and payload is None:
        return _by_kinds(args, rq_type, rq_class)
    values = field_values(rq_class, args.words) if payload is None else {}
    with _users_code(f"no {name} can be made of these arguments", EXIT_USAGE):
        request = rq_class(**values) if payload is None else rq_class.from_bytes(payload)
        if args.flags is not None:
            request = rq_class.from_request_payload(args.flags, bytes(request))
        decode, fail = request.decode_response_payload, request.decode_failed_response
        return Question(rq_type, request.flags, bytes(request), name, decode, fail)


def _by_kinds(args: argparse.Namespace, rq_type: int, rq_class: type[BaseRequest[object]]) -> Question:
    """The question for a request of `packetwire.typed`."""
    from packetwire.cli.typedvalues import checked_result, typed_request

    request, streams = typed_request(rq_class, args.words)
    return Question(
        rq_type,
        request.flags if args.flags is None else args.flags,
        bytes(request),
        request.operation.name,
        lambda flags, payload: checked_result(request, payload),
        request.decode_failed_response,
        streams,
        of_method=True,
    )


def _find_request(
    wanted: str, requests: Mapping[int, type[BaseRequest[object]]], module: str
) -> tuple[int, type[BaseRequest[object]]]:
    """The request type and class with that number or name."""
    found = [
        (rq_type, rq_class)
        for rq_type, rq_class in requests.items()
        if wanted in (rq_class.__name__, str(rq_type), getattr(rq_class, "method_name", None))
    ]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{rq_class.__name__} ({rq_type})" for rq_type, rq_class in requests.items())
    problem = "more than one request" if found else "no request"
    raise _usage(f"argument TYPE: there is {problem} {wanted!r} in {module}; there are {known}")


@contextmanager
def _users_code(what: str, status: int) -> Iterator[None]:
    """A block of the user's code: its exceptions end the command with one line that begins with `what`."""
    try:
        yield
    except Exception as error:
        raise CommandFailed(f"{what}: {described(error)}", status) from error


def _usage(text: str) -> CommandFailed:
    return CommandFailed(text, EXIT_USAGE)


# kinds of arguments


def _channel(text: str) -> int:
    channel = _number(MAX_UINT)(text)
    try:
        check_channel(channel)
    except LocalProtocolError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return channel


def _number(high: int) -> Callable[[str], int]:
    """The type of a number from 0 to `high`, decimal or with 0x."""

    def parse(text: str) -> int:
        try:
            value = int(text, 16 if text.lower().startswith("0x") else 10)
        except ValueError:
            value = -1
        if not 0 <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a number from 0 to {high}, got {text!r}")
        return value

    return parse


def hex_bytes(text: str) -> bytes:
    """The bytes of a hexadecimal string."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected pairs of hexadecimal digits, got {text!r:.100}") from None


def file_bytes(text: str) -> bytes:
    """The content of a file."""
    try:
        return Path(text).read_bytes()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {text!r}: {error.strerror}") from None
