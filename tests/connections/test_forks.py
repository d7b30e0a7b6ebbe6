"""A process with connections forks: the fork keeps nothing of them, and leaves them alone."""

from __future__ import annotations

import gc
import os
import queue
import select
import signal
import ssl
import subprocess
import sys
import textwrap
import threading
import types
from collections import Counter
from contextlib import contextmanager

import pytest
from tests.leftovers import open_fds

from packetwire import ConnectionEnded, LocalProtocolError, PacketConnection, child, connect_to, serve
from packetwire.capture import CaptureWriter
from packetwire.core.events import StreamEnded
from packetwire.listeners import listen
from packetwire.streams import forking
from packetwire.streams.wakeup import Wakeup

from .certificates import make_certificate

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

ADDRESSES = ("unix", "tcp", "tls")

PRELUDE = """
import asyncio, os, signal, ssl, sys
from packetwire import AsyncPacketConnection, PacketConnection, aserve, connect_to, serve, stdio

alive, address, certificate, key = int(sys.argv[1]), *sys.argv[2:]

def tls_server():
    if address.startswith("tls"):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        return context

def tls_client():
    if address.startswith("tls"):
        return ssl.create_default_context(cafile=certificate)

def fork_that_stays():
    pid = os.fork()
    if not pid:
        print("forked", flush=True)
        os.read(alive, 1)
        os._exit(0)
    return pid

def forking_handler(rq_type, flags, payload):
    return str(fork_that_stays()) if rq_type == 7 else payload[::-1]
"""

CLIENT = """
with PacketConnection(connect_to(address, ssl_context=tls_client())) as conn:
    print(conn.process.pid if conn.process else conn(1, b"ab"), flush=True)
    fork_that_stays()
    signal.pause()
"""

ASYNC_CLIENT = """
async def main():
    async with AsyncPacketConnection(connect_to(address, ssl_context=tls_client())) as conn:
        print(conn.process.pid if conn.process else await conn(1, b"ab"), flush=True)
        fork_that_stays()
        await asyncio.sleep(60)
asyncio.run(main())
"""

SERVER = """
with serve(address, lambda stream: PacketConnection(stream, request_handler=forking_handler),
           ssl_context=tls_server()) as server:
    print(server.address, flush=True)
    server.wait()
"""

ASYNC_SERVER = """
async def main():
    def factory(stream):
        return AsyncPacketConnection(stream, request_handler=forking_handler, handlers="inline")
    async with await aserve(address, factory, ssl_context=tls_server()) as server:
        print(server.address, flush=True)
        await server.wait()
asyncio.run(main())
"""

STDIO = """
with PacketConnection(stdio(), request_handler=forking_handler) as conn:
    conn.join_recv()
"""

ASYNC_STDIO = """
async def main():
    async with AsyncPacketConnection(stdio(), request_handler=forking_handler, handlers="inline") as conn:
        await conn.join_recv()
asyncio.run(main())
"""

ECHO_CODE = """
from packetwire import *
with PacketConnection(stdio(), request_handler=lambda t, f, p: p[::-1]) as conn: conn.join_recv()
"""
ECHO = [sys.executable, "-c", ECHO_CODE]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("certificate"), "packetwire-test")


@pytest.fixture
def place(request, tmp_path):
    """An address to serve at."""
    return {"unix": f"unix:{tmp_path}/s", "tcp": "tcp:127.0.0.1:0", "tls": "tls:127.0.0.1:0"}[request.param]


@contextmanager
def program(code, address="", certificate=None):
    """A program that can fork; the fork lives until the `with` is left, whatever becomes of the program."""
    alive, hold = os.pipe()
    files = (certificate.certfile, certificate.keyfile) if certificate else ("", "")
    argv = [sys.executable, "-c", textwrap.dedent(PRELUDE) + textwrap.dedent(code), str(alive), address, *files]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[alive], bufsize=0)
    os.close(alive)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        os.close(hold)
        process.stdin.close()
        process.stdout.close()


def kill(process):
    process.kill()
    process.wait()


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="another's child can be waited for on Linux only")
@pytest.mark.parametrize("code", [CLIENT, ASYNC_CLIENT], ids=["threads", "asyncio"])
def test_the_child_of_a_killed_parent_ends_though_a_fork_lives(code):
    with program(code, f"exec:{sys.executable} -c '{ECHO[-1]}'") as process:
        pid = int(process.stdout.readline())
        pidfd = os.pidfd_open(pid)
        try:
            assert process.stdout.readline() == b"forked\n"
            kill(process)
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            assert poller.poll(20_000)
        finally:
            os.close(pidfd)


