"""`packetwire describe`: the methods of a service and their types, and what a change of them breaks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packetwire.addresses import CONNECT_TIMEOUT, KINDS, connect_to
from packetwire.cli import curve
from packetwire.cli.addressing import add_sync_option, address, check_connectable, seconds
from packetwire.cli.arguments import Commands
from packetwire.cli.failure import EXIT_FAILED, EXIT_TIMEOUT, EXIT_USAGE, CommandFailed
from packetwire.cli.helptext import examples
from packetwire.cli.named import described, find_thing
from packetwire.cli.tls import add_client_options, client_ssl_context
from packetwire.connection import PacketConnection
from packetwire.errors import CapabilityMissing, RequestFailed, RequestTimeout
from packetwire.typed.evolution import changes, kind_text, literal_text
from packetwire.typed.foreign import schema_from
from packetwire.typed.schema import Schema, hash_of
from packetwire.typed.service import Service
from packetwire.typed.stub import stub_of

CLOSE_TIMEOUT = 1.0
"""Seconds for the peer to end the connection, too, after its answer."""

DESCRIPTION = """
Shows the methods of a service, their parameters, results and errors, and the types of these. SERVICE is an
address, as for `packetwire call`, where it runs and describes itself; or MODULE:CLASS, a subclass of
packetwire.typed.Service, of which modules in the current directory are found; or a file that --json has written.
With --diff, two of them are compared: the service that clients know, and the one that is to take its place.
A line that begins with BREAKS is a change that old clients would notice.
Exit status: 0, or 1 if a change breaks something, or the service cannot be asked, 2 for bad arguments.
"""


EXAMPLES = examples(
    "packetwire describe unix:chunks",
    "packetwire describe unix:chunks --json",
)


def add_parser(commands: Commands) -> None:
    """Add this command and its options to the command line."""
    parser = commands.add_parser(
        "describe", help="show what a typed service offers", description=DESCRIPTION, epilog=EXAMPLES
    )
    parser.set_defaults(run=run)
    parser.add_argument("service", metavar="SERVICE", help="an address, MODULE:CLASS, or a file made by --json")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON, for programs and for --diff")
    form.add_argument("--stub", action="store_true", help="as Python source, for clients without the module")
    form.add_argument("--diff", metavar="NEW", help="compare it with NEW, by which it is to be replaced")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=CONNECT_TIMEOUT,
        metavar="SECONDS",
        help=f"for connecting, and for its answer (default: {CONNECT_TIMEOUT:g})",
    )
    add_sync_option(parser)
    add_client_options(parser)
    curve.add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Show it, or the changes; returns the exit status."""
    schema = schema_at(args.service, args)
    if args.diff is not None:
        found = changes(schema, schema_at(args.diff, args))
        for change in found:
            print(change)
        return EXIT_FAILED if any(change.breaks for change in found) else 0
    if args.json:
        print(json.dumps(schema, indent=2, ensure_ascii=False))
    elif args.stub:
        print(stub_of(schema), end="")
    else:
        print("\n".join(readable(schema)))
    return 0


def schema_at(place: str, args: argparse.Namespace) -> Schema:
    """The schema of an address, of MODULE:CLASS, or in a file. Raises `CommandFailed`."""
    if ":" not in place or Path(place).is_file():
        return _schema_in(Path(place))
    if place.partition(":")[0] in KINDS:
        return _schema_there(place, args)
    found = find_thing(place)
    if not (isinstance(found, type) and issubclass(found, Service)):
        raise CommandFailed(f"{place} is no subclass of packetwire.typed.Service, but {found!r:.100}", EXIT_USAGE)
    try:
        return found.schema()
    except Exception as error:  # a name in an annotation that is not known, still
        raise CommandFailed(f"{place} cannot be described: {described(error)}", EXIT_USAGE) from error


