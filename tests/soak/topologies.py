"""How the ends of a round are joined, and what disturbs them."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from tests.connections.cells.links import PAIRS, cut_links, tls, zmq_sockets
from tests.connections.certificates import Certificate

from packetwire import ConnectionEnded, Pool, Reconnecting, Supervised, child, connect_to, serve
from packetwire.addresses import Address, TcpAddress, TlsAddress, UnixAddress
from packetwire.aio.server import aserve
from packetwire.bridge import Bridge
from packetwire.streams.tls import client_context, server_context
from packetwire.testing import Direction, FaultyLink

from .ends import End, Surroundings, fulfilled, make, make_end, run_in_loop
from .plan import ENDS_OF_CHILDREN, WHOLE, EndPlan, RoundPlan, Turn

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OLD_WHEEL = ROOT / "fixtures" / "wheels" / "packetwire-0.1.0-py3-none-any.whl"
PAUSE = 0.02
"""Seconds that a child is stopped."""
EXIT_TIMEOUT = 20.0
"""Seconds for a child to leave that is asked to."""


class Places:
    """What rounds need of the machine: a directory of their own, and a certificate."""

    def __init__(self, directory: Path, certificate: Certificate | None) -> None:
        self.directory = directory
        self.certificate = certificate


def run_round(plan: RoundPlan, surroundings: Surroundings, places: Places) -> None:
    """All of it, until every end is closed."""
    run: Callable[..., None] = {
        "pair": _run_pair,
        "faulty": _run_faulty,
        "child": _run_child,
        "old-child": _run_child,
        "kept": _run_kept,
        "server": _run_server,
    }[plan.topology]
    run(plan, surroundings, places)


@contextmanager
def _running(*ends: End) -> Iterator[None]:
    """They run, and are all closed in the end."""
    threads = [threading.Thread(target=end.run, name=f"{end.plan.name}-end") for end in ends]
    for thread in threads:
        thread.start()
    wait(end.opened for end in ends)
    try:
        yield
    except BaseException:
        for end in ends:
            fulfilled(end.close)
        raise
    finally:
        for thread in threads:
            thread.join()


def _first_of(*futures: Future[None]) -> None:
    wait(futures, return_when=FIRST_COMPLETED)


# two ends in this process


def _run_pair(plan: RoundPlan, surroundings: Surroundings, places: Places) -> None:
    with ExitStack() as stack:
        if plan.transport == "tls":
            assert places.certificate
            made = tls(stack, places.certificate)
        elif plan.transport.startswith("zmq"):
            made = zmq_sockets(stack, plan.transport, places.directory)
        else:
            made = PAIRS[plan.transport](stack)
        a, b = (make_end(end, at.recv_send, surroundings) for end, at in zip(plan.ends, made, strict=True))
        cut_a, cut_b = (partial(_cut, at.cut) for at in made)
        disturbed = surroundings.ledger.reached(plan.at)
        with _running(a, b):
            _first_of(disturbed, surroundings.all_asked)
            if plan.end == "a-closes":
                _close(a, cut_a)
            elif plan.end == "b-closes":
                _close(b, cut_b)
            elif plan.end == "a-announces":
                a.announce()
            elif plan.end == "a-drains":
                a.drain()
            elif plan.end == "cut":
                cut_a()
                cut_b()
            elif plan.end == "half-close":
                cut_a()
                _first_of(b.received_all, surroundings.all_asked)
                cut_b()


def _close(end: End, cut: Callable[[], None]) -> None:
    """Have it closed, and do what the owner of the stream would do then."""
    fulfilled(end.close)
    end.closed.result()
    cut()


def _cut(cut: Callable[[], None]) -> None:
    with suppress(OSError, ValueError, ConnectionEnded):  # it may be closed already
        cut()


# two ends with a faulty link between them


def _run_faulty(plan: RoundPlan, surroundings: Surroundings, places: Places) -> None:
    with FaultyLink(plan.a_to_b, plan.b_to_a) as link, _reaching(link.a_to_b, link.b_to_a) as reached:
        a, b = (make_end(end, at, surroundings) for end, at in zip(plan.ends, link.ends, strict=True))
        disturbed = surroundings.ledger.reached(plan.at)
        with _running(a, b):
            if plan.end in ("delay", "stall", "stall-cut", "stall-close"):
                _first_of(reached, surroundings.all_asked)
            if plan.end in ("delay", "stall"):
                link.release()
            elif plan.end == "stall-cut":
                link.cut()
            elif plan.end == "stall-close":
                fulfilled(a.close)
                fulfilled(b.close)
            elif plan.is_spoilt:
                if plan.noise:
                    _first_of(disturbed, surroundings.all_asked)
                    with suppress(OSError):
                        os.write(link.a[1], plan.noise)
                # who understands nothing any more would close the stream
                _first_of(a.received_all, b.received_all, surroundings.all_asked)
                if not surroundings.all_asked.done():
                    link.cut()


@contextmanager
def _reaching(*directions: Direction) -> Iterator[Future[None]]:
    """Done when the place of a fault is reached, in any direction."""
    reached: Future[None] = Future()

    def watch(direction: Direction) -> None:
        direction.reached.wait()
        fulfilled(reached)

    threads = [threading.Thread(target=watch, args=(direction,), name="soak-fault") for direction in directions]
    for thread in threads:
        thread.start()
    try:
        yield reached
    finally:
        for direction in directions:
            direction.reached.set()  # or the thread would wait for ever
        for thread in threads:
            thread.join()


# a child process


def _run_child(plan: RoundPlan, surroundings: Surroundings, places: Places) -> None:
    assert plan.end in ENDS_OF_CHILDREN
    is_whole = plan.end in WHOLE
    a = make_end(plan.ends[0], child_of(plan, EXIT_TIMEOUT if is_whole else 1.0), surroundings)
    disturbed = surroundings.ledger.reached(plan.at)
    with _running(a):
        _first_of(disturbed, surroundings.all_asked)
        process = a.conn.process
        if plan.end == "parent-closes":
            fulfilled(a.close)
        elif plan.end == "killed":
            process.kill()
        elif plan.end in ("paused", "stopped"):
            process.send_signal(signal.SIGSTOP)
            time.sleep(PAUSE)
            process.send_signal(signal.SIGCONT if plan.end == "paused" else signal.SIGKILL)
    if is_whole and a.conn.process.returncode:
        surroundings.ledger.complain(f"the child has exited with {a.conn.process.returncode}")


def child_of(plan: RoundPlan, exit_timeout: float) -> Callable[[], Any]:
    """What starts the process with the other end."""
    path = os.pathsep.join([str(ROOT / "lib"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    argv = [sys.executable, "-m", "tests.soak.child", str(plan.seed), str(plan.number)]
    if plan.ends[1].is_old:
        path = os.pathsep.join([str(OLD_WHEEL), str(ROOT)])
        argv = [sys.executable, "-m", "tests.soak.oldchild"]
    env = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)}
    return child(argv, cwd=ROOT, env=env, forward_stderr=True, exit_timeout=exit_timeout)


# connections that come back


def _run_kept(plan: RoundPlan, surroundings: Surroundings, places: Places) -> None:
    (asking,) = plan.ends
    with ExitStack() as stack:
        if plan.server is None:
            settings: dict[str, Any] = {"capabilities": asking.capabilities}
            if plan.kept == "shipped":
                if str(HERE) not in sys.path:
                    sys.path.append(str(HERE))  # where the module to ship is found
                settings |= {"ship": "shipped:handle"}
                keeper: Any = Supervised(f"exec:{sys.executable}", restart="always", limit=None, **settings)
            else:
                argv = [sys.executable, str(HERE / "shipped.py")]
                keeper = Supervised(child(argv, cwd=ROOT), restart="always", limit=None, **settings)
        else:
            address = stack.enter_context(_Serving(plan, surroundings, places))
            keeper_class = Reconnecting if plan.kept == "reconnecting" else Pool
            keeper = keeper_class(str(address), **({} if keeper_class is Reconnecting else {"size": 3}))
        stack.enter_context(keeper)
        disturbed = surroundings.ledger.reached(plan.at)
        askers = [
            threading.Thread(target=_ask_kept, args=(keeper, turns, surroundings), name="soak-kept")
            for turns in asking.askers
        ]
        for thread in askers:
            thread.start()
        done = threading.Thread(target=_await_kept, args=(askers, surroundings), name="soak-kept-all")
        done.start()
        _first_of(disturbed, surroundings.all_asked)
        if plan.end == "links-cut" and not surroundings.all_asked.done():
            if plan.server is None:
                for member in keeper.members:
                    if member.conn is not None and member.conn.process is not None:
                        member.conn.process.kill()
            else:
                cut_links(_endpoint(address))
        done.join()


def _ask_kept(keeper: Any, turns: Iterable[Turn], surroundings: Surroundings) -> None:
    for turn in turns:
        for ask in turn.asks:
            surroundings.ledger.enter(ask)
            try:
                response = keeper(ask.behaviour, ask.payload, ask.flags, idempotent=True, timeout=EXIT_TIMEOUT)
            except Exception as error:
                surroundings.ledger.failed(ask, error)
            else:
                surroundings.ledger.answered(ask, response)


def _await_kept(askers: Iterable[threading.Thread], surroundings: Surroundings) -> None:
    for thread in askers:
        thread.join()
    surroundings.has_asked()


# a server with clients


class _Serving:
    """A server of either face, in a thread of its own: `address` as soon as it is there, until `stop`."""

    def __init__(self, plan: RoundPlan, surroundings: Surroundings, places: Places) -> None:
        assert plan.server
        self._face = plan.server.face
        self._complain = surroundings.ledger.complain
        self._drain_timeout = plan.drain_timeout
        self._stop: Future[None] = Future()
        self._address: Future[Address] = Future()
        self._arguments: tuple[Any, ...] = (
            _served_address(plan.transport, places),
            partial(_service_of, plan.server, surroundings, checks=not plan.kept),
        )
        self._settings: dict[str, Any] = {"max_connections": 1 if plan.end == "full" else 128}
        if plan.transport == "tls":
            assert places.certificate
            certificate = places.certificate
            self._settings["ssl_context"] = server_context(certificate.certfile, certificate.keyfile)
        self._thread = threading.Thread(target=self._run, name="soak-server")

    def __enter__(self) -> Address:
        self._thread.start()
        return self._address.result()

    def stop(self) -> None:
        """Have it end."""
        fulfilled(self._stop)

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join()

    def _run(self) -> None:
        try:
            if self._face == "threads":
                self._serve()
            else:
                run_in_loop(self._face, self._aserve, self._complain)
        except BaseException as error:
            if not self._address.done():
                self._address.set_exception(error)
            raise

    def _serve(self) -> None:
        server = serve(*self._arguments, **self._settings)
        self._address.set_result(server.address)
        self._stop.result()
        server.stop(self._drain_timeout)
        server.wait()
        self._look_at(server.failure)

    async def _aserve(self) -> None:
        import asyncio

        server = await aserve(*self._arguments, **self._settings)
        self._address.set_result(server.address)
        await asyncio.wrap_future(self._stop)
        server.stop(self._drain_timeout)
        await server.wait()
        self._look_at(server.failure)

    def _look_at(self, failure: BaseException | None) -> None:
        if failure is not None:
            self._complain(f"the server failed: {failure!r}")


def _served_address(transport: str, places: Places) -> str:
    return {
        "unix": f"unix:{places.directory}/served",
        "tcp": "tcp:127.0.0.1:0",
        "tls": "tls:localhost:0",
        "zmq+router": f"zmq+router:ipc://{places.directory}/router",
    }[transport]


def _service_of(plan: EndPlan, surroundings: Surroundings, recv_send: Any, *, checks: bool) -> Any:
    """`checks`: whether no request may come twice, as one that is repeated does."""
    return make(plan, recv_send, surroundings.later, surroundings.ledger.complain if checks else None)


def _run_server(plan: RoundPlan, surroundings: Surroundings, places: Places) -> None:
    with ExitStack() as stack:
        server = _Serving(plan, surroundings, places)
        address = stack.enter_context(server)
        reached = stack.enter_context(_bridged(address, places)) if plan.bridge else address
        settings: dict[str, Any] = {}
        if plan.transport == "tls":
            assert places.certificate
            settings["ssl_context"] = client_context(places.certificate.certfile)
        to_connect = str(reached).replace("zmq+router:", "zmq+dealer:")
        clients = [make_end(end, connect_to(to_connect, **settings), surroundings) for end in plan.ends]
        strangers = stack.enter_context(_strangers(plan, reached))
        disturbed = surroundings.ledger.reached(plan.at)
        with _running(*clients):
            strangers()
            _first_of(disturbed, surroundings.all_asked)
            if plan.end == "server-stops":
                server.stop()
            elif plan.end == "client-closes":
                fulfilled(clients[0].close)
            elif plan.end == "client-cut":
                cut_links(_endpoint(reached))


@contextmanager
def _bridged(address: Address, places: Places) -> Iterator[Address]:
    """Another address that leads there."""
    front = f"unix:{places.directory}/bridged" if isinstance(address, TcpAddress) else "tcp:127.0.0.1:0"
    with Bridge(front, address) as bridge:
        thread = threading.Thread(target=bridge.run, name="soak-bridge")
        thread.start()
        try:
            yield bridge.address
        finally:
            bridge.stop()
            thread.join()


def _endpoint(address: Address) -> str:
    """As `cut_links` has it."""
    if isinstance(address, UnixAddress):
        return f"ipc://{address.path}"
    if isinstance(address, TcpAddress | TlsAddress):
        return f"tcp://127.0.0.1:{address.port}"
    return str(address).partition(":")[2]


@contextmanager
def _strangers(plan: RoundPlan, address: Address) -> Iterator[Callable[[], None]]:
    """Clients that speak something else, and what makes them come."""
    drawn = random.Random(f"{plan.seed}:{plan.number}:strangers")
    came: list[socket.socket] = []

    def come() -> None:
        if isinstance(address, TcpAddress | TlsAddress | UnixAddress):
            for _ in range(plan.strangers):
                with suppress(OSError):  # they may be refused, or cut off
                    came.append(_stranger(address, drawn))

    try:
        yield come
    finally:
        for sock in came:
            sock.close()


def _stranger(address: UnixAddress | TcpAddress | TlsAddress, drawn: random.Random) -> socket.socket:
    if isinstance(address, UnixAddress):
        sock = socket.socket(socket.AF_UNIX)
        place: Any = str(address.path)
    else:
        sock = socket.socket(socket.AF_INET)
        place = ("127.0.0.1", address.port)
    try:
        sock.settimeout(1.0)
        sock.connect(place)
        noise: Iterable[bytes] = drawn.choice(
            ([], [drawn.randbytes(40)], [drawn.randbytes(3), drawn.randbytes(3000)], [b"\x05\x05\x02\x01"])
        )
        for octets in noise:
            sock.sendall(octets)
        how = drawn.choice(("stays", "reset", "half", "gone"))
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how == "half":
            sock.shutdown(socket.SHUT_WR)
        if how in ("reset", "gone"):
            sock.close()
    except BaseException:
        sock.close()
        raise
    return sock
