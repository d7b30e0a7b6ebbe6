"""Bring a directory here up to date with one elsewhere, over any address: files of any length, and in parts.

    python sync_tree.py ADDRESS DIRECTORY
    python sync_tree.py 'ssh:user@host python3 sync_tree.py --serve photos' photos

A file comes if it is not here with the same size and time. It is NAME.part until it is whole: what Ctrl-C or a
connection that ends has left of it is continued next time, if the file is still the same there. Nothing is deleted.
"""

import json
import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from contextlib import suppress
from functools import partial
from pathlib import Path

from packetwire import BodyEnded, PacketConnection, PacketwireError, connect_to, stdio

LIST, GET = 0, 1


class Failed(Exception):
    """A file or the list did not come."""


def inside(root, name):
    if not (path := (root / name).resolve()).is_relative_to(root):  # neither end trusts the other
        raise Failed(f"{name} is outside of the directory")
    return path


def listed(root):
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.suffix != ".part":
            status = path.stat()
            line = json.dumps([str(path.relative_to(root)), status.st_size, status.st_mtime_ns])
            yield line.encode() + b"\n"


def answer(root, rq_type, flags, payload):
    if rq_type == LIST:
        return listed(root)
    name, offset = json.loads(payload)
    file = inside(root, name).open("rb")
    file.seek(offset)
    return file  # becomes the body of the response, and is closed then


def body_of(conn, rq_type, payload=b""):
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


def main(address, directory):
    root = directory.resolve(strict=address is None)
    if address is None:
        with PacketConnection(stdio(), request_handler=partial(answer, root)) as conn:
            conn.join_recv()
        return
    with PacketConnection(connect_to(address)) as conn:
        for line in b"".join(body_of(conn, LIST)).splitlines():
            fetch(conn, root, *json.loads(line))


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    end = parser.add_mutually_exclusive_group(required=True)
    end.add_argument("--serve", action="store_true", help="be the other end, on standard input and output")
    end.add_argument("address", nargs="?", metavar="ADDRESS", help="where to ask, such as 'ssh:HOST COMMAND'")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    args = parser.parse_args()
    try:
        main(args.address, args.directory)
    except KeyboardInterrupt:
        sys.exit(130)
    except (PacketwireError, OSError, Failed) as error:
        sys.exit(f"sync_tree: {error}")
