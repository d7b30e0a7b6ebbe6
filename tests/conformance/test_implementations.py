"""The checks against real far ends: ours, the reference, packetwire 0.1.0, and the shop in Node.js."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from packetwire import AsyncPacketConnection, PacketConnection, PacketwireError, aserve, connect_to, serve
from packetwire.conformance.farends import Accepting, Connecting, FarEnds
from packetwire.conformance.play import Verdict
from packetwire.conformance.running import Runner
from packetwire.conformance.table import CHECKS
from packetwire.conformance.talk import FarEnd
from packetwire.listeners import listen

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "docs" / "examples" / "shop.mjs"
WHEEL = ROOT / "fixtures" / "wheels" / "packetwire-0.1.0-py3-none-any.whl"
OLD_PEER = ROOT / "tests" / "interop" / "old_packetwire_peer.py"
REFERENCE_PEER = ROOT / "tests" / "interop" / "reference_peer.py"
NODE = shutil.which("node")
TIMEOUT = 20.0

needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")

REFERENCE_FAILS = {
    17: "a tag that comes again loses its response",
    18: "a tag that comes again loses its response",
    32: "it takes integers of any length",
    33: "it takes integers of any length",
    42: "a response that nobody asked for is only logged",
    43: "a response that nobody asked for is only logged",
}
"""The known deviations of cs.packetstream 20240630; see docs/wire.md."""
OLD_FAILS = {
    20: "its handler is called for any channel",
    21: "its handler is called for any channel",
    22: "its handler is called for any channel",
    30: "the end of the stream is the end of both directions",
}
"""Those of packetwire 0.1.0."""


def failures(ends: FarEnds, far: FarEnd | None = None, timeout: float = TIMEOUT) -> dict[int, str]:
    """The checks that fail, and why; all of the others have passed, or were skipped."""
    far = far or FarEnd()
    role = "client" if far.is_client else "server"
    runner = Runner(ends, far, timeout)
    try:
        runner.probe()
        outcomes = list(runner.run(check for check in CHECKS if role in check.roles))
    finally:
        ends.close()
    assert sum(outcome.verdict is Verdict.PASSED for _, outcome in outcomes) > 40
    return {check.number: outcome.reason for check, outcome in outcomes if outcome.verdict is Verdict.FAILED}


def echo(rq_type: int, flags: int, payload: bytes) -> bytes:
    return payload


# ours


@contextmanager
def serving_in_threads(address: str, capabilities: str) -> Iterator[None]:
    with serve(address, partial(PacketConnection, request_handler=echo, capabilities=capabilities)):
        yield


@contextmanager
def in_a_loop(main: Callable[[Callable[[], None], asyncio.Event], Any]) -> Iterator[None]:
    """Run `main(ready, leave)` in an event loop of its own, in a thread."""
    ready = threading.Event()
    kept: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run() -> None:
        leave = asyncio.Event()
        kept.append((asyncio.get_running_loop(), leave))
        await main(ready.set, leave)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert ready.wait(TIMEOUT)
        yield
    finally:
        loop, leave = kept[0]
        if not loop.is_closed():
            loop.call_soon_threadsafe(leave.set)
        thread.join(TIMEOUT)


@contextmanager
def serving_in_a_loop(address: str, capabilities: str) -> Iterator[None]:
    async def main(ready: Callable[[], None], leave: asyncio.Event) -> None:
        async with await aserve(
            address, partial(AsyncPacketConnection, request_handler=echo, capabilities=capabilities)
        ):
            ready()
            await leave.wait()

    with in_a_loop(main):
        yield


@pytest.mark.parametrize("capabilities", ["auto", "off"])
@pytest.mark.parametrize("serving", [serving_in_threads, serving_in_a_loop])
def test_our_server(serving: Any, capabilities: str, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    with serving(address, capabilities):
        assert failures(Connecting(connect_to(address))) == {}


def ask_in_threads(address: str, capabilities: str) -> None:
    with PacketConnection(connect_to(address), capabilities=capabilities) as conn:
        for _ in range(3):
            conn(0, b"abc")


def ask_in_a_loop(address: str, capabilities: str) -> None:
    async def main() -> None:
        async with AsyncPacketConnection(connect_to(address), capabilities=capabilities) as conn:
            for _ in range(3):
                await conn(0, b"abc")

    asyncio.run(main())


@pytest.mark.parametrize("capabilities", ["auto", "off"])
@pytest.mark.parametrize("ask", [ask_in_threads, ask_in_a_loop])
def test_our_client(ask: Any, capabilities: str, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    listener = listen(address)
    done = threading.Event()

    def go_on() -> None:
        while not done.is_set():
            try:
                ask(address, capabilities)
            except (PacketwireError, OSError):
                pass  # so they are told of what we do wrong, and in the end that nobody listens

    clients = threading.Thread(target=go_on)
    clients.start()
    try:
        assert failures(Accepting(listener, TIMEOUT), FarEnd(is_client=True)) == {}
    finally:
        done.set()
        clients.join(TIMEOUT)


# others, in processes of their own


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_reference() -> None:
    sys.path.insert(0, str(REFERENCE_PEER.parent))
    try:
        from reference_environment import reference_python
    finally:
        sys.path.pop(0)
    command = f"exec:{reference_python('cs')} -E -s {REFERENCE_PEER} pipes serve"
    assert failures(Connecting(connect_to(command)), timeout=3.0).keys() == REFERENCE_FAILS.keys()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_packetwire_of_the_first_version() -> None:
    command = f"exec:env PYTHONPATH={WHEEL} {sys.executable} {OLD_PEER} serve"
    found = failures(Connecting(connect_to(command)), timeout=5.0).keys()
    assert found | {30} == OLD_FAILS.keys()  # whether the end or the last response comes first there is a race


@pytest.mark.long
@pytest.mark.timeout(600)
@needs_node
def test_the_shop_in_node() -> None:
    assert failures(Connecting(connect_to(f"exec:{NODE} {SHOP}"))) == {}


RELAY = """
import os, select, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
ways = {0: lambda data: sock.sendall(data), sock.fileno(): lambda data: os.write(1, data)}
while ways:
    for fd in select.select(list(ways), [], [])[0]:
        data = os.read(fd, 65536)
        if not data:
            del ways[fd]
            sock.shutdown(socket.SHUT_WR) if fd == 0 else os.close(1)
        else:
            ways[fd](data)
"""


@pytest.mark.long
@pytest.mark.timeout(600)
@needs_node
def test_the_shop_in_node_as_a_client(tmp_path: Path) -> None:
    """It starts a command and asks that: here one that leads to us."""
    relay = tmp_path / "relay.py"
    relay.write_text(RELAY)

    class Asked(Accepting):
        def open(self) -> Any:
            clients.append(started([str(NODE), str(SHOP), sys.executable, str(relay), f"{tmp_path}/s"]))
            return super().open()

    clients: list[subprocess.Popen[bytes]] = []
    listener = listen(f"unix:{tmp_path}/s")
    try:
        assert failures(Asked(listener, TIMEOUT), FarEnd(is_client=True, answer=b"\x01"), 5.0) == {}
    finally:
        for client in clients:
            client.kill()
            client.wait()


def started(argv: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
