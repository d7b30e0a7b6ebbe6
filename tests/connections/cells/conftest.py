"""The cells: transports, the faces of both ends, and who asks whom."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.leftovers import open_fds

from ..certificates import Certificate, make_certificate
from ..sshd import Sshd, running_sshd
from .cells import ASKING, FACES, LEFT_TO_ALL_CELLS, TRANSPORTS, ZMQ_TRANSPORTS
from .links import PAIRS, Child, Link, linked, tls, zmq_sockets
from .peer import LIMIT, Peer, cut_fd


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-cells", action="store_true", help="every pair of faces over every transport, not only some"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "link" in metafunc.fixturenames:
        every = metafunc.config.getoption("--all-cells", default=False)
        cells = [
            pytest.param((transport, faces), id=f"{transport}-{faces}")
            for transport in TRANSPORTS
            for faces in FACES
            if every or _in_short(transport, faces)
        ]
        metafunc.parametrize("cell", cells, scope="session")


def _in_short(transport: str, faces: str) -> bool:
    """Every pair of faces over one transport, and nearly every transport with one of each face."""
    return transport == "socketpair" or (faces == "threads-asyncio" and transport not in LEFT_TO_ALL_CELLS)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


@pytest.fixture(scope="package")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


class Children:
    """Processes with a peer, kept from test to test as long as their streams are in order."""

    def __init__(self, directory: Path, wrap: Callable[[list[str]], list[str]]) -> None:
        """`wrap` makes of a command what starts it where it shall run."""
        self._directory = directory
        self._wrap = wrap
        self._idle: dict[str, Child] = {}

    def take(self, face: str) -> Child:
        return self._idle.pop(face, None) or Child.start(face, self._directory, self._wrap)

    def give_back(self, face: str, child: Child) -> None:
        self._idle[face] = child

    def stop(self) -> None:
        for child in self._idle.values():
            child.stop()


@pytest.fixture(scope="package")
def children(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Children]:
    started = Children(tmp_path_factory.mktemp("control"), list)
    yield started
    started.stop()


@pytest.fixture(scope="package")
def children_by_ssh(tmp_path_factory: pytest.TempPathFactory, sshd: Sshd) -> Iterator[Children]:
    started = Children(tmp_path_factory.mktemp("control"), sshd.argv)
    yield started
    started.stop()


@pytest.fixture(scope="session")
def uvloop() -> None:
    """The first of its loops opens a pipe that stays for all."""
    pytest.importorskip("uvloop").new_event_loop().close()


@pytest.fixture
def _nothing_left() -> None:
    """Replaced by what `link` does: processes live longer than a test here."""


@pytest.fixture
def link(cell: tuple[str, str], request: pytest.FixtureRequest) -> Iterator[Link]:
    """Two connected peers, not opened yet. In the end they are closed, and nothing of them is left."""
    transport, faces = cell
    face_a, face_b = FACES[faces]
    if face_a == "uvloop":
        request.getfixturevalue("uvloop")
    if transport in ("child", "ssh"):
        children = request.getfixturevalue("children_by_ssh" if transport == "ssh" else "children")
        child = children.take(face_b)
        before = _open_things()
        link = Link(_peer_of(face_a, child), child.peer)
        try:
            yield link
            _close(link)
        except BaseException:
            link.broken = True
            raise
        finally:
            if link.broken:
                child.stop()
            else:
                children.give_back(face_b, child)
        after = _open_things()
        assert after[0] - before[0] == set()
        assert link.broken or after[1] - before[1] == set()
        return
    make: Any = PAIRS.get(transport)
    if transport in ZMQ_TRANSPORTS:
        make = partial(zmq_sockets, transport=transport, directory=request.getfixturevalue("tmp_path"))
    elif transport == "tls":
        make = partial(tls, certificate=request.getfixturevalue("certificate"))
    before = _open_things()
    with linked(face_a, face_b, make) as link:
        yield link
        _close(link)
    assert [there - was for there, was in zip(_open_things(), before, strict=True)] == [set(), set()]


def _peer_of(face: str, child: Child) -> Peer:
    pipe = child.process.stdin
    assert pipe
    return Peer(face, child.process, lambda: cut_fd(pipe.fileno()))


def _open_things() -> tuple[set[threading.Thread], set[str]]:
    return set(threading.enumerate()), open_fds()


def _close(link: Link) -> None:
    """Each end waits for the other's end."""
    with ThreadPoolExecutor(2) as pool:
        closings = [pool.submit(peer.close, 0.2 if link.broken else None) for peer in (link.a, link.b)]
        for closing in closings:
            closing.result(LIMIT)


@pytest.fixture(params=ASKING)
def sides(link: Link, request: pytest.FixtureRequest) -> list[tuple[Any, Any]]:
    """Who asks and who answers; both ends are open."""
    with ThreadPoolExecutor(2) as pool:  # a TLS handshake needs both
        for opening in [pool.submit(peer.open) for peer in (link.a, link.b)]:
            opening.result(LIMIT)
    pairs = {"a-asks-b": [(link.a, link.b)], "b-asks-a": [(link.b, link.a)]}
    return pairs.get(request.param) or pairs["a-asks-b"] + pairs["b-asks-a"]


@pytest.fixture
def at_once(sides: list[tuple[Any, Any]]) -> Callable[[Callable[[Any, Any], Any]], None]:
    """Have each side do something, at the same time."""

    def run(behaviour: Callable[[Any, Any], Any]) -> None:
        with ThreadPoolExecutor(len(sides)) as pool:
            for doing in [pool.submit(behaviour, asker, answerer) for asker, answerer in sides]:
                doing.result(3 * LIMIT)

    return run
