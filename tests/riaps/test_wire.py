"""The ports against plain ZMQ sockets that send and get what RIAPS nodes do, with and without CURVE."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any

import pytest
import zmq

from packetwire.riaps import GroupAnsPort, GroupKeys, GroupPubPort, GroupQryPort, GroupSubPort

from .peers import GOLDEN, address_of, connect, frames_of, listen, publish_until_heard, received

PUBLISHED = [frames_of(item) for item in GOLDEN if item.get("port") == "GroupPubPort.sendGroup"]
TO_LEADER = [frames_of(item) for item in GOLDEN if item.get("port") == "GroupQryPort.sendToLeader"]
TO_MEMBER = [frames_of(item) for item in GOLDEN if item.get("port") == "GroupAnsPort.sendToMember"]
CONTROLS = [frames_of(item) for item in GOLDEN if item["id"].startswith("coord-")]

Make = Callable[..., Any]


def send_time_of(frames: list[bytes]) -> float | None:
    return struct.unpack("<d", frames[-1])[0] if len(frames) == 3 else None


def check_sent(frames: list[bytes], command: bytes, payload: bytes, since: float | None) -> None:
    """What a plain peer got is that message, timed or not."""
    assert frames[:2] == [command, payload]
    if since is None:
        assert len(frames) == 2
    else:
        sent = send_time_of(frames)
        assert sent is not None
        assert since <= sent <= time.time()


def test_a_plain_publisher(make: Make, keys: GroupKeys | None, timed: bool) -> None:
    pub, sub = make(zmq.PUB), make(GroupSubPort, keys=keys, timed=timed)
    address = listen(pub, keys)
    sub.update(*address)
    first, *others = PUBLISHED + CONTROLS
    publish_until_heard(lambda: pub.send_multipart(first), sub.getSocket())
    for frames in others:
        pub.send_multipart(frames)
    message = sub.recvGroup()
    while list(message) == first:
        message = sub.recvGroup()
    for frames in others:
        assert message.encode() == frames
        assert sub.sendTime == (send_time_of(frames) or 0.0)
        if frames is not others[-1]:
            message = sub.recvGroup()
    assert sub.malformed == 0


def test_a_plain_subscriber(make: Make, keys: GroupKeys | None, timed: bool) -> None:
    since = time.time() if timed else None
    pub, sub = make(GroupPubPort, keys=keys, timed=timed), make(zmq.SUB)
    connect(sub, address_of(pub), keys)
    publish_until_heard(lambda: pub.sendGroup(b"tic", b"0"), sub)
    for command, payload, *_ in PUBLISHED:
        assert pub.sendGroup(command, payload) is True
    frames = received(sub)
    while frames[1] == b"0":
        check_sent(frames, b"tic", b"0", since)
        frames = received(sub)
    for command, payload, *_ in PUBLISHED:
        check_sent(frames, command, payload, since)
        if [command, payload] != PUBLISHED[-1][:2]:
            frames = received(sub)


def test_a_plain_leader(make: Make, keys: GroupKeys | None, timed: bool) -> None:
    since = time.time() if timed else None
    router, qry = make(zmq.ROUTER), make(GroupQryPort, keys=keys, timed=timed)
    qry.update(*listen(router, keys))
    for command, payload, *_ in TO_LEADER:
        assert qry.sendToLeader(command, payload) is True
        identity, *frames = received(router)
        assert identity == qry.get_identity()
        check_sent(frames, command, payload, since)
    for frames in TO_MEMBER:
        router.send_multipart([qry.get_identity(), *frames])
        message = qry.recvFromLeader()
        assert message.encode() == frames
        assert qry.sendTime == (send_time_of(frames) or 0.0)


def test_a_plain_member(make: Make, keys: GroupKeys | None, timed: bool) -> None:
    since = time.time() if timed else None
    identity = b"140123456789012"
    ans, dealer = make(GroupAnsPort, keys=keys, timed=timed), make(zmq.DEALER)
    dealer.setsockopt(zmq.IDENTITY, identity)
    connect(dealer, address_of(ans), keys)
    for frames in TO_LEADER:
        dealer.send_multipart(frames)
        message = ans.recvFromMember()
        assert (message.identity, list(message)) == (identity, frames)
        assert ans.get_identity() == identity
        assert ans.sendTime == (send_time_of(frames) or 0.0)
    for command, payload, *_ in TO_MEMBER:
        assert ans.sendToMember(command, payload) is True
        check_sent(received(dealer), command, payload, since)


@pytest.mark.parametrize("sender_timed", [True, False], ids=["timed sender", "untimed sender"])
def test_the_ports_with_each_other(make: Make, keys: GroupKeys | None, timed: bool, sender_timed: bool) -> None:
    pub, sub = make(GroupPubPort, keys=keys, timed=sender_timed), make(GroupSubPort, keys=keys, timed=timed)
    qry, ans = make(GroupQryPort, keys=keys, timed=sender_timed), make(GroupAnsPort, keys=keys, timed=timed)
    sub.update(*address_of(pub))
    publish_until_heard(lambda: pub.sendGroup(b"msg", b"data"), sub.getSocket())
    message = sub.recvGroup()
    assert (message.command, message.payload) == (b"msg", b"data")
    assert (message.send_time is not None) == (sub.sendTime > 0) == sender_timed
    qry.update(*address_of(ans))
    qry.sendToLeader(b"mtl", b"question")
    question = ans.recvFromMember()
    assert question.identity == qry.get_identity()
    assert (question.send_time is not None) == (ans.sendTime > 0) == sender_timed
    ans.sendToMember(b"mfl", b"answer", question.identity)
    answer = qry.recvFromLeader()
    assert answer.payload == b"answer"
    assert (answer.send_time is not None) == (qry.sendTime > 0) == timed


def test_a_time_is_never_that_of_another_message(make: Make) -> None:
    pub, sub = make(zmq.PUB), make(GroupSubPort, timed=True)
    sub.update(*listen(pub))
    stamped = [b"msg", b"timed", struct.pack("<d", 1700000000.25)]
    publish_until_heard(lambda: pub.send_multipart(stamped), sub.getSocket())
    pub.send_multipart([b"msg", b"untimed"])
    while (message := sub.recvGroup()).payload == b"timed":
        assert sub.get_sendTime() == message.send_time == 1700000000.25
        assert sub.get_recvTime() > 1700000000.25
    assert (message.send_time, sub.get_sendTime(), sub.sendTime) == (None, 0.0, 0.0)


def test_a_time_is_gone_after_a_malformed_message(make: Make) -> None:
    ans, dealer = make(GroupAnsPort, timed=True), make(zmq.DEALER)
    connect(dealer, address_of(ans))
    dealer.send_multipart([b"mtl", b"timed", struct.pack("<d", 1700000000.25)])
    dealer.send_multipart([b"mtl", b"bad", b"123"])
    assert ans.recvFromMember().send_time == ans.sendTime == 1700000000.25
    with pytest.raises(Exception, match="8 bytes, got 3"):
        ans.recvFromMember()
    assert ans.sendTime == 0.0
