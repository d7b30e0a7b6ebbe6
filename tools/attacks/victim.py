"""Servers to be attacked, clients that have done nothing, and what an attack costs both.

    with Victim("serve", "zmq+router:tcp://127.0.0.1:*") as victim, Innocent(victim) as innocent:
        ...                                  # the attack, on victim.address
    print(innocent.report, victim.usage())

Each is a process of its own, so that neither shares an interpreter with the attack; that of a victim has few
descriptors. It runs this module: `python -m tools.attacks.victim serve KIND ENDPOINT`, or `ask KIND ADDRESS`,
which print a line of JSON each. A new kind of victim is a function for each of both in `SERVED` and `ASKED`.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
DESCRIPTORS = 1024
"""RLIMIT_NOFILE of a victim, as most processes have it."""
START_SECONDS = 30.0
PATIENCE = 20.0
"""Seconds after which a call of the innocent client has failed."""
SETTLE_SECONDS = 10.0
LOOK_INTERVAL = 0.05
PAUSE = 0.005
"""Seconds between two of its calls."""
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """What a process uses; `cpu` are seconds of processor time since its start."""

    memory: int
    peak_memory: int
    descriptors: int
    threads: int
    cpu: float

    def __str__(self) -> str:
        return (
            f"{self.memory >> 20} MiB (at most {self.peak_memory >> 20}), {self.descriptors} descriptors, "
            f"{self.threads} threads, {self.cpu:.1f} s of processor time"
        )


@dataclass(frozen=True)
class Report:
    """Of an innocent client: its calls, how many failed, the worst waits for one and for a new connection."""

    calls: int
    failed: int
    worst_call: float
    openings: int
    openings_failed: int
    worst_opening: float
    error: str

    def __str__(self) -> str:
        text = (
            f"{self.calls} calls, {self.failed} failed, the worst took {self.worst_call * 1000:.0f} ms; "
            f"{self.openings} connections, {self.openings_failed} failed, the worst took "
            f"{self.worst_opening * 1000:.0f} ms"
        )
        return f"{text}; the last error: {self.error}" if self.error else text


class _Helper:
    """A process that says a line of JSON when it is ready, and ends when its standard input does."""

    def __init__(self, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tools.attacks.victim", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        try:
            self.ready = self.line()
        except BaseException:
            self.end()
            raise

    def line(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} has ended")
        return json.loads(line)

    def end(self) -> int:
        """Have it end; its exit status, -9 if it had to be killed."""
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        try:
            return self.process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Victim:
    """A server in a process of its own, with `descriptors` of them; `address` is where it is."""

    def __init__(self, kind: str, endpoint: str, *, descriptors: int = DESCRIPTORS) -> None:
        self.kind = kind
        self._helper = _Helper("serve", kind, endpoint, str(descriptors))
        self.address: str = self._helper.ready["address"]
        self.status: int | None = None
        """How it ended."""

    @property
    def is_alive(self) -> bool:
        return self._helper.process.poll() is None

    def usage(self) -> Usage:
        """What it uses now. Raises OSError if it is gone."""
        process = Path(f"/proc/{self._helper.process.pid}")
        lines = (line.partition(":") for line in (process / "status").read_text().splitlines())
        status = {name: value.split() for name, _, value in lines}
        spent = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
        return Usage(
            memory=int(status["VmRSS"][0]) << 10,
            peak_memory=int(status["VmHWM"][0]) << 10,
            descriptors=len(os.listdir(process / "fd")),
            threads=int(status["Threads"][0]),
            cpu=sum(map(int, spent)) / CLOCK_TICKS,
        )

    def usage_at_rest(self, descriptors: int, seconds: float = SETTLE_SECONDS) -> Usage:
        """What it uses when it has no more descriptors than that, or does not get there in time."""
        deadline = time.monotonic() + seconds
        while (usage := self.usage()).descriptors > descriptors and time.monotonic() < deadline:
            time.sleep(LOOK_INTERVAL)
        return usage

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.status = self._helper.end()


class Innocent:
    """A client of a victim in a process of its own, which calls all the time until the end of the `with`.

    One connection lives as long as it does; beside that it opens one after the other, if `opens` says so.
    """

    def __init__(self, victim: Victim, *, opens: bool = True) -> None:
        self._helper = _Helper("ask", victim.kind, victim.address, "opens" if opens else "calls")
        self.report: Report | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            assert self._helper.process.stdin is not None
            self._helper.process.stdin.close()
            self.report = Report(**self._helper.line())
        finally:
            self._helper.end()


# what these processes do

Call = Callable[[float], object]
"""Makes one small call, with a time limit in seconds."""


ECHO, LARGE, RAISE = range(3)
LARGE_REPLY = 4 << 20


def echo(rq_type: int, flags: int, payload: bytes) -> tuple[int, bytes]:
    """The same, or a large reply, or an exception, as is asked for."""
    if rq_type == LARGE:
        return flags, b"x" * LARGE_REPLY
    if rq_type == RAISE:
        raise ValueError("it was asked for")
    return flags, payload


@contextmanager
def _serve(endpoint: str) -> Iterator[str]:
    from packetwire import PacketConnection, serve

    with serve(endpoint, lambda stream: PacketConnection(stream, request_handler=echo)) as server:
        yield str(server.address)


@contextmanager
def _serve_behind_a_bridge(endpoint: str) -> Iterator[str]:
    """The bridge is in the process that is attacked, too."""
    from packetwire.bridge import Bridge

    inner = f"{endpoint}-inner" if endpoint.startswith("unix:") else "tcp:127.0.0.1:0"
    with _serve(inner) as address, Bridge(endpoint, address) as bridge:
        thread = threading.Thread(target=bridge.run)
        thread.start()
        try:
            yield str(bridge.address)
        finally:
            bridge.stop()
            thread.join()


@contextmanager
def _aserve(endpoint: str) -> Iterator[str]:
    import asyncio

    from packetwire import AsyncPacketConnection, aserve

    addresses: list[str] = []
    started, over = threading.Event(), threading.Event()

    async def answer(rq_type: int, flags: int, payload: bytes) -> tuple[int, bytes]:
        return echo(rq_type, flags, payload)

    async def main() -> None:
        async with await aserve(
            endpoint, lambda stream: AsyncPacketConnection(stream, request_handler=answer)
        ) as server:
            addresses.append(str(server.address))
            started.set()
            await asyncio.get_running_loop().run_in_executor(None, over.wait)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        if not started.wait(START_SECONDS):
            raise TimeoutError("the server does not start")
        yield addresses[0]
    finally:
        over.set()
        thread.join()


@contextmanager
def _connect(address: str) -> Iterator[Call]:
    from packetwire import PacketConnection, connect_to

    target = address.replace("zmq+router:", "zmq+dealer:")
    with PacketConnection(connect_to(target, timeout=PATIENCE), close_timeout=1.0) as conn:
        yield lambda seconds: conn(0, b"innocent", timeout=seconds)


def _keys(name: str) -> tuple[bytes, bytes]:
    """A pair of CURVE keys that each process here makes alike: (public, secret)."""
    import zmq
    from zmq.utils import z85

    secret: bytes = z85.encode(name.ljust(32).encode())
    return zmq.curve_public(secret), secret


@contextmanager
def _serve_curve(endpoint: str) -> Iterator[str]:
    from packetwire import PacketConnection, serve
    from packetwire.addresses import ZmqRouterAddress
    from packetwire.streams.curve import CurveServer

    keys = CurveServer(_keys("server")[1], [_keys("client")[0]])
    address = ZmqRouterAddress(endpoint, curve=keys)
    with serve(address, lambda stream: PacketConnection(stream, request_handler=echo)) as server:
        yield str(server.address)


@contextmanager
def _connect_curve(address: str) -> Iterator[Call]:
    from packetwire import PacketConnection, connect_to
    from packetwire.addresses import ZmqDealerAddress
    from packetwire.streams.curve import CurveClient

    keys = CurveClient(_keys("server")[0], *_keys("client"))
    target = ZmqDealerAddress(address.removeprefix("zmq+router:"), curve=keys)
    with PacketConnection(connect_to(target, timeout=PATIENCE), close_timeout=1.0) as conn:
        yield lambda seconds: conn(0, b"innocent", timeout=seconds)


def _fbsp_names() -> tuple[Any, Any]:
    import uuid

    from packetwire.fbsp import AgentDescriptor, ButlerInterface, Service, operation

    class Echo(ButlerInterface):
        REPEAT = 1

        @classmethod
        def get_uid(cls) -> uuid.UUID:
            return uuid.UUID("3e1b9c2a-53b5-4d55-9a3e-6a6d7a1f0c11")

    vendor = uuid.UUID("6f0bb7a7-58d8-4a7c-8b5e-3b9f6a4d2e10")

    class Victims(Service):
        agent = AgentDescriptor(uuid.UUID("0d6a2a52-37f2-4c0c-a7a5-5a0f9f1c7d01"), "victim", "1", vendor, "test")

        @operation(Echo.REPEAT)
        def repeat(self, request: Any) -> Any:
            return request.data

    return Echo, Victims


@contextmanager
def _serve_fbsp(endpoint: str) -> Iterator[str]:
    _, service = _fbsp_names()
    with service() as served:
        yield served.serve(endpoint).address


@contextmanager
def _connect_fbsp(address: str) -> Iterator[Call]:
    from packetwire.fbsp import ServiceClient

    api, service = _fbsp_names()
    with ServiceClient.connect(address, agent=service.agent, timeout=PATIENCE) as client:
        yield lambda seconds: client.call(api.REPEAT, b"innocent", timeout=seconds)


SERVED: dict[str, Callable[[str], AbstractContextManager[str]]] = {
    "serve": _serve,
    "aserve": _aserve,
    "bridge": _serve_behind_a_bridge,
    "curve": _serve_curve,
    "fbsp": _serve_fbsp,
}
ASKED: dict[str, Callable[[str], AbstractContextManager[Call]]] = {
    "serve": _connect,
    "aserve": _connect,
    "bridge": _connect,
    "curve": _connect_curve,
    "fbsp": _connect_fbsp,
}


def say(told: dict[str, Any]) -> None:
    print(json.dumps(told), flush=True)


def serve_until_told(kind: str, endpoint: str, descriptors: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    with SERVED[kind](endpoint) as address:
        say({"address": address})
        sys.stdin.read()


class _Asking:
    """Calls, and opens connections, and notes how that went."""

    def __init__(self, kind: str, address: str) -> None:
        self._open = lambda: ASKED[kind](address)
        self._lock = threading.Lock()
        self.over = threading.Event()
        self.told: dict[str, Any] = asdict(Report(0, 0, 0.0, 0, 0, 0.0, ""))

    def _timed(self, counted: str, failed: str, worst: str, do: Callable[[], object]) -> bool:
        begun, error = time.monotonic(), ""
        try:
            do()
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        with self._lock:
            self.told[counted] += 1
            self.told[worst] = max(self.told[worst], time.monotonic() - begun)
            if error:
                self.told[failed] += 1
                self.told["error"] = error
        return not error

    def call_all_the_time(self, call: Call) -> None:
        while not self.over.wait(PAUSE):
            self._timed("calls", "failed", "worst_call", lambda: call(PATIENCE))

    def open_all_the_time(self) -> None:
        def once() -> None:
            with self._open() as call:
                call(PATIENCE)

        while not self.over.wait(PAUSE):
            self._timed("openings", "openings_failed", "worst_opening", once)

    def run(self, *, opens: bool) -> None:
        threads = [threading.Thread(target=self.open_all_the_time)] if opens else []
        with self._open() as call:
            call(PATIENCE)
            threads.append(threading.Thread(target=self.call_all_the_time, args=(call,)))
            for thread in threads:
                thread.start()
            say({})
            sys.stdin.read()
            self.over.set()
            for thread in threads:
                thread.join()
            say(self.told)
            os._exit(0)  # who was attacked may not answer any more, and the closing would wait for that


def main(args: list[str]) -> None:
    what, kind, target, setting = args
    if what == "serve":
        serve_until_told(kind, target, int(setting))
    else:
        _Asking(kind, target).run(opens=setting == "opens")


if __name__ == "__main__":
    main(sys.argv[1:])
