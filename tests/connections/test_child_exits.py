"""How children end: with all that they have left behind, seen without taking what others wait for."""

from __future__ import annotations

import os
import signal
import sys
import textwrap

import pytest

from packetwire import (
    AsyncPacketConnection,
    ChildExited,
    LocalProtocolError,
    PacketConnection,
    RequestTimeout,
    child,
)
from packetwire.streams import process as processes
from packetwire.streams import starting

pytestmark = pytest.mark.timeout(60)

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="processes are looked for in /proc")
needs_waitid = pytest.mark.skipif(not hasattr(os, "waitid"), reason="a stop is seen by waitid")

HUNG = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(2, b"pid %d\\n" % os.getpid())
os.close(0); os.close(1); os.close(2)
time.sleep(60)
"""


def python(code):
    return [sys.executable, "-c", textwrap.dedent(code)]


def lives(pid):
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def pid_told(conn):
    """The number that a child has written to its standard error."""
    while b"\n" not in conn._driver.stream.stderr:
        pass
    return int(conn._driver.stream.stderr.split()[1])


@needs_proc
@pytest.mark.parametrize(
    "shell", ["{} ; true", "{} & wait", "{} & exit 0"], ids=["before more", "waited for", "left behind"]
)
@pytest.mark.parametrize("options", [{"process_group": True}, {"process_group": 0}, {"start_new_session": True}])
def test_a_hung_program_behind_a_wrapper_does_not_outlive_close(shell, options, tmp_path):
    script = tmp_path / "hung.py"
    script.write_text(HUNG)
    argv = ["sh", "-c", shell.format(f"{sys.executable} {script}")]
    with PacketConnection(child(argv, exit_timeout=0.1, **options), close_timeout=0.1) as conn:
        pid = pid_told(conn)
        assert lives(pid)
    assert not lives(pid)


@needs_proc
def test_a_hung_program_behind_a_killed_wrapper_does_not_outlive_close(tmp_path):
    script = tmp_path / "hung.py"
    script.write_text(HUNG)
    argv = ["sh", "-c", f"{sys.executable} {script}; true"]
    with PacketConnection.spawn(argv, exit_timeout=0.1, close_timeout=0.1, process_group=True) as conn:
        pid = pid_told(conn)
        conn.process.kill()
        with pytest.raises(ChildExited, match="SIGKILL"):
            conn(1)
        assert conn.process.wait(20) == -signal.SIGKILL  # which does not let go of the group's number
        assert lives(pid)
    assert not lives(pid)


@needs_proc
def test_one_that_leaves_orderly_is_not_cut_off_behind_its_wrapper(tmp_path):
    left = tmp_path / "left"
    code = f"import sys, time, os; sys.stdin.read(); time.sleep(0.3); open({str(left)!r}, 'w').close()"
    (tmp_path / "service.py").write_text(code)
    argv = ["sh", "-c", f"exec 3<&0; {sys.executable} {tmp_path}/service.py <&3 & exit 0"]
    with PacketConnection.spawn(argv, exit_timeout=20, close_timeout=0.1, process_group=True):
        pass
    assert left.exists()


@pytest.mark.parametrize(("terminal", "expected"), [(True, False), (False, True)])
def test_by_default_the_terminal_decides(monkeypatch, terminal, expected):
    monkeypatch.setattr(starting, "has_controlling_terminal", lambda: terminal)
    with PacketConnection.spawn(["cat"], close_timeout=0.1) as conn:
        assert (os.getpgid(conn.process.pid) == conn.process.pid) is expected
    for choice in (True, False):
        with PacketConnection.spawn(["cat"], close_timeout=0.1, process_group=choice) as conn:
            assert (os.getpgid(conn.process.pid) == conn.process.pid) is choice


@pytest.mark.parametrize(("value", "error"), [("0", TypeError), (0.0, TypeError), (-2, LocalProtocolError)])
@pytest.mark.parametrize("make", [child, PacketConnection.spawn, AsyncPacketConnection.spawn])
def test_a_process_group_that_makes_no_sense(make, value, error):
    with pytest.raises(error, match=f"process_group must be .*the number of a group, got .*{value}"):
        make(["cat"], process_group=value)


@pytest.mark.parametrize("ignored", [True, False], ids=["SIGCHLD ignored", "waited for by another"])
def test_a_status_that_another_waiter_took_is_unknown(ignored):
    before = signal.getsignal(signal.SIGCHLD)
    if ignored:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with PacketConnection.spawn(["sleep", "30"], close_timeout=0.1) as conn:
            stopped = conn._driver.stream._exit
            if not ignored:
                # as if it had been quicker than we are
                stopped.look, look = lambda: False, stopped.look
            conn.process.kill()
            if not ignored:
                os.waitpid(conn.process.pid, 0)
                stopped.look = look
                look()
            with pytest.raises(ChildExited, match="is gone") as caught:
                conn(1)
            assert caught.value.returncode is None
    finally:
        signal.signal(signal.SIGCHLD, before)


@needs_waitid
@pytest.mark.parametrize("process_group", [True, False])
def test_a_stopped_child_is_told_of(process_group, caplog):
    with PacketConnection.spawn(
        ["sleep", "30"], exit_timeout=0.1, close_timeout=0.1, process_group=process_group
    ) as conn:
        conn.process.send_signal(signal.SIGSTOP)
        with pytest.raises(RequestTimeout, match=r"is stopped by signal 19 \(SIGSTOP\)"):
            while True:
                conn(1, timeout=0.05)
    assert "is stopped by signal 19 (SIGSTOP)" in caplog.text
    assert conn.process.returncode == -signal.SIGTERM  # it was let run on to see that


@needs_waitid
def test_a_stopped_child_is_told_of_by_asyncio(run_async):
    async def main():
        async with AsyncPacketConnection.spawn(["sleep", "30"], exit_timeout=0.1, close_timeout=0.1) as conn:
            conn.process.send_signal(signal.SIGSTOP)
            while True:
                await conn(1, timeout=0.05)

    with pytest.raises(RequestTimeout, match=r"is stopped by signal 19 \(SIGSTOP\)"):
        run_async(main())


@pytest.fixture
def run_async():
    import asyncio

    return asyncio.run


def test_a_child_of_another_user_that_cannot_be_ended_is_left_behind(monkeypatch, caplog):
    def refuse(*args):
        raise PermissionError

    monkeypatch.setattr(processes, "TERM_WAIT", 0.01)
    monkeypatch.setattr("packetwire.streams.exits.REAP_WAIT", 0.01)
    monkeypatch.setattr(processes, "REAP_WAIT", 0.01)
    conn = PacketConnection.spawn(["sleep", "30"], exit_timeout=0.01, close_timeout=0.01).open()
    process = conn.process
    with monkeypatch.context() as patch:
        for module, name in (
            (os, "kill"),
            (os, "killpg"),
            (signal, "pidfd_send_signal"),
        ):
            patch.setattr(module, name, refuse)
        conn.close()
    assert "it is left behind" in caplog.text
    os.kill(process.pid, signal.SIGKILL)
    process.wait(20)
