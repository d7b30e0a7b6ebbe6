"""The controller in an event loop: the same lives, awaited."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from childprocesses import child_processes
from packetwire import ChildExited, LimitExceeded, RequestTimeout
from packetwire.iccp import AsyncController, ConfigureRefused, Finished, MsgType, Outcome, State, TimeLimits

from .children import OK, READY, component, finished
from .fake import PEER, make

pytestmark = pytest.mark.timeout(60)

WAIT = 30
PATIENT = TimeLimits(ready=WAIT, stop=WAIT, terminate=WAIT, exit=WAIT)
OBEDIENT = component("say(); wait_stop(); say()", READY, finished(Outcome.OK, "one"))


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """After the test there is no child, and the threads are what they were."""
    threads, children = set(threading.enumerate()), child_processes()
    yield
    assert child_processes() - children == set()
    assert set(threading.enumerate()) - threads == set()


async def whole_life() -> None:
    argv = component(
        "say(); wait_for(b'CONF'); say(); wait_for(b'CONF'); say(); wait_stop(); say()",
        READY,
        OK,
        make(MsgType.ERROR, error="no"),
        finished(),
    )
    async with AsyncController(limits=PATIENT) as controller:
        started = await controller.start(argv, name="worker")
        assert (started.state, started.peer, started.endpoints) == (State.READY, PEER, {"x": ["ipc://x"]})
        assert controller.components == [started]
        with pytest.raises(RequestTimeout, match="worker .* has not ended within 0.01 s"):
            await started.wait(0.01)
        await started.configure({"n": 1}, WAIT)
        with pytest.raises(ConfigureRefused, match="no"):
            await started.configure({"n": 2}, WAIT)
        assert await started.stop() == await started.wait() == Finished(Outcome.OK, [], 0)
        assert controller.components == []


def test_a_whole_life() -> None:
    asyncio.run(whole_life())


async def several() -> None:
    async with AsyncController(limits=PATIENT, max_components=3) as controller:
        launched = await asyncio.gather(*(controller.start(OBEDIENT) for _ in range(3)))
        with pytest.raises(LimitExceeded):
            await controller.start(OBEDIENT)
        launched[0].kill()
        with pytest.raises(ChildExited):
            await launched[0].wait(WAIT)
    assert [await each.wait(0) for each in launched[1:]] == [Finished(Outcome.OK, ["one"], 0)] * 2


def test_several_components_end_together() -> None:
    asyncio.run(several())


async def failing() -> None:
    async with AsyncController(limits=TimeLimits(stop=0.2, terminate=0.2)) as controller:
        with pytest.raises(ChildExited, match="(?s)before READY.*ZeroDivisionError"):
            await controller.start(component("1/0"))
        with pytest.raises(FileNotFoundError):
            await controller.start(["no-such-command"])
        started = await controller.start(component("say(); hang()", READY))
        stops = await asyncio.gather(*(started.stop() for _ in range(3)), return_exceptions=True)
        assert [type(each) for each in stops] == [ChildExited] * 3
        assert len({id(each) for each in stops}) == 3
        # one that nobody waits for
        await controller.start(component("say(); hang()", READY))


def test_what_fails() -> None:
    asyncio.run(failing())


async def cancelled() -> None:
    async with AsyncController(limits=PATIENT) as controller:
        start = asyncio.create_task(controller.start(component("wait_stop(); say(); say()", READY, finished())))
        while not controller.components:
            await asyncio.sleep(0)
        (launched,) = controller.components
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert (await launched.wait(WAIT)).outcome is Outcome.OK
        started = await controller.start(OBEDIENT)
        wait = asyncio.create_task(started.wait())
        await asyncio.sleep(0)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait
        assert (await started.stop()).outcome is Outcome.OK


def test_cancelling() -> None:
    asyncio.run(cancelled())


def test_a_loop_that_ends_before_its_components() -> None:
    controllers = []

    async def leave() -> None:
        controllers.append(AsyncController(limits=PATIENT))
        await controllers[0].start(OBEDIENT)

    async def come_back() -> None:
        await controllers[0].close()

    asyncio.run(leave())
    asyncio.run(come_back())
    assert controllers[0].components == []
