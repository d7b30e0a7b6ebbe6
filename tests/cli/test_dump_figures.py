"""The figures of `packetwire dump --summary`: what is counted, and how little is kept however much comes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from packetwire import Packet
from packetwire.capture import Kind
from packetwire.cli.conversation import Asked, Note, Seen
from packetwire.cli.dump import MAX_GROUPS, SAMPLES, Summary
from packetwire.core.packets import EOF_PACKET


def asked(rq_type: int, payload: bytes = b"", channel: int = 0) -> Seen:
    packet = Packet(is_request=True, channel=channel, tag=2, rq_type=rq_type + 1, payload=payload)
    return Seen(1, 0, Kind.FORTH, packet)


def answered(rq_type: int, latency: int, ok: bool = True) -> Seen:
    return Seen(1, latency, Kind.BACK, Packet(is_request=False, tag=2, flags=ok), Asked(0, rq_type + 1))


def shown(summary: Summary, capsys: pytest.CaptureFixture[str]) -> list[str]:
    summary.show(1, {Kind.FORTH: 0, Kind.BACK: 0})
    return capsys.readouterr().out.splitlines()


def row(lines: list[str], name: str) -> list[str]:
    """The figures in the row of that name."""
    (found,) = (line for line in lines if line.strip().startswith(f"{name} "))
    return found.strip().removeprefix(name).split()


def latencies() -> Iterator[int]:
    """Twice as many as are kept, half of them of one millisecond and the others of three."""
    for _ in range(SAMPLES):
        yield 1_000_000
        yield 3_000_000


def test_of_many_latencies_some_are_kept_and_stand_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary()
    for latency in latencies():
        summary.add(asked(7))
        summary.add(answered(7, latency))
    (group,) = summary._groups.values()
    assert len(group.samples) == SAMPLES
    assert SAMPLES // 3 < group.samples.count(1_000_000) < SAMPLES * 2 // 3
    figures = row(shown(summary, capsys), "> type 7")
    assert figures[:3] == [str(2 * SAMPLES), "0", "0"]


def test_types_beyond_the_bound_are_counted_together(capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary()
    for rq_type in range(MAX_GROUPS + 5):
        summary.add(asked(rq_type, b"x"))
    summary.add(answered(MAX_GROUPS + 1, 5, ok=False))
    assert len(summary._groups) == MAX_GROUPS + 1
    figures = row(shown(summary, capsys), "others")
    assert figures[:4] == ["5", "1", "4", "5"]


def test_a_fault_is_printed_and_a_remark_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary()
    summary.add(Note(3, 0, "<", "a response that nobody asked for", True))
    summary.add(Note(3, 0, "<", "the end", False))
    assert capsys.readouterr().out == "  connection 3 ! < a response that nobody asked for\n"


def test_without_requests_there_is_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary()
    summary.add(Seen(1, 0, Kind.FORTH, EOF_PACKET))
    lines = shown(summary, capsys)
    assert len(lines) == 3
    assert "1 packets, 0 bytes of payload" in lines[1]
