"""A child process over its standard input and output.

A monitor thread reads the child's standard error, keeping the last 64 KiB for error messages, and watches its pid:
a grandchild may hold the pipes open long after the child is gone.
"""

from __future__ import annotations

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
from typing import IO

from packetwire.core.channels import WeakObserver
from packetwire.core.preamble import Preamble, argv_asking, check_sync
from packetwire.core.timelimits import seconds_of
from packetwire.errors import ChildExited, ConnectionEnded, PeerClosed, PreambleMissing
from packetwire.streams import forking
from packetwire.streams.bytestream import ByteStream, ReadHalf, WriteHalf
from packetwire.streams.childerrors import STDERR_KEPT, StandardError
from packetwire.streams.exits import REAP_WAIT, ChildExit
from packetwire.streams.fds import FdReader, FdWriter, ready
from packetwire.streams.preamble import DEFAULT_SYNC_TIMEOUT, ENDED, fresh_digits, read_up_to_line
from packetwire.streams.standard import has_controlling_terminal
from packetwire.streams.starting import check_group, group_option, start_child
from packetwire.streams.wakeup import Wakeup

logger = logging.getLogger("packetwire")

EXIT_WAIT = 1.0
"""Seconds for a child's exit status to follow the end of its output, or its closed input."""
TERM_WAIT = 0.5
"""Seconds between SIGTERM and SIGKILL."""
STDERR_WAIT = 0.25
STDERR_READS = 16
"""Reads of standard error after the child's exit: a process that it left behind may go on writing."""
MONITOR_WAIT = 2.0
"""Seconds for the monitor thread to end once it has nothing left to do."""
POLL_INTERVAL = 0.05
"""Seconds between two looks at a child on systems without pidfds."""
STOPPED_INTERVAL = 1.0
"""Seconds between two checks if a child that the terminal may stop is stopped."""

_COMMAND_QUOTED = 200


