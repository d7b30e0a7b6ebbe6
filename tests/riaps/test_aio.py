"""The ports and the group in an event loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from packetwire.riaps import Group, GroupAnsPort, GroupKeys, GroupPubPort, GroupQryPort, GroupSubPort, PortError
from packetwire.riaps.aio import (
    AsyncGroup,
    AsyncGroupAnsPort,
    AsyncGroupPubPort,
    AsyncGroupQryPort,
    AsyncGroupSubPort,
)

from .peers import address_of, link, publish_until_heard
from .test_group import LONG, led, meet

Make = Callable[..., Any]

MEMBERS = 50


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Runs a coroutine in an event loop of either kind."""
    factory = None if request.param == "asyncio" else pytest.importorskip("uvloop").new_event_loop

    def run(main: Any) -> Any:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main)

    run(asyncio.sleep(0))  # the first loop opens descriptors that stay
    return run


def test_published(make: Make, run: Any) -> None:
    pub, sub = make(GroupPubPort), make(GroupSubPort)
    link(pub, sub)

    async def main() -> None:
        waiting = asyncio.create_task(AsyncGroupSubPort(sub).recvGroup())
        await asyncio.sleep(0)
        assert await AsyncGroupPubPort(pub).sendGroup(b"msg", b"data") is True
        assert (await waiting).payload == b"data"

    run(main())


