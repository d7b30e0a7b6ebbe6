"""Channels over ZMQ and over packets: peers that come, vanish or do not read, and threads that share one."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import zmq

from packetwire import LimitExceeded, LocalProtocolError, PeerClosed, RequestFailed
from packetwire.fbsp import FBSPClient, FBSPService, MsgFlag, MsgType
from packetwire.fbsp.requests import FBSPPacketChannel, FBSPRequest
from packetwire.messaging import ANY, TIMEOUT, Channel, ChannelError, Protocol, Session
from packetwire.messaging.multipart import join_frames, split_frames
from packetwire.messaging.zmq import DealerChannel, PairChannel, RouterChannel, ZmqChannel

from .carriers import RawPacketPeer, packet_pair
from .fake import CLIENT, CLIENT_PEER, HELLO_TOKEN, SERVICE, SERVICE_PEER, TOKEN, EchoAPI, hello, make, request

WAIT = 10


class Noting(Protocol):
    """Takes any message, and notes what is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: list[tuple[Session, Exception | None]] = []
        self.heard: list[list[bytes]] = []
        self.gone = threading.Event()
        self.probed = 0
        self.handlers[ANY] = self.hear

    def hear(self, channel: Channel, session: Session, msg: Any) -> Any:
        self.heard.append(msg.data)
        return msg.data

    def probe(self, channel: Channel, session: Session) -> None:
        self.probed += 1
        channel.send(self.message(b"probe"), session)

    def handle_session_lost(self, channel: Channel, session: Session, exc: Exception | None) -> None:
        self.lost.append((session, exc))
        self.gone.set()

    def message(self, *frames: bytes) -> Any:
        msg = self.message_factory()
        msg.data = list(frames)  # type: ignore[attr-defined]
        return msg


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def raw(opened: ExitStack, kind: int, **options: Any) -> Any:
    peer = opened.enter_context(zmq.Context.instance().socket(kind))
    peer.linger = 0
    peer.rcvtimeo = WAIT * 1000
    for name, value in options.items():
        setattr(peer, name, value)
    return peer


def channel(opened: ExitStack, kind: type[ZmqChannel], **kwargs: Any) -> tuple[Any, Any]:
    protocol = Noting()
    return protocol, opened.enter_context(kind(protocol, linger=0, **kwargs))


ADDRESSES = {
    "tcp": lambda directory: "tcp://127.0.0.1:*",
    "ipc": lambda directory: f"ipc://{directory}/socket",
    "inproc": lambda directory: f"inproc://{directory}",
}


@pytest.fixture(params=ADDRESSES)
def address(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    return ADDRESSES[request.param](tmp_path)


@pytest.mark.parametrize("started", [False, True], ids=["receive", "start"])
@pytest.mark.parametrize("kinds", [(RouterChannel, DealerChannel), (PairChannel, PairChannel)])
def test_there_and_back(opened: ExitStack, address: str, kinds: Any, started: bool) -> None:
    bound, server = channel(opened, kinds[0])
    connected, client = channel(opened, kinds[1])
    session = client.connect(server.bind(address))
    assert client.wait_linked(WAIT)
    if started:
        server.start()
        client.start()
    assert client.send(connected.message(b"a", b"", b"c"), session) == 0
    if started:
        assert server.wait_until(lambda: bound.heard == [[b"a", b"", b"c"]], WAIT)
    else:
        assert server.receive(WAIT * 1000) == [b"a", b"", b"c"]
    (back,) = server.sessions.values()
    server.send(bound.message(b"b"), back)
    if started:
        assert client.wait_until(lambda: connected.heard == [[b"b"]], WAIT)
    else:
        assert client.receive(WAIT * 1000) == [b"b"]
        assert client.receive(0) is TIMEOUT


def test_a_thread_that_waits_reads_for_all(opened: ExitStack) -> None:
    bound, server = channel(opened, RouterChannel)
    connected, client = channel(opened, DealerChannel)
    session = client.connect(server.bind("tcp://127.0.0.1:*"))
    assert client.wait_linked(WAIT)
    bound.handlers[ANY] = lambda channel, session, msg: channel.send(msg, session)
    server.start()
    client.start()
    failed: list[int] = []

    def ask(name: int) -> None:
        for number in range(200):
            frame = b"%d-%d" % (name, number)
            client.send(connected.message(frame), session)
            if not client.wait_until(lambda frame=frame: [frame] in connected.heard, WAIT):  # type: ignore[misc]
                failed.append(number)

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT * 6)
    assert failed == []
    assert len(connected.heard) == 1200


