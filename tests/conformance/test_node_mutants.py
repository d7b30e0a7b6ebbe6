"""Each check that applies to the shop in Node.js finds a fault that is put into a copy of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from packetwire import connect_to
from packetwire.conformance.farends import Connecting
from packetwire.conformance.play import Verdict
from packetwire.conformance.running import Runner
from packetwire.conformance.table import CHECKS, Check
from packetwire.conformance.talk import FarEnd
from packetwire.core.hello import CONTROL_CHANNEL, HELLO

SHOP = (Path(__file__).parents[2] / "docs" / "examples" / "shop.mjs").read_text()
NODE = shutil.which("node")
UNANSWERED = 2.0
"""Seconds to wait for a far end that may have lost the request."""

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(120),
    pytest.mark.skipif(NODE is None, reason="node is not installed"),
]

Mutant = tuple[tuple[str, str], ...]

INTEGER = "at + size < end && size < 9"
READ = "const [n, behind] = integerAt(at, end);"
FIELDS = "const tag = read(), flags = read(),"
REQUEST_TYPE = "type = flags & 2n ? read() : undefined;"
FUNCTION = "let rest = Buffer.alloc(0), "
REFUSED = 'let answer = refused(asks ? `channel ${channel} is not served` : "requests no longer allowed");'
ANSWERED = "if (asks && channel === 0n) answer ="
WRITTEN = "output.write(packet(tag, answer[0] | where.length, answer[1], ...where));"
ASKED = "else if (type > 0n) {"
SPECIAL = "else if (flags === 2n && tag < 2n && payload.length === 0)"
ENDED = "tag > 0n ? (asks = false) : stop();"
RESERVED = 'else throw new Error("type 0 is reserved");'
EACH = "while (!over) {"
OVER = 'input.on("end", () => over || stop());'
END = "const END = Buffer.concat([packet(1, 2, [], 0), packet(0, 2, [], 0)]);"
HEARD = "rest = Buffer.concat([rest, chunk]);"
BEGUN = 'input.on("data", (chunk) => {'
EMPTY = "Buffer.alloc(0)"
FOR_EVER = "setInterval(() => {}, 1000)"


def at_first(text: str) -> Mutant:
    """It sends something before anything else."""
    return ((BEGUN, f"output.write({text});\n  {BEGUN}"),)


def ending_with(*packets: str) -> Mutant:
    return ((END, f"const END = Buffer.concat([{', '.join(packets)}]);"),)


def with_ok(channel: int) -> Mutant:
    """What is on a channel that is not served is answered ok."""
    return ((ANSWERED, f"if (channel === {channel}n) answer = [4, {EMPTY}];\n      {ANSWERED}"),)


def after(count: int) -> Mutant:
    """It stops answering."""
    return ((FUNCTION, f"let count = 0, {FUNCTION[4:]}"), (ASKED, f"{ASKED}\n      if (++count > {count}) return;"))


SEEN: Mutant = (
    (FUNCTION, f"const seen = new Set();\n  {FUNCTION}"),
    (ASKED, f"{ASKED}\n      if (channel === 0n && seen.has(tag)) return;\n      seen.add(tag);"),
)
ERQ_PACKET, EOF_PACKET = "packet(1, 2, [], 0)", "packet(0, 2, [], 0)"

MUTANTS: dict[int, Mutant] = {
    1: ((WRITTEN, WRITTEN.replace("packet(tag,", "packet(tag + 1n,")),),
    2: (("n = n * 128n", "n = n * 64n"),),
    3: ((INTEGER, INTEGER.replace("9", "2")),),
    4: ((INTEGER, INTEGER.replace("9", "8")),),
    5: ((EACH, f"{EACH}\n        if (rest[0] === 128) return void stop();"),),
    6: ((READ, f'if (rest[at] === 128) throw new Error("it is too long");\n      {READ}'),),
    7: (("flags & 1n ? read() : 0n", "flags & 1n ? read() || 9n : 0n"),),
    8: ((FIELDS, f"{FIELDS} fits = flags < 1n << 56n || stop(),"),),
    9: ((REQUEST_TYPE, f"{REQUEST_TYPE[:-1]}, fits = !(type > 1n << 56n) || stop();"),),
    10: (("const LONGEST = 1n << 26n", "const LONGEST = 1n << 16n"),),
    12: ((EACH, "for (let some = 0; !over && some < 1; some++) {"),),
    13: (
        (FUNCTION, f"let answers = 0, {FUNCTION[4:]}"),
        (ASKED, f"{ASKED}\n      answers++;"),
        ("output.end(END)", "output.end(answers > 0 ? END : undefined)"),
    ),
    14: after(30),
    15: after(5000),
    16: (
        (FUNCTION, f"let last = 0n, {FUNCTION[4:]}"),
        (ASKED, f"{ASKED}\n      if (tag < last) return;\n      last = tag;"),
    ),
    17: SEEN,
    18: SEEN,
    19: (("channel > 0n ? [channel] : []", "channel > 0n ? [channel + 1n] : []"),),
    20: with_ok(15),
    21: with_ok(1),
    22: with_ok(2),
    23: ((ANSWERED, f"if (!asks) answer = [4, {EMPTY}];\n      {ANSWERED}"),),
    24: ((WRITTEN, f"setImmediate(() => asks && {WRITTEN[:-1]});"),),
    25: ((ENDED, ENDED.replace("tag > 0n", "tag > 0n && asks")),),
    26: ((ENDED, ENDED.replace(": stop()", ": asks || stop()")),),
    27: ((ENDED, ENDED.replace(": stop()", ": end > 4 || stop()")),),
    28: (
        (
            ENDED,
            ENDED.replace(
                ": stop()", ": (rest = Buffer.concat([rest.subarray(0, end), rest.subarray(-4)]), (asks = true))"
            ),
        ),
    ),
    29: ((OVER, f'input.on("end", () => over || {FOR_EVER});'),),
    30: ((WRITTEN, f"setTimeout(() => {WRITTEN[:-1]}, 100);"), (OVER, 'input.on("end", () => process.exit());')),
    31: ((OVER, f'input.on("end", () => over || (rest.length > 0 ? {FOR_EVER} : stop()));'),),
    32: ((INTEGER, INTEGER.replace("9", "10")), ("rest.length < 9", "rest.length < 10")),
    33: ((INTEGER, INTEGER.replace("9", "10")), ("rest.length < 9", "rest.length < 10")),
    34: (('if (!(length <= LONGEST)) throw new Error("it is too long");', ""),),
    35: (("take(at, end);", "if (length > 0n) take(at, end);"),),
    36: ((READ, READ.replace("end", "rest.length")),),
    37: ((REQUEST_TYPE, "type = flags & 2n ? (at < end ? read() : 1n) : undefined;"),),
    38: ((RESERVED, RESERVED.replace("else", "else if (flags === 2n && tag < 2n)")),),
    39: ((RESERVED, RESERVED.replace("else", "else if (payload.length === 0)")),),
    40: ((RESERVED, RESERVED.replace("else", "else if (channel === 0n)")),),
    41: ((RESERVED, RESERVED.replace("else", "else if (flags < 4n)")),),
    42: (("answered = () => false", "answered = () => true"),),
    43: (("if (channel > 0n || !answered", "if (channel === 0n && !answered"),),
    44: ((ASKED, f'{ASKED}\n      if (channel === {CONTROL_CHANNEL}n) throw new Error("it is not known");'),),
    52: at_first(f"packet(2, 3, {EMPTY}, {CONTROL_CHANNEL}, {HELLO + 1})"),
    90: ((WRITTEN, f"{WRITTEN} if (tag === 300n) output.write(Buffer.alloc(12, 255));"),),
    91: (("return Buffer.from(bytes);", "return Buffer.from([128, ...bytes]);"),),
    92: (
        (
            "return Buffer.concat([integer(body.length), body]);",
            "return Buffer.concat([Buffer.from([128]), integer(body.length), body]);",
        ),
    ),
    93: ((WRITTEN, WRITTEN.replace("answer[0] | where.length", "answer[0] | 1").replace("...where", "channel")),),
    97: ((WRITTEN, f"{WRITTEN} {WRITTEN}"),),
    98: ending_with(ERQ_PACKET, "packet(2, 2, [], 1)", EOF_PACKET),
    99: ending_with(ERQ_PACKET, ERQ_PACKET, EOF_PACKET),
    100: ending_with(EOF_PACKET),
    101: ending_with(ERQ_PACKET, EOF_PACKET, ERQ_PACKET),
    102: (*ending_with(ERQ_PACKET), ("output.end(END)", "output.end(END, () => process.exit())")),
}
IN_ONE_PIECE = {11}
"""Its bytes are sent one by one, but all have come before the program has begun to read."""
NUMBERED = {check.number: check for check in CHECKS}


def verdicts(program: Path, checks: list[Check], timeout: float) -> dict[int, Verdict]:
    ends = Connecting(connect_to(f"exec:{NODE} {program}"))
    runner = Runner(ends, FarEnd(), timeout)
    try:
        runner.probe()
        return {check.number: outcome.verdict for check, outcome in runner.run(checks)}
    finally:
        ends.close()


@pytest.mark.parametrize("number", MUTANTS)
def test_a_fault_of_the_shop_is_found(number: int, tmp_path: Path) -> None:
    source = SHOP
    for old, new in MUTANTS[number]:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    program = tmp_path / "shop.mjs"
    program.write_text(source)
    assert verdicts(program, [NUMBERED[number]], UNANSWERED) == {number: Verdict.FAILED}


def test_each_check_that_applies_has_a_mutant(tmp_path: Path) -> None:
    (tmp_path / "shop.mjs").write_text(SHOP)
    checks = [check for check in CHECKS if "server" in check.roles]
    found = verdicts(tmp_path / "shop.mjs", checks, 20.0)
    assert set(found.values()) == {Verdict.PASSED, Verdict.SKIPPED}
    assert {number for number, verdict in found.items() if verdict is Verdict.PASSED} == set(MUTANTS) | IN_ONE_PIECE
