"""A child process over its standard input and output.

A monitor thread reads the child's standard error, of which the last 64 KiB are kept for the error message,
and watches its pid: a grandchild may hold the pipes open long after the child is gone.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from packetwire.core.timelimits import seconds_of
from packetwire.errors import ChildExited, ConnectionEnded, LocalProtocolError, PeerClosed
from packetwire.streams import forking
from packetwire.streams.bytestream import ByteStream, ReadHalf, WriteHalf
from packetwire.streams.exits import REAP_WAIT, ChildExit
from packetwire.streams.fds import FdReader, FdWriter, ready
from packetwire.streams.standard import forward_to_standard_error, has_controlling_terminal, standard_taken
from packetwire.streams.wakeup import Wakeup

logger = logging.getLogger("packetwire")

STDERR_KEPT = 64 << 10
EXIT_WAIT = 1.0
"""Seconds for a child's exit status to follow the end of its output, or its closed input."""
TERM_WAIT = 0.5
"""Seconds between SIGTERM and SIGKILL."""
STDERR_WAIT = 0.25
STDERR_READS = 16
"""Reads of standard error behind the exit of the child: a process that it has left behind may go on writing."""
MONITOR_WAIT = 2.0
"""Seconds for the monitor thread to end, which has nothing left to do."""
PIPE_SIZE = 1 << 20
"""Bytes that the pipes to a child hold, if they can: the most that a user without privileges may ask for."""
POLL_INTERVAL = 0.05
"""Seconds between two looks at a pid where the system has no descriptor for it."""
STOPPED_INTERVAL = 1.0
"""Seconds between two looks whether a child is stopped that the terminal may stop."""

_STDERR_QUOTED = 2000
_COMMAND_QUOTED = 200


def child(
    argv: Sequence[str],
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    forward_stderr: bool = False,
    exit_timeout: float = EXIT_WAIT,
    process_group: bool | int | None = None,
    **popen: Any,
) -> Callable[[], ByteStream]:
    """A `recv_send` that starts `argv` at each opening of the connection and ends it at each close.

    At close the child gets end-of-file on its standard input, `exit_timeout` seconds to leave, then
    SIGTERM, then SIGKILL. Its standard error is kept for error messages; with `forward_stderr` it is
    passed on to ours as well.

    With a process group of its own all of the group is ended at close, also what a shell or a wrapper
    has started and left behind; but Ctrl-C and Ctrl-Z at the terminal do not reach it, and it cannot ask for a
    password there. `process_group` is True or 0 for that, False for a child in our group, and None for
    a group of its own only where this process has no controlling terminal; another number is that of a
    group which it joins.

    Further arguments go to `subprocess.Popen`.
    """
    if isinstance(argv, str | bytes):
        raise TypeError(f"argv must be a sequence of strings, got {argv!r}; for a shell use ['sh', '-c', …]")
    argv = [os.fspath(arg) for arg in argv]
    if not argv:
        raise ValueError("argv is empty: there is no command to start")
    exit_timeout = seconds_of(exit_timeout, "exit_timeout")
    _check_group(process_group)

    def start() -> ByteStream:
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen
        options |= _group_option(process_group, popen)
        process = _start(argv, cwd=cwd, env=env, **options)
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


def _check_group(process_group: Any) -> None:
    if process_group is not None and not hasattr(process_group, "__index__"):
        raise TypeError(
            f"process_group must be True, False, None or the number of a group, got "
            f"{type(process_group).__name__}: {process_group!r:.100}"
        )
    if process_group is not None and process_group < -1:  # which is none, for Popen
        raise LocalProtocolError(f"process_group must be 0 or the number of a group, got {process_group!r}")


def _group_option(process_group: bool | int | None, popen: Mapping[str, Any]) -> dict[str, int]:
    if process_group is None:
        decided = popen.get("start_new_session") or popen.get("preexec_fn")
        return {} if decided or has_controlling_terminal() else {"process_group": 0}
    if isinstance(process_group, bool):
        return {"process_group": 0} if process_group else {}
    return {"process_group": process_group}