def child(
    argv: Sequence[str],
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    forward_stderr: bool | str = False,
    on_stderr: Callable[[str], object] | None = None,
    exit_timeout: float = EXIT_WAIT,
    process_group: bool | int | None = None,
    sync: bool | str = False,
    sync_timeout: float = DEFAULT_SYNC_TIMEOUT,
    **popen: object,
) -> Callable[[], ByteStream]:
    """A `recv_send` that starts `argv` at each opening of the connection and ends it at each close.

    At close the child gets end-of-file on its standard input, `exit_timeout` seconds to exit, then
    SIGTERM, then SIGKILL. The end of its standard error is kept for error messages; with `forward_stderr` all of
    it is copied to ours as well, each line behind that if it is a string. `on_stderr` is called with each line, as
    a string without its end, in the thread that reads it: it must be quick, and its exceptions are logged.

    If the child has a process group of its own, all processes of the group are ended at close, also those that a
    shell or a wrapper has left behind; but Ctrl-C and Ctrl-Z at the terminal do not reach it, and it cannot ask for
    a password there. `process_group` is True or 0 for that, False for a child in our group, and None for a group of
    its own only if this process has no controlling terminal; any other number is the group that it joins.

    `sync` is for a shell that greets, or complains, on standard output before the program starts, as at a login.
    With True the last word of `argv` must be a command for a shell, as in `["ssh", HOST, CMD]` or
    `["sh", "-lc", CMD]`: the shell is asked to print a line of 16 digits first, and all up to that line is dropped.
    The program need not know of it. If `sync` is these digits, `argv` stays as it is, and the program prints the
    line, by `stdio(sync=DIGITS)`. Opening raises `PreambleMissing` if the line does not come within `sync_timeout`
    seconds and 64 KiB.

    Further arguments go to `subprocess.Popen`.
    """
    if isinstance(argv, str | bytes):
        raise TypeError(f"argv must be a sequence of strings, got {argv!r}; for a shell use ['sh', '-c', …]")
    argv = [os.fspath(arg) for arg in argv]
    if not argv:
        raise ValueError("argv is empty: there is no command to start")
    exit_timeout = seconds_of(exit_timeout, "exit_timeout")
    sync_timeout = seconds_of(sync_timeout, "sync_timeout")
    check_group(process_group)
    check_sync(argv, sync)

    def start() -> ByteStream:
        digits = fresh_digits() if sync is True else sync
        words = argv_asking(argv, str(digits)) if sync is True else argv
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen
        options |= group_option(process_group, popen)
        process = start_child(words, cwd=cwd, env=env, **options)
        assert process.stdin
        assert process.stdout
        stream = ProcessStream(
            process,
            FdReader(process.stdout.fileno()),
            FdWriter(process.stdin.fileno()),
            owned=True,
            errors=StandardError(forward_stderr, None if on_stderr is None else WeakObserver(on_stderr)),
            exit_timeout=exit_timeout,
        )
        if digits:
            stream.synchronize(str(digits), sync_timeout)
        return stream

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
        errors: StandardError | None = None,
        exit_timeout: float = EXIT_WAIT,
    ) -> None:
        super().__init__(reader, writer)
        self.process = process
        self._owned = owned
        self._exit_timeout = exit_timeout
        self._errors = errors or StandardError()
        self._stderr_read = threading.Event()
        self._stop = Wakeup()
        self._exit = ChildExit(process, leads_group=owned and _leads_group(process.pid))
        self._monitor = threading.Thread(target=self._watch, name=f"packetwire-child-{process.pid}", daemon=True)
        self._on_exit: Callable[[ConnectionEnded], None] | None = None
        self.when_exited: Callable[[ConnectionEnded], object] | None = None
        """Called by the monitor thread when the child has exited, also if the stream has ended before."""
        self.shown = ""
        """Text for messages in place of the command; "" for the command."""
        self.preamble = b""
        """Bytes that came before the packets, and were dropped."""
        self._exit_seen: ConnectionEnded | None = None
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
        return self._errors.kept

    def start(self, on_exit: Callable[[ConnectionEnded], None]) -> None:
        self._on_exit = on_exit
        if self._monitor.ident is None:
            self._monitor.start()
        elif self._exit_seen is not None:  # while the preamble was read; it may be told twice
            on_exit(self._exit_seen)

    def synchronize(self, digits: str, seconds: float, first: bytes = b"") -> None:
        """Before `start`: drop all up to the line with these digits, while `first` is written.

        Raises `PreambleMissing`, and then the child is ended.
        """
        preamble = Preamble(digits)
        try:
            self._monitor.start()  # a greeting on standard error must not stop it
            why = read_up_to_line(self, preamble, seconds, first)
            self.preamble = preamble.skipped
            if why:
                raise self._preamble_missing(digits, why, preamble)
        except BaseException:
            self.hurry()
            self.close()
            raise
        if self.preamble:
            logger.info("%s: %s before the packets", self._described(), preamble.quoted)

    def _preamble_missing(self, digits: str, why: str, preamble: Preamble) -> PreambleMissing:
        cause = self.end_reason() if why == ENDED or self._exit.look() else None
        still = cause or f"{self._described()} still runs{self._stopped()}{self._errors.quoted()}"
        error = PreambleMissing(
            f"no line 'packetwire-{digits}' before the packets: {why}; {preamble.quoted}; {still}",
            preamble.skipped,
            self._exit.returncode,
            self.stderr,
        )
        error.__cause__ = cause
        return error

    def end_write(self) -> None:
        if self._owned and not self._closed:
            _close_pipe(self.process.stdin)

    def end_reason(self) -> ConnectionEnded:
        if self._exit.wait(EXIT_WAIT):
            return self._exited()
        return PeerClosed(
            f"{self._described()} closed its standard output and still runs"
            + self._stopped()
            + self._errors.quoted()
        )

    def hint(self) -> str:
        return self._stopped() + self._errors.quoted_in_timeout()

    def _stopped(self) -> str:
        """A remark about a child that is stopped by a signal; "" if it is not."""
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
            # also if the waiting was interrupted, for instance by Ctrl-C
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
        """Close its pipes and wait for it and its group to exit; terminate them if they do not."""
        for pipe in (self.process.stdin, self.process.stdout):
            _close_pipe(pipe)
        child = self._exit
        deadline = time.monotonic() + self._exit_timeout
        # processes that it left behind must not delay its end for long: they get SIGTERM soon
        if child.wait(self._exit_timeout) and child.wait_for_group(min(EXIT_WAIT, deadline - time.monotonic())):
            return
        if stopped := self._stopped():
            logger.warning("%s", stopped.removeprefix("; "))
        child.signal(signal.SIGTERM)
        child.signal(signal.SIGCONT)  # one that is stopped sees SIGTERM only then
        deadline = time.monotonic() + TERM_WAIT
        if child.wait(TERM_WAIT):
            child.wait_for_group(deadline - time.monotonic())

    def _kill_child(self) -> None:
        """Kill whatever is left of the child and its group, and reap it."""
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
            vars(self.process)["_waitpid_lock"] = threading.Lock()
            self.process.poll()  # so that the Popen notices that it is not our child

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
            f"{self._described()} {how}" + self._errors.quoted(),
            self.argv,
            returncode,
            self.stderr,
        )

    def _described(self) -> str:
        command = self.shown or shlex.join(self.argv)
        if len(command) > _COMMAND_QUOTED:
            command = command[:_COMMAND_QUOTED] + "…"
        return f"child {command} (pid {self.process.pid})"

    # the monitor thread

    def _watch(self) -> None:
        """Read standard error and watch for the child's exit, until `_stop` is set."""
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
                if stderr_fd is not None:
                    self._errors.end()  # another process may have it open still
                return
            if stderr_fd in events and stderr_fd is not None and not self._read_stderr(stderr_fd):
                poller.unregister(stderr_fd)
                stderr_fd = None
            if not reported and self._exit.look():
                reported = True
                if pidfd is not None:
                    poller.unregister(pidfd)
                self._report_exit(stderr_fd)
            elif may_be_stopped and stopped != (stopped := self._stopped()) and stopped:
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
        self._exit_seen = exited = self._exited()
        if self._on_exit is not None:
            self._on_exit(exited)
        if self.when_exited is not None:
            self.when_exited(exited)

    def _read_stderr(self, fd: int) -> bool:
        """Keep the bytes that are there; False at the end."""
        try:
            data = os.read(fd, STDERR_KEPT)
        except OSError:
            data = b""
        if not data:
            self._errors.end()
            self._stderr_read.set()
            return False
        self._errors.receive(data)
        return True


def _close_pipe(pipe: IO[bytes] | None) -> None:
    """Close a pipe, if there is one. A second call does nothing."""
    if pipe is not None and not pipe.closed:
        with forking.opening():
            pipe.close()


def _leads_group(pid: int) -> bool:
    """True if a child leads a process group of its own."""
    try:
        return os.getpgid(pid) == pid
    except OSError:
        return False


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
