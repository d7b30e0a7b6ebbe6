"""The reference's environment and process, who asks whom, and a check that nothing is left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from askers import Asker, OurAsker, ReferenceAsker
from exchange import Exchange
from reference_environment import ReferenceUnavailableError, reference_python
from reference_process import TRANSPORTS, ReferencePeer
from tests.leftovers import open_fds, threads_since

from packetwire import PacketConnection


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this takes minutes: it is left to `-m long`."""
    here = f"{Path(__file__).parent}/"
    for item in items:
        if str(item.path).startswith(here):  # quicker than a comparison of paths, as this is asked of each test
            item.add_marker(pytest.mark.long)


def _interpreter(name: str) -> Path:
    try:
        return reference_python(name)
    except ReferenceUnavailableError as error:
        reason = str(error)
    pytest.fail(reason, pytrace=False)


@pytest.fixture(scope="session")
def python() -> Path:
    """The interpreter that cs.packetstream runs on."""
    return _interpreter("cs")


@pytest.fixture(scope="session")
def saturnin() -> Path:
    """The interpreter that Saturnin runs on."""
    return _interpreter("saturnin")


@pytest.fixture(scope="session")
def hololinked() -> Path:
    """The interpreter that hololinked runs on."""
    return _interpreter("hololinked")


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """After the test the threads and descriptors are what they were."""
    threads, fds = set(threading.enumerate()), open_fds()
    yield
    assert threads_since(threads) == set()
    assert open_fds() - fds == set()


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """What the two ends are connected by."""
    return request.param


@pytest.fixture
def reference(python: Path, transport: str, _nothing_left: None) -> Iterator[ReferencePeer]:
    """The reference's end over each transport; in the end it must exit by itself, with status 0."""
    peer = ReferencePeer(python, transport)
    try:
        yield peer
        assert peer.exit_status() == 0, peer.log()
    finally:
        peer.close()


@pytest.fixture
def we_ask(reference: ReferencePeer) -> Iterator[OurAsker]:
    """packetwire is the client of the reference."""
    with reference.serving(), PacketConnection(reference.recv_send, "ours") as conn:
        yield OurAsker(conn)


@pytest.fixture
def they_ask(reference: ReferencePeer) -> Iterator[ReferenceAsker]:
    """The reference is the client of packetwire."""
    exchange = Exchange()
    with PacketConnection(reference.recv_send, "ours", request_handler=exchange) as exchange.conn:
        reference.ask("open", False)
        yield ReferenceAsker(reference)
        reference.ask("close")


@pytest.fixture(params=["we_ask", "they_ask"])
def asker(reference: ReferencePeer, request: pytest.FixtureRequest) -> Asker:
    """The one that asks, both ways round; the other end serves."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def both_ask(reference: ReferencePeer) -> Iterator[tuple[OurAsker, ReferenceAsker]]:
    """Both ends ask and serve, on one connection."""
    exchange = Exchange()
    with ExitStack() as opened:
        conn = PacketConnection(reference.recv_send, "ours", request_handler=exchange)
        exchange.conn = opened.enter_context(conn)
        reference.ask("open", True)
        yield OurAsker(conn), ReferenceAsker(reference)
        reference.ask("close")
