"""Ports in a context of their own, and a check that nothing is left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import zmq

from packetwire.riaps import GroupKeys

from .peers import WAIT, open_fds


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    """A context of which no socket, thread or descriptor is left behind the test."""
    threads, fds = set(threading.enumerate()), open_fds()
    context = zmq.Context()
    yield context
    ending = threading.Thread(target=context.term, daemon=True)
    ending.start()
    ending.join(WAIT)
    assert not ending.is_alive(), "a ZMQ socket is still open"
    assert set(threading.enumerate()) - threads == set()
    assert open_fds() - fds == set()


@pytest.fixture
def make(context: zmq.Context[Any]) -> Iterator[Callable[..., Any]]:
    """Makes ports, set up, and raw sockets of the plain peer; all are closed behind the test."""
    with ExitStack() as opened:

        def make(kind: Any, *, timed: bool = False, **settings: Any) -> Any:
            if isinstance(kind, int):
                socket = context.socket(kind)
                opened.callback(socket.close, 0)
                return socket
            if kind.__name__ not in ("GroupPubPort", "Group"):
                settings = {"recv_timeout": round(WAIT * 1000)} | settings
            settings = {"send_timeout": round(WAIT * 1000)} | settings
            made = kind("here", {"message": "State", "timed": timed}, context=context, **settings)
            if kind.__name__ == "Group":
                opened.callback(made.close)
            else:
                opened.callback(made.closeSocket)
                made.setup()
                made.setupSocket()
            return made

        yield make


@pytest.fixture(params=["plain", "CURVE"])
def keys(request: pytest.FixtureRequest) -> GroupKeys | None:
    """The keys that all have, if any."""
    return None if request.param == "plain" else GroupKeys.shared(*zmq.curve_keypair())


@pytest.fixture(params=[True, False], ids=["timed", "untimed"])
def timed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)
