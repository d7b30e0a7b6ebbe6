"""Messages and protocols do no I/O: what could do it is not imported, and protobuf in one module only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import packetwire

PACKAGE = Path(packetwire.__file__).parent
SOURCES = [path for name in ("messaging", "fbsp", "iccp") for path in sorted((PACKAGE / name).glob("**/*.py"))]

PURE = {
    "messaging/channel.py",
    "messaging/mailbox.py",
    "messaging/protocol.py",
    "messaging/session.py",
    "messaging/descriptors.py",
    "messaging/protobuf.py",
    "fbsp/messages.py",
    "fbsp/service.py",
    "fbsp/client.py",
    "fbsp/protocol.py",
    "fbsp/session.py",
    "fbsp/lifecycle.py",
    "fbsp/handshake.py",
    "fbsp/refusals.py",
    "fbsp/clientcore.py",
    "fbsp/callprotocol.py",
    "fbsp/callstate.py",
    "fbsp/servicecore.py",
    "fbsp/operations.py",
    "fbsp/frames.py",
    "fbsp/passage.py",
    "iccp/messages.py",
    "iccp/component.py",
    "iccp/controller.py",
}
"""What must stay pure when channels and requests come to stand beside it."""

FORBIDDEN = {
    *("os", "socket", "select", "selectors", "ssl", "subprocess", "tempfile", "pathlib", "zmq"),
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


@pytest.mark.parametrize("name", sorted(PURE))
def test_what_could_do_io_is_not_imported(name: str) -> None:
    names = set(imported(PACKAGE / name))
    assert names
    assert {each.partition(".")[0] for each in names} & FORBIDDEN == set()
    called = {node.id for node in ast.walk(ast.parse((PACKAGE / name).read_text())) if isinstance(node, ast.Name)}
    assert not called & {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}


@pytest.mark.parametrize("name", sorted(each for each in PURE if each.startswith("fbsp/")))
def test_nothing_is_handed_to_a_carrier(name: str) -> None:
    """What a core says is posted: `send`, which may wait, is for its users."""
    tree = ast.parse((PACKAGE / name).read_text())
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not [each for each in called if each.endswith((".send", ".send_unchecked", ".send_soon", ".carry"))]


def test_protobuf_is_imported_by_one_module() -> None:
    importing = {
        path.relative_to(PACKAGE).as_posix()
        for path in SOURCES
        if any(name.startswith("google") for name in imported(path))
    }
    assert importing == {"messaging/protobuf.py"}


def test_faces_are_not_imported() -> None:
    below = {"errors", "error_text", "core", "messaging", "fbsp", "iccp"}
    for name in PURE:
        parts = [each.split(".") for each in imported(PACKAGE / name) if each.startswith("packetwire")]
        assert {part[1] for part in parts} <= below, name
