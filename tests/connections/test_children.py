"""Children over their pipes, and being such a child."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
from tests.leftovers import open_fds

from childprocesses import child_processes
from packetwire import (
    ChildExited,
    ConnectionEnded,
    LocalProtocolError,
    PacketConnection,
    PeerClosed,
    RemoteProtocolError,
    RequestTimeout,
    child,
)

pytestmark = pytest.mark.timeout(60)

SERVER = """
import os, signal, sys, time
from packetwire import PacketConnection, stdio

def handler(rq_type, flags, payload):
    if rq_type == 1:
        os.kill(os.getpid(), int(payload))
    if rq_type == 2:
        print("leaving", file=sys.stderr, flush=True)
        os._exit(int(payload))
    if rq_type == 3:
        print("a stray print")
        os.write(1, b"a stray write\\n")
        os.system("echo a stray command")
    if rq_type == 4:
        time.sleep(float(payload))
    if rq_type == 5:
        sys.stderr.write("x" * 200_000 + "the end")
        sys.stderr.flush()
    if rq_type == 6:
        return sys.stdin.read()
    return flags, payload[::-1]

with PacketConnection(stdio(), "child", request_handler=handler, close_timeout=1) as conn:
    conn.join_recv()
"""


def python(code):
    return [sys.executable, "-c", textwrap.dedent(code)]


@pytest.fixture
def server():
    """A connection to a child that serves; afterwards no child is left."""
    children = child_processes()
    yield PacketConnection.spawn(python(SERVER), "server", close_timeout=2)
    assert child_processes() - children == set()


def test_a_child_is_called(server):
    with server:
        assert server(0, b"abc", 3) == (True, 3, b"cba")
        payload = os.urandom(1 << 20)
        assert [r[2] for r in server.map([(0, payload)] * 8)] == [payload[::-1]] * 8
    assert isinstance(server.ended, PeerClosed)


def test_each_opening_starts_a_child_anew(server):
    for _ in range(2):
        with server:
            assert server(0, b"abc")[0]


def test_stray_output_does_not_touch_the_stream(server):
    with server:
        assert server(3, b"ab") == (True, 0, b"ba")
        assert server(6) == (True, 0, b"")  # standard input is empty, not the stream
        with pytest.raises(ChildExited) as caught:
            server(2, b"7")
    assert caught.value.returncode == 7
    for stray in (b"a stray print", b"a stray write", b"a stray command", b"leaving"):
        assert stray in caught.value.stderr
        assert stray.decode() in str(caught.value)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_killed_child_is_reported_with_its_signal(server, number):
    with server:
        results = [server.submit(4, payload=b"30") for _ in range(100)]
        process = server.process
        process.send_signal(number)
        with pytest.raises(ChildExited):
            while True:
                server.submit(0)  # whenever a write fails, the reason is told
        for result in results:
            with pytest.raises(ChildExited, match=f"killed by signal {int(number)}.*{number.name}") as caught:
                result()
            assert caught.value.signal == number
            assert caught.value.argv[0] == sys.executable
        with pytest.raises(ChildExited):
            server(0)


def test_exit_status_and_the_end_of_a_long_stderr(server):
    with server:
        assert server(5)[0]
        with pytest.raises(ChildExited, match="(?s)exited with status 3.*the end") as caught:
            server(2, b"3")
    assert len(caught.value.stderr) <= 64 << 10
    assert caught.value.stderr.endswith(b"the endleaving\n")


def test_stderr_is_forwarded_if_asked_for(capfd):
    with PacketConnection.spawn(python(SERVER), forward_stderr=True) as conn:
        conn(3)
        conn(5)
        with pytest.raises(ChildExited):
            conn(2, b"1")
    assert "a stray print" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("code", "cause", "quoted"),
    [
        (
            "print('Welcome to the machine', flush=True); import time; time.sleep(30)",
            RemoteProtocolError,
            "Welcome",
        ),
        ("raise SystemError('at start')", None, "SystemError: at start"),
        ("print('Last login: today', flush=True)", None, "Last login"),
        ("import os; os.write(1, bytes(5)); import time; time.sleep(30)", RemoteProtocolError, "at byte 1"),
    ],
)
def test_a_child_that_is_no_peer_is_quoted(code, cause, quoted):
    with PacketConnection.spawn(python(code), close_timeout=0.2, exit_timeout=0.2) as conn:
        with pytest.raises(ConnectionEnded, match=quoted) as caught:
            conn(1)
        if cause:
            assert isinstance(caught.value.__cause__, cause)
        else:
            assert isinstance(caught.value, ChildExited)


def test_a_child_that_says_something_and_waits_is_quoted_in_the_timeout():
    code = "print('Last login: today', flush=True); import sys; sys.stdin.read()"
    with (
        PacketConnection.spawn(python(code), close_timeout=0.2) as conn,
        pytest.raises(RequestTimeout, match="Last"),
    ):
        while True:
            conn(1, timeout=1)


def test_a_command_that_does_not_exist():
    threads, fds = set(threading.enumerate()), open_fds()
    conn = PacketConnection.spawn(["no-such-command-anywhere"])
    with pytest.raises(FileNotFoundError, match="no-such-command-anywhere"):
        conn.open()
    assert not conn.is_open()
    assert set(threading.enumerate()) - threads == set()
    assert open_fds() - fds == set()
    for argv in ("a string", b"octets"):
        with pytest.raises(TypeError, match="argv"):
            child(argv)
    with pytest.raises(ValueError, match="empty"):
        child([])


def test_a_child_that_closed_its_output_and_lives(server):
    code = "import os, time; os.close(1); time.sleep(30)"
    with PacketConnection.spawn(python(code), close_timeout=0.2, exit_timeout=0.1) as conn:
        with pytest.raises(PeerClosed, match="closed its standard output and still runs"):
            conn(1)


def test_a_child_that_ignores_everything_is_killed():
    code = """
    import os, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(1, bytes(1))
    time.sleep(60)
    """
    conn = PacketConnection.spawn(python(code), close_timeout=0.2, exit_timeout=0.1).open()
    process = conn.process
    conn.join_recv(20)  # it has set its signal handler: a zero octet is no packet
    conn.close()
    assert process.returncode == -signal.SIGKILL


def test_a_grandchild_that_holds_the_pipes_does_not_hide_the_childs_end():
    # closing ends it, too
    with PacketConnection.spawn(["sh", "-c", "sleep 30 & exit 5"], close_timeout=0.2, process_group=True) as conn:
        with pytest.raises(ChildExited, match="status 5"):
            conn(1)


@pytest.mark.parametrize("code", [SERVER, "import time; time.sleep(60)"], ids=["busy", "not reading"])
def test_closing_while_the_child_is_busy_or_not_reading(code):
    conn = PacketConnection.spawn(python(code), close_timeout=0.2, exit_timeout=0.1).open()
    process = conn.process
    results = []
    with contextlib.suppress(RequestTimeout):
        for _ in range(50):
            results.append(conn.submit(4, payload=b"60" + bytes(100_000 if code != SERVER else 0), timeout=0.05))
    conn.close()
    assert process.returncode is not None
    for result in results:
        with pytest.raises(ConnectionEnded):
            result(timeout=20)


@pytest.mark.parametrize("bufsize", [0, -1])
def test_a_popen_of_the_users_own_stays_the_users(bufsize):
    with subprocess.Popen(
        python("print('banner', flush=True)" + SERVER),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=bufsize,
    ) as process:
        assert process.stdout.readline() == b"banner\n"
        with PacketConnection(process) as conn:
            assert conn(0, b"abc")[2] == b"cba"
        assert not process.stdin.closed
        assert process.wait(20) == 0


def test_octets_that_the_users_popen_has_buffered_are_not_lost():
    packet = bytes(PacketConnection.EOF_Packet)
    code = f"import os, sys; os.write(1, b'banner\\n' + {packet!r}); sys.stdin.read()"
    with subprocess.Popen(python(code), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"banner\n"
        with PacketConnection(process) as conn:
            assert conn.join_recv(20)
        assert isinstance(conn.ended, PeerClosed)
        process.stdin.close()


def test_a_dead_popen_of_the_users_own_is_explained():
    with subprocess.Popen(python("exit(9)"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        with PacketConnection(process) as conn, pytest.raises(ChildExited, match="status 9"):
            conn(1)
    with subprocess.Popen(python(""), stdin=subprocess.PIPE) as process:
        with pytest.raises(LocalProtocolError, match="stdout=PIPE"):
            PacketConnection(process).open()


def test_an_interrupted_close_leaves_nothing_behind():
    threads, fds = set(threading.enumerate()), open_fds()
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    conn = PacketConnection.spawn(python(code), close_timeout=20, exit_timeout=20).open()
    process = conn.process
    conn.submit(1)

    def interrupt():
        while "_end_in_order" not in {f.f_code.co_name for f in frames(threading.main_thread())}:
            pass
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        conn.close(timeout=20)
    thread.join()
    assert process.returncode is not None
    assert set(threading.enumerate()) - threads == set()
    assert open_fds() - fds == set()
    assert conn.closed


def frames(thread):
    frame = sys._current_frames().get(thread.ident)
    while frame is not None:
        yield frame
        frame = frame.f_back


def test_stdio_can_be_taken_once():
    code = """
    from packetwire import stdio, LocalProtocolError, PacketConnection
    stream = stdio()
    try:
        stdio()
    except LocalProtocolError:
        with PacketConnection(stream, request_handler=lambda *rq: b"once") as conn:
            conn.join_recv()
    """
    with PacketConnection.spawn(python(code)) as conn:
        assert conn(1)[2] == b"once"


def test_what_was_printed_and_held_back_before_stdio_does_not_get_between_the_packets():
    code = """
    from packetwire import stdio, PacketConnection
    print("hello from an import")
    with PacketConnection(stdio(), request_handler=lambda *rq: b"clean") as conn:
        conn.join_recv()
    """
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with PacketConnection.spawn(python(code), env=env) as conn:
        assert conn(1, timeout=20)[2] == b"clean"


def test_ctrl_c_kills_a_parent_that_waits_and_its_child():
    parent = f"""
    import sys
    from packetwire import PacketConnection
    with PacketConnection.spawn({python(SERVER)!r}) as conn:
        print(conn.process.pid, flush=True)
        conn(4, b"60")
    """
    with subprocess.Popen(python(parent), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
        assert process.returncode in (1, -signal.SIGINT, 130)
        assert b"KeyboardInterrupt" in stderr
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


INTERRUPTED_SERVERS = {
    "threads": """
        import threading
        from packetwire import PacketConnection, stdio

        def handle(rq_type, flags, payload):
            conn(0)
            threading.Event().wait(60)

        conn = PacketConnection(stdio(), request_handler=handle, close_timeout=0.1)
        with conn:
            conn.join()
        """,
    "asyncio": """
        import asyncio
        from packetwire import AsyncPacketConnection, stdio

        async def handle(rq_type, flags, payload):
            await conn(0)
            await asyncio.Event().wait()

        async def main():
            global conn
            conn = AsyncPacketConnection(stdio(), request_handler=handle, close_timeout=0.1)
            async with conn:
                await conn.join()

        asyncio.run(main())
        """,
}


@pytest.mark.parametrize("code", INTERRUPTED_SERVERS.values(), ids=INTERRUPTED_SERVERS)
def test_a_request_that_an_interrupted_child_gives_up_is_no_refusal(code):
    """Ctrl-C reaches the child, too, which ends in order and answers what it will not do."""
    begun = threading.Event()
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with PacketConnection.spawn(command, request_handler=lambda *request: begun.set()) as conn:
        result = conn.submit(1)
        assert begun.wait(30)
        os.kill(conn.process.pid, signal.SIGINT)
        with pytest.raises(ConnectionEnded, match="closed before this request was done"):
            result(timeout=30)