@pytest.mark.parametrize("place", ADDRESSES, indirect=True)
@pytest.mark.parametrize("code", [CLIENT, ASYNC_CLIENT], ids=["threads", "asyncio"])
def test_the_server_sees_the_end_of_a_killed_client_though_a_fork_lives(code, place, certificate):
    ended = queue.SimpleQueue()
    context = None
    if place.startswith("tls"):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate.certfile, certificate.keyfile)

    def service(stream):
        return PacketConnection(
            stream,
            request_handler=lambda *request: b"",
            on_event=lambda event: ended.put(event) if isinstance(event, StreamEnded) else None,
        )

    with serve(place, service, ssl_context=context) as server:
        with program(code, str(server.address), certificate) as process:
            process.stdout.readline()
            assert process.stdout.readline() == b"forked\n"
            assert ended.empty()
            kill(process)
            ended.get(timeout=20)


@pytest.mark.parametrize("place", ADDRESSES, indirect=True)
@pytest.mark.parametrize("code", [SERVER, ASYNC_SERVER], ids=["threads", "asyncio"])
def test_the_clients_of_a_killed_server_see_the_end_though_a_fork_lives(code, place, certificate):
    with program(code, place, certificate) as process:
        address = process.stdout.readline().decode().rstrip()
        context = ssl.create_default_context(cafile=certificate.certfile) if place.startswith("tls") else None
        with (
            PacketConnection(connect_to(address, ssl_context=context)) as idle,
            PacketConnection(connect_to(address, ssl_context=context)) as conn,
        ):
            assert idle(1, b"ab")[2] == b"ba"
            assert conn(7)[0]
            assert process.stdout.readline() == b"forked\n"
            assert conn(1, b"ab")[2] == b"ba"
            assert idle(1, b"ab")[2] == b"ba"
            kill(process)
            assert conn.join_recv(20)
            assert idle.join_recv(20)
        with pytest.raises(OSError, match=r"refused|[Nn]o such"):
            PacketConnection(connect_to(address, ssl_context=context)).open()


@pytest.mark.parametrize("code", [STDIO, ASYNC_STDIO], ids=["threads", "asyncio"])
def test_the_parent_of_a_killed_child_sees_the_end_though_a_fork_lives(code):
    code = code.replace("stdio()", "stdio()").replace('print("forked", flush=True)', "pass")
    with program(code) as process:
        with PacketConnection((process.stdout.fileno(), process.stdin.fileno())) as conn:
            assert conn(7)[0]
            assert conn(1, b"ab")[2] == b"ba"
            kill(process)
            assert conn.join_recv(20)


UNTOUCHED = """
import atexit, threading
from packetwire.capture import CaptureWriter
def reverse(rq_type, flags, payload):
    return payload[::-1]

def fork(leave):
    pid = os.fork()
    if pid:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status == 7, status
    else:
        signal.alarm(20)
        leave()
    return pid

atexit.register(lambda: None)
def serving(stream):
    return PacketConnection(stream, request_handler=reverse)

with (
    serve(address, serving, ssl_context=tls_server()) as server,
    CaptureWriter(capture) as capture,
    PacketConnection(connect_to(server.address, ssl_context=tls_client()), capture=capture) as conn,
    PacketConnection.spawn(echo) as to_child,
):
    class Fork(Exception): pass
    results = [to_child.submit(1, 0, b"x%d" % n) for n in range(100)]
    try:
        for leave in (lambda: sys.exit(7), lambda: os._exit(7), Fork):
            assert conn(1, b"ab")[2] == b"ba" and to_child(1, b"ab")[2] == b"ba"
            if leave is not Fork:
                fork(leave)
            elif not fork(int):
                raise Fork  # leaves all these blocks in the fork
            assert conn(1, b"ab")[2] == b"ba" and to_child(1, b"ab")[2] == b"ba"
            with PacketConnection(connect_to(server.address, ssl_context=tls_client())) as another:
                assert another(1, b"ab")[2] == b"ba"
    except Fork:
        server.stop()
        for one in (conn, to_child):
            one.close()
        try:
            CaptureWriter(capture.path)
        except OSError:
            pass  # the parent still writes there
        else:
            os._exit(3)
        sys.exit(7)
    assert [r()[2] for r in results] == [(b"x%d" % n)[::-1] for n in range(100)]
print("untouched", flush=True)
"""


