"""The outcomes of checks, as lines for people and as JUnit's XML for machines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from xml.sax.saxutils import escape, quoteattr

from packetwire.conformance.play import Line, Outcome, Verdict
from packetwire.conformance.table import Check
from packetwire.printable import printable

MOST_BYTES = 48
"""Bytes of a line of a transcript that are shown, at most."""
MOST_LINES = 20
INDENT = " " * 13


def lines_about(check: Check, outcome: Outcome) -> Iterator[str]:
    """The lines for people: one, and what was sent and came if it failed. A * marks what the failure is about."""
    verdict = outcome.verdict.upper() if outcome.verdict is Verdict.FAILED else outcome.verdict
    reason = f": {printable(outcome.reason)}" if outcome.verdict is Verdict.SKIPPED else ""
    yield f"{check.number:3} {verdict:8} {check.title}{reason}"
    if outcome.verdict is Verdict.FAILED:
        yield f"{INDENT}{printable(outcome.reason)} (docs/wire.md: {check.section})"
        yield from transcript(outcome.lines)


def transcript(lines: Sequence[Line]) -> Iterator[str]:
    """The last lines of what was sent and what came."""
    if len(lines) > MOST_LINES:
        yield f"{INDENT}… {len(lines) - MOST_LINES} lines before"
    shown = lines[-MOST_LINES:]
    for line in shown:
        mark = "* " if line is shown[-1] else "  "
        data = line.data[:MOST_BYTES].hex(" ")
        if len(line.data) > MOST_BYTES:
            data += f" … {len(line.data)} bytes"
        yield f"{INDENT[2:]}{mark}{' '.join(filter(None, (line.sign, data, _remark(line))))}"


def _remark(line: Line) -> str:
    text = printable(line.text)
    return f"({text})" if line.sign and text else text


def junit(name: str, outcomes: Iterable[tuple[Check, Outcome]]) -> str:
    """The outcomes as a test suite of JUnit."""
    cases = list(outcomes)
    failed = sum(outcome.verdict is Verdict.FAILED for _, outcome in cases)
    skipped = sum(outcome.verdict is Verdict.SKIPPED for _, outcome in cases)
    head = f'tests="{len(cases)}" failures="{failed}" errors="0" skipped="{skipped}"'
    return "".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>\n',
            f"<testsuite name={quoteattr(printable(name))} {head}>\n",
            *(_case(check, outcome) for check, outcome in cases),
            "</testsuite>\n",
        ]
    )


def _case(check: Check, outcome: Outcome) -> str:
    begin = f"  <testcase classname={quoteattr(check.section)} name={quoteattr(f'{check.number} {check.title}')}"
    message = quoteattr(printable(outcome.reason))
    if outcome.verdict is Verdict.PASSED:
        return f"{begin}/>\n"
    if outcome.verdict is Verdict.SKIPPED:
        return f"{begin}><skipped message={message}/></testcase>\n"
    text = escape("\n".join(transcript(outcome.lines)))
    return f"{begin}><failure message={message}>{text}</failure></testcase>\n"
