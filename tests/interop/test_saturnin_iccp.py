"""Live Saturnin 0.10.0, both ways: its component and our controller, our component and its controller."""

from __future__ import annotations

import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from saturnin_process import SaturninPeer

import packetwire
from packetwire import LocalProtocolError
from packetwire.iccp import (
    Config,
    ICCPComponent,
    ICCPController,
    ICCPMessage,
    MsgType,
    Outcome,
    PeerDescriptor,
    StopError,
)
from packetwire.messaging import INVALID
from packetwire.messaging.zmq import DealerChannel, PairChannel, RouterChannel, ZmqChannel

pytestmark = pytest.mark.timeout(120)

PROGRAM = Path(__file__).with_name("saturnin_iccp_peer.py")
WAIT = 30
PEER = PeerDescriptor(uuid.UUID(int=0x33), 4343, "our-host")

SOCKETS: dict[str, tuple[str, type[ZmqChannel], type[ZmqChannel]]] = {
    "pair": ("pair", PairChannel, PairChannel),
    "router": ("dealer", DealerChannel, RouterChannel),
}
"""What the controller has, and: what Saturnin's component has, our component, our controller."""


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """After the test the threads are what they were; descriptors ZMQ closes in its own time."""
    threads = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) - threads == set()


@pytest.fixture(params=SOCKETS)
def socket(request: pytest.FixtureRequest) -> str:
    """What the controller has."""
    return str(request.param)


@pytest.fixture
def address(socket: str, tmp_path: Path) -> str:
    # Saturnin makes the letters of an address small, so the ids of tests, which are in the path, must be
    return f"ipc://{tmp_path}/control" if socket == "pair" else "tcp://127.0.0.1:*"


# Saturnin's component, our controller


class OurController:
    """A controller, which receives what Saturnin's component says."""

    def __init__(self, channel: type[ZmqChannel], address: str) -> None:
        self.protocol = ICCPController()
        self.refused: list[Exception] = []
        self.protocol.on_stop_controller = self.refused.append
        self.channel = channel(self.protocol, linger=0)
        self.address = self.channel.bind(address)

    def receive(self) -> Any:
        return self.channel.receive(WAIT * 1000)

    def tell(self, msg: ICCPMessage) -> None:
        (session,) = self.channel.sessions.values()
        assert self.channel.send(msg, session) == 0


@pytest.fixture
def controller(socket: str, address: str) -> Iterator[OurController]:
    controller = OurController(SOCKETS[socket][2], address)
    with controller.channel:
        yield controller


@pytest.fixture
def component(saturnin: Path, socket: str, controller: OurController) -> Iterator[SaturninPeer]:
    args = ("component", SOCKETS[socket][0], controller.address)
    with SaturninPeer(saturnin, *args, program=PROGRAM) as component:
        yield component


@pytest.fixture
def ready(component: SaturninPeer, controller: OurController) -> SaturninPeer:
    component.ask("ready")
    msg = controller.receive()
    assert (msg.msg_type, msg.peer.pid, msg.peer.host) == (MsgType.READY, 4242, "component-host")
    assert msg.endpoints == {"service": ["tcp://127.0.0.1:9999"]}
    return component


def test_its_error_before_and_after_ready(component: SaturninPeer, controller: OurController) -> None:
    for _ in range(2):
        component.ask("error", "no disk, zé")
        msg = controller.receive()
        assert (msg.msg_type, msg.error) == (MsgType.ERROR, "no disk, zé")
        if not controller.protocol.is_ready(next(iter(controller.channel.sessions.values()))):
            component.ask("ready")
            assert controller.receive().msg_type is MsgType.READY
    assert controller.refused == []


def test_our_stop(ready: SaturninPeer, controller: OurController) -> None:
    controller.tell(controller.protocol.stop_msg())
    assert ready.receive() is None
    assert ready.ask("events") == [None]
    ready.ask("finished", "OK", "none", [])
    msg = controller.receive()
    assert (msg.msg_type, msg.outcome, msg.details) == (MsgType.FINISHED, Outcome.OK, [])