@pytest.mark.parametrize("place", ADDRESSES, indirect=True)
def test_a_fork_that_exits_leaves_the_parents_connections_alone(place, certificate, tmp_path):
    head = f"capture, echo = {str(tmp_path / 'capture')!r}, {ECHO!r}\n"
    with program(head + textwrap.dedent(UNTOUCHED), place, certificate) as process:
        output = process.stdout.read()
        assert process.wait(30) == 0
        assert output == b"untouched\n"


ASYNC_UNTOUCHED = """
def forked(leave):
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        leave()
    return pid

def serving(stream):
    return AsyncPacketConnection(stream, request_handler=lambda t, f, payload: payload[::-1], handlers="inline")

async def main():
    async with (
        await aserve(address, serving, ssl_context=tls_server()) as server,
        AsyncPacketConnection(connect_to(server.address, ssl_context=tls_client())) as conn,
        AsyncPacketConnection.spawn(echo) as to_child,
    ):
        async def calls():
            assert (await conn(1, b"ab"))[2] == b"ba" and (await to_child(1, b"ab"))[2] == b"ba"
        await calls()
        pid = forked(lambda: os._exit(7))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        await calls()
        pid = os.fork()
        if not pid:
            signal.alarm(20)
            try:
                await conn(1)
            except Exception as error:
                assert "fork" in str(error)
            server.stop()
            await conn.close()
            await to_child.close()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        await calls()
        async with AsyncPacketConnection(connect_to(server.address, ssl_context=tls_client())) as another:
            assert (await another(1, b"ab"))[2] == b"ba"
        # one that shuts the loop down, as far as it is ours
        pid = os.fork()
        if not pid:
            signal.alarm(20)
            sys.exit(7)
        while not (done := os.waitpid(pid, os.WNOHANG))[0]:
            await asyncio.sleep(0.01)
        assert os.waitstatus_to_exitcode(done[1]) == 7, done
        await calls()
asyncio.run(main())
print("untouched", flush=True)
"""


@pytest.mark.parametrize("place", ADDRESSES, indirect=True)
def test_a_fork_of_an_event_loop_leaves_the_parents_connections_alone(place, certificate):
    head = f"echo = {ECHO!r}\n"
    with program(head + textwrap.dedent(ASYNC_UNTOUCHED), place, certificate) as process:
        output = process.stdout.read()
        assert process.wait(30) == 0
        assert output == b"untouched\n"


FORK_WHILE_A_THREAD_CLOSES = """
import threading
async def main():
    conn = await AsyncPacketConnection.spawn(["sleep", "60"], close_timeout=0.01, exit_timeout=60).open()
    closing = asyncio.create_task(conn.close())
    while not any(thread.name.endswith("-closer") for thread in threading.enumerate()):
        await asyncio.sleep(0.01)
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    conn.process.kill()
    await closing
asyncio.run(main())
print("untouched", flush=True)
"""


def test_a_fork_does_not_wait_for_a_thread_that_closes_for_the_parent():
    with program(FORK_WHILE_A_THREAD_CLOSES) as process:
        output = process.stdout.read()
        assert process.wait(30) == 0
        assert output == b"untouched\n"