def _start(argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    # as one step for a fork in another thread, which would get the child's ends of the pipes, too
    with forking.opening(), standard_taken():
        process: subprocess.Popen[bytes] = cast(Any, subprocess.Popen)(argv, bufsize=0, **options)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                forking.guard(pipe)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            _enlarge(pipe.fileno())
    return process


def _enlarge(fd: int) -> None:
    """Give a pipe more room, where that goes: what is long then passes with fewer switches between the two ends."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except (AttributeError, OSError):
        pass  # not on this system, no pipe, or this user has as many large pipes as one may have


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
        self._exit = ChildExit(process, leads_group=owned and _leads_group(process.pid))
        self._monitor = threading.Thread(target=self._watch, name=f"packetwire-child-{process.pid}", daemon=True)
        self._on_exit: Callable[[ConnectionEnded], None] | None = None
        self._closed = False
        forking.register(self)

    @property
    def argv(self) -> list[str]:
        """The command."""
        args = self.process.args
        return [os.fsdecode(arg) for arg in ([args] if isinstance(args, str | bytes | os.PathLike) else args)]

    @property
    def stderr(self) -> bytes:
        """The last bytes of the child's standard error."""
        return bytes(self._stderr)

    def start(self, on_exit: Callable[[ConnectionEnded], None]) -> None:
        self._on_exit = on_exit
        self._monitor.start()

    def end_write(self) -> None:
        if self._owned and not self._closed:
            _close_pipe(self.process.stdin)

    def end_reason(self) -> ConnectionEnded:
        if self._exit.wait(EXIT_WAIT):
            return self._exited()
        return PeerClosed(
            f"{self._described()} closed its standard output and still runs" + self.hint() + self._quoted_stderr()
        )

    def hint(self) -> str:
        number = self._exit.stopped_by
        if number is None:
            return ""
        text = f"; {self._described()} is stopped by signal {number} ({_signal_name(number)})"
        if number in (signal.SIGTTIN, signal.SIGTTOU):
            text += ": it asks on the terminal, which it cannot in a process group of its own (process_group=False)"
        return text

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
            if self._owned:
                self._kill_child()
            self._stop.set()
            if self._monitor.ident is not None and not sys.is_finalizing():
                self._monitor.join(MONITOR_WAIT)
            super().close()
            if self._owned:
                _close_pipe(self.process.stderr)
            self._exit.close()
            self._stop.close()

    def _end_child(self) -> None:
        """Close its pipes and see it go, with its group; it may have to be terminated."""
        for pipe in (self.process.stdin, self.process.stdout):
            _close_pipe(pipe)
        child = self._exit
        deadline = time.monotonic() + self._exit_timeout
        # what it leaves behind need not keep its end back for long: it is asked to go by SIGTERM soon
        if child.wait(self._exit_timeout) and child.wait_for_group(min(EXIT_WAIT, deadline - time.monotonic())):
            return
        if stopped := self.hint():
            logger.warning("%s", stopped.removeprefix("; "))
        child.signal(signal.SIGTERM)
        child.signal(signal.SIGCONT)  # one that is stopped sees SIGTERM only then
        deadline = time.monotonic() + TERM_WAIT
        if child.wait(TERM_WAIT):
            child.wait_for_group(deadline - time.monotonic())

    def _kill_child(self) -> None:
        """Have nothing left of it."""
        child = self._exit
        if not (child.look() and child.wait_for_group(0)):
            child.signal(signal.SIGKILL)
            child.wait_for_group(REAP_WAIT)
        if not child.reap():
            logger.error("%s does not end; it is left behind", self._described())

    def after_fork(self) -> None:
        """In the child of a fork: the process is the parent's."""
        self._closed = True
        self._stderr_read = threading.Event()
        self._stderr_read.set()
        if self._owned:
            cast(Any, self.process)._waitpid_lock = threading.Lock()
            self.process.poll()  # it is no child of ours, which the Popen is to know

    def _exited(self) -> ChildExited:
        self._stderr_read.wait(STDERR_WAIT)
        returncode = self._exit.returncode
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

    # the monitor thread

    def _watch(self) -> None:
        """Until told to stop, read standard error and see the child exit."""
        poller = select.poll()
        poller.register(self._stop.fileno(), select.POLLIN)
        stderr_fd = self.process.stderr.fileno() if self._owned and self.process.stderr else None
        if stderr_fd is None:
            self._stderr_read.set()
        else:
            poller.register(stderr_fd, select.POLLIN)
        pidfd = self._exit.fileno()
        if pidfd is not None:
            poller.register(pidfd, select.POLLIN)
        may_be_stopped = self._exit.leads_group and has_controlling_terminal()
        reported, stopped = False, ""
        while True:
            interval = None
            if not reported and (pidfd is None or may_be_stopped):
                interval = (POLL_INTERVAL if pidfd is None else STOPPED_INTERVAL) * 1000
            events = {fd for fd, _ in poller.poll(interval)}
            if self._stop.fileno() in events:
                return
            if stderr_fd in events and stderr_fd is not None and not self._read_stderr(stderr_fd):
                poller.unregister(stderr_fd)
                stderr_fd = None
            if not reported and self._exit.look():
                reported = True
                if pidfd is not None:
                    poller.unregister(pidfd)
                self._report_exit(stderr_fd)
            elif may_be_stopped and stopped != (stopped := self.hint()) and stopped:
                logger.warning("%s", stopped.removeprefix("; "))

    def _report_exit(self, stderr_fd: int | None) -> None:
        reads = 0
        while stderr_fd is not None and reads < STDERR_READS and ready(stderr_fd, select.POLLIN):
            reads += 1
            if not self._read_stderr(stderr_fd):
                break
        self._stderr_read.set()
        if not self._owned:
            self.process.poll()
        if self._on_exit is not None:
            self._on_exit(self._exited())

    def _read_stderr(self, fd: int) -> bool:
        """Keep what is there; false at the end."""
        try:
            data = os.read(fd, STDERR_KEPT)
        except OSError:
            data = b""
        if not data:
            self._stderr_read.set()
            return False
        self._stderr += data
        del self._stderr[:-STDERR_KEPT]
        if self._forward:
            forward_to_standard_error(data)
        return True


def _close_pipe(pipe: Any) -> None:
    """A second call does nothing."""
    if pipe is not None and not pipe.closed:
        with forking.opening():
            pipe.close()


def _leads_group(pid: int) -> bool:
    """Whether a child of ours leads a process group of its own."""
    try:
        return os.getpgid(pid) == pid
    except OSError:
        return False


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