@pytest.mark.parametrize("outcome", Outcome, ids=lambda outcome: outcome.value.lower())
def test_its_end_in_lines(ready: SaturninPeer, controller: OurController, outcome: Outcome) -> None:
    ready.ask("finished", outcome.value, "list", ["one", "zé", ""])
    msg = controller.receive()
    assert (msg.outcome, msg.details) == (outcome, ["one", "zé", ""])


def test_its_end_by_an_exception(ready: SaturninPeer, controller: OurController) -> None:
    """Saturnin sends a frame for each character."""
    ready.ask("finished", "ERROR", "exception", ["no disk"])
    msg = controller.receive()
    assert msg.outcome is Outcome.ERROR
    assert msg.details == list("ValueError('no disk')")


def test_its_end_with_a_traceback(ready: SaturninPeer, controller: OurController) -> None:
    ready.ask("finished", "ERROR", "traceback", ["no disk"])
    msg = controller.receive()
    assert msg.details[0].startswith("Traceback")
    assert msg.details[-1] == "ValueError: no disk\n"


def test_it_answers_a_configuration_by_an_error_and_stops(ready: SaturninPeer, controller: OurController) -> None:
    """What it does with any CONFIGURE, also a correct one; the controller hears it to its end."""
    controller.tell(controller.protocol.request_config_msg({"n": 1}))
    ready.receive()
    msg = controller.receive()
    assert msg.msg_type is MsgType.ERROR
    assert "config" in msg.error
    ((kind, _),) = ready.ask("events")
    assert kind == "StopError"
    ready.ask("finished", "ERROR", "list", ["stopped"])
    msg = controller.receive()
    assert (msg.outcome, msg.details) == (Outcome.ERROR, ["stopped"])
    assert controller.refused == []


@pytest.mark.parametrize("said", [["ok"], ["finished", "OK", "none", []]], ids=["ok", "finished"])
def test_what_it_says_before_ready_is_refused(
    component: SaturninPeer, controller: OurController, said: list[Any]
) -> None:
    component.ask(*said)
    assert controller.receive() is INVALID
    assert isinstance(controller.refused[0], StopError)
    assert "which is not ready" in str(controller.refused[0])


def test_its_second_ready_is_refused(ready: SaturninPeer, controller: OurController) -> None:
    ready.ask("ready")
    assert controller.receive() is INVALID
    assert "Unexpected READY" in str(controller.refused[0])


# configurations of firebird.base, which Saturnin's programs have

FIREBIRD_CONFIG = """
from firebird.base.config import BoolOption, Config, FloatOption, IntOption, StrOption
from packetwire.iccp import Config as Ours, ICCPController

class Options(Config):
    def __init__(self):
        super().__init__("options")
        self.label = StrOption("label", "a label", default="value")
        self.number = IntOption("number", "a number", default=42)
        self.ratio = FloatOption("ratio", "a ratio", default=0.5)
        self.flag = BoolOption("flag", "a flag", default=True)

controller, theirs, back = ICCPController(), Options(), Options()
theirs.label.value, theirs.number.value = "other", 7
msg = controller.convert_msg(controller.request_config_msg(theirs).as_zmsg())
back.load_proto(msg.config)
print(sorted(Ours.from_proto(msg.config).as_dict().items()))
print(back.label.value, back.number.value, back.ratio.value, back.flag.value)
"""


def test_a_config_of_theirs_is_sent_and_loaded(saturnin: Path) -> None:
    lib = Path(packetwire.__file__).parents[1]
    done = subprocess.run(
        [str(saturnin), "-s", "-c", FIREBIRD_CONFIG],
        env={"PYTHONPATH": str(lib)},
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "[('flag', True), ('label', 'other'), ('number', 7), ('ratio', 0.5)]",
        "other 7 0.5 True",
    ]


# our component, Saturnin's controller


