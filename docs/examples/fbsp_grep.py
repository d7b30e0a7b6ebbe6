"""Search files through a Firebird Butler service (FBSP), which runs as a child over its pipes.

    python fbsp_grep.py PATTERN FILE ...
    python fbsp_grep.py --at 'ssh:user@host python3 fbsp_grep.py --serve' PATTERN FILE ...

The service answers a request with a stream of DATA, a message for each line that matches; if the pattern or a file
is not good, with an error that has a code. The exit status is that of grep: 0, or 1 if no line matches, or 2.
It needs pip install 'packetwire[butler]'.
"""

import argparse
import re
import sys
import uuid

from packetwire import PacketConnection, PacketwireError, child, connect_to, stdio
from packetwire.fbsp import (
    AgentDescriptor,
    ButlerInterface,
    ErrorCode,
    Service,
    ServiceClient,
    StopError,
    operation,
)

VENDOR = uuid.UUID("b1c1e2f8-6a0b-4d3e-9a55-0c1f6f5f7d10")
SERVICE = AgentDescriptor(uuid.UUID("7d9f4a56-1f0c-4f6e-8a3c-52a1b6c0e411"), "grep", "1.0", VENDOR, "example")
CLIENT = AgentDescriptor(uuid.UUID("2c5b9be0-92d4-4c0b-8a6e-3e7f3f0a9c12"), "fbsp_grep", "1.0", VENDOR, "example")


class GrepAPI(ButlerInterface):
    """The calls of the service, by number."""

    SEARCH = 1
    """Frames: a pattern, and the names of files. DATA: the name of a file, the number of a line, the line."""

    @classmethod
    def get_uid(cls):
        return uuid.UUID("f3a7a1d2-0b1e-4a52-b0de-6d5c2f9e8b13")


class Grep(Service):
    agent = SERVICE

    @operation(GrepAPI.SEARCH)
    def search(self, request):
        pattern, *paths = request.data
        try:
            regex = re.compile(pattern)
        except re.error as error:
            raise StopError(f"the pattern is not good: {error}", code=ErrorCode.BAD_REQUEST) from None
        return matches(request, regex, paths)  # an iterator: each item is sent as DATA


def matches(request, regex, paths):
    for path in paths:
        try:
            with open(path, "rb") as file:
                for number, line in enumerate(file, 1):
                    request.check()  # raises if the client has withdrawn the request, or has left
                    if regex.search(line):
                        yield path, str(number), line.rstrip(b"\n")
        except OSError as error:
            text = f"{path.decode(errors='replace')}: {error.strerror}"
            raise StopError(text, code=ErrorCode.NOT_FOUND) from None


def serve():
    with Grep() as grep:
        conn = PacketConnection(stdio(), close_timeout=1)
        grep.serve_on(conn)
        with conn:
            conn.join_recv()


def search(recv_send, pattern, paths, max_count):
    """Print the lines that match; how many there were."""
    found = 0
    with ServiceClient.on(PacketConnection(recv_send, close_timeout=1), agent=CLIENT) as client:
        call = client.start(GrepAPI.SEARCH, pattern, *paths)
        for path, number, line in call:
            print(f"{path.decode()}:{number.decode()}:{line.decode(errors='replace')}", flush=True)
            found += 1
            if found == max_count:
                call.cancel(timeout=10)
                break
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--at", metavar="ADDRESS", help="where the service is, such as 'unix:PATH' or 'ssh:HOST COMMAND'"
    )
    parser.add_argument("--max-count", type=int, metavar="N", help="stop after so many lines")
    parser.add_argument("--serve", action="store_true", help="be the service, on standard input and output")
    parser.add_argument("pattern", nargs="?", metavar="PATTERN", help="a regular expression")
    parser.add_argument("files", nargs="*", metavar="FILE")
    args = parser.parse_args()
    if not args.serve and not args.files:
        parser.error("give a PATTERN and a FILE")
    try:
        if args.serve:
            serve()
            return 0
        # in a process group of its own: Ctrl-C is for this end, which then ends the other
        local = child([sys.executable, __file__, "--serve"], process_group=0)
        recv_send = connect_to(args.at) if args.at else local
        return 0 if search(recv_send, args.pattern, args.files, args.max_count) else 1
    except KeyboardInterrupt:
        return 130
    except (PacketwireError, OSError) as error:  # what the service answers is a ServiceError, with a code
        print(f"fbsp_grep: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
