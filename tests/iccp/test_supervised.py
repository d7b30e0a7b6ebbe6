"""Components that are started again when they have ended."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from childprocesses import child_processes
from packetwire import ChildExited, ConnectionEnded, LocalProtocolError, RequestTimeout
from packetwire.iccp import ComponentError, ConfigureRefused, MsgType, Outcome, TimeLimits
from packetwire.pool import Backoff, MemberEnded, MemberGivenUp, MemberReady, MemberWaits

from .children import OK, READY, component, finished
from .faces import FACES, controllers_of
from .fake import make

pytestmark = pytest.mark.timeout(60)

WAIT = 30
SOON = Backoff(0.01, 0.05)
LIMITS = TimeLimits(ready=WAIT, stop=WAIT, terminate=WAIT, exit=WAIT)
OBEDIENT = component("say(); wait_stop(); say()", READY, finished())
CONFIGURED = component("say(); wait_for(b'CONF'); say(); wait_stop(); say()", READY, OK, finished())


@pytest.fixture(params=FACES)
def controller(request: pytest.FixtureRequest) -> Iterator[Any]:
    threads, children = set(threading.enumerate()), child_processes()
    with ExitStack() as opened:
        yield opened.enter_context(controllers_of(request.param, opened)(limits=LIMITS))
    assert child_processes() - children == set()
    assert set(threading.enumerate()) - threads == set()


def ended_of(supervised: Any) -> Any:
    """The exception that tells that it was given up."""
    with pytest.raises(ConnectionEnded, match="was given up") as caught:
        while True:
            component = supervised.wait_ready(WAIT)
            try:
                component.wait(WAIT)
            except (ChildExited, ComponentError):
                pass
    return caught.value


def test_one_that_is_killed_is_started_again(controller: Any) -> None:
    events: list[Any] = []
    supervised = controller.supervise(OBEDIENT, name="worker", backoff=SOON, on_event=events.append)
    first = supervised.wait_ready(WAIT)
    assert first.process
    os.kill(first.process.pid, signal.SIGKILL)
    with pytest.raises(ChildExited):
        first.wait(WAIT)
    second = supervised.wait_ready(WAIT)
    while second == first:  # it has not been seen yet
        second = supervised.wait_ready(WAIT)
    assert second.process
    assert second.process.pid != first.process.pid
    assert isinstance(supervised.cause, ChildExited)
    assert supervised.cause.signal == signal.SIGKILL
    supervised.stop()
    assert supervised.component is None
    with pytest.raises(ConnectionEnded, match="worker. was stopped"):
        supervised.wait_ready()
    assert [type(each) for each in events] == [MemberReady, MemberEnded, MemberWaits, MemberReady]


def test_each_is_configured(controller: Any) -> None:
    supervised = controller.supervise(CONFIGURED, config={"disk": 1}, backoff=SOON)
    first = supervised.wait_ready(WAIT)
    first.kill()
    with pytest.raises(ChildExited):
        first.wait(WAIT)
    second = supervised.wait_ready(WAIT)
    while second == first:
        second = supervised.wait_ready(WAIT)
    assert second.stop().outcome is Outcome.OK


def test_a_configuration_is_for_those_to_come_too(controller: Any) -> None:
    argv = component("say(); wait_for(b'CONF'); say(); os._exit(5)", READY, OK)
    supervised = controller.supervise(argv, limit=(1, 60.0), backoff=SOON)
    supervised.configure({"disk": 1}, WAIT)
    assert isinstance(ended_of(supervised).__cause__, ChildExited)  # so it has ended without another one of ours


def test_one_that_refuses_its_configuration_is_given_up_in_the_end(controller: Any) -> None:
    refusing = component(
        "say(); wait_for(b'CONF'); say(); wait_stop(); say()",
        READY,
        make(MsgType.ERROR, error="no such disk"),
        finished(),
    )
    events: list[Any] = []
    supervised = controller.supervise(refusing, config={}, limit=(1, 60.0), backoff=SOON, on_event=events.append)
    assert isinstance(ended_of(supervised).__cause__, ConfigureRefused)
    assert supervised.given_up
    assert [type(each) for each in events] == [MemberEnded, MemberWaits, MemberEnded, MemberGivenUp]


@pytest.mark.parametrize(
    ("body", "outcome", "cause"),
    [
        ("say(); say()", Outcome.OK, None),
        ("say(); say()", Outcome.ERROR, ComponentError),
        ("say(); say(); leave(); sys.exit(7)", Outcome.OK, ComponentError),
    ],
)
def test_one_that_has_done_its_work_is_not_started_again(
    controller: Any, body: str, outcome: Outcome, cause: type[Exception] | None
) -> None:
    argv = component(body, READY, finished(outcome, "why"))
    supervised = controller.supervise(argv, limit=(1, 60.0), backoff=SOON)
    ended = ended_of(supervised)
    assert isinstance(ended.__cause__, cause or type(None))
    if cause is not None:
        assert "why" in str(ended)


def test_never_and_always(controller: Any) -> None:
    argv = component("say(); say()", READY, finished())
    for restart, count in ("never", 1), ("always", 3):
        events: list[Any] = []
        supervised = controller.supervise(
            argv, restart=restart, limit=(2, 60.0), backoff=SOON, on_event=events.append
        )
        ended_of(supervised)
        assert sum(isinstance(each, MemberReady) for each in events) == count


def test_a_command_that_there_is_not(controller: Any) -> None:
    supervised = controller.supervise(["/nowhere/to/be/found"], limit=(1, 60.0), backoff=SOON)
    with pytest.raises(ConnectionEnded, match="was given up") as caught:
        supervised.wait_ready(WAIT)
    assert isinstance(caught.value.__cause__, OSError | ConnectionEnded)


def test_the_time_to_wait(controller: Any) -> None:
    getattr(controller, "inner", controller).limits = TimeLimits(ready=WAIT, stop=0.1, terminate=WAIT, exit=WAIT)
    supervised = controller.supervise(component("hang()"))
    with pytest.raises(RequestTimeout, match="was not ready within 0.01 s"):
        supervised.wait_ready(0.01)
    supervised.halt()


def test_a_mistake_is_raised_at_once(controller: Any) -> None:
    with pytest.raises(LocalProtocolError, match="restart must be one of"):
        controller.supervise(OBEDIENT, restart="sometimes")


def test_a_controller_that_was_closed(controller: Any) -> None:
    controller.close()
    with pytest.raises(LocalProtocolError, match="the controller was closed"):
        controller.supervise(OBEDIENT)


def test_on_event_that_fails(controller: Any, tmp_path: Path) -> None:
    def fail(event: object) -> Callable[[], None]:
        raise KeyError(event)

    supervised = controller.supervise(OBEDIENT, on_event=fail)
    assert supervised.wait_ready(WAIT).stop().outcome is Outcome.OK
