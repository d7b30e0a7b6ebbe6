"""The display of a command's progress and results: with rich on a terminal, else as plain lines.

Everything fits into 80 columns, except for words that cannot be broken, such as a long path.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 80
LABEL = 12
"""Columns of the label that begins a line."""
QUARTERS = 4

Advance = Callable[[int], None]
"""To be called with the number of further bytes that are done."""
Transfer = Callable[[str, int, int | None], None]
"""To be called with a label, the bytes that are done, and those of all, if they are known; from any thread."""


class Display(Protocol):
    """The display of a command."""

    def title(self, text: str) -> None:
        """Begin a part: an empty line, and a line that stands out."""
        ...

    def fact(self, label: str, text: str) -> None:
        """Show one fact."""
        ...

    def progress(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """Show the progress of something with `total` bytes."""
        ...

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show figures; the first column is text."""
        ...

    def verdict(self, text: str, good: bool) -> None:
        """Show the result of it all."""
        ...


def open_display() -> Display:
    """The display that suits standard output."""
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        try:
            return RichDisplay()
        except ImportError:
            pass  # rich comes with the extra "cli"; plain lines have the same content
    return PlainDisplay()


@contextmanager
def transfer_shown() -> Iterator[Transfer]:
    """A progress bar for each label, on standard error; nothing if that is no terminal, or without rich."""
    try:
        if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            raise ImportError
        from rich import progress
        from rich.console import Console
    except ImportError:
        yield lambda label, done, total: None
        return
    columns = (
        progress.TextColumn("{task.description:8}"),
        progress.BarColumn(bar_width=30),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    tasks: dict[str, progress.TaskID] = {}
    with progress.Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as bars:

        def show(label: str, done: int, total: int | None) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total)
            bars.update(tasks[label], completed=done)

        yield show


def megabytes(count: float) -> str:
    """A number of bytes, for people to read."""
    return f"{count / 1e6:,.1f} MB"


class PlainDisplay:
    """Lines of text, each written at once."""

    def title(self, text: str) -> None:
        _say("")
        _say(text)

    def fact(self, label: str, text: str) -> None:
        _say(_labelled(label, text))

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Advance]:
        """A line at each quarter."""
        done = quarter = 0

        def advance(count: int) -> None:
            nonlocal done, quarter
            done += count
            while quarter < QUARTERS and done * QUARTERS >= total * (quarter + 1):
                quarter += 1
                _say(_labelled(label, f"{100 * quarter // QUARTERS:3} %  {megabytes(done)} of {megabytes(total)}"))

        yield advance

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
        _say("")
        for row in columns, *rows:
            first, *others = (
                cell.rjust(width) if number else cell.ljust(width)
                for number, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            _say("  " + "   ".join([first, *others]))
        _say("")

    def verdict(self, text: str, good: bool) -> None:
        _say(_labelled("ok" if good else "FAILED", text))


def _say(text: str) -> None:
    print(text, flush=True)


def _labelled(label: str, text: str) -> str:
    indent = " " * (LABEL + 2)
    lines = textwrap.wrap(text, WIDTH - len(indent), break_long_words=False, break_on_hyphens=False)
    return f"  {label:{LABEL}}" + f"\n{indent}".join(lines)


class RichDisplay:
    """Colours and progress bars."""

    def __init__(self) -> None:
        from rich.console import Console

        # soft_wrap: a narrow terminal wraps the lines of a table, while rich would truncate words
        self._console: Console = Console(highlight=False, soft_wrap=True, width=WIDTH)

    def title(self, text: str) -> None:
        self._console.print()
        self._console.print(text, style="bold", markup=False)

    def fact(self, label: str, text: str) -> None:
        from rich.text import Text

        line = Text(_labelled(label, text))
        line.stylize("cyan", 0, LABEL + 2)
        self._console.print(line)

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Advance]:
        from rich import progress
        from rich.console import Console

        console = Console()
        console.width = min(console.width, WIDTH)
        columns = (
            progress.TextColumn(f"  [cyan]{{task.description:{LABEL - 1}}}"),
            progress.BarColumn(bar_width=30),
            progress.TaskProgressColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
        )
        with progress.Progress(*columns, console=console) as bars:
            task = bars.add_task(label, total=total)
            yield lambda count: bars.advance(task, count)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, header_style="bold")
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left", style="" if number else "cyan")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)

    def verdict(self, text: str, good: bool) -> None:
        from rich.text import Text

        line = Text(_labelled("✓" if good else "✗", text), style="bold green" if good else "bold red")
        self._console.print(line)
