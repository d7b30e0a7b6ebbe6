"""The exit of a child, seen without reaping it before others who wait for it.

Strategy. A child that has exited stays a zombie until it is reaped. Until then its pid, and that of its process
group, are not reused, so a signal cannot reach a stranger. So we look at the exit without reaping (waitid with
WNOWAIT), tell the `Popen`, and reap last of all. If somebody else has reaped the child first, its status is
unknown.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from packetwire.streams import forking

POLL_INTERVAL = 0.005
"""Seconds between two looks at a child on systems without pidfds, or at its process group."""
POLL_LIMIT = 3600.0
"""Seconds of one poll, whose time in milliseconds is a C int: 24 days at most."""
REAP_WAIT = 1.0
"""Seconds for a killed child to go; one that is stuck in the kernel for longer is left behind."""


class ChildExit:
    """The exit of `process`, and the signals that bring it about.

    With `leads_group` signals go to its whole process group.
    """

    def __init__(self, process: subprocess.Popen[bytes], *, leads_group: bool = False) -> None:
        self.process = process
        self.leads_group = leads_group
        self.gone = process.returncode is not None
        self.returncode: int | None = process.returncode
        """Its exit status, or the negative signal; None while it runs, and if the status is unknown."""
        self._to_reap = False
        self._pidfd: forking.Descriptor | None = None
        with suppress(AttributeError, OSError):
            self._pidfd = forking.Descriptor(lambda: os.pidfd_open(process.pid))

    def fileno(self) -> int | None:
        """A descriptor that becomes readable at the exit, on systems that have pidfds."""
        return None if self._pidfd is None else self._pidfd.fd

    def look(self) -> bool:
        """True if it has exited."""
        if not self.gone:
            if hasattr(os, "waitid"):
                self._look_on()
            else:
                self._take()
        return self.gone

    def _look_on(self) -> None:
        try:
            found = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            self._was_taken()
            return
        if found is not None:
            code = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
            self._to_reap = True
            self._ended(code)

    def _take(self) -> None:
        """Reap the child, on systems that cannot look without reaping."""
        with self._popen_lock():
            code = self.process.returncode
            if code is None:
                with suppress(ChildProcessError):
                    pid, status = os.waitpid(self.process.pid, os.WNOHANG)
                    if not pid:
                        return
                    code = os.waitstatus_to_exitcode(status)
            self._ended(code)

    def _was_taken(self) -> None:
        with self._popen_lock():  # the Popen's own wait may have taken it at this moment
            code = self.process.returncode
        if code == 0 and signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            code = None  # nobody can know it: the Popen says 0 then
        self._ended(code)

    def _popen_lock(self) -> AbstractContextManager[object]:
        lock: AbstractContextManager[object] = self.process._waitpid_lock  # type: ignore[attr-defined]
        return lock

    def _ended(self, code: int | None) -> None:
        self.returncode, self.gone = code, True
        if code is not None:
            self.process.returncode = code  # so its poll() and wait() need not take the status

    @property
    def stopped_by(self) -> int | None:
        """The signal that has stopped it, if it is stopped."""
        if self.gone or not hasattr(os, "waitid"):
            return None
        try:
            found = os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return None
        return None if found is None else found.si_status

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for the exit; False if it has not come."""
        deadline = time.monotonic() + seconds
        while not self.look():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            fd = self.fileno()
            if fd is None:
                time.sleep(min(POLL_INTERVAL, left))
                continue
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            poller.poll(min(left, POLL_LIMIT) * 1000 + 1)
        return True

    def wait_for_group(self, seconds: float) -> bool:
        """Wait up to `seconds` for the rest of its group to go; False if some are left."""
        deadline = time.monotonic() + seconds
        while self._group_lives():
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_INTERVAL)
        return True

    def _group_lives(self) -> bool:
        """True if other processes are in the group, whose id stays its own while it has members or a zombie."""
        if not self._owns_group:
            return False
        if Path("/proc/self/stat").exists():
            return any(True for _ in _members(self.process.pid))
        try:
            os.killpg(self.process.pid, 0)  # of zombies, other systems take no notice
        except OSError:
            return False
        return True

    @property
    def _owns_group(self) -> bool:
        # without waitid the child is reaped as soon as it exits, and this is asked right after that
        return self.leads_group and (not self.gone or self._to_reap or not hasattr(os, "waitid"))

    def signal(self, number: int) -> None:
        """Send a signal to the child, or to its group; never to a process that has its pid now."""
        with suppress(ProcessLookupError, PermissionError):  # it may run as another user
            if self._owns_group:
                os.killpg(self.process.pid, number)
            elif not self.look():
                if self._pidfd is not None and hasattr(signal, "pidfd_send_signal"):
                    signal.pidfd_send_signal(self._pidfd.fd, number)
                else:
                    os.kill(self.process.pid, number)

    def reap(self) -> bool:
        """Reap the child, last of all, unless that was done; False if it does not exit."""
        if not self.wait(REAP_WAIT):
            return False
        if self._to_reap:
            self._to_reap = False
            with suppress(ChildProcessError):
                os.waitpid(self.process.pid, os.WNOHANG)
        elif self.process.returncode is None:
            self.process.poll()  # for the Popen's own peace: it is unknown
        return True

    def close(self) -> None:
        """Close the descriptor. A second call does nothing."""
        if self._pidfd is not None:
            self._pidfd.close()


def _members(group: int) -> Iterator[int]:
    """The pids of a group's running processes, from /proc."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                # "pid (any name) state ppid pgrp …"
                state, _, pgrp = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()[:3]
                if int(pgrp) == group and state not in (b"Z", b"X"):
                    yield int(entry)
