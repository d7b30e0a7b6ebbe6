"""The processes that `packetwire bench` measures: starts them, sends them commands, and ends them in any case.

Each is `python -m packetwire.cli.contenders` and has a socket for commands. Nothing runs here while it measures.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self

from packetwire.cli.benchmarks import Rate, RoundTrips
from packetwire.cli.chunkstore import OWN_GROUP
from packetwire.cli.contenders import ASK, ASK_ADDRESS, SERVE, USAGE, Usage
from packetwire.cli.failure import EXIT_FAILED, CommandFailed

LEAVE_WAIT = 10.0
"""Seconds for a process to exit on request, before SIGKILL; it may have to end a child itself."""


class MeasuredProcess:
    """A measured process, as a context manager. The arguments are those of `contenders.main`."""

    def __init__(self, role: str, name: str, fds: Sequence[int] = (), files: Sequence[str] = ()) -> None:
        self._name = name
        self._role = role
        self._control, theirs = socket.socketpair()
        self._answers = self._control.makefile("r", encoding="utf-8")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by __exit__)
        arguments = [role, name, str(theirs.fileno()), *map(str, fds), *files]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "packetwire.cli.contenders", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=(theirs.fileno(), *fds),
                process_group=OWN_GROUP,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._control.shutdown(socket.SHUT_RDWR)
            self._wait()
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)  # not reaped yet, so the pid is still its own
                self._process.wait()
            self._answers.close()
            self._control.close()
            self._errors.close()

    def _wait(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(LEAVE_WAIT)

    def usage(self, *, new_peak: bool = False) -> Usage:
        """The resources that it has used so far; see `contenders.usage` for `new_peak`."""
        return Usage(**self._ask(USAGE, new_peak))

    def round_trip(self, seconds: float) -> RoundTrips:
        """A measurement of `Asker` that results in round trips."""
        return RoundTrips(**self._ask("round_trip", seconds))

    def rate(self, measurement: str, *arguments: float) -> Rate:
        """A measurement of `Asker` that results in a rate."""
        return Rate(**self._ask(measurement, *arguments))

    def _ask(self, *command: object) -> Any:
        line = ""
        with suppress(ConnectionError):
            with suppress(BrokenPipeError):  # it has exited, and may have sent the reason before
                self._control.sendall(json.dumps(command).encode() + b"\n")
            line = self._answers.readline()
        if not line:
            raise CommandFailed(self._how_it_ended(), EXIT_FAILED)
        message = json.loads(line)
        if "failed" in message:
            what = "" if self._role == ASK_ADDRESS else f"measuring {self._name} failed: "
            raise CommandFailed(what + message["failed"], EXIT_FAILED)
        return message["done"]

    def _how_it_ended(self) -> str:
        self._wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").split("\n")
        last = next((line for line in reversed(said) if line.strip()), "it said nothing")
        return f"a process that measured {self._name} has ended with status {self._process.returncode}: {last}"


@contextmanager
def contest(name: str, pipes: bool) -> Iterator[tuple[MeasuredProcess, MeasuredProcess]]:
    """Both ends of a contender, the asking one first, over a pair of pipes or of Unix sockets."""
    with ExitStack() as ended:
        with ExitStack() as handed_over:
            asking, serving = _pipe_pair(handed_over) if pipes else _socket_pair(handed_over)
            server = ended.enter_context(MeasuredProcess(SERVE, name, serving))
            asker = ended.enter_context(MeasuredProcess(ASK, name, asking))
        yield asker, server


@contextmanager
def remote(
    address: str, curve_server: str | None = None, curve_key: str | None = None
) -> Iterator[tuple[MeasuredProcess]]:
    """The asking end of a connection to an address; the files have keys for CURVE."""
    with MeasuredProcess(ASK_ADDRESS, address, files=(curve_server or "", curve_key or "")) as asker:
        yield (asker,)


Ends = tuple[tuple[int, int], tuple[int, int]]
"""The descriptors to read and to write, of the asking end and of the serving one."""


def _socket_pair(stack: ExitStack) -> Ends:
    here, there = (stack.enter_context(end) for end in socket.socketpair())
    return (here.fileno(), here.fileno()), (there.fileno(), there.fileno())


def _pipe_pair(stack: ExitStack) -> Ends:
    (recv_here, send_there), (recv_there, send_here) = os.pipe(), os.pipe()
    for fd in recv_here, send_there, recv_there, send_here:
        stack.callback(os.close, fd)
    return (recv_here, send_here), (recv_there, send_there)
