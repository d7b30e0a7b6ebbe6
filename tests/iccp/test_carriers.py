"""A component and its controller over ZMQ, PAIR and ROUTER/DEALER, and over a packet connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from packetwire import AsyncPacketConnection, PacketConnection
from packetwire.iccp import ICCPComponent, ICCPController, ICCPMessage, InvalidMessageError, MsgType, Outcome
from packetwire.iccp.aiorequests import LoopICCPPacketChannel
from packetwire.iccp.config import config_proto
from packetwire.iccp.requests import ICCPPacketChannel
from packetwire.messaging import INVALID, StopError
from packetwire.messaging.loopzmq import LoopDealerChannel, LoopPairChannel, LoopRouterChannel
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
        return self.receive()

    def receive(self) -> Any:
        """What the controller makes of the next message."""
        return self.above.receive(WAIT * 1000)

    def wait(self, done: Callable[[], bool]) -> bool:
        """Wait for something at the component."""
        return bool(self.below.wait_until(done, WAIT))

    def close(self, end: Any) -> None:
        """Close one end, from its own side."""
        connection = getattr(end, "connection", None)
        (end if connection is None else connection).close()

    def tell(self, msg: Any) -> None:
        assert self.above.send(msg, self.above.session) == 0

    def say_raw(self, frames: list[bytes]) -> Any:
        """What the controller makes of frames that the component's protocol would not send."""
        assert self.below._transmit(frames, self.session) == 0
        return self.receive()

    def tell_raw(self, frames: list[bytes]) -> Exception | None:
        """Why the component stops when it gets such frames."""
        assert self.above._transmit(frames, self.above.session) == 0
        assert self.wait(lambda: len(self.stopped) == 1)
        return self.stopped[0]


class LoopEnds(Ends):
    """Both in one event loop, which runs while a test waits for something."""

    def __init__(self, opened: ExitStack) -> None:
        super().__init__()
        self.runner = opened.enter_context(asyncio.Runner())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        async def call() -> Any:
            return function(*args, **options)

        return self.run(call())

    def receive(self) -> Any:
        assert self.run(self.above.wait_for(lambda: bool(self.above.results), WAIT))
        return self.above.results.pop(0)

    def wait(self, done: Callable[[], bool]) -> bool:
        return bool(self.run(self.below.wait_for(done, WAIT)))

    def close(self, end: Any) -> None:
        connection = getattr(end, "connection", None)
        if connection is None:
            self.call(end.close)
        else:
            self.run(connection.close())