def in_a_fork(check):
    """Run `check` in a fork; it shall not raise, nor hang."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        os.close(read_fd)
        try:
            said = repr(check()).encode()
        except BaseException as error:
            said = f"raised {error!r}".encode()
        os.write(write_fd, said)
        os._exit(0)
    os.close(write_fd)
    try:
        with open(read_fd, "rb", closefd=False) as file:
            said = file.read().decode()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        return said
    finally:
        os.close(read_fd)


@contextmanager
def much_open(tmp_path):
    """One of each that opens something."""
    with (
        serve(f"unix:{tmp_path}/s", lambda stream: PacketConnection(stream, request_handler=reverse)) as server,
        serve("tcp:127.0.0.1:0", lambda stream: PacketConnection(stream, request_handler=reverse)) as over_tcp,
        CaptureWriter(tmp_path / "capture") as capture,
        PacketConnection(connect_to(server.address), capture=capture) as conn,
        PacketConnection(connect_to(over_tcp.address)) as tcp,
        PacketConnection(child(ECHO)) as to_child,
    ):
        assert [one(1, b"ab")[2] for one in (conn, tcp, to_child)] == [b"ba"] * 3
        # so much that a thread has to wait for room
        results = [conn.submit(1, 0, bytes(1 << 20)), to_child.submit(1, 0, bytes(1 << 20))]
        yield server, over_tcp, capture, conn, tcp, to_child
        assert all(result()[0] for result in results)


def reverse(rq_type, flags, payload):
    return payload[::-1]


def opened_since(before):
    """What was opened since then.

    But for the pipe for signals that libuv, where a test has used it, makes anew in each fork: both ends are here.
    """
    opened = open_fds() - before
    files = Counter(each.partition(" ")[2] for each in opened)
    own = {
        file for file, ends in files.items() if "uvloop" in sys.modules and file.startswith("pipe:") and ends == 2
    }
    return {each for each in opened if each.partition(" ")[2] not in own}


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="there is no list of what is open")
def test_nothing_is_open_in_a_fork(tmp_path):
    before = open_fds()
    with much_open(tmp_path):
        assert len(open_fds() - before) > 20
        opened = eval(in_a_fork(lambda: opened_since(before)))
        assert len(opened) == 1, opened  # what it tells us by


def test_the_numbers_are_not_closed_again_in_a_fork(tmp_path):
    def check():
        mine = [os.open(os.devnull, os.O_RDONLY) for _ in range(60)]  # they get the numbers
        server.stop()
        for one in (capture, conn, tcp, to_child):
            one.close()
        gc.collect()
        for fd in mine:
            os.fstat(fd)
        return "all there"

    with much_open(tmp_path) as (server, _, capture, conn, tcp, to_child):
        assert in_a_fork(check) == "'all there'"


def is_ours(one):
    return (type(one).__module__ or "").startswith("packetwire") and not isinstance(one, type | BaseException)


def locks_of(found):
    """The locks that objects of packetwire refer to."""
    seen, locks, todo = set(), [], list(found)
    kinds = type(threading.Lock()), type(threading.RLock())
    containers = threading.Condition | threading.Event | types.MethodType | dict | list | set | tuple
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, kinds):
            locks.append(one)
        elif isinstance(one, containers) or is_ours(one):
            todo += gc.get_referents(one)
    return locks


def test_no_lock_is_waited_for_in_a_fork(tmp_path):
    """Another thread holds every lock at the moment of the fork."""

    def hold():
        held.extend(lock for lock in locks if lock.acquire(timeout=5))
        holding.set()
        release.wait(50)
        for lock in held:
            lock.release()

    def check():
        ended = 0
        for call in (lambda: conn(1), lambda: tcp.submit(1), pending, lambda: to_child(1, timeout=5)):
            try:
                call()
            except ConnectionEnded as error:
                ended += "fork" in str(error)
        server.stop()
        assert server.wait(20)
        over_tcp.__exit__(None, None, None)
        for one in (conn, tcp, to_child):
            assert one.join_recv(20)
            one.close()
        to_child.process.wait()
        capture.close()
        with PacketConnection(child(ECHO)) as another:  # and it can have its own
            return ended, another(1, b"ab")[2]

    with much_open(tmp_path) as opened:
        server, over_tcp, capture, conn, tcp, to_child = opened
        pending = to_child.submit(1, 0, b"ab")
        assert pending()
        pending = blocked(conn)
        locks, held = locks_of(opened), []
        assert len(locks) > 12
        holding, release = threading.Event(), threading.Event()
        thread = threading.Thread(target=hold)
        thread.start()
        assert holding.wait(30)
        try:
            assert in_a_fork(check) == "(4, b'ba')"
        finally:
            release.set()
            thread.join()


@contextmanager
def held(locks):
    """Another thread holds all of them."""
    holding, release = threading.Event(), threading.Event()

    def hold():
        mine = [lock for lock in locks if lock.acquire(timeout=5)]
        holding.set()
        release.wait(50)
        for lock in mine:
            lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert holding.wait(30)
        yield
    finally:
        release.set()
        thread.join()


def test_no_lock_of_tls_or_of_files_is_waited_for_in_a_fork(certificate):
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(certificate.certfile, certificate.keyfile)
    client_context = ssl.create_default_context(cafile=certificate.certfile)
    (read_fd, write_fd), (other_read_fd, other_write_fd) = os.pipe(), os.pipe()
    with (
        serve("tls:127.0.0.1:0", PacketConnection, ssl_context=server_context) as server,
        PacketConnection(connect_to(server.address, ssl_context=client_context)) as tls,
        open(read_fd, "rb") as recv,
        open(other_write_fd, "wb") as send,
        PacketConnection((recv, send), close_timeout=0.1) as files,
    ):
        files.submit(1)
        streams = [conn._driver.stream for conn in (tls, files)]

        def check():
            for stream in streams:
                stream.end_write()
                stream.close()

        locks = locks_of([tls, files])
        assert len(locks) > 4
        with held(locks):
            assert in_a_fork(check) == "None"
        assert not tls(1)[0]
        os.close(write_fd)
        assert os.read(other_read_fd, 100)
    os.close(other_read_fd)


def blocked(conn):
    """A request whose answer has not been read when it is returned: it is too large for that."""
    return conn.submit(1, 0, bytes(8 << 20))


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="there is no list of what is open")
def test_a_fork_waits_for_what_is_being_opened_and_closed():
    """Another thread opens and closes: a fork never comes between a number and what is known of it."""
    stop = threading.Event()

    def open_and_close():
        while not stop.is_set():
            Wakeup().close()
            descriptor = forking.Descriptor(lambda: os.open(os.devnull, os.O_RDONLY))
            descriptor.close()

    before = open_fds()
    threads = [threading.Thread(target=open_and_close) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            opened = eval(in_a_fork(lambda: opened_since(before)))
            assert len(opened) == 1, opened
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_fork_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(forking, "FORK_WAIT", 0.01)
    holding, release = threading.Event(), threading.Event()

    def hold():
        with forking.opening():
            holding.set()
            release.wait(50)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert holding.wait(20)
        assert in_a_fork(lambda: Wakeup().close()) == "None"
    finally:
        release.set()
        thread.join()
    with forking.opening():
        pass


def test_one_that_cannot_be_let_go_of_does_not_keep_the_others():
    code = """
    import os, sys
    from packetwire.streams import forking
    from packetwire.streams.wakeup import Wakeup
    class Broken:
        def after_fork(self):
            raise RuntimeError("no way")
    broken, wakeup = forking.register(Broken()), Wakeup()
    pid = os.fork()
    if not pid:
        sys.exit(wakeup.fileno() != -1)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=False, capture_output=True, timeout=50
    )
    assert done.returncode == 0
    assert b"no way" in done.stderr


