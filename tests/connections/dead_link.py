"""A link that goes dead: a router between two machines stops forwarding, and neither end is told.

    python -m tests.connections.dead_link [--user-timeout SECONDS]

Three network namespaces are two machines and the router between them. Connections over tcp: and tls:, on both
faces, are idle when it stops, or busy towards one end or the other. Shown is what each end found, and after how
many seconds. It needs root, `ip` of iproute2 and `openssl`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from packetwire import AsyncPacketConnection, PacketConnection, StreamEnded, aserve, connect_to, serve
from packetwire.addresses import DEFAULT_USER_TIMEOUT, TcpAddress, TlsAddress
from packetwire.streams.tls import client_context, server_context

FACES = ("threads", "asyncio")
SCHEMES = ("tcp", "tls")
ACTIVITIES = ("idle", "client sends", "server sends")
CASES = [(face, scheme, activity) for face in FACES for scheme in SCHEMES for activity in ACTIVITIES]
MARGIN = 30.0
"""Seconds above the user timeout within which an end is noticed: the system asks, and sends again, by intervals."""
CLIENT, SERVER = "10.213.1.2", "10.213.2.2"
BEGIN, SEND_LATER, SEND = range(3)
MUCH = bytes(4 << 20)
"""More than the buffers of both ends take."""


# what runs at each end, in a namespace of its own


def report(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class Cut:
    """The moment at which the link goes dead: a line of standard input."""

    def __init__(self) -> None:
        self.happened = threading.Event()
        self._time = 0.0
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        sys.stdin.readline()
        self._time = time.monotonic()
        self.happened.set()

    @property
    def seconds(self) -> float:
        """Since then."""
        return time.monotonic() - self._time if self.happened.is_set() else -1.0


def address(scheme: str, host: str, port: int, user_timeout: float) -> TcpAddress:
    return (TlsAddress if scheme == "tls" else TcpAddress)(host, port, user_timeout)


async def run_server(user_timeout: float, certificate: list[str]) -> None:
    """Serve each scheme with each face, until every connection has ended."""
    cut = Cut()
    left = threading.Semaphore(0)

    def service(kind: Callable[..., Any], stream: Any) -> Any:
        label = ""

        def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
            nonlocal label
            if rq_type == BEGIN:
                label = payload.decode()
            if rq_type == SEND_LATER:
                cut.happened.wait()
                return MUCH
            return b""

        def on_event(event: Any) -> None:
            if isinstance(event, StreamEnded):
                report(end="server", label=label, seconds=cut.seconds, cause=repr(event.cause))
                left.release()

        return kind(stream, request_handler=handler, on_event=on_event, close_timeout=0.1)

    with ExitStack() as stack:
        ports = {}
        for scheme in SCHEMES:
            context = {"ssl_context": server_context(*certificate)} if scheme == "tls" else {}
            at = address(scheme, SERVER, 0, user_timeout)
            server = stack.enter_context(serve(at, partial(service, PacketConnection), **context))
            ports["threads", scheme] = server.address.port
            looped = await aserve(at, partial(service, AsyncPacketConnection), **context)
            stack.callback(looped.stop)
            ports["asyncio", scheme] = looped.address.port
        report(ports=[[*key, port] for key, port in ports.items()])
        for _ in CASES:
            await asyncio.to_thread(left.acquire)


async def run_client(user_timeout: float, certificate: list[str], ports: dict[tuple[str, str], int]) -> None:
    """Open all connections, and see each end."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(3 * len(CASES)))
    cut = Cut()
    up = threading.Semaphore(0)

    def connect(face: str, scheme: str) -> Any:
        tls = {"ssl_context": client_context(certificate[0]), "server_name": "localhost"} if scheme == "tls" else {}
        return connect_to(address(scheme, SERVER, ports[face, scheme], user_timeout), **tls)

    def ended(label: str, cause: Any) -> None:
        report(end="client", label=label, seconds=cut.seconds, cause=repr(cause))

    def with_threads(scheme: str, activity: str, label: str) -> None:
        with PacketConnection(connect("threads", scheme), close_timeout=0.1) as conn:
            conn(BEGIN, label.encode())
            if activity == "server sends":
                conn.submit(SEND_LATER)
            up.release()
            cut.happened.wait()
            if activity == "client sends":
                conn.submit(SEND, 0, MUCH)
            conn.join()
            ended(label, conn.ended)

    async def in_the_loop(scheme: str, activity: str, label: str) -> None:
        async with AsyncPacketConnection(connect("asyncio", scheme), close_timeout=0.1) as conn:
            await conn(BEGIN, label.encode())
            if activity == "server sends":
                conn.submit(SEND_LATER)
            up.release()
            await asyncio.to_thread(cut.happened.wait)
            if activity == "client sends":
                conn.submit(SEND, 0, MUCH)
            await conn.join()
            ended(label, conn.ended)

    ends = []
    for case in CASES:
        face, scheme, activity = case
        label = ", ".join(case)
        if face == "threads":
            ends.append(asyncio.to_thread(with_threads, scheme, activity, label))
        else:
            ends.append(in_the_loop(scheme, activity, label))
    running = asyncio.gather(*ends)
    for _ in CASES:
        await asyncio.to_thread(up.acquire)
    report(up=True)
    await running


