"""Print the SHA-256 of every file in a tree, as sha256sum does, computed by a pool of child processes.

    python tree_digest.py TREE ...
    python tree_digest.py TREE | sha256sum --check --quiet

A child that dies is replaced, and its file given to the new one. A file that cannot be read is reported on standard
error, and the exit status is 1 then. Progress is shown if standard error is a terminal.
"""

import argparse
import asyncio
import hashlib
import os
import sys
from dataclasses import dataclass

from packetwire import (
    AsyncHasPacketConnection,
    BaseRequest,
    ConnectionEnded,
    HasPacketConnection,
    RequestFailed,
    child,
    stdio,
)

TRIES = 3  # children that one file may cost


@dataclass
class Digest(BaseRequest[str]):
    """Ask for the SHA-256 of a file, in hexadecimal."""

    path: str
    inline = True  # a child has one request at a time

    def __bytes__(self):
        return os.fsencode(self.path)

    @classmethod
    def from_bytes(cls, data):
        return cls(os.fsdecode(data))

    def fulfil(self, context):
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def decode_response_payload(self, flags, payload):
        return payload.decode()


REQUESTS = {0: Digest}


def work():
    """The program of a child."""
    with HasPacketConnection(stdio(), rq_type_map=REQUESTS) as service:
        service.conn.join_recv()


class Report:
    """What is printed."""

    def __init__(self):
        self.total = self.done = self.failures = 0

    def digest(self, path, digest):
        self.count()
        sys.stdout.buffer.write(os.fsencode(f"{digest}  {path}\n"))

    def failure(self, text):
        self.failures += 1
        self.say(text)

    def say(self, text):
        print(f"tree_digest: {text}", file=sys.stderr)

    def count(self):
        self.done += 1
        if sys.stderr.isatty():
            end = "\r" if self.done < self.total else "\n"
            print(f"{self.done} of {self.total} files", end=end, file=sys.stderr, flush=True)


def files_in(tops, report):
    for top in tops:
        if not os.path.isdir(top):
            yield top
            continue
        for directory, _, names in os.walk(top, onerror=lambda error: report.failure(str(error))):
            paths = [os.path.join(directory, name) for name in sorted(names)]
            yield from (path for path in paths if os.path.isfile(path) and not os.path.islink(path))


async def have_digested(paths, report):
    """Give the next of `paths` to a child of our own, and the next, until there are none."""
    # in a process group of its own: Ctrl-C is for the parent, which then ends its children
    command = child([sys.executable, __file__, "--work"], process_group=0, exit_timeout=0.1)
    async with AsyncHasPacketConnection(command, rq_type_map=REQUESTS) as client:
        for path in paths:
            for _ in range(TRIES):
                try:
                    report.digest(path, await client.conn_do_remote(Digest(path)))
                    break
                except RequestFailed as error:
                    report.failure(error.text)
                    break
                except ConnectionEnded as error:
                    report.say(f"{error}; another one takes {path}")
                    await client.conn.close()
                    await client.conn.open()  # starts another child
            else:
                report.failure(f"{path}: {TRIES} children have died of it")


async def digest_all(tops, children):
    report = Report()
    paths = list(files_in(tops, report))
    report.total = len(paths)
    next_path = iter(paths)
    await asyncio.gather(*(have_digested(next_path, report) for _ in range(min(children, len(paths)))))
    return 1 if report.failures else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tops", nargs="*", metavar="TREE", help="a directory, or a file")
    parser.add_argument(
        "--children", type=int, default=os.cpu_count() or 1, metavar="N", help="how many (default: %(default)s)"
    )
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    try:
        if args.work:
            work()
            return 0
        if not args.tops or args.children < 1:
            parser.error("give a TREE, and a number of children from 1 on")
        return asyncio.run(digest_all(args.tops, args.children))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads any more: no complaint at exit either
        return 141
    except OSError as error:
        print(f"tree_digest: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
