"""The four ports as one member of a group."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
import zmq

from packetwire.riaps import (
    LDR,
    MLT,
    MSG,
    MTL,
    RFV,
    TIC,
    Authority,
    Group,
    GroupKeys,
    GroupMessage,
    Heartbeat,
    OperationError,
    PortError,
)

from .peers import WAIT, Running, connect, listen, publish_until_heard, received

LONG = round(WAIT * 1000)
NODE = b"riaps-node-id-16"

Make = Callable[..., Any]


def meet(*groups: Group) -> None:
    """All know all, and have heard each other."""
    everybody = [group.address for group in groups]
    for group in groups:
        group.set_members(everybody)
    for speaker in groups:
        others = [group for group in groups if group is not speaker]
        publish_until_heard(speaker.heartbeat, *(group.sub.getSocket() for group in others))
        speaker.publish(b"met")
        for other in others:
            while other.receive(LONG).payload != b"met":
                pass


def led(leader: Group, *members: Group) -> None:
    """All members know that leader."""
    leader.lead()
    for member in members:
        while member.leader != leader.answer_address:
            member.receive(LONG)


@pytest.fixture
def three(make: Make, keys: GroupKeys | None, timed: bool) -> list[Group]:
    groups = [make(Group, keys=keys, timed=timed) for _ in range(3)]
    meet(*groups)
    return groups


def test_all_is_published_to_all(three: list[Group], timed: bool) -> None:
    for speaker in three:
        speaker.publish(b"to all")
        for other in three:
            if other is not speaker:
                message = other.receive(LONG)
                assert (message.command, message.payload, message.identity) == (MSG, b"to all", None)
                assert (message.send_time is not None) == timed


def test_each_asks_the_leader(three: list[Group], timed: bool) -> None:
    leader, *members = three
    led(leader, *members)
    assert leader.leads
    assert all((member.leader_id, member.term, member.leads) == (leader.id, 1, False) for member in members)
    asking = [Running(member.ask, member.id) for member in members]
    for _ in members:
        question = leader.receive(LONG)
        assert question.command == MTL
        leader.answer(question, b"you are " + question.payload)
    for member, one in zip(members, asking, strict=True):
        answer = one.result()
        assert answer.payload == b"you are " + member.id
        assert (answer.send_time is not None) == timed


def test_the_leader_moves(three: list[Group]) -> None:
    for turn in range(6):
        leader, *members = three[turn % 3], three[(turn + 1) % 3], three[(turn + 2) % 3]
        led(leader, *members)
        assert [group.leads for group in three] == [group is leader for group in three]
        assert {group.term for group in three} == {turn + 1}
        for member in members:
            asking = Running(member.ask, b"?")
            leader.answer(leader.receive(LONG), b"%d" % turn)
            assert asking.result().payload == b"%d" % turn


def test_the_leader_resigns(three: list[Group]) -> None:
    leader, *members = three
    led(leader, *members)
    leader.resign()
    for member in members:
        assert member.receive(LONG).command == LDR
        assert (member.leader, member.leader_id) == (None, None)
        with pytest.raises(PortError, match="there is no leader"):
            member.ask(b"?")
    with pytest.raises(OperationError, match="does not lead"):
        leader.resign()


def test_who_leads_is_told_from_outside(make: Make) -> None:
    leader, member = make(Group), make(Group)
    member.update(*leader.answer_address)
    assert member.leader == member.wait_leader(0) == leader.answer_address
    asking = Running(member.ask, b"?")
    leader.answer(leader.receive(LONG), b"!")
    assert asking.result().payload == b"!"
    member.update(None, None)
    assert member.leader is None


def test_the_leader_has_nobody_to_ask(make: Make) -> None:
    group = make(Group)
    group.lead()
    assert group.leader is None
    with pytest.raises(PortError, match="there is no leader"):
        group.ask(b"?")


def test_terms(make: Make) -> None:
    group = make(Group)
    group.lead()
    group.lead()
    assert group.term == 1
    group.lead(term=7)
    assert group.term == 7
    group.resign()
    group.lead()
    assert group.term == 8


def test_waiting_for_a_leader_keeps_what_else_comes(make: Make) -> None:
    leader, member = make(Group), make(Group)
    meet(leader, member)
    for number in range(5):
        leader.publish(b"%d" % number)
    leader.lead()
    assert member.wait_leader(LONG) == leader.answer_address
    messages = [member.receive(0) for _ in range(6)]
    assert [message.payload for message in messages[:5]] == [b"%d" % number for number in range(5)]
    assert messages[5].command == LDR


def test_what_is_kept_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packetwire.riaps.group.PENDING_LIMIT", 10)
    leader, member = make(Group), make(Group)
    meet(leader, member)
    for number in range(50):
        leader.publish(b"%d" % number)
    leader.lead()
    member.wait_leader(LONG)
    assert member.receive(0).payload == b"41"
    assert member.dropped == 41


def flood(monkeypatch: pytest.MonkeyPatch, port: Any, message: GroupMessage, most: int = 100_000) -> None:
    """From now on there is always another message at that port."""
    read = count()
    monkeypatch.setattr(
        port.exchange, "try_receive", lambda: message if next(read) < most else pytest.fail("for ever")
    )


def test_who_publishes_faster_than_it_is_read_holds_up_no_question(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = make(Group, send_timeout=0)
    flood(monkeypatch, group.sub, GroupMessage(TIC, Heartbeat(NODE).encode()))
    with pytest.raises(PortError, match="no leader was heard of within 10 ms"):
        group.wait_leader(10)
    with pytest.raises(PortError, match="there is no leader"):
        group.ask(b"question", 0)
    assert group.peers == {NODE}


@pytest.mark.parametrize("flooded", ["ans", "sub"])
def test_a_flood_of_one_kind_does_not_hold_up_the_other(
    make: Make, monkeypatch: pytest.MonkeyPatch, flooded: str
) -> None:
    group = make(Group)
    question, published = GroupMessage(MTL, b"question", identity=NODE), GroupMessage(MSG, b"published")
    flood(monkeypatch, group.ans, question)
    flood(monkeypatch, group.sub, published)
    assert {group.receive(0).payload, group.receive(0).payload} == {b"question", b"published"}
    monkeypatch.setattr(getattr(group, flooded).exchange, "try_receive", lambda: None)
    assert group.receive(0) == group.receive(0), "if there is only one kind, that"


def test_the_largest_term_keeps_nobody_from_leading(make: Make) -> None:
    """Any member may publish it."""
    group = make(Group)
    group._follow(Authority((1 << 32) - 1, NODE, "127.0.0.1", 0))
    group.lead()
    assert group.term == 1


def test_nobody_leads(make: Make) -> None:
    with pytest.raises(PortError, match="no leader was heard of within 20 ms") as caught:
        make(Group).wait_leader(20)
    assert caught.value.errno == PortError.EAGAIN


def test_nothing_comes(make: Make) -> None:
    group = make(Group, recv_timeout=20)
    for receive in group.receive, group.receive_from_leader:
        with pytest.raises(PortError, match="nothing came within 20 ms"):
            receive()
        with pytest.raises(PortError, match="nothing came within 0 ms"):
            receive(0)


def test_a_late_answer_goes_nowhere(make: Make) -> None:
    leader, member = make(Group), make(Group)
    member.update(*leader.answer_address)
    with pytest.raises(PortError, match="nothing came within 20 ms"):
        member.ask(b"first", timeout=20)
    late = leader.receive(LONG)
    asking = Running(member.ask, b"second")
    question = leader.receive(LONG)
    assert question.payload == b"second"
    assert question.identity != late.identity
    with suppress(PortError):  # its old link may be gone already
        leader.answer(late, b"to the first")
    leader.answer(question, b"to the second")
    assert asking.result().payload == b"to the second"


def test_a_leader_that_vanishes_before_it_answers(make: Make) -> None:
    leader, heir, member = make(Group), make(Group), make(Group)
    member.update(*leader.answer_address)
    asking = Running(lambda: member.ask(b"question", timeout=300))
    assert leader.receive(LONG).payload == b"question"
    leader.close()
    with pytest.raises(PortError, match="nothing came within 300 ms"):
        asking.result()
    member.update(*heir.answer_address)
    asking = Running(member.ask, b"question", LONG)
    heir.answer(heir.receive(LONG), b"answer")
    assert asking.result().payload == b"answer"


def test_one_question_at_a_time(make: Make) -> None:
    leader, member = make(Group), make(Group)
    member.update(*leader.answer_address)
    asking = Running(member.ask, b"first")
    question = leader.receive(LONG)
    with pytest.raises(OperationError, match="waiting for its answer"):
        member.ask(b"second")
    leader.answer(question, b"answer")
    assert asking.result().payload == b"answer"


def test_messages_without_an_answer(make: Make) -> None:
    leader, member = make(Group), make(Group)
    member.update(*leader.answer_address)
    member.tell_leader(b"just so")
    member.tell_leader(b"a vote", RFV)
    told = [leader.receive(LONG) for _ in range(2)]
    assert [(message.command, message.payload) for message in told] == [(MTL, b"just so"), (RFV, b"a vote")]
    for message in told:
        leader.answer(message.identity, b"noted " + message.payload)
    assert [member.receive_from_leader(LONG).payload for _ in told] == [b"noted just so", b"noted a vote"]


def test_what_was_published_has_no_identity_to_answer(make: Make) -> None:
    with pytest.raises(OperationError, match="no identity"):
        make(Group).answer(GroupMessage(MSG, b""), b"answer")


def test_members_come_and_go(make: Make) -> None:
    first, second, third = (make(Group) for _ in range(3))
    everybody = [first.address, second.address, third.address]
    first.set_members(everybody)
    assert set(first.members) == {second.address, third.address}
    first.set_members([second.address])
    assert first.members == (second.address,)
    first.add_member(*first.address)
    first.add_member(*second.address)
    first.add_member(*third.address)
    assert len(first.members) == 2
    first.remove_member(*second.address)
    assert first.members == (third.address,)
    publish_until_heard(third.heartbeat, first.sub.getSocket())


def test_peers(make: Make) -> None:
    first, second = make(Group), make(Group)
    meet(first, second)
    assert first.peers == {second.id}
    second.close()
    assert first.receive(LONG).command == MLT
    assert first.peers == frozenset()


def test_a_peer_that_vanishes(make: Make) -> None:
    first, second = make(Group, peer_timeout=0), make(Group)
    meet(first, second)
    assert first.peers == frozenset()


def test_peers_are_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packetwire.riaps.group.PEERS_LIMIT", 3)
    group, pub = make(Group), make(zmq.PUB)
    group.add_member(*listen(pub))
    ids = [b"%16d" % number for number in range(10)]
    publish_until_heard(lambda: pub.send_multipart([b"msg", b""]), group.sub.getSocket())
    for member in ids:
        pub.send_multipart([TIC, Heartbeat(member).encode()])
    while group.receive(LONG).payload != ids[-1]:
        pass
    assert group.peers == set(ids[-3:])


def test_a_plain_leader_publishes_where_it_is(make: Make, keys: GroupKeys | None, timed: bool) -> None:
    """As a RIAPS node does: `ldr` with its IPv4 address as a number."""
    pub, router, group = make(zmq.PUB), make(zmq.ROUTER), make(Group, keys=keys, timed=timed)
    group.add_member(*listen(pub, keys))
    _, number = listen(router, keys)
    ldr = [b"ldr", struct.pack("!L16sLL", 3, NODE, 0x7F000001, number)]
    publish_until_heard(lambda: pub.send_multipart(ldr), group.sub.getSocket())
    assert group.wait_leader(LONG) == ("127.0.0.1", number)
    assert (group.leader_id, group.term) == (NODE, 3)
    asking = Running(group.ask, b"question")
    identity, command, payload, *time = received(router)
    assert (command, payload, len(time)) == (b"mtl", b"question", int(timed))
    router.send_multipart([identity, b"mfl", b"answer"])
    assert asking.result().payload == b"answer"
    pub.send_multipart([b"ldr", struct.pack("!L16sLL", 3, NODE, 0x7F000001, 0)])
    while group.leader is not None:
        group.receive(LONG)


def test_a_plain_member_finds_us(make: Make, keys: GroupKeys | None, timed: bool) -> None:
    sub, dealer, group = make(zmq.SUB), make(zmq.DEALER), make(Group, keys=keys, timed=timed)
    connect(sub, group.address, keys)
    publish_until_heard(group.lead, sub)
    command, payload, *_ = received(sub)
    term, leader, host, number = struct.unpack("!L16sLL", payload)
    assert (command, term, leader, host) == (b"ldr", 1, group.id, 0x7F000001)
    connect(dealer, ("127.0.0.1", number), keys)
    dealer.send_multipart([b"mtl", b"question"])
    question = group.receive(LONG)
    group.answer(question, b"answer")
    assert received(dealer)[:2] == [b"mfl", b"answer"]


def published(group: Group, pub: Any, authority: Authority) -> None:
    """Have the group hear that."""
    pub.send_multipart([LDR, authority.encode()])
    while group.receive(LONG).payload != authority.encode():
        pass


def test_which_leader_is_followed(make: Make) -> None:
    pub, old, new = make(zmq.PUB), make(zmq.ROUTER), make(zmq.ROUTER)
    group = make(Group)
    group.add_member(*listen(pub))
    publish_until_heard(lambda: pub.send_multipart([b"msg", b""]), group.sub.getSocket())
    of_old = Authority(5, NODE, *listen(old))
    of_new = Authority(6, bytes(16), *listen(new))
    published(group, pub, of_old)
    published(group, pub, of_new)
    assert group.leader == (of_new.host, of_new.port)
    group.tell_leader(b"so there is a link")
    assert received(new)[2] == b"so there is a link"
    published(group, pub, of_old)
    assert group.leader == (of_new.host, of_new.port), "an old message of a leader of before"
    group.lead(term=7)
    published(group, pub, of_new)
    assert group.leads
    published(group, pub, Authority(7, NODE, of_old.host, of_old.port))
    assert (group.leads, group.leader) == (False, (of_old.host, of_old.port))


def test_a_group_that_begins_anew_counts_its_terms_from_the_start(make: Make) -> None:
    pub, gone, group = make(zmq.PUB), make(zmq.ROUTER), make(Group)
    group.add_member(*listen(pub))
    publish_until_heard(lambda: pub.send_multipart([b"msg", b""]), group.sub.getSocket())
    address = listen(gone)
    gone.unbind("tcp://{}:{}".format(*address))
    published(group, pub, Authority(5, NODE, *address))
    published(group, pub, Authority(1, bytes(16), "127.0.0.1", 5555))
    assert group.leader == ("127.0.0.1", 5555)


def test_ones_own_authority_is_no_news(make: Make) -> None:
    pub, group = make(zmq.PUB), make(Group)
    group.add_member(*listen(pub))
    publish_until_heard(lambda: pub.send_multipart([b"msg", b""]), group.sub.getSocket())
    group.lead()
    published(group, pub, Authority(9, group.id, "127.0.0.1", 5555))
    assert (group.leads, group.leader, group.term) == (True, None, 1)


def test_a_leader_must_tell_where_it_is(make: Make) -> None:
    group = make(Group, host="0.0.0.0")
    with pytest.raises(OperationError, match="a host that others can connect to"):
        group.lead()
    assert not group.leads


def test_numbers_to_listen_at(make: Make) -> None:
    free = make(Group)
    (_, port), (_, answer_port) = free.address, free.answer_address
    free.close()
    group = make(Group, port=port, answer_port=answer_port)
    assert (group.address, group.answer_address) == (("127.0.0.1", port), ("127.0.0.1", answer_port))


def test_a_group_that_cannot_listen_leaves_nothing_behind(make: Make) -> None:
    taken = make(Group)
    with pytest.raises(PortError, match="cannot listen"):
        make(Group, answer_port=taken.answer_address[1])


def test_a_group_that_is_closed(make: Make) -> None:
    group = make(Group)
    waiting = Running(group.receive)
    group.close()
    group.close()
    for call in (waiting.result, lambda: group.publish(b""), lambda: group.receive(0), lambda: group.ask(b"")):
        with pytest.raises(PortError, match="has no socket"):
            call()


def test_in_a_with_it_is_closed(context: zmq.Context[Any]) -> None:
    with Group("here", {"message": "State", "timed": False}, context=context) as group:
        assert group.pub.getSocket() is not None
    assert all(port.getSocket() is None for port in (group.pub, group.sub, group.qry, group.ans))
