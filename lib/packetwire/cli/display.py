"""The display of a command's progress and results: with rich on a terminal, else as plain lines.

Everything fits into 80 columns, or into those of a narrower terminal (COLUMNS says how many, where that is set),
except for words that cannot be broken, such as a long path. A table that is too wide is shown row by row, each
figure in a line; only in a file or pipe it has the same form at any width. With NO_COLOR there are no colours.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 80
"""Columns that are used at most."""
NARROWEST = 20
LABEL = 12
"""Columns of the label that begins a line."""
QUARTERS = 4
INDENT, GAP = "  ", "   "
"""In front of a table, and between its columns."""

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


def width() -> int:
    """Columns to be used."""
    return max(NARROWEST, min(WIDTH, shutil.get_terminal_size((WIDTH, 0)).columns))


def _fits(widths: Sequence[int]) -> bool:
    """A table has room; in a file or pipe it always has, unless COLUMNS is set."""
    if not (sys.stdout.isatty() or os.environ.get("COLUMNS")):
        return True
    return _needed(widths) <= shutil.get_terminal_size((WIDTH, 0)).columns


def _needed(widths: Sequence[int]) -> int:
    return len(INDENT) + sum(widths) + len(GAP) * (len(widths) - 1)


def is_coloured() -> bool:
    """Colours are wanted: NO_COLOR is not set, or empty."""
    return not os.environ.get("NO_COLOR")


def open_console(*, to_stderr: bool = False) -> Console:
    """A console of rich. Raises ImportError if there is no rich."""
    from rich.console import Console

    return Console(stderr=to_stderr, highlight=False, no_color=not is_coloured())


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

        console = open_console(to_stderr=True)
    except ImportError:
        yield lambda label, done, total: None
        return
    columns: list[progress.ProgressColumn] = [
        progress.TextColumn("{task.description:8}"),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
    ]
    if console.width >= WIDTH:
        columns[1:1] = [progress.BarColumn(bar_width=30)]
        columns.append(progress.TimeRemainingColumn())
    tasks: dict[str, progress.TaskID] = {}
    with progress.Progress(*columns, console=console, redirect_stdout=False) as bars:

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
        _say(_wrapped(text))

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
        _say("")
        widths = _widths(columns, rows)
        if not _fits(widths):
            for line in _row_by_row(columns, rows):
                _say(line)
            return
        for row in columns, *rows:
            first, *others = (
                cell.rjust(wide) if number else cell.ljust(wide)
                for number, (cell, wide) in enumerate(zip(row, widths, strict=True))
            )
            _say(INDENT + GAP.join([first, *others]))
        _say("")

    def verdict(self, text: str, good: bool) -> None:
        _say(_labelled("ok" if good else "FAILED", text))


def _say(text: str) -> None:
    print(text, flush=True)


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, width(), break_long_words=False, break_on_hyphens=False))


def _labelled(label: str, text: str) -> str:
    indent = " " * (LABEL + 2)
    lines = textwrap.wrap(text, width() - len(indent), break_long_words=False, break_on_hyphens=False)
    return f"  {label:{LABEL}}" + f"\n{indent}".join(lines)


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]


def _row_by_row(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table that is too wide: the first cell of a row, and below it a line for each other one."""
    name_width = max(map(len, columns[1:]))
    cell_width = max((len(cell) for row in rows for cell in row[1:]), default=0)
    for first, *others in rows:
        yield INDENT + first.strip()
        for column, cell in zip(columns[1:], others, strict=True):
            if cell:
                yield f"{INDENT}  {column:{name_width}}  {cell:>{cell_width}}"
        yield ""


class RichDisplay:
    """Colours and progress bars."""

    def __init__(self) -> None:
        self._console = open_console()
        self._console.width = width()
        self._console.soft_wrap = True  # else rich breaks words that are longer than a line

    def title(self, text: str) -> None:
        self._console.print()
        self._console.print(_wrapped(text), style="bold", markup=False)

    def fact(self, label: str, text: str) -> None:
        from rich.text import Text

        line = Text(_labelled(label, text))
        line.stylize("cyan", 0, LABEL + 2)
        self._console.print(line)

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Advance]:
        from rich import progress

        console = open_console()
        console.width = width()
        columns: list[progress.ProgressColumn] = [
            progress.TextColumn(f"  [cyan]{{task.description:{LABEL - 1}}}"),
            progress.TaskProgressColumn(),
            progress.DownloadColumn(),
        ]
        if console.width >= WIDTH:
            columns[1:1] = [progress.BarColumn(bar_width=30)]
            columns.append(progress.TransferSpeedColumn())
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
        widths = _widths(columns, rows)
        if not _fits([*widths, -1]):  # rich has a space more on either side
            self._console.print()
            for line in _row_by_row(columns, rows):
                self._console.print(line, markup=False, style="" if line.startswith(f"{INDENT} ") else "cyan")
            return
        self._console.print(table, width=max(self._console.width, _needed([*widths, -1])))

    def verdict(self, text: str, good: bool) -> None:
        from rich.text import Text

        line = Text(_labelled("✓" if good else "✗", text), style="bold green" if good else "bold red")
        self._console.print(line)
