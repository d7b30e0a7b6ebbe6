"""Makes the modules for threads, in `_sync/`, of those for asyncio, in `_async/`, and the tests that both share.

    python -m tools.unasync           # write them
    python -m tools.unasync --check   # only say which are not what they would be; the exit status is 1 then

Strategy. Words are replaced, nothing is understood: `async` and `await` are left out, and names, also those in
strings and comments, change by a table. Whatever cannot be said that way is no matter for this tool: it stands in
modules of the same name in both packages, written by hand. ruff sorts the imports and lays the lines out.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PAIRS = [("lib/packetwire/_async", "lib/packetwire/_sync")]
"""Directories of sources, and those of what is made from them."""

HAND_WRITTEN = {
    "__init__.py",
    "accepting.py",
    "bodyhost.py",
    "host.py",
    "keeping.py",
    "sessions.py",
    "uploading.py",
}
"""Modules that stand in both, as they have nothing in common but the names in them."""

WORDS = {
    "_async": "_sync",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "aclose": "close",
    "anext": "next",
    "push_async_callback": "callback",
    "AsyncAnswer": "Answer",
    "AsyncBodyReader": "BodyReader",
    "AsyncBridge": "Bridge",
    "AsyncClient": "Client",
    "AsyncExitStack": "ExitStack",
    "AsyncGenerator": "Iterator",
    "AsyncItemReader": "ItemReader",
    "AsyncItemStream": "ItemStream",
    "AsyncIterator": "Iterator",
    "AsyncHasPacketConnection": "HasPacketConnection",
    "AsyncPacketConnection": "PacketConnection",
    "AsyncServiceSession": "ServiceSession",
    "AsyncStreamCall": "StreamCall",
    "AsyncTypedConnection": "TypedConnection",
    "AsyncPool": "Pool",
    "AsyncReconnecting": "Reconnecting",
    "AsyncRecvSend": "PacketConnectionRecvSend",
    "AsyncStartedComponent": "StartedComponent",
    "AsyncSupervised": "Supervised",
    "AsyncSupervisedComponent": "SupervisedComponent",
    "RequestFuture": "RequestResult",
    "StopAsyncIteration": "StopIteration",
}
PHRASES = {
    "packetwire.aio.opening": "packetwire.streams.open",
    "packetwire.aio.request": "packetwire.result",
    "packetwire.aio.": "packetwire.",
    "an `AsyncAnswer`": "an `Answer`",
    "an `AsyncStreamCall`": "a `StreamCall`",
    "as an `AsyncClient` does": "as a `Client` does",
    "an object with a connection in an event loop": "an object with a connection",
    "an asyncio future": "a result",
    "an asynchronous context manager": "a context manager",
    "an `AsyncPacketConnection`": "a `PacketConnection`",
    "an `AsyncItemStream`": "an `ItemStream`",
    "an `AsyncPool`": "a `Pool`",
    "an asynchronous iterator": "an iterator",
    "async for item in await client": "for item in client",
    "`async with`": "`with`",
    "async with AsyncBridge": "with Bridge",
    "async with AsyncClient(": "with Client(",
    "await bridge.run()": "bridge.run()",
    "await client.do(Shop": "client.do(Shop",
    "returns at once, in the loop.": "returns at once, from any thread.",
}
"""What is replaced in the whole text before the words are: modules, and what docstrings say."""

_ANY_WORD = re.compile("|".join(rf"(?<![\w]){re.escape(word)}(?![\w])" for word in WORDS))
_ASYNC = {"async", "await"}


def made_from(source: str, name: str) -> str:
    """The text of the module for threads."""
    for phrase, other in PHRASES.items():
        source = source.replace(phrase, other)
    lines = source.splitlines(keepends=True)
    for (row, start), (end_row, end) in reversed(list(_async_words(source))):
        assert row == end_row
        line = lines[row - 1]
        lines[row - 1] = line[:start] + line[end:].lstrip(" ")
    text = _ANY_WORD.sub(lambda found: WORDS[found[0]], "".join(lines))
    return _laid_out(f"# Made from {name} by tools/unasync.py: change that one, and run it.\n{text}")


def _async_words(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where `async` and `await` stand, as words of the language."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and token.string in _ASYNC:
            yield token.start, token.end


def _laid_out(text: str) -> str:
    for command in ["check", "--fix", "--quiet", "--select", "F401,I"], ["format", "--quiet"]:
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", "lib/packetwire/_sync/made.py", "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        text = done.stdout
    return text


def made() -> Iterator[tuple[Path, str]]:
    """The files to be made, with their texts."""
    for source, target in PAIRS:
        for path in sorted((ROOT / source).glob("*.py")):
            if path.name not in HAND_WRITTEN:
                name = path.relative_to(ROOT / "lib/packetwire" if source.startswith("lib") else ROOT)
                yield ROOT / target / path.name, made_from(path.read_text(), str(name))


def not_as_made() -> list[Path]:
    """The files that are missing, are not what would be made now, or have no source any more."""
    wanted = dict(made())
    found = {path: path.read_text() for path in wanted if path.exists()}
    left = [
        path
        for _, target in PAIRS
        for path in sorted((ROOT / target).glob("*.py"))
        if path not in wanted and path.name not in HAND_WRITTEN
    ]
    return [path for path, text in wanted.items() if found.get(path) != text] + left


def main(arguments: Sequence[str]) -> int:
    """Write what is to be made; with `--check` say what is not as it would be."""
    if arguments == ["--check"]:
        wrong = not_as_made()
        for path in wrong:
            print(f"{path.relative_to(ROOT)} is not what tools/unasync.py makes", file=sys.stderr)
        return 1 if wrong else 0
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    for path, text in made():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
