"""Methods with streams at the command line: with their module and without it, items one a line."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from packetwire.cli.main import main

STREAMING = Path(__file__).parent / "streaming.py"
WHERE = f"exec:{sys.executable} -m packetwire serve streaming:Streams stdio:"

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(params=[[], ["--module", "streaming:Streams"]], ids=["described", "module"])
def call(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    kept_process: None,
) -> Any:
    (tmp_path / "streaming.py").write_text(STREAMING.read_text())
    (tmp_path / "items").write_text('{"title": "a", "size": 5}\n{"title": "b"}\n')
    (tmp_path / "text").write_text("Emma\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "streaming", raising=False)
    stdin = io.TextIOWrapper(io.BytesIO(b'{"title": "c"}\n{"title": "d"}\n'))
    monkeypatch.setattr(sys, "stdin", stdin)

    def run(*words: str) -> tuple[int, str, str]:
        try:
            status = main(["call", WHERE, *request.param, *words])
        except SystemExit as error:  # by argparse
            status = int(str(error.code))
        return (status, *capfd.readouterr())

    return run


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["items", "count=2"], '{"title": "", "size": 0}\n{"title": "x", "size": 1}\n'),
        (["items_later", "count=0"], ""),
        (["titles", "items=@items", "prefix=x"], "xa\nxb\n"),
        (["titles", "items=-", "prefix=x", "--json"], '"xc"\n"xd"\n'),
        (["titles_later", "items:file=items"], "a\nb\n"),
        (["total", "name=Emma", "items=@items"], '["Emma", 5]\n'),
        (["total", "name=Emma", 'items=[{"title": "a", "size": 7}]'], '["Emma", 7]\n'),
        (["first", "items=[1, 2]", "--json"], "1\n"),
        (["upper", "data=@text"], "EMMA\n"),
        (["upper", "data=emma"], "EMMA"),
        (["upper", "data:hex=6161", "--json"], '{"bytes": "QUE="}\n'),
    ],
)
def test_items(call: Any, words: list[str], printed: str) -> None:
    assert call(*words) == (0, printed, "")


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["total", "name=Emma"], 2, "needs items=…"),
        (
            ["total", "name=Emma", "items=@nothing"],
            2,
            "items cannot be read from 'nothing': No such",
        ),
        (["total", "name=Emma", "items:hex=61"], 2, "items takes items: give items=@FILE, or a list"),
        (["titles", "items=-", "items=-"], 2, "the field 'items' is given twice"),
    ],
)
def test_what_is_wrong(call: Any, words: list[str], status: int, text: str) -> None:
    found, out, err = call(*words)
    assert (found, out) == (status, "")
    assert text in err


def test_an_error_behind_items(call: Any) -> None:
    status, out, err = call("items", "count=1", "fail=true")
    assert (status, out) == (1, '{"title": "", "size": 0}\n')
    assert "Emma is gone" in err


def test_an_item_of_another_kind(call: Any) -> None:
    status, _, err = call("total", "name=Emma", 'items=[{"title": "a"}, {"title": 5}]')
    assert status in (1, 2)
    assert "$.items[1].title: expected str, got int" in err
