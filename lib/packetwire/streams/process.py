"""A child process over its standard input and output.

A monitor thread reads the child's standard error, of which the last 64 KiB are kept for the error message,
and watches its pid: a grandchild may hold the pipes open long after the child is gone.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from packetwire.core.timelimits import seconds_of
from packetwire.errors import ChildExited, ConnectionEnded, PeerClosed
from packetwire.streams.bytestream import ByteStream, ReadHalf, WriteHalf
from packetwire.streams.fds import FdReader, FdWriter, ready
from packetwire.streams.wakeup import Wakeup

STDERR_KEPT = 64 << 10
EXIT_WAIT = 1.0
"""Seconds for a child's exit status to follow the end of its output, or its closed input."""
TERM_WAIT = 0.5
"""Seconds between SIGTERM and SIGKILL."""
STDERR_WAIT = 0.25
POLL_INTERVAL = 0.05
"""Seconds between two looks at a pid where the system has no descriptor for it."""

_STDERR_QUOTED = 2000
_COMMAND_QUOTED = 200


def child(
    argv: Sequence[str],
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    forward_stderr: bool = False,
    exit_timeout: float = EXIT_WAIT,
    **popen: Any,
) -> Callable[[], ByteStream]:
    """A `recv_send` that starts `argv` at each opening of the connection and ends it at each close.

    At close the child gets end-of-file on its standard input, `exit_timeout` seconds to leave, then
    SIGTERM, then SIGKILL. Its standard error is kept for error messages; with `forward_stderr` it is
    passed on to ours as well. Further arguments go to `subprocess.Popen`.
    """
    if isinstance(argv, str | bytes):
        raise TypeError(f"argv must be a sequence of strings, got {argv!r}; for a shell use ['sh', '-c', …]")
    argv = [os.fspath(arg) for arg in argv]
    if not argv:
        raise ValueError("argv is empty: there is no command to start")
    exit_timeout = seconds_of(exit_timeout, "exit_timeout")

    def start() -> ByteStream:
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen
        process: subprocess.Popen[bytes]
        process = cast(Any, subprocess.Popen)(argv, bufsize=0, cwd=cwd, env=env, **options)
        assert process.stdin
        assert process.stdout
        return ProcessStream(
            process,
            FdReader(process.stdout.fileno()),
            FdWriter(process.stdin.fileno()),
            owned=True,
            forward_stderr=forward_stderr,
            exit_timeout=exit_timeout,
        )

    return start


