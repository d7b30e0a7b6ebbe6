"""`run_component`: READY, configurations, STOP, and FINISHED on every way out."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Self

import pytest

from packetwire import PacketConnection
from packetwire.iccp import (
    Config,
    Control,
    Controller,
    Finished,
    ICCPController,
    ICCPMessage,
    ICCPPacketChannel,
    MsgType,
    Outcome,
    StopError,
    TimeLimits,
    arun_component,
)

from .faces import FACES, run_of
from .fake import PEER

pytestmark = pytest.mark.timeout(60)

WAIT = 30


class Supervisor:
    """A controller, and a component that runs in a thread of this process."""

    def __init__(self, face: str) -> None:
        self._run_component = run_of(face)
        self.protocol = ICCPController()
        self._opened = ExitStack()
        ours, self._theirs = (self._opened.enter_context(each) for each in socket.socketpair())
        self.connection = PacketConnection(ours, close_timeout=WAIT)
        self.channel = ICCPPacketChannel(self.protocol, self.connection, receives=True)
        self._opened.enter_context(self.connection)
        self.status: int | None = None
        self.raised: BaseException | None = None
        self._thread = threading.Thread(target=lambda: None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.connection.close()
        self._thread.join()
        self._opened.close()

    def run(self, main: Any = None, **options: Any) -> None:
        """Run a component and take its READY."""

        def target() -> None:
            try:
                self.status = self._run_component(main, recv_send=self._theirs, **options)
            except BaseException as error:
                self.raised = error

        self._thread = threading.Thread(target=target)
        self._thread.start()
        assert self.receive().msg_type is MsgType.READY

    def tell(self, msg: ICCPMessage) -> None:
        assert self.channel.session
        assert self.channel.send(msg, self.channel.session) == 0

    def configure(self, values: dict[str, Any]) -> ICCPMessage:
        self.tell(self.protocol.request_config_msg(values))
        return self.receive()

    def stop(self) -> ICCPMessage:
        self.tell(self.protocol.stop_msg())
        return self.end()

    def receive(self) -> Any:
        return self.channel.receive(WAIT * 1000)

    def end(self) -> ICCPMessage:
        """Its FINISHED, and then the end of its thread."""
        msg: ICCPMessage = self.receive()
        assert msg.msg_type is MsgType.FINISHED
        assert self.connection.join_recv(WAIT)
        self.join()
        return msg

    def join(self) -> None:
        self._thread.join(WAIT)
        assert not self._thread.is_alive()


@pytest.fixture(params=FACES)
def supervisor(request: pytest.FixtureRequest) -> Iterator[Supervisor]:
    with Supervisor(request.param) as supervisor:
        yield supervisor


def test_without_a_main_function_it_waits_for_stop(supervisor: Supervisor) -> None:
    supervisor.run(peer=PEER, endpoints={"x": ("ipc://x",)})
    assert supervisor.configure({"n": 1}).msg_type is MsgType.OK
    msg = supervisor.stop()
    assert (msg.outcome, msg.details, supervisor.status) == (Outcome.OK, [], 0)


@pytest.mark.parametrize(
    ("result", "details"), [(None, []), ("all done", ["all done"]), (["one", "two"], ["one", "two"]), ((), [])]
)
def test_what_its_main_function_returns_is_told(supervisor: Supervisor, result: Any, details: list[str]) -> None:
    supervisor.run(lambda control: result)
    msg = supervisor.end()
    assert (msg.outcome, msg.details, supervisor.status) == (Outcome.OK, details, 0)


@pytest.mark.parametrize("with_traceback", [False, True])
def test_what_its_main_function_raises_is_told(
    supervisor: Supervisor, with_traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def main(control: Control) -> None:
        raise RuntimeError("no more paper")

    supervisor.run(main, with_traceback=with_traceback)
    msg = supervisor.end()
    assert (msg.outcome, supervisor.status) == (Outcome.ERROR, 1)
    if with_traceback:
        assert msg.details[0].startswith("Traceback")
        assert msg.details[-1] == "RuntimeError: no more paper\n"
    else:
        assert msg.details == ["RuntimeError('no more paper')"]
    assert "no more paper" in caplog.text, "here it has its traceback"


@pytest.mark.parametrize(
    ("leaving", "outcome", "details"),
    [
        (SystemExit(), Outcome.OK, []),
        (SystemExit(0), Outcome.OK, []),
        (SystemExit(3), Outcome.ERROR, ["exit status 3"]),
        (SystemExit("no disk"), Outcome.ERROR, ["no disk"]),
        (KeyboardInterrupt(), Outcome.ERROR, ["KeyboardInterrupt()"]),
    ],
    ids=repr,
)
def test_each_way_out_is_told(
    supervisor: Supervisor, leaving: BaseException, outcome: Outcome, details: list[str]
) -> None:
    def main(control: Control) -> None:
        raise leaving

    supervisor.run(main)
    msg = supervisor.end()
    assert (msg.outcome, msg.details) == (outcome, details)
    assert supervisor.raised is leaving


def test_details_that_are_none(supervisor: Supervisor) -> None:
    supervisor.run(lambda control: [1, 2])
    msg = supervisor.end()
    assert msg.outcome is Outcome.ERROR
    assert "returns None, a string or several, not [1, 2]" in msg.details[0]


@pytest.mark.parametrize("details", [["x" * (17 << 20)], [""] * (1 << 18)], ids=["bytes", "lines"])
def test_details_that_are_too_long(supervisor: Supervisor, details: list[str]) -> None:
    supervisor.run(lambda control: details)
    msg = supervisor.end()
    assert (msg.outcome, msg.details) == (Outcome.OK, ["the details of the end are too long to be sent"])


def test_an_exception_that_cannot_describe_itself(supervisor: Supervisor) -> None:
    class Shy(Exception):
        def __repr__(self) -> str:
            raise ValueError

        __str__ = __repr__

    def main(control: Control) -> None:
        raise Shy

    supervisor.run(main)
    assert supervisor.end().details == ["Shy"]


def test_it_is_configured(supervisor: Supervisor) -> None:
    taken: list[Any] = []

    def take(config: Any) -> None:
        values = Config.from_proto(config).as_dict()
        if values.get("bad"):
            raise StopError("not that")
        taken.append(values)

    def main(control: Control) -> str:
        control.wait_stop()
        return str(control.config.as_dict() if control.config else None)

    supervisor.run(main, on_config_request=take)
    assert supervisor.configure({"n": 1, "in": {"x": "y"}}).msg_type is MsgType.OK
    refused = supervisor.configure({"bad": True})
    assert (refused.msg_type, refused.error) == (MsgType.ERROR, "not that")
    assert supervisor.stop().details == ["{'n': 1, 'in': {'x': 'y'}}"]
    assert taken == [{"n": 1, "in": {"x": "y"}}]


def test_stop_is_told_once_and_only_while_it_runs(supervisor: Supervisor) -> None:
    stops: list[Exception | None] = []
    supervisor.run(on_stop_component=stops.append)
    supervisor.tell(supervisor.protocol.stop_msg())
    assert supervisor.stop().outcome is Outcome.OK
    assert stops == [None]


def test_one_that_ends_by_itself_is_not_told_to_stop(supervisor: Supervisor) -> None:
    stops: list[Exception | None] = []
    supervisor.run(lambda control: None, on_stop_component=stops.append)
    assert supervisor.end().outcome is Outcome.OK
    assert stops == []


def test_a_stop_handler_that_fails_stops_nevertheless(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(exc: Exception | None) -> None:
        raise ValueError("cannot stop")

    supervisor.run(on_stop_component=fail)
    assert supervisor.stop().outcome is Outcome.OK
    assert "cannot stop" in caplog.text


def test_a_coroutine_function(supervisor: Supervisor) -> None:
    async def main(control: Control) -> str:
        await asyncio.gather(control.stopped(), control.stopped())
        await control.stopped()
        return "awaited"

    supervisor.run(main)
    assert supervisor.stop().details == ["awaited"]


@pytest.mark.parametrize("supervisor", ["threads"], indirect=True)
def test_a_coroutine_that_waits_no_more_when_it_is_stopped(supervisor: Supervisor) -> None:
    given_up = threading.Event()

    async def main(control: Control) -> str:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(control.stopped(), 0.01)
        given_up.set()
        while not control.wait_stop(0.01):
            pass
        return "polled"

    supervisor.run(main)
    assert given_up.wait(WAIT)
    assert supervisor.stop().details == ["polled"]


@pytest.mark.parametrize("frames", [[b"\0\3"], [b"\0\x63"]], ids=["wrong side", "garbage"])
def test_a_controller_that_breaks_the_rules_stops_it(supervisor: Supervisor, frames: list[bytes]) -> None:
    stops: list[Exception | None] = []
    supervisor.run(on_stop_component=stops.append)
    assert supervisor.channel.session
    assert supervisor.channel._transmit(frames, supervisor.channel.session) == 0
    msg = supervisor.end()
    assert (msg.outcome, msg.details) == (Outcome.ERROR, [repr(stops[0])])
    assert len(stops) == 1
    assert supervisor.status == 1


def test_a_controller_that_is_gone_stops_it(supervisor: Supervisor) -> None:
    stops: list[Exception | None] = []
    stopped = threading.Event()

    def main(control: Control) -> None:
        control.wait_stop()
        stopped.set()

    supervisor.run(main, on_stop_component=stops.append)
    supervisor.connection.close()
    assert stopped.wait(WAIT)
    supervisor.join()
    assert (supervisor.status, supervisor.raised) == (1, None)
    assert len(stops) == 1
    assert isinstance(stops[0], Exception)


# in a process of its own

PROGRAM = """
import asyncio, os, signal, sys, threading, time
print("printed before", file=sys.stderr)
from packetwire.iccp import arun_component, run_component

