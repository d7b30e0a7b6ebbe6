"""Addresses of other machines, by the `ssh` program: of a command there, or of a service that is sent."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from packetwire.errors import LocalProtocolError

if TYPE_CHECKING:
    from packetwire.ship.shipment import Ship
    from packetwire.streams.bytestream import ByteStream

SSH_ALIVE_INTERVAL = 30
"""Seconds of silence after which `ssh` asks whether the other machine is there; it gives up after three times."""
SSH_CONFIG_SECONDS = 10.0
"""Seconds for `ssh` to tell its configuration."""

SSH_FLAGS = frozenset("46AaCgKkMqsTvXxYy")
SSH_OPTIONS_WITH_VALUE = frozenset("BbcDEeFIiJLlmoPpRSw")
"""Options of `ssh` that make sense with a command whose standard input and output are a connection."""


@dataclass(frozen=True)
class SshAddress:
    """`ssh:[OPTIONS] HOST CMD`: a command on another machine.

    `host` may be `user@host`. `options` are those of the `ssh` program; the value of an option is a word of its
    own: `("-p", "2222")`. No terminal is allocated there, and nobody is asked for a password here (BatchMode). A
    program that gets the host from elsewhere should build this object, not a string.
    """

    host: str
    command: str
    options: tuple[str, ...] = ()

    form: ClassVar[str] = "ssh:[OPTIONS] HOST CMD"

    def __post_init__(self) -> None:
        _check_ssh(self.options, self.host)
        if not self.command:
            raise LocalProtocolError("there is no command behind the host, as in ssh:host python3 far.py")

    @classmethod
    def parse(cls, rest: str) -> Self:
        """The address of options, a host and a command. Raises ValueError."""
        options, host, command = ssh_words(rest)
        return cls(host, command, options)

    def __str__(self) -> str:
        return f"ssh:{shlex.join([*self.options, self.host])} {self.command}"

    @property
    def argv(self) -> list[str]:
        """The command that is run here. The user's options come first, as `ssh` heeds the first of two."""
        return ssh_argv(self.options, self.host, self.command)

    def open(self, timeout: float, sync: bool | str = False) -> ByteStream:
        """Start `ssh`; `sync` as for `child`. Raises OSError if there is no such program.

        If neither the options nor the user's configuration has a ServerAliveInterval, ours is set, so that a dead
        link ends the connection.
        """
        from packetwire.streams.process import child

        alive = alive_options(self.options, self.host, timeout)
        argv = ssh_argv(self.options, self.host, self.command, alive)
        stream = child(argv, sync=sync, sync_timeout=timeout)()
        stream.is_remote = True
        return stream


@dataclass(frozen=True)
class ShipAddress:
    """`ship:[OPTIONS] HOST:MODULE:NAME [PYTHON]`: a service of ours on another machine, which needs only Python.

    The modules that it needs are sent there by `ssh`, and run; see `packetwire.Ship`. `python` is the command of a
    Python of 3.11 or newer there; without it `python3.14` to `python3.11` are tried, then `python3`.
    """

    host: str
    ship: Ship
    options: tuple[str, ...] = ()
    python: str = ""

    form: ClassVar[str] = "ship:[OPTIONS] HOST:MODULE:NAME"

    def __post_init__(self) -> None:
        _check_ssh(self.options, self.host)

    @classmethod
    def parse(cls, rest: str) -> Self:
        """The address of options, a host with a service, and perhaps a command. Raises ValueError."""
        options, word, python = ssh_words(rest)
        host, module, name = ("", *word.rsplit(":", 2))[-3:]
        return cls(host, as_ship(f"{module}:{name}"), options, python)

    def __str__(self) -> str:
        words = shlex.join([*self.options, f"{self.host}:{self.ship.service}"])
        return f"ship:{words}" + (f" {self.python}" if self.python else "")

    def open(self, timeout: float) -> ByteStream:
        """Start `ssh`, and send what is needed. Raises OSError, or `PreambleMissing`, within `timeout` seconds."""
        alive = alive_options(self.options, self.host, timeout)
        command = self.ship.shell_command(self.python)
        stream = self.ship.open(ssh_argv(self.options, self.host, command, alive), timeout, str(self))
        stream.is_remote = True
        return stream


def as_ship(ship: str | Ship) -> Ship:
    """The `Ship` for an argument `ship`."""
    from packetwire.ship.shipment import Ship

    return Ship(ship) if isinstance(ship, str) else ship


def ssh_words(rest: str) -> tuple[tuple[str, ...], str, str]:
    """The options, the host and the rest of what follows ssh:. Raises ValueError."""
    text = io.StringIO(rest)  # to take words up to the host, and then the rest as it is
    words = shlex.shlex(text, posix=True)
    words.whitespace_split = True
    words.commenters = ""
    options = []
    word = words.get_token() or ""
    while word.startswith("-") and word != "--":
        options.append(word)
        if _ssh_option_has_value(word):
            options += filter(None, [words.get_token()])
        word = words.get_token() or ""
    host = (words.get_token() or "") if word == "--" else word
    return tuple(options), host, text.read().strip()


def _check_ssh(options: Sequence[str], host: str) -> None:
    words = iter(options)
    for word in words:
        if _ssh_option_has_value(word) and next(words, None) is None:
            raise LocalProtocolError(f"the ssh option {word} needs a value")
    if not host or host.startswith("-"):
        raise LocalProtocolError(f"invalid host {host!r}")


def ssh_argv(options: Sequence[str], host: str, command: str, more: Sequence[str] = ()) -> list[str]:
    return ["ssh", *options, "-T", "-o", "BatchMode=yes", *more, "--", host, command]


def alive_options(options: Sequence[str], host: str, timeout: float) -> list[str]:
    """The options to add: an interval, if `ssh -G` says that there is none.

    An option of the command line overrides the configuration, so it is added only if none is there.
    """
    if any("serveraliveinterval" in word.lower() for word in options):
        return []
    import subprocess

    try:
        told = subprocess.run(
            ["ssh", "-G", *options, "--", host],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=min(timeout, SSH_CONFIG_SECONDS),
        )
    except (OSError, subprocess.TimeoutExpired):
        return []  # whatever is wrong, the connection itself will fail with it
    found = re.search(rb"^serveraliveinterval +(\S+)", told.stdout, re.MULTILINE | re.IGNORECASE)
    return ["-o", f"ServerAliveInterval={SSH_ALIVE_INTERVAL}"] if found and found[1] == b"0" else []


def _ssh_option_has_value(word: str) -> bool:
    """True if an option takes a value. Raises `LocalProtocolError` if it is invalid, or makes no sense here.

    A value joined to its option is refused, so that a host like -oProxyCommand=… is never taken for an option.
    """
    letters = word[1:]
    if word.startswith("-") and letters and SSH_FLAGS.issuperset(letters):
        return False
    if word.startswith("-") and letters in SSH_OPTIONS_WITH_VALUE:
        return True
    if word[:1] == "-" and letters[:1] in SSH_OPTIONS_WITH_VALUE:
        raise LocalProtocolError(f"write {word!r} as two words, {word[:2]} {letters[1:]}")
    raise LocalProtocolError(f"{word!r} is not an option of ssh that can be used here")