def test_fifty_members_at_once(make: Make, run: Any, keys: GroupKeys | None) -> None:
    ans = AsyncGroupAnsPort(make(GroupAnsPort, keys=keys))
    members = [AsyncGroupQryPort(make(GroupQryPort, keys=keys)) for _ in range(MEMBERS)]

    async def ask(number: int, qry: AsyncGroupQryPort) -> bytes:
        qry.port.update(*address_of(ans.port))
        await qry.sendToLeader(b"mtl", b"%d" % number)
        return (await qry.recvFromLeader()).payload

    async def answer() -> None:
        for _ in range(MEMBERS // 2):
            question = await ans.recvFromMember()
            assert question.identity
            await ans.sendToMember(b"mfl", b"for " + question.payload, question.identity)

    async def main() -> list[Any]:
        return await asyncio.gather(answer(), answer(), *(ask(number, qry) for number, qry in enumerate(members)))

    assert run(main())[2:] == [b"for %d" % number for number in range(MEMBERS)]


def test_time_limits_and_cancelling(make: Make, run: Any) -> None:
    sub, qry = make(GroupSubPort, recv_timeout=20), make(GroupQryPort, send_timeout=20)
    gone, ans = make(GroupAnsPort), make(GroupAnsPort)
    qry.update(*address_of(gone))
    gone.closeSocket()
    qry.reset()

    async def main() -> None:
        with pytest.raises(PortError, match="nothing came within 20 ms"):
            await AsyncGroupSubPort(sub).recvGroup()
        with pytest.raises(PortError, match="not sent within 20 ms, there is no link"):
            await AsyncGroupQryPort(qry).sendToLeader(b"mtl", b"")
        waiting = asyncio.create_task(AsyncGroupAnsPort(ans).recvFromMember())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        waiting = asyncio.create_task(AsyncGroupAnsPort(ans).recvFromMember())
        await asyncio.sleep(0)
        ans.closeSocket()
        with pytest.raises(PortError, match="has no socket"):
            await waiting

    run(main())


def test_two_tasks_on_one_port(make: Make, run: Any) -> None:
    ans, qry = AsyncGroupAnsPort(make(GroupAnsPort)), AsyncGroupQryPort(make(GroupQryPort))

    async def receive() -> list[bytes]:
        return [(await ans.recvFromMember()).payload for _ in range(100)]

    async def main() -> None:
        receiving = [asyncio.create_task(receive()) for _ in range(3)]
        qry.port.update(*address_of(ans.port))
        for number in range(300):
            await qry.sendToLeader(b"mtl", b"%d" % number)
        got = [payload for one in receiving for payload in await one]
        assert sorted(got, key=int) == [b"%d" % number for number in range(300)]

    run(main())


def test_a_group(make: Make, run: Any, keys: GroupKeys | None, timed: bool) -> None:
    groups = [make(Group, keys=keys, timed=timed) for _ in range(3)]
    meet(*groups)
    leader, *members = (AsyncGroup(group) for group in groups)

    async def member(group: AsyncGroup, number: int) -> tuple[bytes, bytes]:
        assert await group.wait_leader(LONG) == leader.group.answer_address
        answer = await group.ask(b"%d" % number, timeout=LONG)
        while (message := await group.receive(LONG)).command != b"msg":
            pass
        await group.tell_leader(b"bye")
        assert (await group.receive_from_leader(LONG)).payload == b"bye"
        return answer.payload, message.payload

    async def main() -> list[tuple[bytes, bytes]]:
        joined = [asyncio.create_task(member(group, number)) for number, group in enumerate(members)]
        leader.group.lead()
        for _ in members:
            question = await leader.receive(LONG)
            await leader.answer(question, b"answer " + question.payload)
        await leader.publish(b"to all")
        for _ in members:
            question = await leader.receive(LONG)
            await leader.answer(question, question.payload)
        return [await one for one in joined]

    assert run(main()) == [(b"answer 0", b"to all"), (b"answer 1", b"to all")]


def test_a_question_that_is_cancelled(make: Make, run: Any) -> None:
    """Its late answer is not taken for that of the next one."""
    leader, member = make(Group), make(Group)
    meet(leader, member)
    led(leader, member)

    async def main() -> None:
        async with AsyncGroup(member) as asking:
            first = asyncio.create_task(asking.ask(b"first"))
            late = await AsyncGroup(leader).receive(LONG)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            second = asyncio.create_task(asking.ask(b"second", timeout=LONG))
            question = await AsyncGroup(leader).receive(LONG)
            assert question.identity != late.identity
            leader.answer(question, b"to the second")
            assert (await second).payload == b"to the second"
        assert member.pub.getSocket() is None

    run(main())


def test_who_sends_waits_for_a_link(make: Make, run: Any) -> None:
    gone, qry = make(GroupAnsPort), make(GroupQryPort)
    host, number = address_of(gone)
    gone.closeSocket()
    qry.update(host, number)

    async def main() -> None:
        sending = asyncio.create_task(AsyncGroupQryPort(qry).sendToLeader(b"mtl", b"question"))
        await asyncio.sleep(0)
        ans = make(GroupAnsPort, port=number)
        assert await sending is True
        assert (await AsyncGroupAnsPort(ans).recvFromMember()).payload == b"question"

    run(main())


def test_threads_and_a_loop_on_the_same_port(make: Make, run: Any) -> None:
    pub, sub = make(GroupPubPort), make(GroupSubPort)
    link(pub, sub)

    async def main() -> None:
        in_loop = asyncio.create_task(AsyncGroupSubPort(sub).recvGroup())
        in_thread = asyncio.create_task(asyncio.to_thread(sub.recvGroup))
        await asyncio.sleep(0)
        pub.sendGroup(b"msg", b"1")
        pub.sendGroup(b"msg", b"2")
        assert sorted([(await in_loop).payload, (await in_thread).payload]) == [b"1", b"2"]

    run(main())


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("packetwire.riaps", ["zmq.asyncio", "asyncio"]),
        ("packetwire.riaps.aio", ["zmq.asyncio"]),
        ("packetwire", ["zmq", "packetwire.riaps"]),
    ],
)
def test_what_an_import_brings(module: str, absent: list[str]) -> None:
    code = f"import sys, {module}; print(*(name for name in {absent} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []


def test_publishing_until_somebody_hears(make: Make, run: Any) -> None:
    """The helper of the tests works with the asyncio face as well: it is a matter of sockets."""
    pub, sub = make(GroupPubPort), make(GroupSubPort)
    sub.update(*address_of(pub))
    publish_until_heard(lambda: run(AsyncGroupPubPort(pub).sendGroup(b"msg", b"")), sub.getSocket())
    assert run(AsyncGroupSubPort(sub).recvGroup()).command == b"msg"
