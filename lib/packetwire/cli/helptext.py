"""The form of help texts: examples keep their lines, and the exit status has a paragraph of its own."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

EXAMPLES = "examples:"
"""The line above the examples at the end of a help text; each one is a line of its own."""


def examples(*lines: str) -> str:
    """The end of a help text: command lines that can be copied."""
    return "\n".join([EXAMPLES, *(f"  {line}" for line in lines)])


def example_lines(epilog: str | None) -> list[str]:
    """The command lines in what `examples` made."""
    return [line.strip() for line in (epilog or "").splitlines()[1:]]


def paragraphs(description: str | None) -> list[str]:
    """The paragraphs of a description, each in one line; the last one is the exit status, if that is told."""
    found: Sequence[str] = re.split(r"\s+(?=Exit status: )", (description or "").strip())
    return [" ".join(each.split()) for each in found if each.strip()]


class HelpText(argparse.HelpFormatter):
    """Wraps descriptions paragraph by paragraph, and no examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(EXAMPLES):
            return "\n".join(indent + line for line in text.splitlines())
        return "\n\n".join(super(HelpText, self)._fill_text(each, width, indent) for each in paragraphs(text))
