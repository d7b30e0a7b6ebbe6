"""What was sent before a port, or a group, was closed: it arrives at those who read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import zmq

from packetwire.riaps import Group, GroupAnsPort, GroupPubPort, GroupQryPort, GroupSubPort
from packetwire.riaps.aio import AsyncGroup

from .peers import Running, address_of, connect, link, listen, publish_until_heard, received
from .test_group import LONG

Make = Callable[..., Any]

COUNT = 90
"""Messages: fewer than ZMQ holds for one peer."""
PAYLOAD = bytes(100_000)
TURNS = [pytest.param(3, id="3 times"), pytest.param(20, id="20 times", marks=pytest.mark.long)]


def send_all(send: Callable[[bytes], object]) -> None:
    for number in range(COUNT):
        send(b"%d " % number + PAYLOAD)


def numbers(socket: zmq.Socket[bytes], where: int, command: bytes) -> list[int]:
    """Those of the messages with that command, until the last one, or nothing more comes."""
    found = []
    while socket.poll(3000):
        frames = socket.recv_multipart()[where:]
        if frames[0] == command:
            found.append(int(frames[1].split(b" ")[0]))
            if found[-1] == COUNT - 1:
                break
    return found


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("how", ["closeSocket", "setupSocket", "reset"])
def test_published(make: Make, turns: int, how: str) -> None:
    for _ in range(turns):
        pub, sub = make(GroupPubPort), make(zmq.SUB)
        connect(sub, address_of(pub))
        publish_until_heard(lambda pub=pub: pub.sendGroup(b"tic", b""), sub)  # type: ignore[misc]
        reading = Running(numbers, sub, 0, b"msg")
        send_all(lambda payload, pub=pub: pub.sendGroup(b"msg", payload))  # type: ignore[misc]
        getattr(pub, how)()
        assert reading.result() == list(range(COUNT))
        pub.closeSocket()


@pytest.mark.parametrize("turns", TURNS)
def test_to_the_leader(make: Make, turns: int) -> None:
    for _ in range(turns):
        router, qry = make(zmq.ROUTER), make(GroupQryPort)
        qry.update(*listen(router))
        reading = Running(numbers, router, 1, b"mtl")
        send_all(lambda payload, qry=qry: qry.sendToLeader(b"mtl", payload))  # type: ignore[misc]
        qry.closeSocket()
        assert reading.result() == list(range(COUNT))


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("how", ["closeSocket", "reset"])
def test_to_a_member(make: Make, turns: int, how: str) -> None:
    for _ in range(turns):
        ans, dealer = make(GroupAnsPort), make(zmq.DEALER)
        connect(dealer, address_of(ans))
        dealer.send_multipart([b"mtl", b"question"])
        identity = ans.recvFromMember().identity
        reading = Running(numbers, dealer, 0, b"mfl")
        ans.set_identity(identity)
        send_all(lambda payload, ans=ans: ans.sendToMember(b"mfl", payload))  # type: ignore[misc]
        getattr(ans, how)()
        assert reading.result() == list(range(COUNT))
        ans.closeSocket()


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("face", ["threads", "asyncio"])
def test_a_group(make: Make, turns: int, face: str) -> None:
    """The goodbye arrives as well, behind all that was published."""
    for _ in range(turns):
        group, sub, dealer = make(Group), make(zmq.SUB), make(zmq.DEALER)
        connect(sub, address_of(group.pub))
        publish_until_heard(group.heartbeat, sub)
        connect(dealer, group.answer_address)
        dealer.send_multipart([b"mtl", b"question"])
        question = group.receive(LONG)
        published, answered = Running(numbers, sub, 0, b"msg"), Running(numbers, dealer, 0, b"mfl")

        async def in_loop(group: Any = group, question: Any = question) -> None:
            async with AsyncGroup(group) as member:
                for number in range(COUNT):
                    await member.publish(b"%d " % number + PAYLOAD)
                    await member.answer(question, b"%d " % number + PAYLOAD)

        if face == "asyncio":
            asyncio.run(in_loop())
        else:
            send_all(group.publish)
            send_all(lambda payload, group=group, question=question: group.answer(question, payload))  # type: ignore[misc]
            group.close()
        assert published.result() == answered.result() == list(range(COUNT))
        assert received(sub) == [b"mlt", group.id]


def test_the_address_is_free_at_once(make: Make) -> None:
    """Though what was sent may still be leaving, since nobody has read it yet."""
    pub = make(GroupPubPort)
    for _ in range(5):
        sub = make(GroupSubPort)
        link(pub, sub)
        host, number = address_of(pub)
        send_all(lambda payload, pub=pub: pub.sendGroup(b"msg", payload))  # type: ignore[misc]
        pub.closeSocket()
        pub = make(GroupPubPort, port=number)
        assert address_of(pub) == (host, number)
