"""A capture that cannot be written on: it ends, which is said once, and what it records goes on."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from packetwire.capture import HEADER, CaptureDecoder, CaptureWriter, Kind

Write = Callable[[int, bytes], int]


def full(fd: int, data: bytes) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def taking_half(fd: int, data: bytes) -> int:
    return len(data) // 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.cap"


WAYS: list[tuple[Write, str]] = [(full, "No space left on device"), (taking_half, "bytes were taken")]


@pytest.mark.parametrize(("write", "reason"), WAYS, ids=[reason for _, reason in WAYS])
def test_a_disk_that_is_full(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, write: Write, reason: str
) -> None:
    with CaptureWriter(path) as capture:
        connection = capture.begin("first")
        with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
            patched.setattr(os, "write", write)
            for _ in range(3):
                connection.record(Kind.FORTH, b"lost")
        connection.record(Kind.FORTH, b"after a loss nothing is recorded, even if there is room again")
        connection.over()
        assert reason in str(capture.failure)
        assert str(path) in str(capture.failure)
    assert caplog.text.count("nothing more is captured") == 1
    assert [record.data for record in CaptureDecoder().feed(path.read_bytes())] == [b"first"]


@pytest.mark.parametrize("there", [b"", HEADER[:3]])
def test_a_file_that_cannot_even_be_begun(path: Path, monkeypatch: pytest.MonkeyPatch, there: bytes) -> None:
    path.write_bytes(there)
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left on device"):
            CaptureWriter(path)
    CaptureWriter(path).close()  # the lock on it was let go of


def test_closing_again_does_nothing(path: Path) -> None:
    capture = CaptureWriter(path)
    connection = capture.begin("a")
    for _ in range(2):
        capture.close()
    connection.record(Kind.FORTH, b"too late")
    assert capture.failure is None
    assert len(CaptureDecoder().feed(path.read_bytes())) == 1
