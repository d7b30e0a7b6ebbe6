"""What the ports stand on: whether there is a link, and one that is lost in the middle of a message."""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import zmq

from packetwire.riaps.links import Links
from packetwire.riaps.sockets import PortSocket
from packetwire.riaps.waiting import Waiting

from .peers import WAIT, listen, received


class Breaking:
    """A ZMQ socket that refuses one frame, as a link does that is lost there; it drops those up to the last."""

    closed = False

    def __init__(self, refuses: int) -> None:
        self.got: list[tuple[bytes, bool]] = []
        self._refuses = refuses

    def send(self, frame: bytes, flags: int) -> None:
        if len(self.got) == self._refuses:
            self._refuses = -1
            self.got.append((b"refused", bool(flags & zmq.SNDMORE)))
            raise zmq.Again
        self.got.append((frame, bool(flags & zmq.SNDMORE)))

    def close(self) -> None:
        pass


def test_a_link_counts_only_with_the_address_that_is_followed(make: Callable[..., Any]) -> None:
    router, dealer = make(zmq.ROUTER), make(zmq.DEALER)
    where = f"tcp://127.0.0.1:{listen(router)[1]}"
    with closing(Links(dealer)) as links:
        for followed, is_up in (("tcp://127.0.0.1:1", False), (where, True)):
            links.follow(followed)
            dealer.connect(where)
            dealer.send(b"there is a link")
            received(router)
            assert select.select([links.fileno()], [], [], WAIT)[0]
            assert links.is_up == is_up
            dealer.disconnect(where)


class Ended(Breaking):
    """One whose context was terminated, as the last look at it finds."""

    def recv(self, *_: object, **__: object) -> None:
        raise zmq.Again

    def get(self, option: int) -> int:
        if option == zmq.EVENTS:
            raise zmq.ContextTerminated
        return -1


def test_who_waits_is_woken_by_the_look_that_finds_the_end() -> None:
    """The descriptor does not tell of it a second time."""
    ended: Any = Ended(-1)
    socket = PortSocket("port")
    socket.put(ended)
    with closing(Waiting(None, 0)) as waiting:
        socket._waitings.add(waiting)
        assert socket.try_receive(3) is None
        assert select.select([waiting.fileno()], [], [], WAIT)[0]


@pytest.mark.parametrize(
    ("refuses", "dropped"),
    [
        (0, [(b"refused", True)]),
        (1, [(b"a", True), (b"refused", True), (b"c", False)]),
        (2, [(b"a", True), (b"b", True), (b"refused", False)]),
    ],
)
def test_a_message_that_broke_off_is_sent_again_as_a_whole(refuses: int, dropped: list[Any]) -> None:
    breaking: Any = Breaking(refuses)
    socket = PortSocket("port")
    socket.put(breaking)
    assert not socket.try_send([b"a", b"b", b"c"], lambda: None)
    assert breaking.got == dropped
    assert socket.try_send([b"a", b"b", b"c"], lambda: None)
    assert breaking.got[len(dropped) :] == [(b"a", True), (b"b", True), (b"c", False)]
