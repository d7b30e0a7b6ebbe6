"""Channels used as they cannot be: connected twice, received from twice, closed while somebody waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import zmq

from packetwire import Responder
from packetwire.fbsp import FBSPClient
from packetwire.fbsp.requests import FBSPPacketChannel
from packetwire.messaging import TIMEOUT, ChannelError
from packetwire.messaging.shared import NOBODY
from packetwire.messaging.zmq import DealerChannel, PairChannel, RouterChannel

from .carriers import packet_pair
from .fake import CLIENT, CLIENT_PEER, HELLO_TOKEN, hello
from .test_channels import WAIT, channel, raw

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


# on ZMQ


@pytest.mark.parametrize("kind", [DealerChannel, PairChannel])
def test_a_channel_for_one_peer_connects_once(opened: ExitStack, kind: Any) -> None:
    _, connected = channel(opened, kind)
    connected.connect("inproc://somewhere")
    with pytest.raises(ChannelError, match="has its peer already"):
        connected.connect("inproc://elsewhere")


def test_a_router_that_connects_names_its_peer(opened: ExitStack) -> None:
    protocol, router = channel(opened, RouterChannel)
    peer = raw(opened, zmq.DEALER)
    peer.bind("tcp://127.0.0.1:*")
    address = peer.last_endpoint.decode()
    with pytest.raises(ChannelError, match="needs a routing_id"):
        router.connect(address)
    session = router.connect(address, b"the peer")
    assert session.routing_id == b"the peer"
    assert router.wait_until(lambda: router.send(protocol.message(b"x"), session) == 0, WAIT)
    assert peer.recv_multipart() == [b"x"]
    peer.send(b"y")
    assert router.receive(WAIT * 1000) == [b"y"]


def test_whether_a_message_can_be_sent(opened: ExitStack, tmp_path: Any) -> None:
    _, alone = channel(opened, DealerChannel)
    alone.connect(f"ipc://{tmp_path}/nobody")
    assert not alone.can_send()
    _, linked = channel(opened, DealerChannel)
    peer = raw(opened, zmq.ROUTER)
    peer.bind("tcp://127.0.0.1:*")
    linked.connect(peer.last_endpoint.decode())
    assert linked.can_send(WAIT * 1000)


def receiving(receiver: Any) -> tuple[threading.Thread, list[Any]]:
    """A thread that receives, once it does so, and what comes of it."""
    outcome: list[Any] = []

    def receive() -> None:
        try:
            outcome.append(receiver.receive(None))
        except ChannelError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=receive)
    thread.start()
    return thread, outcome


def test_one_thread_receives_at_a_time(opened: ExitStack) -> None:
    _, server = channel(opened, RouterChannel)
    address = server.bind("tcp://127.0.0.1:*")
    thread, outcome = receiving(server)
    while server._reader == NOBODY:
        time.sleep(0.001)
    with pytest.raises(ChannelError, match="another thread receives"):
        server.receive(0)
    peer = raw(opened, zmq.DEALER)
    peer.connect(address)
    peer.send(b"x")
    thread.join(WAIT)
    assert outcome == [[b"x"]]


def test_closing_ends_a_thread_that_receives(opened: ExitStack) -> None:
    _, server = channel(opened, RouterChannel)
    server.bind("tcp://127.0.0.1:*")
    thread, outcome = receiving(server)
    server.close()
    thread.join(WAIT)
    assert outcome == ["the channel is closed"]


# on packets


def test_receiving_on_packets(opened: ExitStack) -> None:
    theirs, ours = opened.enter_context(packet_pair())
    made = FBSPPacketChannel(FBSPClient(), ours, receives=True)
    opened.enter_context(theirs)
    opened.enter_context(ours)
    assert made.receive(0) is TIMEOUT
    thread, outcome = receiving(made)
    made.close()
    thread.join(WAIT)
    assert outcome == ["the channel is closed"]


def test_a_response_that_holds_no_frames_ends_the_session(opened: ExitStack) -> None:
    theirs, ours = opened.enter_context(packet_pair())
    theirs.request_handler = lambda rq_type, flags, payload: b"\x05too short"
    client = FBSPClient()
    lost: list[Any] = []
    client.handle_session_lost = lambda channel, session, exc: lost.append(exc)  # type: ignore[method-assign]
    made = FBSPPacketChannel(client, ours)
    opened.enter_context(theirs)
    opened.enter_context(ours)
    client.send_hello(made, made.connect(), CLIENT, CLIENT_PEER, HELLO_TOKEN)
    assert made.wait_until(lambda: bool(lost), WAIT)
    assert isinstance(lost[0], ValueError)
    assert made.sessions == {}


def test_an_exchange_that_the_end_of_the_connection_cuts_short(opened: ExitStack) -> None:
    theirs, ours = opened.enter_context(packet_pair())
    asked = threading.Event()

    def handler(rq_type: int, flags: int, payload: bytes) -> Responder:
        asked.set()
        return Responder()

    theirs.request_handler = handler
    client = FBSPClient()
    made = FBSPPacketChannel(client, ours)
    opened.enter_context(theirs)
    opened.enter_context(ours)
    session = made.connect()
    outcome: list[Any] = []
    msg: Any = hello()
    thread = threading.Thread(target=lambda: outcome.append(made.exchange(msg, session, lambda: False, WAIT)))
    thread.start()
    assert asked.wait(WAIT)
    made.closed = True
    theirs.close(0)
    thread.join(WAIT)
    assert outcome == [(0, False)]