WORKER = """
from packetwire.listeners import listen
listener = listen(address, inherit=True)
if pid := os.fork():
    print(listener.address, pid, flush=True)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    print("still listening", flush=True)
    os.read(alive, 1)
    listener.close()
elif kind == "threads":
    def factory(stream):
        return PacketConnection(stream, request_handler=lambda *rq: str(os.getpid()))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # clients are served before this thread goes on
    with serve(listener, factory) as server:
        signal.signal(signal.SIGTERM, lambda *_: server.stop())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        server.wait()
    os._exit(0)
else:
    async def main():
        def factory(stream):
            return AsyncPacketConnection(stream, request_handler=lambda *rq: str(os.getpid()), handlers="inline")
        async with await aserve(listener, factory) as server:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
            await server.wait()
    asyncio.run(main())
    os._exit(0)
"""


@pytest.mark.parametrize("place", ["unix", "tcp"], indirect=True)
@pytest.mark.parametrize("kind", ["threads", "asyncio"])
def test_a_listener_that_forks_keep(place, kind, tmp_path):
    with program(f"kind = {kind!r}\n" + WORKER, place) as process:
        address, pid = process.stdout.readline().decode().split()
        with PacketConnection(connect_to(address)) as conn:
            assert conn(1)[2].decode() == pid
        os.kill(int(pid), signal.SIGTERM)
        assert process.stdout.readline() == b"still listening\n"
        PacketConnection(connect_to(address), close_timeout=0).open().close()  # it is let wait


def test_a_zmq_socket_is_not_for_forks():
    with pytest.raises(LocalProtocolError, match="a fork cannot use a ZMQ socket"):
        listen("zmq+router:tcp://127.0.0.1:*", inherit=True)
    with pytest.raises(LocalProtocolError, match="is not listened at"):
        listen("stdio:", inherit=True)
