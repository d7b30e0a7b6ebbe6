"""A component and its controller over ZMQ, PAIR and ROUTER/DEALER, and over a packet connection."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from packetwire import PacketConnection
from packetwire.iccp import ICCPComponent, ICCPController, MsgType, Outcome
from packetwire.iccp.requests import ICCPPacketChannel
from packetwire.messaging import INVALID, StopError
from packetwire.messaging.descriptors import PeerDescriptor
from packetwire.messaging.zmq import DealerChannel, PairChannel, RouterChannel

WAIT = 10
PEER = PeerDescriptor(uuid.UUID(int=7), 42, "host")


class Ends:
    """A component, which runs in a thread of its channel, and a controller, which receives."""

    def __init__(self) -> None:
        self.component = ICCPComponent()
        self.controller = ICCPController()
        self.configs: list[Any] = []
        self.stopped: list[Exception | None] = []
        self.refused: list[Exception] = []
        self.component.on_config_request = self.configure
        self.component.on_stop_component = self.stopped.append
        self.controller.on_stop_controller = self.refused.append
        self.below: Any = None
        self.above: Any = None
        self.session: Any = None

    def configure(self, config: Any) -> None:
        self.configs.append(config.options["name"].as_string)
        if self.configs[-1] == "wrong":
            raise StopError("no such thing")

    def say(self, msg: Any) -> Any:
        """What the controller receives of a message of the component."""
        assert self.below.send(msg, self.session) == 0
        return self.above.receive(WAIT * 1000)

    def tell(self, msg: Any) -> None:
        assert self.above.send(msg, self.above.session) == 0


def zmq(below: Any, above: Any) -> Callable[[Ends, ExitStack, Any], None]:
    def connect(ends: Ends, opened: ExitStack, directory: Any) -> None:
        ends.above = opened.enter_context(above(ends.controller, linger=0))
        ends.below = opened.enter_context(below(ends.component, linger=0))
        ends.session = ends.below.connect(ends.above.bind(f"ipc://{directory}/control"))
        assert ends.below.wait_linked(WAIT)
        ends.below.start()

    return connect


def packets(ends: Ends, opened: ExitStack, directory: Any) -> None:
    ours, theirs = socket.socketpair()
    opened.enter_context(ours)
    opened.enter_context(theirs)
    above, below = PacketConnection(ours), PacketConnection(theirs)
    ends.above = ICCPPacketChannel(ends.controller, above, receives=True)
    ends.below = ICCPPacketChannel(ends.component, below)
    opened.enter_context(above)
    opened.enter_context(below)
    ends.session = ends.below.connect()


@pytest.fixture(
    params=[zmq(PairChannel, PairChannel), zmq(DealerChannel, RouterChannel), packets],
    ids=["pair", "router and dealer", "packets"],
)
def ends(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Ends]:
    ends = Ends()
    with ExitStack() as opened:
        request.param(ends, opened, tmp_path)
        yield ends


def test_a_whole_life(ends: Ends) -> None:
    ready = ends.say(ends.component.ready_msg(PEER, {"service": ["tcp://127.0.0.1:1"]}))
    assert (ready.peer, ready.endpoints) == (PEER, {"service": ["tcp://127.0.0.1:1"]})
    assert ends.controller.is_ready(ends.above.session)
    ends.tell(ends.controller.request_config_msg({"name": "x"}))
    assert ends.above.receive(WAIT * 1000).msg_type is MsgType.OK
    ends.tell(ends.controller.request_config_msg({"name": "wrong"}))
    error = ends.above.receive(WAIT * 1000)
    assert (error.msg_type, error.error) == (MsgType.ERROR, "no such thing")
    assert ends.configs == ["x", "wrong"]
    ends.tell(ends.controller.stop_msg())
    assert ends.below.wait_until(lambda: ends.stopped == [None], WAIT)
    finished = ends.say(ends.component.finished_msg(Outcome.OK, ["one", "two"]))
    assert (finished.outcome, finished.details) == (Outcome.OK, ["one", "two"])
    assert ends.refused == []


def test_what_breaks_a_rule_stops_who_received_it(ends: Ends) -> None:
    assert ends.say(ends.component.ready_msg(PEER, {})).msg_type is MsgType.READY
    frames = ends.component.ready_msg(PEER, {}).as_zmsg()
    assert ends.below._transmit(frames, ends.session) == 0
    assert ends.above.receive(WAIT * 1000) is INVALID
    assert len(ends.refused) == 1
    assert ends.above._transmit([b"\x00\x03"], ends.above.session) == 0
    assert ends.below.wait_until(lambda: len(ends.stopped) == 1, WAIT)
    assert isinstance(ends.stopped[0], StopError)


def test_garbage_stops_who_received_it(ends: Ends) -> None:
    assert ends.say(ends.component.ready_msg(PEER, {})).msg_type is MsgType.READY
    assert ends.above._transmit([b"\x00\x63", b"?"], ends.above.session) == 0
    assert ends.below.wait_until(lambda: len(ends.stopped) == 1, WAIT)
    assert ends.below._transmit([b"\x00\x00"], ends.session) == 0
    assert ends.above.receive(WAIT * 1000) is INVALID
    assert len(ends.refused) == 1


def test_each_learns_that_the_other_is_gone(ends: Ends, request: pytest.FixtureRequest) -> None:
    assert ends.say(ends.component.ready_msg(PEER, {})).msg_type is MsgType.READY
    connection = getattr(ends.above, "connection", None)
    if connection is not None:
        connection.close()
    else:
        ends.above.close()
    assert ends.below.wait_until(lambda: len(ends.stopped) == 1, WAIT)
    assert ends.stopped[0] is not None
    assert ends.below.sessions == {}
