"""Finds a word in files, by child processes as plugins of this one.

What they find streams in; meanwhile they call their host back.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from packetwire import PacketwireError, child, current_request, stdio
from packetwire.typed import Client, Service, caller, method


@dataclass
class Place:
    path: str
    line: int


@dataclass
class Match:
    place: Place
    words: list[str]


class Plugin(Service):
    @method(1)
    def find(self, word: str, path: str) -> Iterator[Match]:
        caller().do(Host.began(path))
        for number, line in enumerate(Path(path).read_text().splitlines(), 1):
            if number % 1000 == 0:
                current_request().progress(b"%d lines of %s" % (number, path.encode()))
            if found := [each for each in line.split() if word in each.lower()]:
                yield Match(Place(path, number), found)


class Host(Service):
    @method(2)
    def began(self, path: str) -> None:
        sys.stderr.write(f"{path} …\n")  # in one piece: print writes the end of the line by itself


if sys.argv[1:] == ["child"]:
    sys.exit(not Plugin().serve(stdio()).wait())
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("word")
    parser.add_argument("files", nargs="+", help="each is read by one of eight children")
    parser.add_argument("--most", type=int, help="matches in a file after which it is given up")
    args = parser.parse_args()
    with ExitStack() as opened:
        command = [sys.executable, __file__, "child"]
        plugins = [opened.enter_context(Client(child(command), serves=Host())) for _ in range(8)]
        calls = [Plugin.find(args.word.lower(), path) for path in args.files]
        options = {"deadline": 30, "on_progress": lambda said: sys.stderr.write(f"{said.decode()} …\n")}
        for call, found in [(call, plugins[n % 8].do(call, **options)) for n, call in enumerate(calls)]:
            try:
                with found:  # which gives the call up, if it is left early
                    for match in islice(found, args.most):
                        print(match)
            except PacketwireError as problem:
                print(f"{call}: {problem}")
