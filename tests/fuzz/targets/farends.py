"""What comes before the first packet: the line of digits, the commands that ask for it, and what is shipped."""

from __future__ import annotations

import bz2
import os
import re
import shlex
from random import Random
from typing import Any

from packetwire.core.preamble import DIGITS, PREAMBLE_LIMIT, Preamble, asked_digits, asking, can_exec, line
from packetwire.ship.command import LENGTH_DIGITS, STUB, packed
from packetwire.ship.loader import ROOT, ShippedModules

from ..frames import pack, unpack
from ..mutators import frames_mutator, headed_mutator, octets_mutator
from ..target import Target, choices_of, chunks_of

SAID = "0123456789abcdef"

# the line

NOT_THERE = "the line has not come"
TOO_LATE = "the line can come no more"


def hear_preamble(octets: bytes) -> list[str]:
    if octets[:1] == b"\1":
        return _hear_command(octets[1:].decode("utf-8", "surrogateescape"))
    came = octets[1:]
    at = came.find(line(SAID))
    preamble = Preamble(SAID)
    taken = b""
    for chunk in chunks_of(came):
        assert not preamble.found
        taken += chunk
        if preamble.receive(chunk) or preamble.is_too_long:
            break
    assert preamble.found is (0 <= at <= PREAMBLE_LIMIT and len(taken) >= at + len(line(SAID)))
    assert len(preamble.quoted) < 4000
    if preamble.found:
        assert preamble.skipped == came[:at]
        assert preamble.skipped + line(SAID) + preamble.rest == taken
        return []
    assert preamble.skipped == taken
    assert preamble.rest == b""
    return [TOO_LATE if preamble.is_too_long else NOT_THERE]


def _hear_command(command: str) -> list[str]:
    assert asked_digits(asking(command, SAID)) in (SAID, asked_digits(command))
    found = asked_digits(command)
    assert found is None or re.fullmatch(f"[0-9a-f]{{{DIGITS}}}", found)
    if can_exec(command):
        assert shlex.split(command, comments=False)
    return []


LINES = [line(SAID), line("f" * DIGITS), line(SAID)[:-1], line(SAID) * 2, b"\r\n" + line(SAID)]
PREAMBLES = [
    *(b"\0Welcome!" + each + b"\x03\0\x02\0" for each in LINES),
    b"\0" + bytes(PREAMBLE_LIMIT) + LINES[0],
    b"\0" + bytes(PREAMBLE_LIMIT + 1) + LINES[0],
    *(b"\1" + each for each in (b"cat", b"sh -lc 'cd x; cat'", b"FOO=1 cat | wc", b'echo "', b"a 'b c' # d")),
    b"\1" + asking("bash -lc 'cat file'", SAID).encode(),
]

# shipping

CUT_OFF, NO_LENGTH, DAMAGED, NO_PROGRAM = "it ends too early", "no length", "it is damaged", "no program in it"
LOADER = "def run(*given):\n    import builtins\n    builtins.packetwire_fuzz.append(given)\n"
HIDES = "it hides modules"


class Stopped(Exception):
    """In place of the end of the process."""


def stub_reads(octets: bytes) -> tuple[list[Any], bytes]:
    """What the program of one line makes of this at its standard input, and what it leaves there."""
    left = octets
    chunk = choices_of(octets).randrange(1, 2000)

    def read(fd: int, size: int) -> bytes:
        nonlocal left
        assert fd == 0
        data, left = left[: min(size, chunk)], left[min(size, chunk) :]
        return data

    def leave(status: object) -> None:
        raise Stopped if status == 1 else AssertionError(status)

    import builtins
    import sys

    given: list[Any] = []
    before, os.read = os.read, read
    exits, sys.exit = sys.exit, leave  # type: ignore[assignment]
    builtins.packetwire_fuzz = given  # type: ignore[attr-defined]
    try:
        exec(STUB, {"__name__": "__main__"})
    finally:
        os.read, sys.exit = before, exits
        del builtins.packetwire_fuzz  # type: ignore[attr-defined]
    return given, left


def hear_shipped(octets: bytes) -> list[str]:
    if octets[:1] == b"\1":
        return _hear_damaged(octets[1:])
    service, *parts = unpack(octets[1:]) or [b""]
    texts = [part.decode("utf-8", "replace").replace("\0", " ") for part in parts]
    files = dict(zip(texts[::2], texts[1::2], strict=False))
    absent = dict(zip(texts[2::5], texts[4::5], strict=False))
    name = service.decode("utf-8", "replace").replace("\0", " ")
    sent = packed(LOADER, name, SAID, files, absent)
    ((found, told, digits, missing),), left = stub_reads(sent + b"packets")
    assert left == b"packets"
    assert (told, digits, missing) == (name, SAID, absent)
    assert dict(zip(found[::2], found[1::2], strict=True)) == files
    shipped = ShippedModules(files, absent)
    for path in files:
        module = path[:-3].replace("/", ".").removesuffix(".__init__")
        spec = shipped.find_spec(module)
        assert spec is not None
        assert str(spec.origin).startswith(ROOT)
        assert shipped.get_source(module) in files.values()
        try:
            shipped.get_code(module)
        except (SyntaxError, ValueError):
            pass  # told at the far end, as for any other module
    return [HIDES] if shipped.hidden() else []


def _hear_damaged(octets: bytes) -> list[str]:
    """What no near end sends: nothing of it is run, and the process ends."""
    try:
        given, _ = stub_reads(octets)
    except Stopped:
        return [CUT_OFF]
    except ValueError as error:
        return [NO_LENGTH if "int()" in str(error) else DAMAGED]
    except (OSError, EOFError, UnicodeDecodeError):
        return [DAMAGED]
    return [] if given else [NO_PROGRAM]


WHOLE = packed(LOADER, "shop:Shop", SAID, {"shop.py": "class Shop: pass\n"}, {"numpy": "it is installed"})
SHIPPED = [
    b"\0" + pack([b"shop:Shop", b"shop.py", b"class Shop:\n    pass\n", b"a/__init__.py", b"import a.b"]),
    b"\0" + pack([b"x:Y", b"json.py", b"'''", "Ä.py".encode(), "# Ä'\"\\".encode(), b"why", b"not"]),
    b"\1" + WHOLE,
]
_mutate_parts = frames_mutator(
    octets_mutator([b"'", b'"', b"\\", b"\0", b"\n", b".py", b"/__init__.py", "Ä\u2028".encode()]), SHIPPED[:2]
)
_mutate_whole = octets_mutator([b"0" * LENGTH_DIGITS, b"-0000001", b" 1_0 0 0", bz2.compress(b"")], [WHOLE])


def mutate_shipped(octets: bytes, random: Random) -> bytes:
    """Other parts, or other octets of the whole."""
    mutate = _mutate_whole if octets[:1] == b"\1" else _mutate_parts
    return (octets[:1] or b"\0") + mutate(octets[1:], random)


TARGETS = (
    Target(
        name="preambles",
        seeds=PREAMBLES,
        mutate=headed_mutator(octets_mutator([*LINES, b"\n", b"'", b'"', b"; ", b"exec "], PREAMBLES), 2),
        hear=hear_preamble,
        reasons=frozenset({NOT_THERE, TOO_LATE}),
        growth=3000,
    ),
    Target(
        name="ship",
        seeds=SHIPPED,
        mutate=mutate_shipped,
        hear=hear_shipped,
        reasons=frozenset({CUT_OFF, NO_LENGTH, DAMAGED, NO_PROGRAM, HIDES}),
        besides=1 << 24,  # for bz2
    ),
)
