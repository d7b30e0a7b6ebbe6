"""The modules for threads are what the tool makes of those for asyncio, and what it does to a text."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tools import unasync

SOURCE = '''
"""An asynchronous context manager."""

from packetwire._async.host import room
from packetwire.aio.connection import AsyncPacketConnection


class AsyncThing:
    """As `async with` an `AsyncPacketConnection` await says."""

    async def __aenter__(self):
        async with self.conn as conn:
            [await each async for each in conn]  # await AsyncPacketConnection
        return await room(f"{self} awaits, async")
'''
MADE = '''
"""An asynchronous context manager."""

from packetwire._sync.host import room
from packetwire.connection import PacketConnection


class AsyncThing:
    """As `with` a `PacketConnection` await says."""

    def __enter__(self):
        with self.conn as conn:
            [each for each in conn]  # await PacketConnection
        return room(f"{self} awaits, async")
'''


def test_all_that_is_made_is_as_the_tool_makes_it() -> None:
    assert unasync.not_as_made() == [], "run python -m tools.unasync"


def test_words_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unasync, "_laid_out", lambda text: text)
    header, made = unasync.made_from(SOURCE, "_async/thing.py").split("\n", 1)
    assert header.startswith("# Made from _async/thing.py by tools/unasync.py")
    assert made == MADE


def test_what_differs_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(unasync, "ROOT", tmp_path)
    monkeypatch.setattr(unasync, "_laid_out", lambda text: text)
    for source, target in unasync.PAIRS:
        (tmp_path / source).mkdir(parents=True)
        (tmp_path / target).mkdir(parents=True)
    source, target = (tmp_path / each for each in unasync.PAIRS[0])
    (source / "thing.py").write_text(SOURCE)
    assert unasync.main(["--check"]) == 1
    assert unasync.main([]) == 0
    assert unasync.main(["--check"]) == 0
    (target / "thing.py").write_text("changed")
    (target / "left.py").write_text("")
    (target / "host.py").write_text("")
    capsys.readouterr()
    assert unasync.main(["--check"]) == 1
    assert [line.partition(" ")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"{unasync.PAIRS[0][1]}/{name}.py" for name in ("thing", "left")
    ]


def test_an_argument_that_there_is_not() -> None:
    assert unasync.main(["--all"]) == 2


def public_names(path: Path) -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, kinds)}
    return {name for name in names if not name.startswith("_") and name != "Requester"}


def test_modules_written_by_hand_have_the_same_names() -> None:
    for source, target in unasync.PAIRS:
        for name in sorted(unasync.HAND_WRITTEN):
            found = public_names(unasync.ROOT / source / name)
            assert {unasync.WORDS.get(each, each) for each in found} <= public_names(unasync.ROOT / target / name)
