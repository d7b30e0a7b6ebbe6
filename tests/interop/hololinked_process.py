"""hololinked's end of a conversation, as its tests see it."""

from __future__ import annotations

import json
import select
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

PROGRAM = Path(__file__).with_name("hololinked_peer.py")
ANSWER_SECONDS = 60


class HololinkedPeer:
    """One of hololinked's brokers, at an address; it is asked by commands."""

    def __init__(self, python: Path, kind: str, address: str) -> None:
        self._log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [str(python), "-E", "-s", str(PROGRAM), kind, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self._address: str | None = None

    @property
    def address(self) -> str:
        """Where it is; it waits until the peer is there."""
        if self._address is None:
            self._address = self.answer()
        return self._address

    def ask(self, *command: Any) -> Any:
        """Have it do something, and wait for what that came to."""
        self.begin(*command)
        return self.answer()

    def begin(self, *command: Any) -> None:
        """Have it do something, and let `answer` wait."""
        assert self.address
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_SECONDS)
        line = self.process.stdout.readline() if ready else b""
        assert line, f"hololinked does not answer\n{self.log()}"
        answer = json.loads(line)
        assert not (isinstance(answer, dict) and "failed" in answer), answer["failed"]
        return answer

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            if exc == (None, None, None):
                assert self.process.wait(ANSWER_SECONDS) == 0, self.log()
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self._log.close()