class Kept:
    """Mixed into the channel of a controller: keeps what `receive` would return."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.results: list[Any] = []

    def deliver(self, routing_id: bytes, zmsg: Any) -> Any:
        result = super().deliver(routing_id, zmsg)  # type: ignore[misc]
        self.results.append(result)
        self.notify()  # type: ignore[attr-defined]
        return result


class KeptPair(Kept, LoopPairChannel):
    pass


class KeptRouter(Kept, LoopRouterChannel):
    pass


class KeptPackets(Kept, LoopICCPPacketChannel):
    pass


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


def loop_zmq(below: Any, above: Any) -> Callable[[LoopEnds, ExitStack, Any], None]:
    def connect(ends: LoopEnds, opened: ExitStack, directory: Any) -> None:
        ends.above = above(ends.controller, linger=0)
        ends.below = below(ends.component, linger=0)
        opened.callback(lambda: ends.call(ends.above.close))
        opened.callback(lambda: ends.call(ends.below.close))
        ends.session = ends.below.connect(ends.above.bind(f"ipc://{directory}/control"))
        ends.call(ends.above.start)
        ends.call(ends.below.start)
        assert ends.run(ends.below.wait_for(lambda: ends.below.linked, WAIT))

    return connect


def loop_packets(ends: LoopEnds, opened: ExitStack, directory: Any) -> None:
    ours, theirs = socket.socketpair()
    opened.enter_context(ours)
    opened.enter_context(theirs)
    above, below = AsyncPacketConnection(ours), AsyncPacketConnection(theirs)
    ends.above = ends.call(KeptPackets, ends.controller, above)
    ends.below = ends.call(LoopICCPPacketChannel, ends.component, below)
    for connection in (above, below):
        ends.run(connection.open())
    opened.callback(lambda: ends.run(close_all(above, below)))
    ends.session = ends.below.connect()


async def close_all(*connections: AsyncPacketConnection) -> None:
    await asyncio.gather(*(each.close() for each in connections))


THREADS = {
    "pair": zmq(PairChannel, PairChannel),
    "router and dealer": zmq(DealerChannel, RouterChannel),
    "packets": packets,
}
LOOP = {
    "aio pair": loop_zmq(LoopPairChannel, KeptPair),
    "aio router and dealer": loop_zmq(LoopDealerChannel, KeptRouter),
    "aio packets": loop_packets,
}


@pytest.fixture(params=[*THREADS, *LOOP])
def ends(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Ends]:
    with ExitStack() as opened:
        if request.param in LOOP:
            in_loop = LoopEnds(opened)
            LOOP[request.param](in_loop, opened, tmp_path)
            yield in_loop
        else:
            ends = Ends()
            THREADS[request.param](ends, opened, tmp_path)
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
    assert ends.receive().msg_type is MsgType.OK
    ends.tell(ends.controller.request_config_msg({"name": "wrong"}))
    error = ends.receive()
    assert (error.msg_type, error.error) == (MsgType.ERROR, "no such thing")
    assert ends.configs == ["x", "wrong"]
    ends.tell(ends.controller.stop_msg())
    assert ends.wait(lambda: ends.stopped == [None])
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
    assert ready.receive().msg_type is MsgType.OK
    assert ready.configs == ["x"]
    assert ready.stopped == []


def test_6_stop_is_no_error(ready: Ends) -> None:
    assert ready.tell_raw(ready.controller.stop_msg().as_zmsg()) is None
    assert ready.say(ready.component.finished_msg(Outcome.OK, "done")).details == ["done"]
    assert ready.refused == []


def test_each_learns_that_the_other_is_gone(ready: Ends) -> None:
    ends = ready
    ends.close(ends.above)
    assert ends.wait(lambda: len(ends.stopped) == 1)
    assert ends.stopped[0] is not None
    assert ends.below.sessions == {}


@pytest.mark.parametrize("closes", ["component", "channel", "controller"])
def test_6_a_component_is_told_to_stop_once(ready: Ends, closes: str) -> None:
    """STOP, FINISHED, and then the end, whoever begins with that."""
    ends = ready
    assert ends.tell_raw(ends.controller.stop_msg().as_zmsg()) is None
    assert ends.say(ends.component.finished_msg(Outcome.OK)).msg_type is MsgType.FINISHED
    if closes == "channel":
        ends.below.close()
    else:
        ends.close(ends.below if closes == "component" else ends.above)
        assert ends.wait(lambda: not ends.below.sessions) or ends.below.sessions == {}
    assert ends.stopped == [None]
    assert ends.refused == []


def test_6_what_crosses_finished_is_dropped(ready: Ends) -> None:
    ends = ready
    assert ends.say(ends.component.finished_msg(Outcome.OK)).msg_type is MsgType.FINISHED
    ends.tell(ends.controller.request_config_msg({"name": "late"}))
    ends.tell(ends.controller.stop_msg())
    assert ends.above._transmit([b"garbage"], ends.above.session) == 0
    ends.close(ends.above)
    assert ends.wait(lambda: not ends.below.sessions)
    assert (ends.configs, ends.stopped) == ([], [])


def test_6_a_controller_that_leaves_after_stop_says_nothing_new(ready: Ends) -> None:
    ends = ready
    assert ends.tell_raw(ends.controller.stop_msg().as_zmsg()) is None
    ends.tell(ends.controller.stop_msg())
    ends.close(ends.above)
    assert ends.wait(lambda: not ends.below.sessions)
    assert ends.stopped == [None]


def test_4_an_event_that_fails_is_logged_and_called_once(ready: Ends, caplog: pytest.LogCaptureFixture) -> None:
    ends = ready
    stopped: list[Exception | None] = []

    def fail(exc: Exception | None) -> None:
        stopped.append(exc)
        raise ZeroDivisionError

    ends.component.on_stop_component = fail
    ends.tell(ends.controller.stop_msg())
    assert ends.wait(lambda: bool(stopped))
    assert ends.say(ends.component.finished_msg(Outcome.OK)).msg_type is MsgType.FINISHED
    assert stopped == [None]
    assert "on_stop_component failed" in caplog.text


def test_5_a_configuration_that_ends_the_thread_is_refused(ready: Ends) -> None:
    ends = ready

    def leave(config: Any) -> None:
        raise SystemExit("no such thing")

    ends.component.on_config_request = leave
    ends.tell(ends.controller.request_config_msg({"name": "x"}))
    answer = ends.receive()
    assert (answer.msg_type, answer.error) == (MsgType.ERROR, "no such thing")
    assert ends.stopped == []


@pytest.mark.parametrize("hook", ["initialize_session", "accept_new_session", "message_factory", "before_handling"])
def test_4_a_hook_of_the_controller_that_fails_stops_it(ends: Ends, hook: str) -> None:
    def fail(*args: Any) -> Any:
        raise ZeroDivisionError

    former = getattr(ends.controller, hook)
    ready = ends.component.ready_msg(PEER, {})
    setattr(ends.controller, hook, fail)
    assert ends.say(ready) is INVALID
    (refused,) = ends.refused
    assert ZeroDivisionError in (type(refused), type(refused.__cause__))
    assert ends.above.sessions == {}
    setattr(ends.controller, hook, former)


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