def test_what_came_before_a_client_vanished_is_delivered_first(opened: ExitStack) -> None:
    protocol, server = channel(opened, RouterChannel)
    server._socket.setsockopt(zmq.SNDHWM, 0)  # a pipe that is full and one that is closing look alike
    peer = raw(opened, zmq.DEALER)
    peer.connect(server.bind("tcp://127.0.0.1:*"))
    peer.send(b"x")
    assert server.receive(WAIT * 1000) == [b"x"]
    (session,) = server.sessions.values()
    monitor = server._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    opened.callback(monitor.close)
    opened.callback(server._socket.disable_monitor)
    peer.send(b"bye")
    peer.close(linger=WAIT * 1000)
    assert monitor.poll(WAIT * 1000)
    while server.send(protocol.message(b"y"), session) == 0:
        pass
    assert protocol.lost == []
    assert server.receive(WAIT * 1000) == [b"bye"]
    assert server.receive(1) is TIMEOUT
    ((lost, why),) = protocol.lost
    assert lost is session
    assert "is gone" in str(why)


def test_a_client_that_vanished_with_much_unread_is_said_to_be_gone(opened: ExitStack) -> None:
    protocol, server = channel(opened, RouterChannel)
    server._socket.setsockopt(zmq.SNDHWM, 10)
    peer = raw(opened, zmq.DEALER)
    peer.setsockopt(zmq.RCVHWM, 10)
    peer.connect(server.bind("tcp://127.0.0.1:*"))
    peer.send(b"x")
    assert server.receive(WAIT * 1000) == [b"x"]
    (session,) = server.sessions.values()
    monitor = server._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    opened.callback(monitor.close)
    opened.callback(server._socket.disable_monitor)
    large = protocol.message(bytes(1 << 16))
    while server.send_soon(large, session) == 0:
        pass  # until there is room neither in ZMQ nor in what waits for it
    assert protocol.lost == []
    peer.close(linger=0)
    assert monitor.poll(WAIT * 1000)
    assert server.send(large, session) != 0
    ((lost, why),) = protocol.lost
    assert lost is session
    assert "is gone" in str(why)


def test_a_client_that_vanished_is_lost_when_it_is_sent_something(opened: ExitStack) -> None:
    protocol, server = channel(opened, RouterChannel)
    peer = raw(opened, zmq.DEALER)
    peer.connect(server.bind("tcp://127.0.0.1:*"))
    peer.send(b"x")
    assert server.receive(WAIT * 1000) == [b"x"]
    (session,) = server.sessions.values()
    peer.close()
    while server.send(protocol.message(b"y"), session) == 0:
        assert server.receive(1) is TIMEOUT
    ((lost, why),) = protocol.lost
    assert (lost, type(why)) == (session, ChannelError)
    assert server.sessions == {}


def test_silent_peers_are_probed_and_found_to_be_gone(opened: ExitStack) -> None:
    protocol, server = channel(opened, RouterChannel, idle_limit=0.02)
    stays, leaves = raw(opened, zmq.DEALER), raw(opened, zmq.DEALER)
    address = server.bind("tcp://127.0.0.1:*")
    for peer in (stays, leaves):
        peer.connect(address)
        peer.send(b"x")
    assert [server.receive(WAIT * 1000) for _ in range(2)] == [[b"x"]] * 2
    server.start()
    leaves.close()
    assert protocol.gone.wait(WAIT)
    assert stays.recv() == b"probe"
    assert len(protocol.lost) == len(server.sessions) == 1


