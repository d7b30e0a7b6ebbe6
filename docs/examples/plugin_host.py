"""Counts the words of files, in child processes that call their host back.

Each child is a typed service; the host serves on the same pipes.
"""

import argparse
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from packetwire import PacketwireError, RequestError, child, stdio
from packetwire.typed import Client, Service, caller, error, method


@dataclass
class Options:
    shortest: int = 4
    ignored: set[str] = field(default_factory=set)


@dataclass
class Report:
    path: str
    lines: int
    words: dict[str, int]


@error("unreadable", text="{path} cannot be read: {reason}")
class Unreadable(RequestError):
    path: str
    reason: str


class Plugin(Service):
    @method(1, idempotent=True, errors=[Unreadable])
    def count(self, path: str, options: Options) -> Report:
        caller().do(Host.began(path))
        try:
            text = Path(path).read_text()
        except (OSError, ValueError) as problem:
            raise Unreadable(path, str(problem)) from problem
        words = [word.lower() for word in text.split() if len(word) >= options.shortest]
        counted = Counter(word for word in words if word not in options.ignored)
        return Report(path, text.count("\n"), dict(counted.most_common(3)))


class Host(Service):
    @method(2)
    def began(self, path: str) -> None:
        sys.stderr.write(f"{path} …\n")  # in one piece: print writes the end of the line by itself


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", help="the files")
    parser.add_argument("--plugins", type=int, default=8, help="child processes (default: 8)")
    if sys.argv[1:] == ["child"]:
        sys.exit(not Plugin().serve(stdio()).wait())
    args = parser.parse_args()
    command = [sys.executable, __file__, "child"]
    with ExitStack() as opened:
        clients = [opened.enter_context(Client(child(command), serves=Host())) for _ in range(args.plugins)]
        calls = [Plugin.count(path, Options(ignored={"that", "with"})) for path in args.files]
        for call, answer in [(call, clients[n % len(clients)].submit(call)) for n, call in enumerate(calls)]:
            try:
                print(answer(timeout=30))
            except PacketwireError as problem:
                print(f"{call}: {problem}")