# the machines and the router


class NoNamespaces(Exception):
    """They cannot be made here."""


@dataclass
class Network:
    """Two machines, and a router between them."""

    client: str
    server: str
    router: str

    def run(self, where: str, *argv: str) -> subprocess.Popen[str]:
        """Start this module in a namespace."""
        return subprocess.Popen(
            ["ip", "netns", "exec", where, sys.executable, "-m", "tests.connections.dead_link", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def stop_forwarding(self) -> None:
        """From now on packets are dropped, and nobody is told."""
        _ip("netns", "exec", self.router, "sysctl", "-q", "-w", "net.ipv4.ip_forward=0")


@contextmanager
def network() -> Iterator[Network]:
    """Raises `NoNamespaces` where that is not allowed."""
    if shutil.which("ip") is None or shutil.which("sysctl") is None or not hasattr(os, "geteuid") or os.geteuid():
        raise NoNamespaces("namespaces need root, ip and sysctl")
    names = Network(*(f"packetwire-{os.getpid()}-{name}" for name in ("client", "server", "router")))
    with ExitStack() as stack:
        for name in names.client, names.server, names.router:
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
        for number, (name, host) in enumerate(((names.client, CLIENT), (names.server, SERVER)), 1):
            gateway, inside, outside = f"10.213.{number}.1", "near", f"far{number}"
            _ip(
                "link", "add", inside, "netns", name, "type", "veth", "peer", "name", outside, "netns", names.router
            )
            _ip("-n", name, "addr", "add", f"{host}/24", "dev", inside)
            _ip("-n", name, "link", "set", inside, "up")
            _ip("-n", names.router, "addr", "add", f"{gateway}/24", "dev", outside)
            _ip("-n", names.router, "link", "set", outside, "up")
            _ip("-n", name, "route", "add", "default", "via", gateway)
        _ip("netns", "exec", names.router, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        yield names


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20)
    except subprocess.CalledProcessError as error:
        raise NoNamespaces(error.stderr.strip()) from error


def dead_link(user_timeout: float, certificate: list[str]) -> list[dict[str, Any]]:
    """What each end found, of each connection. Raises TimeoutError if one does not end in time."""
    arguments = [str(user_timeout), *certificate]
    with network() as names, ExitStack() as stack:
        server = stack.enter_context(_ended(names.run(names.server, "--end", "server", *arguments)))
        ports = json.loads(server.stdout.readline())["ports"]  # type: ignore[union-attr]
        client = stack.enter_context(
            _ended(names.run(names.client, "--end", "client", *arguments, json.dumps(ports)))
        )
        assert json.loads(client.stdout.readline()) == {"up": True}  # type: ignore[union-attr]
        names.stop_forwarding()
        for end in server, client:
            _say(end.stdin, "cut\n")
        deadline = time.monotonic() + user_timeout + MARGIN
        found: list[dict[str, Any]] = []
        readers = [threading.Thread(target=_collect, args=(end.stdout, found)) for end in (server, client)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(max(0.0, deadline - time.monotonic()))
        late = any(reader.is_alive() for reader in readers)
    for reader in readers:
        reader.join()
    if late:
        raise TimeoutError(f"not noticed within {user_timeout + MARGIN:g} s; these were: {found}")
    return found


def _say(stdin: TextIO | None, text: str) -> None:
    assert stdin is not None
    stdin.write(text)
    stdin.flush()


def _collect(stdout: TextIO, found: list[dict[str, Any]]) -> None:
    with stdout:
        found += map(json.loads, stdout)


@contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.kill()  # that is the program itself: `ip netns exec` becomes it
        process.wait()
        process.stdin.close()  # type: ignore[union-attr]


def main() -> int:
    if sys.argv[1:2] == ["--end"]:
        _, _, end, seconds, certfile, keyfile, *ports = sys.argv
        if end == "server":
            asyncio.run(run_server(float(seconds), [certfile, keyfile]))
        else:
            told = {(face, scheme): port for face, scheme, port in json.loads(ports[0])}
            asyncio.run(run_client(float(seconds), [certfile, keyfile], told))
        return 0
    from tests.connections.certificates import make_certificate

    parser = argparse.ArgumentParser(prog="python -m tests.connections.dead_link", description=__doc__)
    parser.add_argument("--user-timeout", type=float, default=DEFAULT_USER_TIMEOUT, metavar="SECONDS")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        made = make_certificate(Path(directory), "server")
        for found in dead_link(arguments.user_timeout, [str(made.certfile), str(made.keyfile)]):
            print(f"{found['seconds']:6.1f} s  {found['end']}  {found['label']:32}  {found['cause']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