def test_a_probe_that_fails_is_not_the_matter_of_who_receives(
    opened: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    protocol, server = channel(opened, RouterChannel, idle_limit=0.001)
    peer = raw(opened, zmq.DEALER)
    peer.connect(server.bind("tcp://127.0.0.1:*"))
    peer.send(b"x")
    assert server.receive(WAIT * 1000) == [b"x"]
    protocol.probe = lambda channel, session: 1 / 0
    while "the probe of a silent peer failed" not in caplog.text:
        server._next_look = 0.0
        assert server.receive(1) is TIMEOUT
    assert len(server.sessions) == 1


def test_a_service_that_vanished_is_lost(opened: ExitStack, tmp_path: Any) -> None:
    for address in ("tcp://127.0.0.1:*", f"ipc://{tmp_path}/socket"):
        protocol, client = channel(opened, DealerChannel)
        service = raw(opened, zmq.ROUTER)
        service.bind(address)
        session = client.connect(service.last_endpoint.decode())
        client.start()
        assert client.wait_linked(WAIT)
        client.send(protocol.message(b"hello"), session)
        route, _ = service.recv_multipart()
        service.send_multipart([route, b"last words"])
        service.close(linger=1000)
        assert protocol.gone.wait(WAIT)
        assert protocol.heard == [[b"last words"]], "what came before is delivered"
        assert not client.linked


def test_a_peer_that_does_not_read_is_given_up(opened: ExitStack) -> None:
    protocol, server = channel(opened, RouterChannel, max_unsent=1 << 20)
    server.patience = 0.2
    server._socket.sndhwm = 10
    slow, other = raw(opened, zmq.DEALER, rcvhwm=1), raw(opened, zmq.DEALER)
    address = server.bind("tcp://127.0.0.1:*")
    for peer, name in ((slow, b"slow"), (other, b"other")):
        peer.connect(address)
        peer.send(name)
        assert server.receive(WAIT * 1000) == [name]
    server.start()
    slow_session, other_session = server.sessions.values()
    message = protocol.message(bytes(1 << 20))
    sent = 0
    while server.send(message, slow_session) == 0:
        sent += 1
        assert sent < 500, "there is a bound"
    ((lost, why),) = protocol.lost
    assert (lost, type(why)) == (slow_session, LimitExceeded)
    server.send(protocol.message(b"on we go"), other_session)
    assert other.recv() == b"on we go"


def test_what_waited_is_sent_when_there_is_room(opened: ExitStack) -> None:
    protocol, server = channel(opened, RouterChannel, max_unsent=1 << 16)
    peer = raw(opened, zmq.DEALER, rcvhwm=1)
    peer.connect(server.bind("tcp://127.0.0.1:*"))
    peer.send(b"x")
    server.receive(WAIT * 1000)
    (session,) = server.sessions.values()
    server.start()
    count = 3000
    sender = threading.Thread(
        target=lambda: [server.send(protocol.message(b"%d" % n, bytes(10000)), session) for n in range(count)]
    )
    sender.start()
    assert [int(peer.recv_multipart()[0]) for _ in range(count)] == list(range(count))
    sender.join(WAIT)


def test_a_handler_cannot_wait_for_its_own_channel(opened: ExitStack) -> None:
    protocol, server = channel(opened, RouterChannel)
    raised: list[Exception] = []

    def wait(channel: Any, session: Any, msg: Any) -> None:
        for forbidden in (lambda: channel.wait_until(lambda: False), channel.receive):
            try:
                forbidden()
            except LocalProtocolError as error:
                raised.append(error)

    protocol.handlers[ANY] = wait
    peer = raw(opened, zmq.DEALER)
    peer.connect(server.bind("tcp://127.0.0.1:*"))
    peer.send(b"x")
    assert server.receive(WAIT * 1000) is None
    assert len(raised) == 2


def test_a_closed_channel(opened: ExitStack) -> None:
    protocol, server = channel(opened, RouterChannel)
    peer = raw(opened, zmq.DEALER)
    peer.connect(server.bind("tcp://127.0.0.1:*"))
    peer.send(b"x")
    server.receive(WAIT * 1000)
    (session,) = server.sessions.values()
    server.start()
    with pytest.raises(ChannelError, match="own thread receives"):
        server.receive(0)
    server.close()
    server.close()
    assert [type(why) for _, why in protocol.lost] == [ChannelError]
    assert server.send(protocol.message(b"y"), session) == errno.ENOTCONN
    assert not server.wait_until(lambda: False)


# On packets


def test_frames_as_bytes() -> None:
    for frames in ([], [b""], [b"a", b"", bytes(200)]):
        assert split_frames(join_frames(frames)) == frames
    for broken in (b"\x01", b"\x80", b"\x80" * 12, b"\x01a\x02b"):
        with pytest.raises(ValueError, match="frame"):
            split_frames(broken)


def test_a_request_holds_a_message() -> None:
    msg = request(EchoAPI.ECHO, flags=MsgFlag.ACK_REQ, data=[b"a", b"b"])
    carried = FBSPRequest.of(msg)
    assert (carried.rq_type, carried.flags) == (4, 1)
    back = type(carried).from_request_payload(carried.flags, bytes(carried))
    assert back.message.as_zmsg() == msg.as_zmsg()


class OnPackets:
    """A service or client at one end, and at the other who says anything."""

    def __init__(self, opened: ExitStack, protocol: Any, **kwargs: Any) -> None:
        theirs, self.conn = opened.enter_context(packet_pair())
        for name, value in kwargs.items():
            setattr(self.conn, name, value)
        self.channel = FBSPPacketChannel(protocol, self.conn)
        self.peer = RawPacketPeer(theirs)
        opened.enter_context(theirs)
        opened.enter_context(self.conn)


def a_service() -> tuple[FBSPService, list[Any]]:
    service = FBSPService(service=SERVICE, peer=SERVICE_PEER)
    kept: list[Any] = []
    service.register_api_handler(EchoAPI.LATER, lambda channel, session, msg, protocol: kept.append(msg))
    service.on_cancel = lambda channel, session, msg: None
    return service, kept


ENDINGS: dict[str, Callable[[Any, Any], Any]] = {
    "reply": lambda on, msg: on.channel.send(on.channel.protocol.create_reply_for(msg), on.channel.session),
    "error": lambda on, msg: on.channel.protocol.send_error(on.channel, on.channel.session, msg, 5),
    "cancel": lambda on, msg: on.peer.say(cancelled(msg.token)),
    "close by the service": lambda on, msg: on.channel.protocol.close(on.channel),
    "close by the client": lambda on, msg: on.peer.say(make(MsgType.CLOSE, HELLO_TOKEN).as_zmsg()),
}


def cancelled(token: bytes) -> list[bytes]:
    msg = make(MsgType.CANCEL, b"cancel-1")
    msg.request.token = token
    return list(msg.as_zmsg())


@pytest.mark.parametrize("ending", ENDINGS)
def test_each_packet_request_ends_once(opened: ExitStack, ending: str) -> None:
    service, kept = a_service()
    on = OnPackets(opened, service)
    on.peer.say(hello().as_zmsg())
    on.peer.say(request(EchoAPI.LATER, flags=MsgFlag.ACK_REQ).as_zmsg())
    on.peer.fence()
    assert on.peer.conn.outstanding == 1, "the request is still open"
    ENDINGS[ending](on, kept[0])
    on.peer.fence()
    assert on.peer.conn.outstanding == 0
    assert on.peer.conn.late_responses == 0
    assert on.channel._open == {}


def test_the_end_of_the_connection_is_the_end_of_the_session(opened: ExitStack) -> None:
    service, _ = a_service()
    told: list[Any] = []
    service.on_session_closed = lambda channel, session, msg, exc: told.append((msg.msg_type, type(exc)))
    on = OnPackets(opened, service)
    on.peer.say(hello().as_zmsg())
    on.peer.fence()
    on.peer.conn.close()
    assert on.conn.join(WAIT)
    assert on.channel.wait_until(lambda: told == [(MsgType.HELLO, PeerClosed)], WAIT)
    assert on.channel.sessions == {}


def test_a_packet_peer_that_does_not_answer_is_given_up(opened: ExitStack) -> None:
    client = FBSPClient()
    on = OnPackets(opened, client, max_outstanding=3)
    on.channel.patience = 0.1
    session = on.channel.connect()
    for number in range(3):
        client.send_hello(on.channel, session, CLIENT, CLIENT_PEER, b"token-%02d" % number)
    msg = hello(token=TOKEN)
    assert on.channel.send(msg, session) == errno.EAGAIN
    assert on.channel.sessions == {}


def test_what_the_carrier_refuses_ends_the_session(opened: ExitStack) -> None:
    theirs, ours = opened.enter_context(packet_pair())
    client = FBSPClient()
    lost: list[Any] = []
    client.handle_session_lost = lambda channel, session, exc: lost.append(exc)  # type: ignore[method-assign]
    channel = FBSPPacketChannel(client, ours)
    opened.enter_context(theirs)
    opened.enter_context(ours)
    client.send_hello(channel, channel.connect(), CLIENT, CLIENT_PEER, HELLO_TOKEN)
    assert channel.wait_until(lambda: bool(lost), WAIT)
    assert isinstance(lost[0], RequestFailed)


def test_a_message_that_no_packet_holds(opened: ExitStack) -> None:
    client = FBSPClient()
    on = OnPackets(opened, client, max_packet_size=100)
    with pytest.raises(LocalProtocolError, match="does not fit into a packet of 100"):
        client.send_hello(on.channel, on.channel.connect(), CLIENT, CLIENT_PEER, HELLO_TOKEN)


def test_receive_is_announced(opened: ExitStack) -> None:
    on = OnPackets(opened, FBSPClient())
    with pytest.raises(ChannelError, match="without `receives`"):
        on.channel.receive(0)


def test_two_sessions_on_one_connection(opened: ExitStack) -> None:
    service, _ = a_service()
    theirs, ours = opened.enter_context(packet_pair())
    channels = [FBSPPacketChannel(service, ours, channel=number) for number in (0, 23)]
    peers = [FBSPPacketChannel(FBSPClient(), theirs, channel=number, receives=True) for number in (0, 23)]
    opened.enter_context(ours)
    opened.enter_context(theirs)
    for number, peer in enumerate(peers):
        session = peer.connect()
        peer.protocol.send_hello(  # type: ignore[attr-defined]
            peer, session, CLIENT, CLIENT_PEER.replace(uid=type(CLIENT_PEER.uid)(int=number)), HELLO_TOKEN
        )
        assert peer.receive(WAIT * 1000).msg_type is MsgType.WELCOME
    assert [len(channel.sessions) for channel in channels] == [1, 1]
