"""The pictures of terminals in docs/pictures.

`python -m tests.docs.pictures`, in the root of the project, draws them anew; that needs rich. Each one names the
text that it was drawn from, so a test sees whether it is the present one, whatever the version of rich.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

from packetwire.cli.topview import Line, lines_of

from .diagrams import mark
from .pages import ROOT

DIRECTORY = ROOT / "docs" / "pictures"
SNAPSHOT = Path(__file__).parent / "snapshot.json"
WIDTH = 80
FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: {char_height}px;
line-height: {line_height}px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""As rich has it, without its fonts from elsewhere, and without the title."""


def of_top() -> list[Line]:
    """The view of `packetwire top`."""
    snapshot = json.loads(SNAPSHOT.read_text())
    before = {**snapshot, "time": snapshot["time"] - 1, "totals": dict.fromkeys(snapshot["totals"], 0)}
    before["totals"].update(
        bytes_received=snapshot["totals"]["bytes_received"] - 81_000,
        bytes_sent=snapshot["totals"]["bytes_sent"] - 1_420_000,
    )
    return lines_of(snapshot, before, width=WIDTH, height=40)


PICTURES: dict[str, Callable[[], list[Line]]] = {"top": of_top}


def source(lines: list[Line]) -> str:
    """The text that a picture is drawn from, with its styles."""
    return json.dumps(lines)


def draw(name: str) -> str:
    """A picture, with its source."""
    from rich.console import Console
    from rich.text import Text

    lines = PICTURES[name]()
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in lines:
        console.print(Text.assemble(*line), no_wrap=True)
    return (
        console.export_svg(title=f"packetwire {name}", unique_id=name, code_format=FORMAT)
        + mark(source(lines))
        + "\n"
    )


def main() -> None:
    DIRECTORY.mkdir(exist_ok=True)
    for name in PICTURES:
        (DIRECTORY / f"{name}.svg").write_text(draw(name))


if __name__ == "__main__":
    main()