class ProcessStream(ByteStream):
    """The stream to a child process; with `owned` the child is ended when the stream closes."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: ReadHalf,
        writer: WriteHalf,
        *,
        owned: bool,
        forward_stderr: bool = False,
        exit_timeout: float = EXIT_WAIT,
    ) -> None:
        super().__init__(reader, writer)
        self.process = process
        self._owned = owned
        self._forward = forward_stderr
        self._exit_timeout = exit_timeout
        self._stderr = bytearray()
        self._stderr_read = threading.Event()
        self._stop = Wakeup()
        self._pidfd = _open_pidfd(process.pid)
        self._monitor = threading.Thread(target=self._watch, name=f"packetwire-child-{process.pid}", daemon=True)
        self._on_exit: Callable[[ConnectionEnded], None] | None = None
        self._closed = False

    @property
    def argv(self) -> list[str]:
        """The command."""
        args = self.process.args
        return [os.fsdecode(arg) for arg in ([args] if isinstance(args, str | bytes | os.PathLike) else args)]

    @property
    def stderr(self) -> bytes:
        """The last octets of the child's standard error."""
        return bytes(self._stderr)

    def start(self, on_exit: Callable[[ConnectionEnded], None]) -> None:
        self._on_exit = on_exit
        self._monitor.start()

    def end_write(self) -> None:
        if self._owned and self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()

    def end_reason(self) -> ConnectionEnded:
        if self._wait_exit(EXIT_WAIT):
            return self._exited()
        return PeerClosed(f"{self._described()} closed its standard output and still runs" + self._quoted_stderr())

    def hurry(self) -> None:
        self._exit_timeout = 0.0

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if self._owned:
                self._end_child()
        finally:
            # also when the waiting is interrupted, by Ctrl-C, say
            if self._owned and self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._stop.set()
            if self._monitor.ident is not None:
                self._monitor.join()
            super().close()
            if self._owned and self.process.stderr:
                self.process.stderr.close()
            if self._pidfd is not None:
                os.close(self._pidfd)
                self._pidfd = None
            self._stop.close()

    def _end_child(self) -> None:
        """Close its pipes and see it go; it may have to be terminated."""
        process = self.process
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()
        if not self._wait_exit(self._exit_timeout):
            process.terminate()
            self._wait_exit(TERM_WAIT)

    def _exited(self) -> ChildExited:
        self._stderr_read.wait(STDERR_WAIT)
        returncode = self.process.returncode
        if returncode is None:
            how = "is gone"
        elif returncode >= 0:
            how = f"exited with status {returncode}"
        else:
            how = f"was killed by signal {-returncode} ({_signal_name(-returncode)})"
        return ChildExited(
            f"{self._described()} {how}" + self._quoted_stderr(),
            self.argv,
            returncode,
            self.stderr,
        )

    def _described(self) -> str:
        command = shlex.join(self.argv)
        if len(command) > _COMMAND_QUOTED:
            command = command[:_COMMAND_QUOTED] + "…"
        return f"child {command} (pid {self.process.pid})"

    def _quoted_stderr(self) -> str:
        text = bytes(self._stderr[-_STDERR_QUOTED:]).decode("utf-8", errors="replace").rstrip()
        return f"; its standard error ends:\n{text}" if text else ""

    def _wait_exit(self, seconds: float) -> bool:
        """Wait until the child has exited, at most `seconds`."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if self._pidfd is None:
                time.sleep(min(POLL_INTERVAL / 10, left))
                continue
            poller = select.poll()
            poller.register(self._pidfd, select.POLLIN)
            poller.poll(left * 1000 + 1)
        return True

    def _watch(self) -> None:
        """The monitor thread: until told to stop, read standard error and see the child exit."""
        poller = select.poll()
        poller.register(self._stop.fileno(), select.POLLIN)
        stderr_fd = self.process.stderr.fileno() if self._owned and self.process.stderr else None
        if stderr_fd is None:
            self._stderr_read.set()
        else:
            poller.register(stderr_fd, select.POLLIN)
        if self._pidfd is not None:
            poller.register(self._pidfd, select.POLLIN)
        reported = False
        while True:
            interval = None if self._pidfd is not None or reported else POLL_INTERVAL * 1000
            events = {fd for fd, _ in poller.poll(interval)}
            if stderr_fd in events and stderr_fd is not None and not self._read_stderr(stderr_fd):
                poller.unregister(stderr_fd)
                stderr_fd = None
            if not reported and self.process.poll() is not None:
                reported = True
                if self._pidfd is not None:
                    poller.unregister(self._pidfd)
                while stderr_fd is not None and ready(stderr_fd, select.POLLIN) and self._read_stderr(stderr_fd):
                    pass
                self._stderr_read.set()
                if self._on_exit is not None:
                    self._on_exit(self._exited())
            if self._stop.fileno() in events:
                return

    def _read_stderr(self, fd: int) -> bool:
        """Keep what is there; false at the end."""
        octets = os.read(fd, STDERR_KEPT)
        if not octets:
            self._stderr_read.set()
            return False
        self._stderr += octets
        del self._stderr[:-STDERR_KEPT]
        if self._forward:
            _forward(octets)
        return True


def _forward(octets: bytes) -> None:
    """Pass octets on to our standard error, but do not let a reader that sleeps there stop the child."""
    writer = FdWriter(2)
    view = memoryview(octets)
    poller = select.poll()
    poller.register(2, select.POLLOUT)
    try:
        while view and poller.poll(1000):
            view = view[writer.try_write([view]) :]
    except OSError:
        pass  # our standard error is closed: there is nobody to show it to


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
