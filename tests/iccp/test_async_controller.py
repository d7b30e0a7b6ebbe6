"""The controller in an event loop: what it has beside the tests of both faces in test_controller.py."""

from __future__ import annotations

import asyncio
import select
import threading
from collections.abc import Iterator
from time import monotonic

import pytest

from childprocesses import child_processes
from packetwire import ChildExited, ConnectionEnded, LocalProtocolError
from packetwire.iccp import AsyncController, Finished, Outcome, TimeLimits

from .children import READY, component, finished

pytestmark = pytest.mark.timeout(60)

WAIT = 30
STEP = 0.01
PATIENT = TimeLimits(ready=WAIT, stop=WAIT, terminate=WAIT, exit=WAIT)
OBEDIENT = component("say(); wait_stop(); say()", READY, finished(Outcome.OK, "one"))


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """After the test there is no child, and the threads are what they were."""
    threads, children = set(threading.enumerate()), child_processes()
    yield
    assert child_processes() - children == set()
    assert set(threading.enumerate()) - threads == set()


async def waited_for_by_many() -> None:
    async with AsyncController(limits=TimeLimits(stop=0.2, terminate=0.2)) as controller:
        started = await controller.start(component("say(); hang()", READY))
        stops = await asyncio.gather(*(started.stop() for _ in range(3)), return_exceptions=True)
        assert [type(each) for each in stops] == [ChildExited] * 3
        assert len({id(each) for each in stops}) == 3


def test_many_tasks_wait_for_one_component() -> None:
    asyncio.run(waited_for_by_many())


async def at_a_time() -> None:
    async with AsyncController(limits=PATIENT, max_components=3) as controller:
        started = await asyncio.gather(*(controller.start(OBEDIENT) for _ in range(3)))
        names = {each.name for each in threading.enumerate() if each.name.startswith("packetwire-")}
        assert names == {f"packetwire-child-{each.process.pid}" for each in started if each.process}
    assert [await each.wait(0) for each in started] == [Finished(Outcome.OK, ["one"], 0)] * 3


def test_several_start_at_a_time_and_cost_only_the_watch_over_the_process() -> None:
    asyncio.run(at_a_time())


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
    """It stops them, as the end of `async with` does."""
    controllers, components = [], []

    async def leave() -> None:
        controllers.append(AsyncController(limits=PATIENT))
        components.append(await controllers[0].start(OBEDIENT))

    async def come_back() -> None:
        await controllers[0].close()
        assert await components[0].wait() == Finished(Outcome.OK, ["one"], 0)

    asyncio.run(leave())
    asyncio.run(come_back())
    assert controllers[0].components == []


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("how", ["closed", "stopped"])
def test_a_loop_that_does_not_run_any_more_leaves_no_component(how: str) -> None:
    """Without shutting down: the controller ends them in another loop."""
    threads, children = set(threading.enumerate()), child_processes()
    loop, controller = asyncio.new_event_loop(), AsyncController(limits=PATIENT)
    started = loop.run_until_complete(controller.start(OBEDIENT))
    tasks = asyncio.all_tasks(loop)
    if how == "closed":
        loop.close()

    async def come_back() -> None:
        if how == "stopped":
            with pytest.raises(LocalProtocolError, match="belongs to another event loop"):
                await started.wait()
            await controller.close()
        for use in (started.wait, started.stop, started.configure):
            with pytest.raises(ConnectionEnded, match="its event loop does not run any more"):
                await use()
        await controller.close()

    asyncio.run(come_back())
    if how == "stopped":
        loop.run_until_complete(asyncio.wait(tasks))
        loop.close()
    assert controller.components == []
    deadline = monotonic() + WAIT
    while set(threading.enumerate()) - threads or child_processes() - children:
        # nobody closes the connection: threads let go of it, of which one may begin another
        assert monotonic() < deadline, (set(threading.enumerate()) - threads, child_processes() - children)
        select.select([], [], [], STEP)


def test_another_loop_and_another_thread() -> None:
    async def main() -> None:
        async with AsyncController(limits=PATIENT) as controller:
            started = await controller.start(OBEDIENT)

            def elsewhere() -> None:
                with pytest.raises(LocalProtocolError, match="belongs to another event loop"):
                    asyncio.run(started.configure({}))
                started.begin_stop()

            await asyncio.to_thread(elsewhere)
            assert (await started.wait(WAIT)).outcome is Outcome.OK

    asyncio.run(main())
