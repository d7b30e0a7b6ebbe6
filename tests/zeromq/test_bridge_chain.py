"""From a pipe, over ssh or none, a Unix socket and a DEALER to a ROUTER: two bridges between asker and service."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from connections.sshd import Sshd, running_sshd
from packetwire import ConnectionEnded, PacketConnection, Responder, serve
from packetwire.bridge import Bridge

pytestmark = pytest.mark.timeout(120)

LIMIT = 60
ECHO, DEFER = range(2)
BULK = os.urandom(1 << 20)
KILLED_SERVICE = """
import sys
from packetwire import PacketConnection, Responder, serve

def handle(rq_type, flags, payload):
    print("asked", flush=True)
    return Responder()

with serve(sys.argv[1], lambda stream: PacketConnection(stream, request_handler=handle)) as server:
    print(server.address.endpoint, flush=True)
    server.wait()
"""


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture(scope="module", params=["pipe", "ssh"])
def wrap(request: pytest.FixtureRequest) -> Callable[[list[str]], list[str]]:
    """Makes of a command what runs it where the first bridge shall be."""
    if request.param == "pipe":
        return list
    sshd: Sshd = request.getfixturevalue("sshd")
    return sshd.argv


@pytest.fixture
def chain(wrap: Callable[[list[str]], list[str]], tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """The process whose standard input and output lead to the ROUTER at an endpoint."""
    with ExitStack() as running:

        def to(endpoint: str) -> Any:
            middle = running.enter_context(Bridge(f"unix:{tmp_path}/middle", f"zmq+dealer:{endpoint}"))
            relaying = threading.Thread(target=middle.run)
            relaying.start()
            running.callback(relaying.join)
            running.callback(middle.stop)
            argv = wrap([sys.executable, "-m", "packetwire", "bridge", "stdio:", str(middle.address)])
            first = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            running.callback(_let_go, first)
            return first

        yield to


def _let_go(process: Any) -> None:
    process.kill()
    process.communicate()


class Service:
    """Keeps the connections that it had."""

    def __init__(self) -> None:
        self.conns: list[PacketConnection] = []
        self.asked = threading.Event()

    def __call__(self, stream: Any) -> PacketConnection:
        self.conns.append(PacketConnection(stream, request_handler=self._handle, close_timeout=0.0))
        return self.conns[-1]

    def _handle(self, rq_type: int, flags: int, payload: bytes) -> Any:
        if rq_type == ECHO:
            return flags, payload
        self.asked.set()
        return Responder()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[Service, str]]:
    made = Service()
    with serve(f"zmq+router:ipc://{tmp_path}/router", made) as server:
        yield made, server.address.endpoint


def test_echo_and_bulk(chain: Callable[[str], Any], service: tuple[Service, str]) -> None:
    with PacketConnection(chain(service[1])) as conn:
        for payload in b"", b"x", bytes(range(256)), bytes(20_000):
            assert conn(ECHO, payload, 5, timeout=LIMIT) == (True, 5, payload)
        results = [conn.submit(ECHO, 0, BULK) for _ in range(4)]
        assert all(result(timeout=LIMIT) == (True, 0, BULK) for result in results)
    assert service[0].conns[0].join_recv(LIMIT)


def test_an_asker_that_is_killed(chain: Callable[[str], Any], service: tuple[Service, str]) -> None:
    served, endpoint = service
    first = chain(endpoint)
    with PacketConnection(first, close_timeout=0.0) as conn:
        conn.submit(DEFER)
        assert served.asked.wait(LIMIT)
        first.kill()
        assert conn.join_recv(LIMIT)
    assert served.conns[0].join_recv(LIMIT)
    assert isinstance(served.conns[0].ended, ConnectionEnded)


def test_a_service_that_is_killed(chain: Callable[[str], Any], tmp_path: Path) -> None:
    argv = [sys.executable, "-c", KILLED_SERVICE, f"zmq+router:ipc://{tmp_path}/killed"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout
        endpoint = service.stdout.readline().strip()
        with PacketConnection(chain(endpoint), close_timeout=0.0) as conn:
            waiting = conn.submit(DEFER)
            assert service.stdout.readline() == "asked\n"
            service.kill()
            with pytest.raises(ConnectionEnded):
                waiting(timeout=LIMIT)
            assert conn.join_recv(LIMIT)
