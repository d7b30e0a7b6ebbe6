"""The cores do no I/O: they neither import what could, nor reach it over modules of ours, nor call it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import packetwire

PACKAGE = Path(packetwire.__file__).parent
PURE = (
    *("errors", "refusals", "config", "messages", "phases"),
    *("componentcore", "controllercore", "lifeevents", "lifecore"),
)
FORBIDDEN = {
    *("os", "io", "socket", "select", "selectors", "ssl", "subprocess", "tempfile", "pathlib", "zmq"),
    *("threading", "queue", "asyncio", "concurrent", "multiprocessing", "time", "datetime", "signal", "random"),
}
BELOW = {"errors", "error_text", *(f"iccp.{name}" for name in PURE)} | {
    f"messaging.{name}" for name in ("descriptors", "errors", "message", "protobuf", "sentinels")
}

TWINS = {"start"}
"""Methods that differ in an `await` only."""


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module
            yield node.module


@pytest.mark.parametrize("name", PURE)
def test_what_could_do_io_is_not_imported_or_called(name: str) -> None:
    path = PACKAGE / "iccp" / f"{name}.py"
    names = set(imported(path))
    assert names
    assert {each.partition(".")[0] for each in names} & FORBIDDEN == set()
    called = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
    assert not called & {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}


def test_the_cores_reach_no_channel_and_no_stream() -> None:
    found: set[str] = set()
    new = {f"packetwire.iccp.{name}" for name in PURE}
    while new:
        found |= new
        paths = [PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py") for name in new]
        new = {name for path in paths for name in imported(path) if name.startswith("packetwire.")} - found
    assert {name.removeprefix("packetwire.") for name in found} <= BELOW


def test_no_method_is_written_twice() -> None:
    """Bodies of more than two statements, compared without their names and docstrings, with and without `await`."""
    seen: dict[str, str] = {}
    for path in sorted((PACKAGE / "iccp").glob("**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in {"__init__", *TWINS}:
                body = [
                    each
                    for each in node.body
                    if not isinstance(each, ast.Expr) or not isinstance(each.value, ast.Constant)
                ]
                if len(body) > 2:
                    text = "\n".join(ast.unparse(each).replace("await ", "") for each in body)
                    where = f"{path.relative_to(PACKAGE)}:{node.name}"
                    assert seen.setdefault(text, where) == where
