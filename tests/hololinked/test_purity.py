"""The cores do no I/O, and sync and async stand on the same ones."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import packetwire

PACKAGE = Path(packetwire.__file__).parent / "hololinked"
PURE = ("constants", "deadlines", "errors", "serializers", "messages", "servercore", "clientcore", "eventcore")
FORBIDDEN = {
    *("socket", "select", "selectors", "ssl", "subprocess", "tempfile", "pathlib", "zmq", "pickle"),
    *("threading", "queue", "asyncio", "concurrent", "multiprocessing", "time", "signal", "random"),
}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module
            yield node.module


@pytest.mark.parametrize("name", PURE)
def test_what_could_do_io_is_not_imported(name: str) -> None:
    names = set(imported(PACKAGE / f"{name}.py"))
    assert names
    assert {each.partition(".")[0] for each in names} & FORBIDDEN == set()
    below = {"packetwire.errors", "packetwire.error_text", *(f"packetwire.hololinked.{pure}" for pure in PURE)}
    assert {each for each in names if each.startswith("packetwire")} <= below


def test_nothing_imports_pickle() -> None:
    for path in PACKAGE.glob("*.py"):
        assert not {each.partition(".")[0] for each in imported(path)} & {"pickle", "marshal", "shelve"}


def test_no_method_is_written_twice() -> None:
    """Bodies of more than two statements, compared without their names and docstrings."""
    seen: dict[str, str] = {}
    for path in sorted(PACKAGE.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name != "__init__":
                body = [
                    each
                    for each in node.body
                    if not isinstance(each, ast.Expr) or not isinstance(each.value, ast.Constant)
                ]
                if len(body) > 2:
                    text = "\n".join(ast.unparse(each).replace("await ", "") for each in body)
                    where = f"{path.name}:{node.name}"
                    assert seen.setdefault(text, where) == where