def noise():
    print("a stray print")
    os.write(1, b"a stray write\\n")
    os.system("echo a stray command")
    if sys.argv[2:] == ["sleep"]:
        threading.Timer(0, os.kill, (os.getpid(), signal.SIGTERM)).start()

def main(control):
    noise()
    if sys.argv[2:] == ["sleep"]:
        time.sleep(60)
    control.wait_stop()
    return sys.stdin.read() + "nothing on standard input"

async def amain(control):
    noise()
    if sys.argv[2:] == ["sleep"]:
        await asyncio.sleep(60)
    await control.stopped()
    return sys.stdin.read() + "nothing on standard input"

sys.exit(run_component(main) if sys.argv[1] == "threads" else asyncio.run(arun_component(amain)))
"""


@pytest.mark.parametrize("face", FACES)
def test_a_component_in_its_own_process(face: str, capfd: pytest.CaptureFixture[str]) -> None:
    argv = [sys.executable, "-c", PROGRAM, face]
    with Controller(limits=TimeLimits(ready=WAIT, stop=WAIT, exit=WAIT)) as controller:
        quiet, slept = controller.launch(argv, forward_stderr=True), controller.launch([*argv, "sleep"])
        quiet.wait_ready()
        assert quiet.process
        assert quiet.peer
        assert quiet.peer.pid == quiet.process.pid
        assert quiet.peer.host == socket.gethostname()
        assert quiet.stop() == Finished(Outcome.OK, ["nothing on standard input"], 0)
        assert slept.wait(WAIT) == Finished(Outcome.ERROR, ["terminated by SIGTERM"], 128 + signal.SIGTERM)
    err = capfd.readouterr().err
    assert sorted(err.splitlines()) == ["a stray command", "a stray print", "a stray write", "printed before"]


ORPHAN = """
import asyncio, sys, time
from packetwire.iccp import arun_component, run_component

