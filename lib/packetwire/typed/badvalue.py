"""`BadValue`: a value that is not of the kind that its annotation says, and where it stands.

Strategy. Nothing is noted on the way down, as most values are right. A refusal is raised where the fault is, as a
`Refusal`, and each container that it passes on its way up adds the step that leads there.
"""

from __future__ import annotations

from typing import Self

from packetwire.errors import PacketwireError

QUOTED_CHARACTERS = 60
"""Characters of a key or a value that a path or a problem shows, at most."""


class BadValue(PacketwireError, ValueError):
    """A value, or a payload, is not what the annotations say; `path` tells where, `problem` what.

    In a path "$" is the whole, ".name" a field, "[2]" an item and "['key']" an entry of a dict.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        return type(self), (self.path, self.problem)


class Refusal(Exception):
    """A fault whose path is being collected; it becomes a `BadValue` at the top."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self._problem = problem
        self._steps: list[str] = []

    def under(self, step: str) -> None:
        """It lies below that step: `.name`, `[2]` or `['key']`."""
        self._steps.append(step)

    def as_bad_value(self) -> BadValue:
        """The exception for the user, with the same cause."""
        bad = BadValue("$" + "".join(reversed(self._steps)), self._problem)
        bad.__cause__ = self.__cause__
        return bad


def expected(kind: str, found: str) -> Refusal:
    """The refusal of a value of another kind."""
    return Refusal(f"expected {kind}, got {found}")


def quoted(value: object) -> str:
    """A value for the text of an error, cut to a bearable length."""
    try:
        text = repr(value)
    except Exception:  # a user's own class
        text = f"<{type(value).__name__}>"
    return text if len(text) <= QUOTED_CHARACTERS else text[:QUOTED_CHARACTERS] + "…"
