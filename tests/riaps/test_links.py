"""Peers that come, go and move; ports that are bound again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import zmq

from packetwire.riaps import GroupAnsPort, GroupKeys, GroupPubPort, GroupQryPort, GroupSubPort, PortError

from .peers import Running, address_of, link, listen, publish_until_heard, received, wait_until_it_waits

Make = Callable[..., Any]


def ask(qry: Any, ans: Any, text: bytes) -> None:
    """A question goes there and its answer back."""
    qry.sendToLeader(b"mtl", text)
    question = ans.recvFromMember()
    assert question.payload == text
    ans.sendToMember(b"mfl", text, question.identity)
    assert qry.recvFromLeader().payload == text


def test_a_publisher_that_is_updated_twice_is_heard_once(make: Make) -> None:
    pub, sub = make(GroupPubPort), make(GroupSubPort)
    host, number = address_of(pub)
    sub.update(host, number)
    sub.update(host, number)
    sub.update(host, str(number))
    assert sub.connected() == 1
    assert sub.servers == ((host, number),)
    link(pub, sub)
    for text in b"one", b"two":
        pub.sendGroup(b"msg", text)
    assert [sub.recvGroup().payload for _ in range(2)] == [b"one", b"two"]


def test_a_leader_that_is_updated_twice_keeps_its_link(make: Make) -> None:
    ans, qry = make(GroupAnsPort), make(GroupQryPort)
    qry.update(*address_of(ans))
    ask(qry, ans, b"first")
    assert qry.is_linked()
    identity = qry.get_identity()
    qry.update(*address_of(ans))
    assert qry.is_linked()
    ask(qry, ans, b"second")
    assert qry.get_identity() == identity


def test_a_publisher_that_is_removed(make: Make) -> None:
    first, second, sub = make(GroupPubPort), make(GroupPubPort), make(GroupSubPort)
    link(first, sub)
    link(second, sub)
    sub.remove(*address_of(first))
    sub.remove(*address_of(first))
    assert sub.servers == (address_of(second),)
    first.sendGroup(b"msg", b"not heard")
    link(second, sub)
    second.sendGroup(b"msg", b"heard")
    assert sub.recvGroup().payload == b"heard"


def test_a_leader_that_moves(make: Make, keys: GroupKeys | None) -> None:
    """What is sent after the update goes to the new leader and to no other."""
    leaders = [make(GroupAnsPort, keys=keys) for _ in range(3)]
    qry = make(GroupQryPort, keys=keys)
    for turn in range(9):
        leader = leaders[turn % 3]
        qry.update(*address_of(leader))
        assert qry.leader == address_of(leader)
        ask(qry, leader, b"%d" % turn)
        assert not any(other.getSocket().poll(0) for other in leaders)


def test_a_leader_of_riaps_that_comes_back_at_once(make: Make) -> None:
    """It may not know yet that the old link is gone, and would ignore a new one with the same identity."""
    router, qry = make(zmq.ROUTER), make(GroupQryPort)
    address = listen(router)
    identities = set()
    for turn in range(20):
        qry.update(*address)
        qry.sendToLeader(b"mtl", b"%d" % turn)
        identity, *frames = received(router)
        assert (identity, frames) == (qry.get_identity(), [b"mtl", b"%d" % turn])
        identities.add(identity)
        qry.update(None, None)
    assert len(identities) == 20


def test_the_identity_is_known_before_the_first_leader(make: Make) -> None:
    ans, qry = make(GroupAnsPort), make(GroupQryPort)
    identity = qry.get_identity()
    qry.update(*address_of(ans))
    qry.sendToLeader(b"mtl", b"")
    assert ans.recvFromMember().identity == identity


def test_an_answer_of_the_leader_of_before_is_not_heard(make: Make) -> None:
    old, new, qry = make(GroupAnsPort), make(GroupAnsPort), make(GroupQryPort)
    qry.update(*address_of(old))
    qry.sendToLeader(b"mtl", b"question")
    question = old.recvFromMember()
    old.sendToMember(b"mfl", b"late", question.identity)
    assert qry.getSocket().poll(20_000)
    qry.update(*address_of(new))
    ask(qry, new, b"to the new one")


def test_a_leader_that_steps_down(make: Make) -> None:
    ans, qry = make(GroupAnsPort), make(GroupQryPort)
    qry.update(*address_of(ans))
    ask(qry, ans, b"first")
    qry.update(None, None)
    assert (qry.leader, qry.is_linked()) == (None, False)
    with pytest.raises(PortError, match="there is no leader"):
        qry.sendToLeader(b"mtl", b"question")
    qry.update(*address_of(ans))
    ask(qry, ans, b"second")


def test_a_leader_that_vanishes(make: Make) -> None:
    ans, qry = make(GroupAnsPort), make(GroupQryPort, send_timeout=300)
    address = address_of(ans)
    qry.update(*address)
    qry.set_send_timeout(20.0)
    ask(qry, ans, b"first")
    ans.closeSocket()
    while qry.is_linked():
        assert not qry.getSocket().poll(1)
    qry.set_send_timeout(0.3)
    with pytest.raises(
        PortError, match="not sent within 300 ms, there is no link to the leader at {}:{}".format(*address)
    ):
        qry.sendToLeader(b"mtl", b"question")
    qry.set_send_timeout(20.0)
    sending = Running(qry.sendToLeader, b"mtl", b"when it is there again")
    wait_until_it_waits(qry)
    back = make(GroupAnsPort, port=address[1])
    assert sending.result() is True
    assert back.recvFromMember().payload == b"when it is there again"


def test_a_leader_that_was_never_there(make: Make) -> None:
    gone = make(GroupAnsPort)
    address = address_of(gone)
    gone.closeSocket()
    qry = make(GroupQryPort, send_timeout=0)
    qry.update(*address)
    with pytest.raises(PortError, match="not sent within 0 ms, there is no link to the leader") as caught:
        qry.sendToLeader(b"mtl", b"question")
    assert caught.value.errno == PortError.EAGAIN


def test_an_update_helps_who_waits_for_the_leader_of_before(make: Make) -> None:
    gone, ans, qry = make(GroupAnsPort), make(GroupAnsPort), make(GroupQryPort)
    address = address_of(gone)
    gone.closeSocket()
    qry.update(*address)
    sending = Running(qry.sendToLeader, b"mtl", b"question")
    wait_until_it_waits(qry)
    qry.update(*address_of(ans))
    assert sending.result() is True
    assert ans.recvFromMember().payload == b"question"


def test_who_waits_is_told_that_there_is_no_leader_any_more(make: Make) -> None:
    gone, qry = make(GroupAnsPort), make(GroupQryPort)
    address = address_of(gone)
    gone.closeSocket()
    qry.update(*address)
    sending = Running(qry.sendToLeader, b"mtl", b"question")
    wait_until_it_waits(qry)
    qry.update(None, None)
    with pytest.raises(PortError, match=r"there is no leader: update\(host, port\) tells who leads"):
        sending.result()


def test_a_member_that_vanishes(make: Make) -> None:
    ans, qry = make(GroupAnsPort), make(GroupQryPort)
    monitor = ans.getSocket().get_monitor_socket(zmq.EVENT_DISCONNECTED)
    try:
        qry.update(*address_of(ans))
        qry.sendToLeader(b"mtl", b"question")
        question = ans.recvFromMember()
        qry.closeSocket()
        assert monitor.poll(20_000)
    finally:
        ans.getSocket().disable_monitor()
        monitor.close(0)
    with pytest.raises(PortError, match="is connected") as caught:
        for _ in range(10_000):  # ZMQ says so to the monitor before it does it
            ans.sendToMember(b"mfl", b"answer", question.identity)
    assert caught.value.errno == PortError.EROUTE


def test_a_member_that_connects_again_has_another_identity(make: Make) -> None:
    ans, qry = make(GroupAnsPort), make(GroupQryPort)
    qry.update(*address_of(ans))
    ask(qry, ans, b"first")
    before = qry.get_identity()
    qry.reset()
    assert qry.leader == address_of(ans)
    ask(qry, ans, b"second")
    assert qry.get_identity() != before


def test_a_member_that_connects_again_with_the_identity_it_had(make: Make) -> None:
    """Its old link may still be there: the new one takes its place."""
    ans, qry = make(GroupAnsPort), make(GroupQryPort, identity=b"me")
    qry.update(*address_of(ans))
    for turn in range(5):
        ask(qry, ans, b"%d" % turn)
        qry.reset()


@pytest.mark.parametrize("kind", [GroupPubPort, GroupAnsPort])
def test_a_port_is_bound_again_at_its_address(make: Make, kind: Any) -> None:
    port = make(kind)
    address = address_of(port)
    for _ in range(20):
        before = port.getSocket()
        port.reset()
        assert address_of(port) == address
        assert port.getSocket() is not before
        assert before.closed


@pytest.mark.parametrize("kind", [GroupPubPort, GroupAnsPort])
def test_a_port_is_set_up_again(make: Make, kind: Any) -> None:
    port = make(kind)
    before = port.getSocket()
    for _ in range(5):
        info = port.setupSocket()
        assert info == port.getInfo()
        assert info.portNum > 0
    assert before.closed
    port.closeSocket()
    assert port.setupSocket().portNum > 0


@pytest.mark.parametrize("kind", [GroupPubPort, GroupAnsPort])
def test_a_port_with_a_number_is_set_up_again_there(make: Make, kind: Any) -> None:
    free = make(kind)
    number = address_of(free)[1]
    free.closeSocket()
    port = make(kind, port=number)
    for _ in range(5):
        assert port.setupSocket().portNum == number


def test_who_is_connected_finds_a_port_that_was_bound_again(make: Make) -> None:
    pub, sub = make(GroupPubPort), make(GroupSubPort)
    link(pub, sub)
    pub.reset()
    publish_until_heard(lambda: pub.sendGroup(b"msg", b"again"), sub.getSocket())
    assert sub.recvGroup().payload == b"again"
    ans, qry = make(GroupAnsPort), make(GroupQryPort)
    qry.update(*address_of(ans))
    ask(qry, ans, b"first")
    ans.reset()
    qry.reset()  # or wait until ZMQ has connected again
    ask(qry, ans, b"second")


def test_a_subscriber_is_connected_again_to_all(make: Make) -> None:
    pubs = [make(GroupPubPort) for _ in range(3)]
    sub = make(GroupSubPort)
    for pub in pubs:
        link(pub, sub)
    sub.reset()
    assert sub.connected() == 3
    for pub in pubs:
        link(pub, sub)


@pytest.mark.parametrize("kind", [GroupSubPort, GroupQryPort])
def test_a_port_that_is_closed_forgets_its_peers(make: Make, kind: Any) -> None:
    port = make(kind)
    port.update("127.0.0.1", 5555)
    port.closeSocket()
    port.setupSocket()
    assert not (port.servers if kind is GroupSubPort else port.leader)


def test_who_waits_goes_on_with_the_new_socket(make: Make) -> None:
    ans, dealer = make(GroupAnsPort), make(zmq.DEALER)
    waiting = Running(ans.recvFromMember)
    wait_until_it_waits(ans)
    ans.reset()
    dealer.connect("tcp://{}:{}".format(*address_of(ans)))
    dealer.send_multipart([b"mtl", b"question"])
    assert waiting.result().payload == b"question"


def test_the_reference_way_to_bind_again(make: Make) -> None:
    """`updatePoller` is called at each election that is won; the reference fails at the second one."""
    ans, poller = make(GroupAnsPort), zmq.Poller()
    poller.register(ans.getSocket(), zmq.POLLIN)
    for turn in range(3):
        ans.updatePoller(poller)
        assert ans.getPortNumber() == address_of(ans)[1]
        qry = make(GroupQryPort)
        qry.update(*address_of(ans))
        qry.sendToLeader(b"mtl", b"%d" % turn)
        assert dict(poller.poll(20_000)) == {ans.getSocket(): zmq.POLLIN}
        assert ans.recvFromMember().payload == b"%d" % turn
    assert len(poller.sockets) == 1
    ans.closeSocket()
    assert ans.getPortNumber() is None


class Owner:
    """As a component of RIAPS does, it looks at the socket before, closes it, and has the new one."""

    def __init__(self) -> None:
        self.closed: list[Any] = []
        self.has: list[Any] = []

    def replaceSocket(self, port: Any, socket: Any) -> None:  # noqa: N802
        self.closed.append(port.getSocket())
        port.getSocket().close()
        self.has.append(socket)


def test_the_owner_is_told_of_another_socket(make: Make) -> None:
    pub, sub, owner = make(GroupPubPort), make(GroupSubPort), Owner()
    sub.setupSocket(owner)
    link(pub, sub)
    before = sub.getSocket()
    sub.reset()
    assert owner.closed == [before]
    assert owner.has == [sub.getSocket()]
    link(pub, sub)


def test_the_owner_of_a_query_port_is_told(make: Make) -> None:
    ans, qry, owner = make(GroupAnsPort), make(GroupQryPort), Owner()
    qry.setupSocket(owner)
    qry.update(*address_of(ans))
    for turn in range(3):
        ask(qry, ans, b"%d" % turn)
        qry.reset()
    assert len(owner.has) == 3
    assert all(socket.closed for socket in owner.closed)


def test_plain_peers_that_go_and_come(make: Make) -> None:
    """A RIAPS leader that is started again at its address, and knows nothing of what was."""
    router, qry = make(zmq.ROUTER), make(GroupQryPort)
    host, number = listen(router)
    qry.update(host, number)
    qry.sendToLeader(b"mtl", b"first")
    assert received(router)[2] == b"first"
    monitor = router.get_monitor_socket(zmq.EVENT_CLOSED)
    router.unbind(f"tcp://{host}:{number}")
    assert monitor.poll(20_000)
    router.disable_monitor()
    monitor.close(0)
    router.close(0)
    while qry.is_linked():
        assert not qry.getSocket().poll(1)
    again = make(zmq.ROUTER)
    again.bind(f"tcp://{host}:{number}")
    qry.sendToLeader(b"mtl", b"second")
    assert received(again)[1:] == [b"mtl", b"second"]