class OurComponent:
    """A component, which receives what Saturnin's controller says."""

    def __init__(self, channel: type[ZmqChannel]) -> None:
        self.protocol = ICCPComponent()
        self.stops: list[Exception | None] = []
        self.configs: list[dict[str, Any]] = []
        self.protocol.on_stop_component = self.stops.append
        self.protocol.on_config_request = self.configure
        self.refusal: Exception | None = None
        self.channel = channel(self.protocol, linger=0)

    def configure(self, config: Any) -> None:
        if self.refusal:
            raise self.refusal
        self.configs.append(Config.from_proto(config).as_dict())

    def connect(self, address: str) -> None:
        self.session = self.channel.connect(address)
        assert self.channel.wait_linked(WAIT)
        self.channel.start()

    def say(self, msg: ICCPMessage) -> None:
        assert self.channel.send(msg, self.session) == 0

    def wait(self, done: Callable[[], bool]) -> None:
        assert self.channel.wait_until(done, WAIT)


@pytest.fixture
def theirs(saturnin: Path, socket: str, address: str) -> Iterator[SaturninPeer]:
    with SaturninPeer(saturnin, "controller", socket, address, program=PROGRAM) as theirs:
        yield theirs


@pytest.fixture
def ours(theirs: SaturninPeer, socket: str) -> Iterator[OurComponent]:
    ours = OurComponent(SOCKETS[socket][1])
    with ours.channel:
        ours.connect(theirs.address)
        ours.say(ours.protocol.ready_msg(PEER, {"service": ["tcp://127.0.0.1:9998"]}))
        assert theirs.receive() == {
            "type": "READY",
            "pid": 4343,
            "host": "our-host",
            "endpoints": {"service": ["tcp://127.0.0.1:9998"]},
        }
        yield ours


def test_its_stop(ours: OurComponent, theirs: SaturninPeer) -> None:
    theirs.ask("stop")
    ours.wait(lambda: ours.stops == [None])
    ours.say(ours.protocol.finished_msg(Outcome.OK))
    assert theirs.receive() == {"type": "FINISHED", "outcome": "OK", "details": []}


@pytest.mark.parametrize("full", [False, True], ids=["empty", "full"])
def test_its_broken_configurations_are_taken(ours: OurComponent, theirs: SaturninPeer, full: bool) -> None:
    theirs.ask("configure", full)
    assert theirs.receive() == {"type": "OK"}
    (config,) = ours.configs
    assert config == ({"label": "value", "number": 42, "flag": True} if full else {})
    assert ours.stops == []


def test_our_refusal_of_a_configuration(ours: OurComponent, theirs: SaturninPeer) -> None:
    ours.refusal = StopError("not now, zé")
    theirs.ask("configure", True)
    assert theirs.receive() == {"type": "ERROR", "error": "not now, zé"}
    theirs.ask("stop")
    ours.wait(lambda: ours.stops == [None])


def test_our_end_in_lines_and_by_exceptions(ours: OurComponent, theirs: SaturninPeer) -> None:
    ours.say(ours.protocol.error_msg(ValueError("trouble")))
    assert theirs.receive() == {"type": "ERROR", "error": "trouble"}
    ours.say(ours.protocol.finished_msg(Outcome.ERROR, ValueError("no disk")))
    assert theirs.receive() == {"type": "FINISHED", "outcome": "ERROR", "details": ["ValueError('no disk')"]}
    assert theirs.ask("events") == []


def test_our_end_with_a_traceback(ours: OurComponent, theirs: SaturninPeer) -> None:
    ours.protocol.with_traceback = True
    try:
        raise ValueError("no disk")
    except ValueError as error:
        ours.say(ours.protocol.finished_msg(Outcome.ERROR, error))
    told = theirs.receive()["details"]
    assert (told[0][:9], told[-1]) == ("Traceback", "ValueError: no disk\n")


@pytest.mark.parametrize("outcome", Outcome, ids=lambda outcome: outcome.value.lower())
def test_our_end_in_lines(ours: OurComponent, theirs: SaturninPeer, outcome: Outcome) -> None:
    ours.say(ours.protocol.finished_msg(outcome, ["one", "zé"]))
    assert theirs.receive() == {"type": "FINISHED", "outcome": outcome.value, "details": ["one", "zé"]}


def test_nothing_is_sent_that_would_stop_it(ours: OurComponent) -> None:
    for msg in (ours.protocol.ready_msg(PEER, {}), ICCPController().stop_msg()):
        with pytest.raises(LocalProtocolError, match="does not send"):
            ours.say(msg)
