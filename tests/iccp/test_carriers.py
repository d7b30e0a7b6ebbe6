"""A component and its controller over ZMQ, PAIR and ROUTER/DEALER, and over a packet connection."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from packetwire import PacketConnection
from packetwire.iccp import ICCPComponent, ICCPController, ICCPMessage, InvalidMessageError, MsgType, Outcome
from packetwire.iccp.config import config_proto
from packetwire.iccp.requests import ICCPPacketChannel
from packetwire.messaging import INVALID, StopError
from packetwire.messaging.zmq import DealerChannel, PairChannel, RouterChannel

from .fake import PEER, make

pytestmark = pytest.mark.timeout(60)

WAIT = 30


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

    def say_raw(self, frames: list[bytes]) -> Any:
        """What the controller makes of frames that the component's protocol would not send."""
        assert self.below._transmit(frames, self.session) == 0
        return self.above.receive(WAIT * 1000)

    def tell_raw(self, frames: list[bytes]) -> Exception | None:
        """Why the component stops when it gets such frames."""
        assert self.above._transmit(frames, self.above.session) == 0
        assert self.below.wait_until(lambda: len(self.stopped) == 1, WAIT)
        return self.stopped[0]


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


@pytest.fixture
def ready(ends: Ends) -> Ends:
    """They have met."""
    assert ends.say(ends.component.ready_msg(PEER, {})).msg_type is MsgType.READY
    return ends


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


# the rules, numbered as in test_conformance.py


def finished() -> ICCPMessage:
    return make(MsgType.FINISHED, outcome=Outcome.OK)


def test_1_ready_comes_once(ready: Ends) -> None:
    assert ready.say_raw(make(MsgType.READY, peer=PEER).as_zmsg()) is INVALID
    (refused,) = ready.refused
    assert isinstance(refused, StopError)
    assert "Unexpected READY message from component, which is ready" in str(refused)


@pytest.mark.parametrize("msg_type", [MsgType.REQUEST, MsgType.STOP])
@pytest.mark.parametrize("is_ready", [False, True])
def test_2_a_controller_refuses_what_controllers_send(ends: Ends, msg_type: MsgType, is_ready: bool) -> None:
    if is_ready:
        assert ends.say(ends.component.ready_msg(PEER, {})).msg_type is MsgType.READY
    msg = ends.controller.stop_msg() if msg_type is MsgType.STOP else ends.controller.request_config_msg({})
    assert ends.say_raw(msg.as_zmsg()) is INVALID
    (refused,) = ends.refused
    assert isinstance(refused, StopError)
    assert "Wrong message received from component" in str(refused)


@pytest.mark.parametrize("msg_type", [MsgType.READY, MsgType.OK, MsgType.ERROR, MsgType.FINISHED])
def test_2_a_component_refuses_what_components_send(ready: Ends, msg_type: MsgType) -> None:
    msg = make(msg_type, peer=PEER)
    stopped = ready.tell_raw(msg.as_zmsg())
    assert isinstance(stopped, StopError)
    assert "Wrong message received from controller" in str(stopped)


@pytest.mark.parametrize("msg", [make(MsgType.OK), finished()], ids=str)
def test_3_neither_ok_nor_finished_comes_before_ready(ends: Ends, msg: ICCPMessage) -> None:
    assert ends.say_raw(msg.as_zmsg()) is INVALID
    (refused,) = ends.refused
    assert isinstance(refused, StopError)
    assert "which is not ready" in str(refused)


@pytest.mark.parametrize("msg", [make(MsgType.OK), make(MsgType.ERROR), finished()], ids=str)
def test_3_nothing_follows_finished(ready: Ends, msg: ICCPMessage) -> None:
    assert ready.say(finished()).msg_type is MsgType.FINISHED
    assert ready.say_raw(msg.as_zmsg()) is INVALID
    assert "which is finished" in str(ready.refused[0])


GARBAGE = [[b"\x00\x63", b"?"], [b"\x00\x00"], [b"\x00\x03", b"more"], [b"\x00\x02"], [b"\x00\x04", b"\xff"]]


@pytest.mark.parametrize("frames", GARBAGE, ids=repr)
def test_4_garbage_stops_who_received_it(ready: Ends, frames: list[bytes]) -> None:
    assert isinstance(ready.tell_raw(frames), InvalidMessageError)
    assert ready.say_raw(frames) is INVALID
    (refused,) = ready.refused
    assert isinstance(refused, InvalidMessageError)


def test_5_a_configuration_without_its_code_is_taken(ready: Ends) -> None:
    config = config_proto({"name": "x"}).SerializeToString()
    assert ready.above._transmit([b"\x00\x02", config], ready.above.session) == 0
    assert ready.above.receive(WAIT * 1000).msg_type is MsgType.OK
    assert ready.configs == ["x"]
    assert ready.stopped == []


def test_6_stop_is_no_error(ready: Ends) -> None:
    assert ready.tell_raw(ready.controller.stop_msg().as_zmsg()) is None
    assert ready.say(ready.component.finished_msg(Outcome.OK, "done")).details == ["done"]
    assert ready.refused == []


def test_each_learns_that_the_other_is_gone(ready: Ends) -> None:
    ends = ready
    connection = getattr(ends.above, "connection", None)
    if connection is not None:
        connection.close()
    else:
        ends.above.close()
    assert ends.below.wait_until(lambda: len(ends.stopped) == 1, WAIT)
    assert ends.stopped[0] is not None
    assert ends.below.sessions == {}


# what only a packet stream can carry


@pytest.fixture
def over_packets(tmp_path: Any) -> Iterator[Ends]:
    ends = Ends()
    with ExitStack() as opened:
        packets(ends, opened, tmp_path)
        assert ends.say(ends.component.ready_msg(PEER, {})).msg_type is MsgType.READY
        yield ends


@pytest.mark.parametrize(
    ("rq_type", "payload", "said"),
    [
        (MsgType.STOP, b"\x05abc", "frame 0 of a multipart message is cut off"),
        (MsgType.STOP, b"\x02\x00\x03", "a message of the type 3 came as rq_type 5"),
    ],
    ids=["no message", "another type"],
)
def test_4_a_packet_that_holds_no_message_stops_who_received_it(
    over_packets: Ends, rq_type: int, payload: bytes, said: str
) -> None:
    ends = over_packets
    ok, _, refusal = ends.above.connection(rq_type, payload, timeout=WAIT)
    assert not ok
    assert said in refusal.decode()
    (stopped,) = ends.stopped
    assert isinstance(stopped, InvalidMessageError)
    assert stopped.code == "packet"
    assert said in str(stopped)
    ok, _, refusal = ends.below.connection(rq_type, payload, timeout=WAIT)
    assert not ok
    (refused,) = ends.refused
    assert isinstance(refused, InvalidMessageError)
    assert refused.code == "packet"