def main(control):
    control.wait_stop()
    while True:
        time.sleep(60)

async def amain(control):
    await control.stopped()
    while True:
        await asyncio.sleep(60)

if sys.argv[1] == "threads":
    run_component(main, orphan_timeout=0.1)
else:
    asyncio.run(arun_component(amain, orphan_timeout=0.1))
"""


@pytest.mark.parametrize("face", FACES)
def test_an_orphan_that_does_not_stop_is_terminated(face: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN, face], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as orphan:
        _, stderr = orphan.communicate(timeout=WAIT)  # which closes its standard input
    assert (stderr, orphan.returncode) == (b"", 128 + signal.SIGTERM)


# in an event loop only


@pytest.fixture
def in_loop() -> Iterator[Supervisor]:
    with Supervisor("asyncio") as supervisor:
        yield supervisor


def test_a_configuration_is_taken_by_a_coroutine(in_loop: Supervisor) -> None:
    seen: list[Any] = []

    async def take(config: Any) -> None:
        await asyncio.sleep(0)
        seen.append(Config.from_proto(config).as_dict())
        if seen[-1].get("bad"):
            raise StopError("not that")

    async def main(control: Control) -> str:
        await control.stopped()
        return str(control.config.as_dict() if control.config else None)

    in_loop.run(main, on_config_request=take)
    assert in_loop.configure({"n": 1}).msg_type is MsgType.OK
    refused = in_loop.configure({"bad": True})
    assert (refused.msg_type, refused.error) == (MsgType.ERROR, "not that")
    assert in_loop.stop().details == ["{'n': 1}"]
    assert seen == [{"n": 1}, {"bad": True}]


def test_one_that_is_cancelled_says_so(in_loop: Supervisor) -> None:
    async def main(control: Control) -> None:
        task = asyncio.current_task()
        assert task
        asyncio.get_running_loop().call_soon(task.cancel)
        await control.stopped()

    in_loop.run(main)
    msg = in_loop.end()
    assert (msg.outcome, msg.details) == (Outcome.ERROR, ["CancelledError()"])
    assert isinstance(in_loop.raised, asyncio.CancelledError)


def test_an_orphan_may_clean_up_and_return(in_loop: Supervisor) -> None:
    """Also where this is not the main thread, which alone gets signals."""

    async def main(control: Control) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "cleaned up"

    in_loop.run(main, orphan_timeout=0)
    in_loop.connection.close()
    in_loop.join()
    assert (in_loop.status, in_loop.raised) == (1, None)


def test_a_main_function_that_waits_for_nothing(in_loop: Supervisor) -> None:
    def plain(control: Control) -> str:
        return "done in the loop"

    in_loop._run_component = lambda main, **options: asyncio.run(arun_component(main, **options))
    in_loop.run(plain)
    msg = in_loop.end()
    assert (msg.outcome, msg.details) == (Outcome.OK, ["done in the loop"])
