"""Saturnin's end of a conversation, as its tests see it."""

from __future__ import annotations

import json
import select
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

PROGRAM = Path(__file__).with_name("saturnin_peer.py")
ANSWER_SECONDS = 30


class SaturninPeer:
    """A `service`, or a `raw` or `event` client, at an address; it is asked by commands."""

    def __init__(self, python: Path, *args: str, program: Path = PROGRAM) -> None:
        self._log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [str(python), "-E", "-s", str(program), *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        try:
            self.address: str = self._answer()
        except BaseException:
            self._end(0)
            raise

    def ask(self, *command: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()
        return self._answer()

    def receive(self) -> Any:
        """What a raw client receives next."""
        return self.ask("receive", ANSWER_SECONDS * 1000)

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_SECONDS)
        line = self.process.stdout.readline() if ready else b""
        assert line, f"Saturnin does not answer\n{self.log()}"
        answer = json.loads(line)
        assert not (isinstance(answer, dict) and "failed" in answer), answer["failed"]
        return answer

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._end(ANSWER_SECONDS)

    def _end(self, timeout: float) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            if timeout:
                assert self.process.wait(timeout) == 0, self.log()
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self._log.close()
