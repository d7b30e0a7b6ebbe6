"""The names of the ports, what they refuse, and their life."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
import zmq

from packetwire.errors import LocalProtocolError
from packetwire.riaps import (
    Group,
    GroupAnsPort,
    GroupKeys,
    GroupPubPort,
    GroupQryPort,
    GroupSubPort,
    OperationError,
    PortError,
    PortInfo,
    PortScope,
)
from packetwire.riaps.waiting import Waiting
from packetwire.streams.curve import CurveClient, CurveServer, curve_keys

from .peers import (
    Running,
    address_of,
    connect,
    link,
    listen,
    publish_until_heard,
    received,
    wait_until_it_waits,
)

SPEC = {"message": "State", "timed": False}
PORTS = [GroupPubPort, GroupSubPort, GroupQryPort, GroupAnsPort]
LISTENING = [GroupPubPort, GroupAnsPort]
CONNECTING = [GroupSubPort, GroupQryPort]
TYPES = {GroupPubPort: zmq.PUB, GroupSubPort: zmq.SUB, GroupQryPort: zmq.DEALER, GroupAnsPort: zmq.ROUTER}
KINDS = {GroupPubPort: "gpub", GroupSubPort: "gsub", GroupQryPort: "gqry", GroupAnsPort: "gans"}

Make = Callable[..., Any]


def test_the_numbers_of_errors_are_those_of_zmq() -> None:
    assert (PortError.EAGAIN, PortError.EPROTO, PortError.ETERM) == (zmq.EAGAIN, zmq.EFSM, zmq.ETERM)
    assert (PortError.EFAULT, PortError.EROUTE) == (zmq.EFAULT, zmq.EHOSTUNREACH)


@pytest.mark.parametrize("kind", PORTS)
def test_what_a_port_tells(make: Make, kind: Any) -> None:
    port = make(kind)
    info = port.getInfo()
    assert isinstance(info, PortInfo)
    assert info._fields == ("portKind", "portScope", "portName", "msgType", "portHost", "portNum")
    message_type = "State" if kind in (GroupPubPort, GroupSubPort) else "group-mtl#group-mfl"
    assert info[:5] == (KINDS[kind], PortScope.GLOBAL, "here", message_type, "127.0.0.1")
    assert info.portNum > 0 if kind in LISTENING else info.portNum == -1
    assert info.portScope.scope() == "global"
    assert port.getSocket().type == TYPES[kind]
    assert port.inSocket() == (kind is not GroupPubPort)
    assert (port.name, port.isTimed, port.msgType) == ("here", False, message_type)


@pytest.mark.parametrize("kind", PORTS)
def test_what_no_port_does(make: Make, kind: Any) -> None:
    port = make(kind)
    for call in (
        lambda: port.send(b"x"),
        port.recv,
        lambda: port.send_pyobj({}),
        port.recv_pyobj,
    ):
        with pytest.raises(OperationError, match=f"not for a {KINDS[kind]} port"):
            call()


@pytest.mark.parametrize("kind", LISTENING)
def test_a_port_that_listens_is_not_updated(make: Make, kind: Any) -> None:
    with pytest.raises(OperationError, match="others connect to it"):
        make(kind).update("127.0.0.1", 5555)


@pytest.mark.parametrize("kind", CONNECTING)
@pytest.mark.parametrize(
    "address", [("127.0.0.1", 0), ("127.0.0.1", 65536), ("127.0.0.1", "http"), ("127.0.0.1", 5.5), ("", 5), (5, 5)]
)
def test_addresses_that_are_none(make: Make, kind: Any, address: Any) -> None:
    with pytest.raises(PortError) as caught:
        make(kind).update(*address)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("kind", CONNECTING)
def test_an_address_that_zmq_refuses(make: Make, kind: Any) -> None:
    port = make(kind)
    with pytest.raises(PortError, match="cannot connect to tcp://not a host:5"):
        port.update("not a host", 5)
    assert port.getSocket() is not None


def test_an_address_that_zmq_refuses_is_no_leader(make: Make) -> None:
    qry = make(GroupQryPort)
    with pytest.raises(PortError):
        qry.update("not a host", 5)
    with pytest.raises(PortError, match="there is no leader"):
        qry.sendToLeader(b"mtl", b"")


@pytest.mark.parametrize("kind", PORTS)
def test_a_port_without_a_socket(kind: Any) -> None:
    port = kind("here", SPEC)
    assert (port.getSocket(), port.getInfo()) == (None, None)
    port.closeSocket()
    with pytest.raises(OperationError, match="call setupSocket"):
        port.reset()
    for name, arguments in (
        ("sendGroup", (b"msg", b"")),
        ("sendToLeader", (b"mtl", b"")),
        ("sendToMember", (b"mfl", b"", b"me")),
        ("recvGroup", ()),
        ("recvFromLeader", ()),
        ("recvFromMember", ()),
    ):
        if hasattr(port, name):
            with pytest.raises(PortError, match="call setupSocket") as caught:
                getattr(port, name)(*arguments)
            assert caught.value.errno == errno.ENOTSOCK


@pytest.mark.parametrize("kind", CONNECTING)
def test_an_update_without_a_socket(kind: Any) -> None:
    with pytest.raises(PortError, match="call setupSocket"):
        kind("here", SPEC).update("127.0.0.1", 5555)


def test_a_query_port_without_a_socket_has_no_identity() -> None:
    assert GroupQryPort("here", SPEC).get_identity() is None


@pytest.mark.parametrize("spec", [{}, {"message": "State"}, {"timed": True}, None])
def test_specs_that_are_none(spec: Any) -> None:
    with pytest.raises(OperationError, match="'message' and 'timed'"):
        GroupPubPort("here", spec)


def test_a_spec_may_have_more() -> None:
    port = GroupPubPort("here", {"message": "State", "timed": True, "kind": "default", "params": {}})
    assert port.isTimed


@pytest.mark.parametrize("limit", [-2, 1.5, True, "5"])
def test_time_limits_that_are_none(limit: Any) -> None:
    with pytest.raises(OperationError, match="whole number of milliseconds"):
        GroupPubPort("here", SPEC, send_timeout=limit)


@pytest.mark.parametrize("kind", [GroupSubPort, GroupQryPort, GroupAnsPort])
def test_nothing_comes_within_the_time_limit(make: Make, kind: Any) -> None:
    port = make(kind, recv_timeout=30)
    receive = {GroupSubPort: "recvGroup", GroupQryPort: "recvFromLeader", GroupAnsPort: "recvFromMember"}[kind]
    with pytest.raises(PortError, match="nothing came within 30 ms") as caught:
        getattr(port, receive)()
    assert caught.value.errno == PortError.EAGAIN


def test_a_time_limit_of_0_does_not_wait(make: Make) -> None:
    with pytest.raises(PortError, match="nothing came within 0 ms"):
        make(GroupSubPort, recv_timeout=0).recvGroup()


def test_time_limits_are_milliseconds_but_in_these_methods_seconds(make: Make) -> None:
    port = make(GroupAnsPort, send_timeout=1500, recv_timeout=-1)
    assert (port.get_send_timeout(), port.get_recv_timeout()) == (1.5, None)
    port.set_send_timeout(None)
    port.set_recv_timeout(0.02)
    assert (port.get_send_timeout(), port.get_recv_timeout()) == (None, 0.02)
    with pytest.raises(PortError, match="nothing came within 20 ms"):
        port.recvFromMember()
    with pytest.raises(OperationError, match="milliseconds"):
        port.set_recv_timeout(-5.0)
    for none in (float("inf"), 1e300):
        port.set_recv_timeout(none)
        port.set_send_timeout(none)
        assert port.get_recv_timeout() is port.get_send_timeout() is None
    with pytest.raises(TypeError, match="a time limit must be a number of seconds"):
        port.set_send_timeout("5")


def test_what_a_port_does_not_send(make: Make) -> None:
    pub, qry, ans = make(GroupPubPort, max_frame=1000), make(GroupQryPort), make(GroupAnsPort)
    for send, arguments, said in (
        (pub.sendGroup, (b"ms", b""), "3 bytes"),
        (pub.sendGroup, ("msg", b""), "must be bytes, not str"),
        (pub.sendGroup, (b"msg", "text"), "must be bytes, not str"),
        (qry.sendToLeader, (b"mfl", b""), "a gqry port does not send b'mfl'"),
        (ans.sendToMember, (b"mtl", b"", b"me"), "a gans port does not send b'mtl'"),
        (ans.sendToMember, (b"mfl", b"", b""), "1 to 255 bytes"),
        (ans.sendToMember, (b"mfl", b"", "me"), "must be bytes, not str"),
    ):
        with pytest.raises(PortError, match=said) as caught:
            send(*arguments)
        assert caught.value.errno == PortError.EFAULT
    with pytest.raises(PortError, match="1001 bytes, the limit is 1000") as caught:
        pub.sendGroup(b"msg", bytes(1001))
    assert caught.value.errno == errno.EMSGSIZE
    assert pub.sendGroup(b"msg", bytearray(1000)) is True


def test_sending_without_a_leader(make: Make) -> None:
    qry = make(GroupQryPort)
    with pytest.raises(PortError, match="there is no leader: update") as caught:
        qry.sendToLeader(b"mtl", b"question")
    assert caught.value.errno == PortError.EROUTE
    assert qry.leader is None
    assert not qry.is_linked()


def test_sending_to_nobody_in_particular(make: Make) -> None:
    ans = make(GroupAnsPort)
    assert ans.get_identity() is None
    with pytest.raises(PortError, match="give an identity") as caught:
        ans.sendToMember(b"mfl", b"answer")
    assert caught.value.errno == PortError.EROUTE


def test_sending_to_a_member_that_is_not_there(make: Make) -> None:
    ans = make(GroupAnsPort)
    with pytest.raises(PortError, match="no member with the identity b'nobody' is connected") as caught:
        ans.sendToMember(b"mfl", b"answer", b"nobody")
    assert caught.value.errno == PortError.EROUTE
    ans.set_identity(b"nobody either")
    with pytest.raises(PortError, match="nobody either"):
        ans.sendToMember(b"mfl", b"answer")


def test_whom_a_thread_answers_is_its_own_affair(make: Make) -> None:
    ans, first, second = make(GroupAnsPort), make(GroupQryPort), make(GroupQryPort)
    for qry in first, second:
        qry.update(*address_of(ans))
    first.sendToLeader(b"mtl", b"1")
    assert ans.recvFromMember().identity == first.get_identity()
    second.sendToLeader(b"mtl", b"2")
    assert Running(ans.recvFromMember).result().identity == second.get_identity()
    assert ans.get_identity() == first.get_identity()
    ans.sendToMember(b"mfl", b"to the first")
    assert first.recvFromLeader().payload == b"to the first"


def test_identities_are_random(make: Make) -> None:
    identities = [make(GroupQryPort).get_identity() for _ in range(20)]
    assert len(set(identities)) == 20
    assert {len(identity) for identity in identities} == {16}
    assert all(identity[0] for identity in identities)


def test_an_identity_of_ones_own(make: Make) -> None:
    ans, qry = make(GroupAnsPort), make(GroupQryPort, identity=b"me")
    qry.update(*address_of(ans))
    qry.sendToLeader(b"mtl", b"")
    assert ans.recvFromMember().identity == qry.get_identity() == b"me"


@pytest.mark.parametrize("identity", [b"", b"\0abc", bytes(256), "me"])
def test_identities_that_are_none(identity: Any) -> None:
    with pytest.raises(PortError, match="the first not 0"):
        GroupQryPort("here", SPEC, identity=identity)


def test_the_name_of_an_interface(make: Make) -> None:
    pub = make(GroupPubPort, host="lo")
    assert pub.getInfo().portHost == "127.0.0.1"


def test_an_interface_that_there_is_not(context: zmq.Context[Any]) -> None:
    port = GroupPubPort("here", SPEC, "no-such-interface", context)
    with pytest.raises(PortError, match="cannot listen at tcp://no-such-interface"):
        port.setupSocket()
    assert port.getSocket() is None


def test_an_address_that_is_taken(context: zmq.Context[Any], make: Make) -> None:
    host, number = address_of(make(GroupPubPort))
    port = GroupAnsPort("here", SPEC, host, context, port=number)
    with pytest.raises(PortError) as caught:
        port.setupSocket()
    assert caught.value.errno == errno.EADDRINUSE
    assert port.getSocket() is None


@pytest.mark.parametrize("kind", PORTS)
def test_a_context_that_was_terminated(kind: Any) -> None:
    context = zmq.Context()
    context.term()
    with pytest.raises(PortError):
        kind("here", SPEC, context=context).setupSocket()


def test_a_context_that_is_terminated_while_a_port_waits() -> None:
    context = zmq.Context()
    sub = GroupSubPort("here", SPEC, context=context)
    sub.setupSocket()
    waiting = Running(sub.recvGroup)
    wait_until_it_waits(sub)
    ending = Running(context.term)
    with pytest.raises(PortError) as caught:
        waiting.result()
    assert caught.value.errno == PortError.ETERM
    sub.closeSocket()
    ending.result()


def test_a_context_that_is_terminated_before_a_port_waits() -> None:
    context = zmq.Context()
    sub = GroupSubPort("here", SPEC, context=context, recv_timeout=1)
    sub.setupSocket()
    ending = Running(context.term)
    with pytest.raises(PortError, match="cannot receive") as caught:
        while True:
            with suppress_nothing_came():
                sub.recvGroup()
    assert caught.value.errno == PortError.ETERM
    with pytest.raises(PortError, match="cannot wait") as caught:
        with closing(Waiting(None, 0)) as waiting:
            sub.shared_socket.begin_wait(waiting)
    assert caught.value.errno == PortError.ETERM
    sub.closeSocket()
    ending.result()


@contextmanager
def suppress_nothing_came() -> Iterator[None]:
    try:
        yield
    except PortError as error:
        if error.errno != PortError.EAGAIN:
            raise


@pytest.mark.parametrize("kind", [GroupSubPort, GroupQryPort, GroupAnsPort])
def test_a_port_that_is_closed_while_it_waits(make: Make, kind: Any) -> None:
    port = make(kind, recv_timeout=-1)
    receive = {GroupSubPort: "recvGroup", GroupQryPort: "recvFromLeader", GroupAnsPort: "recvFromMember"}[kind]
    waiting = Running(getattr(port, receive))
    wait_until_it_waits(port)
    port.closeSocket()
    with pytest.raises(PortError, match="call setupSocket"):
        waiting.result()
    port.closeSocket()


@pytest.mark.parametrize("kind", PORTS)
def test_in_a_with_a_port_is_closed(kind: Any, context: zmq.Context[Any]) -> None:
    with kind("here", SPEC, context=context) as port:
        port.setupSocket()
        assert port.getSocket() is not None
    assert port.getSocket() is None


def test_a_poller_sees_what_came(make: Make) -> None:
    ans, dealer = make(GroupAnsPort), make(zmq.DEALER)
    connect(dealer, address_of(ans))
    dealer.send_multipart([b"mtl", b"1"])
    assert ans.getSocket().poll(20_000)
    assert ans.recvFromMember().payload == b"1"


def test_keys_of_ones_own(make: Make) -> None:
    """Each server has its own pair, and each client."""
    pairs = [curve_keys() for _ in range(4)]
    client_public, client_secret = pairs[3]
    sub_keys = GroupKeys(CurveServer(client_secret), CurveClient(pairs[0][0], client_public, client_secret))
    sub = make(GroupSubPort, keys=sub_keys)
    for number, (public, secret) in enumerate(pairs[:3]):
        pub = make(GroupPubPort, keys=GroupKeys.shared(public, secret))
        if number == 0:
            sub.update(*address_of(pub))
        else:
            sub.update(*address_of(pub), server_key=public)
        publish_until_heard(lambda pub=pub: pub.sendGroup(b"msg", b"x"), sub.getSocket())
        while sub.getSocket().poll(0):
            sub.recvGroup()
        pub.closeSocket()


def test_a_leader_with_a_key_of_its_own(make: Make) -> None:
    mine, shared = curve_keys(), curve_keys()
    ans, qry = make(GroupAnsPort, keys=GroupKeys.shared(*mine)), make(GroupQryPort, keys=GroupKeys.shared(*shared))
    qry.update(*address_of(ans), server_key=mine[0])
    qry.sendToLeader(b"mtl", b"question")
    assert ans.recvFromMember().payload == b"question"


@pytest.mark.parametrize("member_keys", [None, "others"])
def test_keys_that_do_not_fit(make: Make, member_keys: str | None) -> None:
    ans = make(GroupAnsPort, keys=GroupKeys.shared(*curve_keys()))
    keys = None if member_keys is None else GroupKeys.shared(*curve_keys())
    qry = make(GroupQryPort, keys=keys, send_timeout=20)
    qry.update(*address_of(ans))
    for _ in range(1000):
        with pytest.raises(PortError, match="not sent within 20 ms, there is no link to the leader") as caught:
            qry.sendToLeader(b"mtl", b"question")
        assert caught.value.errno == PortError.EAGAIN
        if "the handshake failed, one side has a wrong key" in str(caught.value):
            return
    raise AssertionError("nobody says why")


def test_a_key_without_keys(make: Make) -> None:
    public, _ = curve_keys()
    for kind in CONNECTING:
        with pytest.raises(PortError, match="without keys of one's own"):
            make(kind).update("127.0.0.1", 5555, server_key=public)


def test_clients_are_for_an_authenticator() -> None:
    public, secret = curve_keys()
    with pytest.raises(LocalProtocolError, match="authenticator"):
        GroupKeys(CurveServer(secret, [public]), CurveClient(public, public, secret))


def test_secrets_are_not_shown() -> None:
    public, secret = curve_keys()
    assert secret.decode() not in repr(GroupKeys.shared(public, secret))


@pytest.mark.parametrize("size", [1001, 4000, 100_000, 16 << 20])
def test_a_frame_that_is_too_long(make: Make, size: int) -> None:
    """Only its message is refused: what comes right behind arrives, and so does what came before."""
    ans, dealer = make(GroupAnsPort, max_frame=1000), make(zmq.DEALER)
    connect(dealer, address_of(ans))
    for frames in ([b"mtl", b"before"], [b"mtl", bytes(size)], [b"mtl", b"behind"]):
        dealer.send_multipart(frames)
    assert ans.recvFromMember().payload == b"before"
    with pytest.raises(PortError, match=f"a frame has {size} bytes, the limit is 1000") as caught:
        ans.recvFromMember()
    assert caught.value.errno == PortError.EFAULT
    assert ans.recvFromMember().payload == b"behind"
    assert ans.malformed == 1


def test_a_published_frame_that_is_too_long(make: Make) -> None:
    pub, sub, group = make(zmq.PUB), make(GroupSubPort, max_frame=1000), make(Group, max_frame=1000)
    address = listen(pub)
    sub.update(*address)
    group.add_member(*address)
    publish_until_heard(lambda: pub.send_multipart([b"tic", b"?"]), sub.getSocket(), group.sub.getSocket())
    for payload in (b"before", bytes(50_000), b"behind"):
        pub.send_multipart([b"msg", payload])
    while sub.recvGroup().payload != b"before":
        pass
    with pytest.raises(PortError, match="a frame has 50000 bytes"):
        sub.recvGroup()
    assert sub.recvGroup().payload == b"behind"
    got = [group.receive(20_000).payload for _ in range(2)]
    assert got == [b"before", b"behind"]


def test_an_answer_that_is_too_long(make: Make) -> None:
    router, qry = make(zmq.ROUTER), make(GroupQryPort, max_frame=1000)
    qry.update(*listen(router))
    qry.sendToLeader(b"mtl", b"question")
    identity = received(router)[0]
    for payload in (bytes(50_000), b"behind"):
        router.send_multipart([identity, b"mfl", payload])
    with pytest.raises(PortError, match="a frame has 50000 bytes"):
        qry.recvFromLeader()
    assert qry.recvFromLeader().payload == b"behind"


def test_a_frame_that_zmq_does_not_take(make: Make) -> None:
    """It breaks that link off, and the port goes on with others."""
    ans, dealer = make(GroupAnsPort, max_frame=1000), make(zmq.DEALER)
    monitor = ans.getSocket().get_monitor_socket(zmq.EVENT_DISCONNECTED)
    try:
        connect(dealer, address_of(ans))
        dealer.send_multipart([b"mtl", b"before"])
        assert ans.recvFromMember().payload == b"before"
        dealer.send_multipart([b"mtl", bytes((16 << 20) + 1)])
        assert monitor.poll(20_000)
    finally:
        ans.getSocket().disable_monitor()
        monitor.close(0)
    other = make(zmq.DEALER)
    connect(other, address_of(ans))
    other.send_multipart([b"mtl", b"after"])
    assert ans.recvFromMember().payload == b"after"


@pytest.mark.parametrize("kind", PORTS)
def test_how_long_a_frame_zmq_takes(make: Make, kind: Any) -> None:
    limits = [make(kind, max_frame=limit).getSocket().maxmsgsize for limit in (1000, 16 << 20, 64 << 20)]
    if kind is GroupPubPort:  # nothing comes to it but subscriptions
        assert limits == [4096] * 3
    else:
        assert limits == [16 << 20, 64 << 20, 256 << 20]


def test_two_threads_on_one_port(make: Make) -> None:
    """One receives while the other sends: neither takes away what the other waits for."""
    ans, qry = make(GroupAnsPort), make(GroupQryPort)
    qry.update(*address_of(ans))

    def echo() -> None:
        for _ in range(500):
            question = ans.recvFromMember()
            ans.sendToMember(b"mfl", question.payload)

    echoing = Running(echo)
    reading = Running(lambda: [qry.recvFromLeader().payload for _ in range(500)])
    for number in range(500):
        qry.sendToLeader(b"mtl", b"%d" % number)
    assert reading.result() == [b"%d" % number for number in range(500)]
    echoing.result()


def test_two_threads_that_receive(make: Make) -> None:
    ans, qry = make(GroupAnsPort), make(GroupQryPort)
    qry.update(*address_of(ans))
    readers = [Running(lambda: [ans.recvFromMember().payload for _ in range(200)]) for _ in range(3)]
    for number in range(600):
        qry.sendToLeader(b"mtl", b"%d" % number)
    got = [payload for reader in readers for payload in reader.result()]
    assert sorted(got, key=int) == [b"%d" % number for number in range(600)]


def test_a_leader_that_does_not_read(make: Make) -> None:
    router, qry = make(zmq.ROUTER), make(GroupQryPort, send_timeout=100)
    router.rcvhwm = 1
    qry.update(*listen(router))
    payload = bytes(1 << 20)
    with pytest.raises(PortError, match="does not read: the queue is full") as caught:
        for _ in range(1000):
            qry.sendToLeader(b"mtl", payload)
    assert caught.value.errno == PortError.EAGAIN
    qry.set_send_timeout(20.0)
    sending = Running(qry.sendToLeader, b"mtl", b"last")
    while received(router)[2] != b"last":
        pass
    assert sending.result() is True


def test_a_member_that_does_not_read(make: Make) -> None:
    """It holds up nobody else, and gets what was sent to it when it reads again."""
    ans, slow, quick = make(GroupAnsPort, send_timeout=100), make(zmq.DEALER), make(GroupQryPort)
    slow.setsockopt(zmq.IDENTITY, b"slow")
    slow.rcvhwm = 1
    connect(slow, address_of(ans))
    quick.update(*address_of(ans))
    for send in lambda: slow.send_multipart([b"mtl", b""]), lambda: quick.sendToLeader(b"mtl", b""):
        send()
        ans.recvFromMember()
    payload = bytes(1 << 20)
    sent = 0
    with pytest.raises(PortError, match="the queue is full: the peer does not read"):
        while sent < 1000:
            ans.sendToMember(b"mfl", payload, b"slow")
            sent += 1
    ans.sendToMember(b"mfl", b"not held up", quick.get_identity())
    assert quick.recvFromLeader().payload == b"not held up"
    ans.set_send_timeout(20.0)
    sending = Running(ans.sendToMember, b"mfl", b"last", b"slow")
    assert [received(slow)[1] for _ in range(sent)] == [payload] * sent
    assert received(slow) == [b"mfl", b"last"]
    assert sending.result() is True


def test_a_subscriber_that_does_not_read_does_not_hold_up_others(make: Make) -> None:
    pub, slow, quick = make(GroupPubPort), make(zmq.SUB), make(GroupSubPort)
    connect(slow, address_of(pub))
    publish_until_heard(lambda: pub.sendGroup(b"msg", b""), slow)
    link(pub, quick)
    for number in range(1000):
        pub.sendGroup(b"msg", b"%d" % number + bytes(10_000))
        assert quick.recvGroup().payload.startswith(b"%d" % number)
