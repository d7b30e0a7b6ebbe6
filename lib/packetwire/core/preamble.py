"""The line that separates what a shell says at login from the first packet.

The near end makes 16 hexadecimal digits up and has the far end print a line with them right before the program
starts. All up to that line is dropped. Nobody can print it by chance; it keeps noise out, not attackers. In the
shell command the digits stand apart from the word before them, so a shell that echoes its commands does not print
the line too early.

Pure: the caller reads the stream and watches the time.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from packetwire.errors import LocalProtocolError

PREAMBLE_LIMIT = 64 << 10
"""Bytes that may come before the line."""
DIGITS = 16
"""Hexadecimal digits in the line."""
QUOTED = 200
"""Bytes at either end of what came instead of the line that a message quotes."""

_NOT_FOR_EXEC = frozenset(
    [
        *("!", "{", "[[", "case", "for", "function", "if", "in", "select", "then", "time", "until", "while"),
        *(".", ":", "alias", "bg", "break", "builtin", "cd", "command", "continue", "coproc", "declare"),
        *("eval", "exec", "exit", "export", "fg", "local", "popd", "pushd", "read", "readonly", "return"),
        *("set", "shift", "shopt", "source", "trap", "type", "typeset", "ulimit", "umask", "unalias"),
        *("unset", "wait"),
    ]
)
"""Words of a shell that are no programs."""
_ASKED = re.compile(r"\\npacketwire-%s\\n\W+([0-9a-f]{16}); ")
_SHELL = re.compile(r"((?:[\w./-]*/)?(?:a|ba|da|k|z)?sh(?: -[a-zA-Z]+)* -[a-zA-Z]*c) ('.*')", re.DOTALL)
"""The command of a shell for another shell, if the command for that is in one pair of quotes."""


def line(digits: str) -> bytes:
    """The line, with the newline before it: that ends a greeting that has none."""
    return b"\npacketwire-%s\n" % digits.encode()


def checked_digits(digits: object) -> str:
    """The digits that a user chose. Raises `LocalProtocolError` or TypeError if they are none."""
    if not isinstance(digits, str):
        raise TypeError(f"sync must be True, False or {DIGITS} hexadecimal digits, got {digits!r:.100}")
    if not re.fullmatch(f"[0-9a-f]{{{DIGITS}}}", digits):
        raise LocalProtocolError(f"sync must be {DIGITS} hexadecimal digits, in lower case, got {digits!r:.100}")
    return digits


def asking(command: str, digits: str) -> str:
    """A shell command that prints the line and then becomes `command`.

    If that is `sh -lc 'CMD'` the inner shell prints it, as that may say something, too.
    """
    shell = _SHELL.fullmatch(command)
    if shell and _is_one_word(shell[2]):
        return f"exec {shell[1]} {shlex.quote(asking(shlex.split(shell[2])[0], digits))}"
    return rf"printf '\npacketwire-%s\n' {digits}; {'exec ' if can_exec(command) else ''}{command}"


def _is_one_word(text: str) -> bool:
    """True if a quoted word is only that: a shell changes nothing in it."""
    try:
        words = shlex.split(text)
    except ValueError:
        return False
    return len(words) == 1 and shlex.quote(words[0]) == text


def argv_asking(argv: Sequence[str], digits: str) -> list[str]:
    """`argv`, whose last word is a command for a shell, with that command printing the line first.

    Raises `LocalProtocolError` if there is no such word.
    """
    *words, command = argv
    if not words or not command.strip():
        raise LocalProtocolError(
            f"sync=True needs a command for a shell as the last word, as in ssh HOST CMD; got {shlex.join(argv)}"
        )
    return [*words, asking(command, digits)]


def asked_digits(command: str) -> str | None:
    """The digits of the line that the command of `asking` would print; None for another command."""
    found = _ASKED.search(command)
    return found[1] if found else None


def can_exec(command: str) -> bool:
    """True if a shell can replace itself by this command: a program and its arguments, and nothing more."""
    words = shlex.shlex(command, posix=True, punctuation_chars="();<>|&\n`")
    words.commenters = ""
    words.whitespace = " \t\r"
    words.whitespace_split = True
    try:
        found = list(words)
    except ValueError:  # a quotation that does not end
        return False
    if not found or found[0] in _NOT_FOR_EXEC or re.match(r"\w+\+?=", found[0]):
        return False
    return not any(word and set(word) <= set("();<>|&\n`") for word in found)


def check_sync(argv: Sequence[str], sync: bool | str) -> None:
    """Raise `LocalProtocolError` or TypeError for an option `sync` that makes no sense with this command."""
    if sync is True:
        argv_asking(argv, "")
    elif sync is not False:
        checked_digits(sync)


class Preamble:
    """Looks for the line with these digits in what comes."""

    def __init__(self, digits: str) -> None:
        self._line = line(digits)
        self._came = bytearray()
        self._at = -1

    def receive(self, data: bytes) -> bool:
        """Take bytes in; True when the line is there, and then no more are to be taken in."""
        start = max(0, len(self._came) - len(self._line) + 1)
        self._came += data
        self._at = self._came.find(self._line, start, PREAMBLE_LIMIT + len(self._line))
        return self.found

    @property
    def found(self) -> bool:
        """True if the line has come."""
        return self._at >= 0

    @property
    def skipped(self) -> bytes:
        """The bytes before the line, or all if it has not come."""
        return bytes(self._came[: self._at] if self.found else self._came)

    @property
    def rest(self) -> bytes:
        """The bytes behind the line."""
        return bytes(self._came[self._at + len(self._line) :]) if self.found else b""

    @property
    def is_too_long(self) -> bool:
        """True if the line can no longer come within the limit."""
        return not self.found and len(self._came) >= PREAMBLE_LIMIT + len(self._line)

    @property
    def quoted(self) -> str:
        """The first and the last of what came, for a message."""
        came = self.skipped
        if not came:
            return "nothing came"
        if len(came) <= 2 * QUOTED:
            return f"{came!r} came"
        return f"{len(came)} bytes came, from {came[:QUOTED]!r} to {came[-QUOTED:]!r}"
