"""Captures of connections that went oddly: what `replay` and `dump` make of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from packetwire.cli.replay import MAX_UNDER_WAY
from packetwire.core.packets import EOF_PACKET

from .test_replay import LIMIT, Service, capture, path, request, response, run, service  # noqa: F401

pytestmark = pytest.mark.timeout(60)


def dumped(file: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "packetwire", "dump", str(file)],
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT,
    )
    return done.stdout


def test_a_request_whose_tag_is_used_again_before_its_response(service: Service, path: Path) -> None:  # noqa: F811
    path.write_bytes(capture(request(2, 1, b"first"), request(2, 1, b"second"), response(2, b"second")))
    status, lines, _ = run(path)
    assert status == 0
    assert lines == ["2 requests on 1 connection; responses: 1 the same, 0 different, 1 not in FILE"]


def test_a_response_without_its_request(service: Service, path: Path) -> None:  # noqa: F811
    path.write_bytes(capture(response(9, b"stray"), request(2, 1, b"x"), response(2, b"x"), response(2, b"again")))
    status, lines, _ = run(path)
    assert (status, lines) == (0, ["1 request on 1 connection; responses: 1 the same, 0 different"])


def test_more_requests_than_are_under_way_at_a_time(service: Service, path: Path) -> None:  # noqa: F811
    count = MAX_UNDER_WAY + 10
    path.write_bytes(capture(*(request(2 + number, 1, b"%d" % number) for number in range(count))))
    status, lines, _ = run(path)
    assert status == 0
    assert lines == [f"{count} requests on 1 connection; responses: 0 the same, 0 different, {count} not in FILE"]


def test_bytes_behind_the_end(path: Path) -> None:  # noqa: F811
    path.write_bytes(capture(request(2, 1, b"x"), (">", bytes(EOF_PACKET) + b"behind"), (">", b"more")))
    assert "6 bytes or more behind EOF, which are left out" in dumped(path)


def test_a_direction_that_was_cut_off_in_a_packet(path: Path) -> None:  # noqa: F811
    sign, data = request(2, 1, b"x" * 50)
    path.write_bytes(capture((sign, data[:20]), (sign, b"")))
    assert "the stream ended inside a packet, after 20 of" in dumped(path)
