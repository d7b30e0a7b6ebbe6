"""Bodies of any length up, down and both at once, beside whole packets of 1 MiB, with small calls meanwhile.

    python tests/bench/large_bodies.py [--mib 1024] [--over pipe unix tcp tls zmq] [--faces threads asyncio]

The other end is a process of its own, with the same face. For each way it prints MB/s and, beside it, the ratio to
that of whole packets of 1 MiB of the same run, two under way; the processor time of both ends for a GiB; by how
much the memory of each process grew at most; the times of 16-byte calls meanwhile; and whether SHA-256 was right,
which is computed for the bodies and for the whole packets alike (`--no-hash`: for none).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ssl import SSLContext
from typing import Any

from packetwire import (
    AsyncPacketConnection,
    PacketConnection,
    aserve,
    connect_to,
    current_request,
    serve,
)
from packetwire.streams.tls import client_context, server_context

SMALL = b"0123456789abcdef"
BLOCK = bytes(range(256)) * 4096  # 1 MiB
HASH, MAKE, SINK, ECHO, USED = range(5)
HANDLERS = 4
FACES = ("threads", "asyncio")
OVER = ("pipe", "unix", "tcp", "tls", "zmq")


class NoHash:
    """In place of SHA-256."""

    def update(self, data: bytes) -> None:
        """Do nothing."""

    def digest(self) -> bytes:
        """Nothing either."""
        return b""


new_hash: Callable[[], Any] = hashlib.sha256


def answer(rq_type: int, flags: int, payload: bytes) -> Any:
    """What the other end does, in a thread."""
    if rq_type == HASH:
        found = new_hash()
        for chunk in current_request().body:
            found.update(chunk)
        return found.digest()
    if rq_type == MAKE:
        return blocks(int(payload))
    if rq_type == SINK:
        found = new_hash()
        found.update(payload)
        return found.digest()
    if rq_type == USED:
        return repr(usage()).encode()
    return payload


async def answer_later(rq_type: int, flags: int, payload: bytes) -> Any:
    """The same in a loop."""
    if rq_type == HASH:
        found = new_hash()
        async for chunk in current_request().body:
            found.update(chunk)
        return found.digest()
    return answer(rq_type, flags, payload)


def blocks(number: int) -> Iterator[bytes]:
    """So many MiB."""
    return (BLOCK for _ in range(number))


def usage() -> tuple[float, int]:
    """(seconds of processor time, bytes of memory at most) of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_maxrss << 10


class Threads:
    """A connection by threads."""

    def __init__(self, address: str, context: SSLContext | None) -> None:
        self._made = PacketConnection(connect_to(address, ssl_context=context))

    def __enter__(self) -> Threads:
        self._conn = self._made.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._made.__exit__(None, None, None)

    def call(self, rq_type: int, payload: bytes) -> bytes:
        """A call, from any thread."""
        response: bytes = self._conn(rq_type, payload)[2]
        return response

    def up(self, number: int) -> bytes:
        """Send a body, return what comes back."""
        response: bytes = self._conn(HASH, body=blocks(number))[2]
        return response

    def down(self, number: int) -> bytes:
        """Receive a body; its hash."""
        found = new_hash()
        with self._conn.stream(MAKE, b"%d" % number) as call:
            for chunk in call:
                found.update(chunk)
        digest: bytes = found.digest()
        return digest


