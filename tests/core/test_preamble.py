"""The line that ends what a shell says at login."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from packetwire.core.preamble import (
    PREAMBLE_LIMIT,
    Preamble,
    argv_asking,
    asked_digits,
    asking,
    can_exec,
    check_sync,
    checked_digits,
    line,
)
from packetwire.errors import LocalProtocolError

DIGITS = "0123456789abcdef"
BANNERS = [b"", b"\n", b"Last login: today\n", b"no newline", b"\xff\x80\x00", line("f" * 16), line(DIGITS)[:-3]]


@pytest.mark.parametrize("banner", BANNERS)
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_it_is_found_however_it_comes(banner: bytes, size: int) -> None:
    came = banner + line(DIGITS) + b"packets"
    preamble = Preamble(DIGITS)
    for start in range(0, len(came), size):
        if preamble.receive(came[start : start + size]):
            break
    assert preamble.found
    assert preamble.skipped == banner
    assert came.startswith(banner + line(DIGITS) + preamble.rest)
    assert not preamble.is_too_long


def test_the_first_of_two_lines_ends_it() -> None:
    preamble = Preamble(DIGITS)
    assert preamble.receive(b"a" + 2 * line(DIGITS))
    assert preamble.rest == line(DIGITS)


@pytest.mark.parametrize("size", [100, 4096, 1 << 20])
def test_noise_is_bounded(size: int) -> None:
    preamble = Preamble(DIGITS)
    while not preamble.is_too_long:
        assert not preamble.receive(bytes(size))
    assert PREAMBLE_LIMIT < len(preamble.skipped) <= PREAMBLE_LIMIT + 100 + size
    assert preamble.rest == b""
    assert len(preamble.quoted) < 2000


def test_the_line_behind_the_limit_does_not_count() -> None:
    for noise, found in [(PREAMBLE_LIMIT, True), (PREAMBLE_LIMIT + 1, False)]:
        preamble = Preamble(DIGITS)
        assert preamble.receive(bytes(noise) + line(DIGITS)) == found
        assert preamble.is_too_long != found


def test_quoting() -> None:
    preamble = Preamble(DIGITS)
    assert preamble.quoted == "nothing came"
    preamble.receive(b"Welcome")
    assert preamble.quoted == "b'Welcome' came"
    preamble.receive(bytes(1000) + b"Bye")
    assert preamble.quoted.startswith(r"1010 bytes came, from b'Welcome\x00")
    assert preamble.quoted.endswith(r"\x00Bye'")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python3 server.py", True),
        ("/opt/x/bin/python3 -c 'import sys; sys.exit()'", True),
        ('sh -c "a; b"', True),
        ("sh -c a", True),
        ("server $HOME", True),
        ("a; b", False),
        ("a && b", False),
        ("a&&b", False),
        ("a | b", False),
        ("a\nb", False),
        ("(a)", False),
        ("a > log", False),
        ("a `b`", False),
        ("LANG=C a", False),
        ("cd /srv", False),
        ("if true", False),
        ("exec a", False),
        ("'unfinished", False),
        ("", False),
    ],
)
def test_commands_that_a_shell_can_become(command: str, expected: bool) -> None:
    assert can_exec(command) == expected
    assert asking(command, DIGITS).endswith(f"; {'exec ' if expected else ''}{command}")


@pytest.mark.parametrize("command", ["echo a", "cd / && pwd", "X=1 env | grep ^X", "echo 'a;b'"])
def test_a_shell_prints_the_line_first(command: str) -> None:
    plain = subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout
    for shell in (["sh", "-c"], ["sh", "-vxc"]):
        argv = argv_asking([*shell, command], DIGITS)
        done = subprocess.run(argv, capture_output=True, check=True)
        assert done.stdout == line(DIGITS) + plain
        assert line(DIGITS) not in done.stderr  # a shell that echoes its commands
        assert asked_digits(argv[-1]) == DIGITS


def test_a_command_without_a_shell() -> None:
    for argv in ["server"], ["sh", " "]:
        with pytest.raises(LocalProtocolError, match="a command for a shell as the last word"):
            argv_asking(argv, DIGITS)
    assert asked_digits("python3 server.py") is None


def test_digits() -> None:
    assert checked_digits(DIGITS) == DIGITS
    for wrong in ["", DIGITS[1:], DIGITS.upper(), DIGITS + "\n"]:
        with pytest.raises(LocalProtocolError, match="16 hexadecimal digits"):
            checked_digits(wrong)
    with pytest.raises(TypeError, match="sync must be True, False or 16 hexadecimal digits, got 5"):
        checked_digits(5)


@pytest.mark.parametrize(
    ("command", "asks"),
    [
        ("bash -lc 'cd / && pwd'", "exec bash -lc "),
        ("/bin/sh -e -c " + shlex.quote("echo 'a b'"), "exec /bin/sh -e -c "),
        ("bash -c " + shlex.quote("sh -c 'echo a b'"), "exec bash -c "),
        ("sh -c 'echo '$HOME", "printf "),
        ("sh -c 'echo $0' name", "printf "),
        ("sh -c 'a'b'", "printf "),
        ("shop -c 'a b'", "printf "),
    ],
)
def test_the_innermost_shell_prints_it(command: str, asks: str) -> None:
    asking_command = asking(command, DIGITS)
    assert asking_command.startswith(asks)
    assert asked_digits(asking_command) == DIGITS
    if asks != "printf ":
        printed = subprocess.run(["sh", "-c", f"{command}"], capture_output=True, check=True).stdout
        done = subprocess.run(["sh", "-c", asking_command], capture_output=True, check=True)
        assert done.stdout == line(DIGITS) + printed


def test_an_option_that_makes_sense() -> None:
    check_sync(["sh", "-c", "a"], True)
    check_sync(["a"], False)
    check_sync(["a"], DIGITS)
    with pytest.raises(LocalProtocolError):
        check_sync(["a"], True)
    with pytest.raises(LocalProtocolError):
        check_sync(["a"], "1")
