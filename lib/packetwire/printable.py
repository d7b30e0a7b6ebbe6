"""Texts of the peer's, or of a child's, as they are shown on a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text in one line, with nothing in it that controls a terminal."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