class Loop(Threads):
    """A connection by an event loop in a thread of its own, as it may be in a program."""

    def __init__(self, address: str, context: SSLContext | None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._async = AsyncPacketConnection(connect_to(address, ssl_context=context))

    def _do(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def __enter__(self) -> Loop:
        self._do(self._async.open())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._async.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def call(self, rq_type: int, payload: bytes) -> bytes:
        """A call, from any thread."""

        async def calling() -> Any:
            return await self._async(rq_type, payload)

        response: bytes = self._do(calling())[2]
        return response

    def up(self, number: int) -> bytes:
        """Send a body, return what comes back."""

        async def calling() -> Any:
            return await self._async(HASH, body=blocks(number))

        response: bytes = self._do(calling())[2]
        return response

    def down(self, number: int) -> bytes:
        """Receive a body; its hash."""

        async def calling() -> bytes:
            found = new_hash()
            async with self._async.stream(MAKE, b"%d" % number) as call:
                async for chunk in call:
                    found.update(chunk)
            digest: bytes = found.digest()
            return digest

        digest: bytes = self._do(calling())
        return digest


class Run:
    """The measurements over one connection."""

    def __init__(self, conn: Threads, mib: int) -> None:
        self.conn = conn
        self.mib = mib
        whole = new_hash()
        for block in blocks(mib):
            whole.update(block)
        self.digest = whole.digest()
        one = new_hash()
        one.update(BLOCK)
        self.block_digest = one.digest()

    def whole(self) -> bool:
        """Packets of 1 MiB, up: two threads, each of which waits for the answer."""
        right: list[bool] = []

        def send() -> None:
            for _ in range(self.mib // 2):
                right.append(self.conn.call(SINK, BLOCK) == self.block_digest)

        self._at_once(send, send)
        return all(right)

    def up(self) -> bool:
        """One body up."""
        return self.conn.up(self.mib) == self.digest

    def down(self) -> bool:
        """One body down."""
        return self.conn.down(self.mib) == self.digest

    def both(self) -> bool:
        """One each way at once."""
        right: list[bool] = []
        self._at_once(lambda: right.append(self.up()), lambda: right.append(self.down()))
        return right == [True, True]

    def _at_once(self, *functions: Callable[[], object]) -> None:
        threads = [threading.Thread(target=function) for function in functions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def measure(self, name: str, reference: float) -> float:
        """Print the line of one way; returns MB/s."""
        used, held = usage()
        their_used, their_held = eval(self.conn.call(USED, b""))
        over = threading.Event()
        times: list[float] = []

        def call_meanwhile() -> None:
            while not over.wait(0.005):
                start = time.perf_counter()
                assert self.conn.call(ECHO, SMALL) == SMALL
                times.append(time.perf_counter() - start)

        small = threading.Thread(target=call_meanwhile)
        small.start()
        began = time.perf_counter()
        right = getattr(self, name)()
        seconds = time.perf_counter() - began
        over.set()
        small.join()
        size = (self.mib << 20) * (2 if name == "both" else 1)
        used_now, held_now = usage()
        their_used_now, their_held_now = eval(self.conn.call(USED, b""))
        speed = size / seconds / 1e6
        cpu = (used_now - used + their_used_now - their_used) / (size / (1 << 30))
        times.sort()
        p50, p99 = (times[len(times) * part // 100] * 1e3 for part in (50, 99)) if times else (0.0, 0.0)
        grown = f"+{(held_now - held) >> 20}, +{(their_held_now - their_held) >> 20}"
        print(
            f"| {name} | {speed:.0f} | {speed / (reference or speed):.2f} | {cpu:.2f} | {grown} |"
            f" {p50:.2f} | {p99:.1f} | {'yes' if right else 'NO'} |",
            flush=True,
        )
        return speed


@contextmanager
def other_end(over: str, face: str, hashes: bool) -> Iterator[tuple[str, SSLContext | None]]:
    """The address of a service in a process of its own."""
    serving = [sys.executable, __file__, *([] if hashes else ["--no-hash"]), "--serve", face]
    if over == "pipe":
        yield "exec:" + " ".join([*serving, "stdio:"]), None
        return
    with tempfile.TemporaryDirectory() as home:
        address = {
            "unix": f"unix:{home}/bench.sock",
            "tcp": "tcp:127.0.0.1:0",
            "tls": "tls:127.0.0.1:0",
            "zmq": f"zmq+router:ipc://{home}/bench.zmq",
        }[over]
        context = None
        if over == "tls":
            make_certificate(home)
            context = client_context(cafile=f"{home}/cert.pem")
        command = [*serving, address, "--home", home]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            yield process.stdout.readline().strip().replace("zmq+router", "zmq+dealer"), context
            process.stdin.close()


def make_certificate(home: str) -> None:
    """A certificate for this machine."""
    argv = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    argv += ["-keyout", f"{home}/key.pem", "-out", f"{home}/cert.pem", "-subj", "/CN=bench"]
    argv += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(argv, check=True, capture_output=True)


def serve_here(face: str, address: str, home: str | None) -> None:
    """The other end, until its standard input ends."""
    context = None
    if address.startswith("tls:"):
        context = server_context(f"{home}/cert.pem", f"{home}/key.pem")
    if face == "threads":

        def client(recv_send: Any) -> PacketConnection:
            return PacketConnection(recv_send, request_handler=answer, handlers=HANDLERS)

        with serve(address, client, ssl_context=context) as server:
            wait(server.address if address != "stdio:" else None, server)
    else:
        asyncio.run(serve_in_loop(address, context))


def wait(address: Any, server: Any) -> None:
    """Until this process is not needed any more."""
    if address is None:
        server.wait()
    else:
        print(address, flush=True)
        sys.stdin.read()


async def serve_in_loop(address: str, context: SSLContext | None) -> None:
    """The same by a loop."""

    def client(recv_send: Any) -> AsyncPacketConnection:
        return AsyncPacketConnection(recv_send, request_handler=answer_later)

    async with await aserve(address, client, ssl_context=context) as server:
        if address == "stdio:":
            await server.wait()
        else:
            print(server.address, flush=True)
            await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Parse the arguments."""
    global new_hash
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--over", nargs="+", choices=OVER, default=["pipe", "unix", "tcp", "tls"])
    parser.add_argument("--faces", nargs="+", choices=FACES, default=list(FACES))
    parser.add_argument("--no-hash", action="store_true")
    parser.add_argument("--serve", nargs=2, metavar=("FACE", "ADDRESS"), help=argparse.SUPPRESS)
    parser.add_argument("--home", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.no_hash:
        new_hash = NoHash
    if options.serve:
        serve_here(*options.serve, options.home)
        return
    for face in options.faces:
        for over in options.over:
            print(f"\n{face} over {over}, {options.mib} MiB\n")
            print("| way | MB/s | of whole | CPU s/GiB | MiB grown here, there | small p50 ms | p99 ms | right |")
            print("|---|---:|---:|---:|---:|---:|---:|---|")
            with ExitStack() as stack:
                address, context = stack.enter_context(other_end(over, face, not options.no_hash))
                conn = stack.enter_context((Threads if face == "threads" else Loop)(address, context))
                Run(conn, 16).both()  # so that all is there that is needed once
                run = Run(conn, options.mib)
                reference = run.measure("whole", 0)
                for name in ("up", "down", "both"):
                    run.measure(name, reference)


if __name__ == "__main__":
    main()
