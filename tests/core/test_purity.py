"""The core does no I/O: it neither imports what could, nor calls it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import packetwire.core

CORE = Path(packetwire.core.__file__).parent
SOURCES = sorted(CORE.glob("**/*.py"))
MODULES = [
    ".".join(("packetwire", "core", *path.relative_to(CORE).with_suffix("").parts)).removesuffix(".__init__")
    for path in SOURCES
]

BLOCKED = [
    *("os", "posix", "nt", "pathlib", "tempfile", "fcntl", "mmap", "logging"),
    *("socket", "_socket", "ssl", "select", "_select", "selectors", "zmq"),
    *(
        "threading",
        "_thread",
        "queue",
        "asyncio",
        "concurrent",
        "multiprocessing",
        "subprocess",
        "_posixsubprocess",
    ),
    *("time", "datetime", "random", "signal", "_signal"),
]

FORBIDDEN = {*BLOCKED, "io", "_io"}
"""The import system itself goes on needing these two, so they are only looked for in the sources."""

MEMORY_ONLY = "from io import BytesIO"
"""Allowed all the same: it is a buffer."""

ALLOWED_INSIDE_FUNCTIONS = {"cs"}
"""cs.binary's kind of requests is only met by those who have it."""


def imports(node: ast.AST, inside_function: bool = False) -> Iterator[tuple[str, bool]]:
    """The modules imported by a tree, and whether that is inside a function."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from ((alias.name, inside_function) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute here"
        assert node.module
        if ast.unparse(node) != MEMORY_ONLY:
            yield node.module, inside_function
    inside_function = inside_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from imports(child, inside_function)


def imported(path: Path) -> list[tuple[str, bool]]:
    return list(imports(ast.parse(path.read_text())))


def test_there_is_something_to_test() -> None:
    assert {"packetwire.core", "packetwire.core.engine", "packetwire.core.packets"} <= set(MODULES)
    assert ("collections.abc", False) in imported(CORE / "packet.py")
    assert ("cs.binary", True) in imported(CORE / "requests.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_what_is_imported(path: Path) -> None:
    for name, inside_function in imported(path):
        package = name.partition(".")[0]
        assert package not in FORBIDDEN, name
        if package == "packetwire":
            assert name == "packetwire.errors" or name.startswith("packetwire.core."), name
        elif not (inside_function and package in ALLOWED_INSIDE_FUNCTIONS):
            assert package in sys.stdlib_module_names, name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_what_is_called(path: Path) -> None:
    """Nor is anything reached that needs no import."""
    names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
    assert not names & {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}


BLOCKING_IMPORT = """
import importlib.abc, sys

blocked = set(sys.argv[1].split())
packages, stdlib, modules = sys.argv[2], sys.argv[3].split(), sys.argv[4].split()

for name in stdlib:  # what the core may import may itself be made with anything, so it is loaded before
    __import__(name)

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} is blocked")

for name in list(sys.modules):
    if name.partition(".")[0] in blocked:
        del sys.modules[name]
sys.meta_path.insert(0, Blocker())

for name in sorted(blocked):
    try:
        __import__(name)
    except ImportError as error:
        assert "is blocked" in str(error)
    else:
        raise SystemExit(f"{name} can be imported")

sys.path.insert(0, packages)
for name in modules:
    __import__(name)

engine = sys.modules["packetwire.core.engine"].ConnectionEngine
requests = sys.modules["packetwire.core.requests"]
a, b = engine(), engine()
a.request(1, 2, b"abc", waiter="waiting")
(request,) = b.receive(b"".join(a.data_to_send()))
b.respond(request.channel, request.tag, True, *requests.response_parts((5, request.payload)))
b.end()
answer, ended_requests, end = a.receive(b"".join(b.data_to_send()))
assert (answer.waiter, answer.flags, answer.payload, end.clean) == ("waiting", 5, b"abc", True)
responder = requests.Responder()
responder.when_done(lambda outcome: print("pure", *outcome()))
responder.respond("works")
left = {name for name in sys.modules if name.partition(".")[0] in blocked}
assert not left, left
"""


@pytest.mark.timeout(60)
def test_it_is_imported_and_works_where_nothing_else_can_be() -> None:
    stdlib = {
        name for path in SOURCES for name, _ in imported(path) if name.partition(".")[0] in sys.stdlib_module_names
    }
    arguments = [" ".join(BLOCKED), str(CORE.parent.parent), " ".join(sorted(stdlib)), " ".join(MODULES)]
    done = subprocess.run(
        [sys.executable, "-I", "-c", BLOCKING_IMPORT, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.stderr == ""
    assert done.stdout == "pure 0 b'works'\n"
    assert done.returncode == 0