def _schema_in(path: Path) -> Schema:
    try:
        return schema_from(path.read_bytes())
    except OSError as error:
        raise CommandFailed(f"cannot read {str(path)!r}: {error.strerror}", EXIT_USAGE) from None
    except ValueError as error:
        text = f"{str(path)!r} is not what packetwire describe --json writes: {error}"
        raise CommandFailed(text, EXIT_USAGE) from None


def _schema_there(place: str, args: argparse.Namespace) -> Schema:
    """The schema that the service at an address tells of itself."""
    try:
        where = address(check_connectable)(place)
    except argparse.ArgumentTypeError as error:
        raise CommandFailed(str(error), EXIT_USAGE) from None
    args.address = where
    connect = connect_to(
        curve.to_connect(where, args.curve_server, args.curve_key),
        timeout=args.timeout,
        ssl_context=client_ssl_context(args),
        server_name=args.server_name,
        sync=args.sync,
    )
    with PacketConnection(connect, place, close_timeout=CLOSE_TIMEOUT) as conn:
        return schema_of_peer(conn, args.timeout, "it cannot be asked what it is")


def schema_of_peer(conn: PacketConnection, timeout: float | None, otherwise: str) -> Schema:
    """The schema that the far end tells of itself. Raises `CommandFailed`, for want of one with `otherwise`."""
    try:
        return schema_from(conn.describe(timeout))
    except (CapabilityMissing, RequestFailed) as error:
        raise CommandFailed(
            f"{conn.name} does not describe itself, so {otherwise}: {error}", EXIT_FAILED
        ) from error
    except RequestTimeout as error:
        raise CommandFailed(str(error), EXIT_TIMEOUT) from error
    except ValueError as error:
        raise CommandFailed(f"{conn.name} describes itself by what is no schema: {error}", EXIT_FAILED) from None


def readable(schema: Schema) -> Iterator[str]:
    """The lines for people."""
    yield f"{schema['name']} {schema['version']}".rstrip() + f"  (schema {hash_of(schema)[:16]})"
    yield from _doc(schema)
    for name, method in sorted(schema["methods"].items(), key=lambda item: item[1]["number"]):
        yield ""
        is_async = method["async"]
        fields = list(_fields(method["fields"], method["keywords"], is_async))
        yield f"{name}({', '.join(fields)}) -> {kind_text(method['result'], is_async=is_async)}"
        notes = [f"number {method['number']}"]
        notes += ["idempotent"] if method["idempotent"] else []
        notes += [f"raises {', '.join(method['errors'])}"] if method["errors"] else []
        yield f"    {'; '.join(notes)}"
        yield from _doc(method)
    for number, request in schema.get("requests", {}).items():
        yield ""
        yield f"{request.get('name', '')}: untyped, its payload is bytes"
        yield f"    number {number}"
        yield from _doc(request)
    errors = {name: each for method in schema["methods"].values() for name, each in method["errors"].items()}
    for name, each in sorted(errors.items()):
        yield ""
        yield f"error {name}({', '.join(_fields(each['fields']))})"
    for name, each in schema["types"].items():
        yield ""
        if "enum" in each:
            values = ", ".join(literal_text(value) for value in each["enum"].values())
            yield f"enum {name}: {values}" + (", and later ones" if each["open"] else "")
        else:
            yield f"class {name}({', '.join(_fields(each['fields']))})"


def _doc(described: dict[str, Any]) -> Iterator[str]:
    for line in described.get("doc", "").splitlines():
        yield f"    {line}".rstrip()


def _fields(fields: dict[str, Any], keywords: list[str] | None = None, is_async: bool = False) -> Iterator[str]:
    star = False
    for name, field in fields.items():
        if keywords and name in keywords and not star:
            star = True
            yield "*"
        default = ""
        if not field["required"]:
            default = f" = {literal_text(field['default'])}" if "default" in field else " = …"
        yield f"{name}: {kind_text(field['kind'], is_async=is_async)}{default}"
