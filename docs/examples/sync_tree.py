"""Bring a directory here up to date with one elsewhere, over any address: files of any length, and in parts.

    python sync_tree.py ADDRESS DIRECTORY
    python sync_tree.py 'ssh:user@host python3 sync_tree.py --serve photos' photos

A file comes if it is not here with the same size and time. It is NAME.part until it is whole: what Ctrl-C or a
connection that ends has left of it is continued next time, if the file is still the same there. Nothing is deleted.
"""

import argparse
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from packetwire import BodyEnded, PacketConnection, PacketwireError, connect_to, stdio

LIST, GET = 0, 1


class Failed(Exception):
    """A file or the list did not come."""


def inside(root, name):
    path = (root / name).resolve()
    if not path.is_relative_to(root):  # neither end trusts the other
        raise Failed(f"{name} is outside of the directory")
    return path


def serve(root):
    def answer(rq_type, flags, payload):
        if rq_type == LIST:
            return listed(root)
        name, offset = json.loads(payload)
        file = inside(root, name).open("rb")
        file.seek(offset)
        return file  # becomes the body of the response, and is closed then

    with PacketConnection(stdio(), request_handler=answer) as conn:
        conn.join_recv()


def listed(root):
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.suffix != ".part":
            status = path.stat()
            line = json.dumps([str(path.relative_to(root)), status.st_size, status.st_mtime_ns])
            yield line.encode() + b"\n"


def body_of(conn, rq_type, payload=b""):
    """The body of a response, as it comes."""
    with conn.stream(rq_type, payload) as call:
        with suppress(BodyEnded):  # the response says why
            yield from call
        ok, _, text = call.result()
        if not ok:
            raise Failed(text.decode())


def fetch(conn, root, name, size, mtime):
    path = inside(root, name)
    if path.exists() and (path.stat().st_size, path.stat().st_mtime_ns) == (size, mtime):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    if part.exists() and part.stat().st_mtime_ns != mtime:
        part.unlink()  # of the file as it was
    with part.open("ab") as file:
        begin = file.tell()
        try:
            for chunk in body_of(conn, GET, json.dumps([name, begin]).encode()):
                file.write(chunk)
        finally:
            file.flush()
            os.utime(part, ns=(mtime, mtime))  # says of which state of the file it is a part
    if part.stat().st_size != size:
        raise Failed(f"{name} has changed meanwhile")
    part.replace(path)
    print(f"{name!r}: {size - begin} of {size} bytes", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="be the other end, on standard input and output")
    parser.add_argument("address", nargs="?", metavar="ADDRESS", help="where to ask, such as 'ssh:HOST COMMAND'")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    args = parser.parse_args()
    if not args.serve and args.address is None:
        parser.error("give the ADDRESS of the other end")
    try:
        root = args.directory.resolve(strict=args.serve)
        if args.serve:
            serve(root)
            return 0
        with PacketConnection(connect_to(args.address)) as conn:
            for line in b"".join(body_of(conn, LIST)).splitlines():
                fetch(conn, root, *json.loads(line))
        return 0
    except KeyboardInterrupt:
        return 130
    except (PacketwireError, OSError, Failed) as error:
        print(f"sync_tree: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
