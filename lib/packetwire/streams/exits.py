"""A child's exit, seen without taking its status from whoever else waits for the child.

Strategy. A child that has exited stays a zombie until someone takes its status. Until then its number, and that
of its process group, belong to it, so a signal cannot reach a stranger. So its exit is looked at without taking
the status (waitid with WNOWAIT), the `Popen` is told, and the status is taken last of all. If another waiter has
taken it first, what it was is unknown.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from packetwire.streams import forking

POLL_INTERVAL = 0.005
"""Seconds between two looks at a child where the system has no descriptor for it, or at its group."""
POLL_LIMIT = 3600.0
"""Seconds for one poll: it takes no more than 24 days."""
REAP_WAIT = 1.0
"""Seconds for a child to go that was killed: it may be stuck in the system, and is left behind then."""


class ChildExit:
    """The exit of `process`, and the signals that bring it about.

    With `leads_group` these go to its whole process group.
    """

    def __init__(self, process: subprocess.Popen[bytes], *, leads_group: bool = False) -> None:
        self.process = process
        self.leads_group = leads_group
        self.gone = process.returncode is not None
        self.returncode: int | None = process.returncode
        """Its exit status, or the negative signal; None if it lives, and if the status is unknown."""
        self._to_reap = False
        self._pidfd: forking.Descriptor | None = None
        with suppress(AttributeError, OSError):
            self._pidfd = forking.Descriptor(lambda: os.pidfd_open(process.pid))

    def fileno(self) -> int | None:
        """A descriptor that is readable when it has exited, where there is such a thing."""
        return None if self._pidfd is None else self._pidfd.fd

    def look(self) -> bool:
        """Whether it has exited."""
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
        """Where there is no way but to take the status."""
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

    def _popen_lock(self) -> Any:
        return self.process._waitpid_lock  # type: ignore[attr-defined]

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
        """Wait until it has exited, at most `seconds`."""
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
        """Wait until the others of its group are gone too, at most `seconds`."""
        deadline = time.monotonic() + seconds
        while self._group_lives():
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_INTERVAL)
        return True

    def _group_lives(self) -> bool:
        """Whether anybody else is in the group. Its number is its own while it has members, or is not reaped."""
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
        # where there is no waitid it is asked right behind the exit
        return self.leads_group and (not self.gone or self._to_reap or not hasattr(os, "waitid"))

    def signal(self, number: int) -> None:
        """Send it to the child, or to all of its group. Nothing is sent to whoever has its number now."""
        with suppress(ProcessLookupError, PermissionError):  # it may run as another user
            if self._owns_group:
                os.killpg(self.process.pid, number)
            elif not self.look():
                if self._pidfd is not None and hasattr(signal, "pidfd_send_signal"):
                    signal.pidfd_send_signal(self._pidfd.fd, number)
                else:
                    os.kill(self.process.pid, number)

    def reap(self) -> bool:
        """Last of all: take the status, unless that was done; false if the child does not go."""
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


def _members(group: int) -> Any:
    """The processes of a group that live, as Linux lists them."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                # "pid (any name) state ppid pgrp …"
                state, _, pgrp = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()[:3]
                if int(pgrp) == group and state not in (b"Z", b"X"):
                    yield int(entry)
