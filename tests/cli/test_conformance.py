"""`packetwire conformance`: the lines, the file for machines, the statuses."""

from __future__ import annotations

import shlex
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from packetwire.conformance.table import CHECKS

from .forked import packetwire_text

ECHO = """
from packetwire import PacketConnection, stdio
with PacketConnection(stdio(), request_handler=lambda rq_type, flags, payload: payload) as conn:
    conn.join_recv()
"""
NEVER_OK = """
import os, sys
while data := os.read(0, 65536):
    os.write(1, b"\\x02\\x02\\x00\\xff")
"""
ASKS = """
from packetwire import PacketConnection, stdio
with PacketConnection(stdio()) as conn:
    conn(1, b"x")
"""


def exec_address(program: str) -> str:
    return f"exec:{shlex.join([sys.executable, '-c', program])}"


def test_the_checks_are_listed() -> None:
    listed = packetwire_text("conformance", "--list")
    assert (listed.returncode, listed.stderr) == (0, "")
    numbers = [int(line.split()[0]) for line in listed.stdout.splitlines()]
    assert numbers == [check.number for check in CHECKS if "server" in check.roles]
    clients = packetwire_text("conformance", "--list", "--role", "client", "--only", "70-75")
    assert [int(line.split()[0]) for line in clients.stdout.splitlines()] == list(range(70, 76))


def test_a_server_that_conforms() -> None:
    done = packetwire_text("conformance", exec_address(ECHO), "--only", "1,22,102", "--request", "5:6869")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "  1 passed   a request is answered, and the connection ended",
        " 22 skipped  a request on channel 2, without capabilities: not ok: the peer has capabilities",
        "102 passed   the stream ends by EOF",
        "2 passed, 0 failed, 1 skipped",
    ]


def test_a_client_that_conforms() -> None:
    done = packetwire_text("conformance", exec_address(ASKS), "--role", "client", "--only", "73")
    assert done.stdout.splitlines()[-1] == "1 passed, 0 failed, 0 skipped"


def test_what_fails_is_shown_with_its_bytes(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    done = packetwire_text(
        "conformance", exec_address(NEVER_OK), "--only", "1", "--timeout", "0.1", "--junit", report
    )
    assert done.returncode == 1
    assert done.stdout.splitlines()[:4] == [
        "  1 FAILED   a request is answered, and the connection ended",
        f"{' ' * 13}it does not end the connection: nothing came for 0.1 s (docs/wire.md: Requests and responses)",
        "             > 03 02 02 01",
        "             < 02 02 00 (response to 0:2, not ok)",
    ]
    assert done.stdout.splitlines()[-2].startswith("           * nothing more")
    suite = ET.parse(report).getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("1", "1", "0")
    (case,) = suite
    assert case.get("name") == "1 a request is answered, and the connection ended"
    (failure,) = case
    assert "< 02 02 00" in str(failure.text)


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["unix:/nowhere/s"], 1, "No such file"),
        ([], 2, "ADDRESS is missing"),
        (["stdio:"], 2, "stdio: is for serving"),
        (["exec:cat", "--only", "1000"], 2, "there is no check 1000 of a server"),
        (["exec:cat", "--only", "x"], 2, "expected numbers of checks"),
        (["exec:cat", "--request", "x"], 2, "expected TYPE:HEX"),
        (["tcp:127.0.0.1:1", "--role", "client", "--answer", "x"], 2, "pairs of hexadecimal digits"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(words: list[str], status: int, text: str) -> None:
    done = packetwire_text("conformance", *words)
    assert done.returncode == status
    assert done.stderr.count("\n") == 1
    assert text in done.stderr
