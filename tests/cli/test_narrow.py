"""What commands show in a narrow terminal, and without colours."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from packetwire import Packet
from packetwire.capture import HEADER, Kind, Record
from packetwire.cli import display

from .forked import packetwire
from .terminal import colours_in, in_terminal, lines_of, run_in_terminal, without_control

pytestmark = pytest.mark.timeout(60)
pytest.importorskip("rich")

NARROW = 40
SMALL = {
    "demo": ("demo", "--size", "300kB"),
    "bench": ("bench", "--rounds", "1", "--seconds", "0.02", "--growth", "100"),
}
ROWS = [["a row of a table", "1,234,567", "", "1.5 ms"], ["another", "1", "2", "3"]]
COLUMNS = ("", "requests in a second", "bytes", "a median of them")


def too_wide(shown: str, width: int = NARROW) -> list[str]:
    """Lines that are wider, but for a word that has no room beside a label, such as a path."""
    wide = [line for line in lines_of(shown) if len(line.rstrip()) > width]
    return [line for line in wide if len(line.split()) > 2 or len(line.split()[-1]) < width - display.LABEL - 2]


def capture_of_many() -> bytes:
    """A capture with requests whose figures make a wide table."""
    records = []
    for number in range(20):
        asked = Packet(is_request=True, channel=16, tag=2 + number, rq_type=1001, payload=bytes(1000))
        answer = Packet(is_request=False, channel=16, tag=2 + number, flags=1)
        records += [Record(Kind.FORTH, 1, number * 10**9, bytes(asked))]
        records += [Record(Kind.BACK, 1, number * 10**9 + 12345, bytes(answer))]
    return HEADER + b"".join(map(bytes, records))


@pytest.mark.parametrize("name", SMALL)
def test_a_narrow_terminal(name: str) -> None:
    status, shown = run_in_terminal(*SMALL[name], COLUMNS=str(NARROW))
    assert status == 0
    assert too_wide(shown) == []
    assert "…" not in shown
    figures = {"demo": "median round trip", "bench": "mp.connection"}[name]
    assert re.search(rf"^ +{figures} +[\d,.]+", shown, re.MULTILINE)


@pytest.mark.parametrize("on_terminal", [True, False])
def test_the_figures_of_a_capture(tmp_path: Path, on_terminal: bool) -> None:
    (tmp_path / "capture").write_bytes(capture_of_many())
    words = ("dump", str(tmp_path / "capture"), "--summary")
    if on_terminal:
        _, shown = run_in_terminal(*words, COLUMNS=str(NARROW))
    else:
        shown = packetwire(*words, env=os.environ | {"COLUMNS": str(NARROW)}).stdout.decode()
    assert too_wide(shown) == []
    assert re.search(r"^ +> type 1000, channel 16\r?$", shown, re.MULTILINE)
    assert re.search(r"^ +no answer +0\r?$", shown, re.MULTILINE)


def test_in_a_file_a_table_has_its_form_at_any_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    wide = ["x" * 100, *ROWS[0][1:]]
    display.PlainDisplay().table(COLUMNS, [wide])
    head, row = capsys.readouterr().out.strip("\n").splitlines()
    assert row.split()[0] == wide[0]
    assert head.split()[:3] == ["requests", "in", "a"]


@pytest.mark.parametrize("width", [20, 30, 40, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 80, 200])
@pytest.mark.parametrize("kind", [display.PlainDisplay, display.RichDisplay])
def test_every_figure_is_shown_at_every_width(
    kind: type[display.PlainDisplay | display.RichDisplay],
    width: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    kind().table(COLUMNS, ROWS)
    shown = capsys.readouterr().out
    words = [word for row in [COLUMNS, *ROWS] for cell in row for word in cell.split()]
    assert [word for word in words if word not in shown] == []
    assert max(map(len, shown.splitlines())) <= max(width, 35)


def test_no_color() -> None:
    """There are bars and bold text all the same, but no colours."""
    for no_color in ("1", "0", "anything"):
        _, written = in_terminal(*SMALL["demo"], NO_COLOR=no_color)
        assert colours_in(written) == []
        assert "\x1b[1m" in written
        assert "100%" in without_control(written)
    assert colours_in(in_terminal(*SMALL["demo"], NO_COLOR="")[1]) != []


def test_no_color_for_progress() -> None:
    assert colours_in(in_terminal(*SMALL["bench"])[1]) != []
    assert colours_in(in_terminal(*SMALL["bench"], NO_COLOR="1")[1]) == []


TAKES_ALL = """
from packetwire import PacketConnection, current_request, stdio

def swallow(rq_type, flags, payload):
    for _ in current_request().body:
        pass

with PacketConnection(stdio(), request_handler=swallow) as conn:
    conn.join_recv()
"""


def test_no_color_for_the_bars_of_a_call(tmp_path: Path) -> None:
    (tmp_path / "takes_all.py").write_text(TAKES_ALL)
    (tmp_path / "body").write_bytes(bytes(100_000))
    words = ("call", f"exec:{sys.executable} {tmp_path / 'takes_all.py'}", "1", f"@{tmp_path / 'body'}")
    for environ, has_colours in ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True):
        status, written = in_terminal(*words, **environ)
        assert (status, bool(colours_in(written))) == (0, has_colours), written
        assert "100.0/100.0 kB" in without_control(written)
