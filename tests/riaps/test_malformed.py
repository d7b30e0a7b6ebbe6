"""Frames that are no message: a PortError each, counted, and the port lives on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packetwire.riaps import (
    MSG,
    Group,
    GroupAnsPort,
    GroupMessage,
    GroupQryPort,
    GroupSubPort,
    PortError,
)

from .peers import address_of, connect, listen, publish_until_heard, received

Make = Callable[..., Any]

PUBLISHED = [
    [b"msg"],
    [b""],
    [b"ms", b"payload"],
    [b"msgs", b"payload"],
    [b"msg", b"payload", b"123"],
    [b"msg", b"payload", bytes(9)],
    [b"msg", b"payload", b"\xff" * 8],
    [b"msg", b"payload", bytes(8), b"more"],
    [b"msg", *[b""] * 5000],
]
DUPLEX = [*([b"mtl" if frame == b"msg" else frame for frame in frames] for frames in PUBLISHED), [b"msg", b""]]
FRAMES = st.lists(
    st.binary(max_size=10) | st.sampled_from([b"msg", b"mtl", b"mfl", bytes(8)]), min_size=1, max_size=6
)


def is_message(frames: list[bytes], commands: set[bytes] | None, *, addressed: bool = False) -> bool:
    try:
        message = GroupMessage.parse(frames, addressed=addressed)
    except PortError:
        return False
    return commands is None or message.command in commands


def check(receive: Callable[[], GroupMessage], port: Any, last: bytes, malformed: int) -> None:
    """All up to the last is malformed, and counted."""
    for count in range(malformed):
        assert port.malformed == count
        with pytest.raises(PortError) as caught:
            receive()
        assert caught.value.errno == PortError.EFAULT
    assert receive().payload == last
    assert port.malformed == malformed


def test_published(make: Make) -> None:
    pub, sub = make(zmq.PUB), make(GroupSubPort)
    sub.update(*listen(pub))
    publish_until_heard(lambda: pub.send_multipart([b"msg", b"first"]), sub.getSocket())
    pub.send_multipart([b"msg", b"begin"])
    while sub.recvGroup().payload != b"begin":
        pass
    for frames in PUBLISHED:
        pub.send_multipart(frames)
    pub.send_multipart([b"msg", b"last"])
    check(sub.recvGroup, sub, b"last", len(PUBLISHED))


def test_from_a_member(make: Make) -> None:
    ans, dealer = make(GroupAnsPort), make(zmq.DEALER)
    connect(dealer, address_of(ans))
    for frames in [*DUPLEX, [b"mtl", b"last"]]:
        dealer.send_multipart(frames)
    check(ans.recvFromMember, ans, b"last", len(DUPLEX))
    ans.sendToMember(b"mfl", b"answer")
    assert received(dealer) == [b"mfl", b"answer"]


def test_from_the_leader(make: Make) -> None:
    router, qry = make(zmq.ROUTER), make(GroupQryPort)
    qry.update(*listen(router))
    qry.sendToLeader(b"mtl", b"")
    identity, *_ = received(router)
    for frames in [*DUPLEX, [b"mfl", b"last"]]:
        router.send_multipart([identity, *frames])
    check(qry.recvFromLeader, qry, b"last", len(DUPLEX))


def test_an_anonymous_member_gets_its_answer(make: Make) -> None:
    """A peer without an identity has one that ZMQ makes, which begins with 0."""
    ans, dealer = make(GroupAnsPort), make(zmq.DEALER)
    connect(dealer, address_of(ans))
    dealer.send_multipart([b"mtl", b"question"])
    question = ans.recvFromMember()
    ans.sendToMember(b"mfl", b"answer", question.identity)
    assert received(dealer) == [b"mfl", b"answer"]


def test_what_a_group_gets(make: Make) -> None:
    """Control messages are malformed also for what they say; the group goes on without a word."""
    pub, dealer, group = make(zmq.PUB), make(zmq.DEALER), make(Group)
    group.add_member(*listen(pub))
    publish_until_heard(lambda: pub.send_multipart([b"msg", b"first"]), group.sub.getSocket())
    short = [[b"msg"]] * 90  # more than are looked at in one go
    controls = [[b"ldr", b"short"], [b"tic", b""], [b"mlt", bytes(17)], [b"vot", b""], [b"req", b""]]
    for frames in [*PUBLISHED, *short, *controls, [b"msg", b"last"]]:
        pub.send_multipart(frames)
    while (message := group.receive(20_000)).payload != b"last":
        assert message == GroupMessage(MSG, b"first")
    assert group.malformed == group.sub.malformed == len(PUBLISHED) + len(short) + len(controls)
    connect(dealer, group.answer_address)
    for frames in [*DUPLEX, *short, [b"mtl", b"question"]]:
        dealer.send_multipart(frames)
    assert group.receive(20_000).payload == b"question"
    assert group.ans.malformed == len(DUPLEX) + len(short)


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(FRAMES, max_size=5))
def test_any_frames_at_all(make: Make, messages: list[list[bytes]]) -> None:
    ans, dealer = make(GroupAnsPort), make(zmq.DEALER)
    connect(dealer, address_of(ans))
    good = 0
    for frames in messages:
        dealer.send_multipart(frames)
        good += is_message(frames, {b"mtl", b"rfv", b"rtc"})
    dealer.send_multipart([b"rtc", b"the last one"])
    got = 0
    while True:
        try:
            message = ans.recvFromMember()
        except PortError:
            continue
        if message.payload == b"the last one":
            break
        got += 1
    assert (got, ans.malformed) == (good, len(messages) - good)
    ans.closeSocket()
    dealer.close(0)
