"""Many clients on one service with few threads: late replies, and clients that vanish without CLOSE."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack
from typing import Any

import pytest
import zmq

from packetwire import ConnectionEnded, PacketConnection
from packetwire.fbsp import Call, MsgType, ServiceClient

from .fake import CLIENT, PeerDescriptor, hello, make
from .test_calls import WAIT, Calls, Sample

CLIENTS = 200
THREADS = 8


def vanishing(opened: ExitStack, address: str, number: int) -> Any:
    """A client that says HELLO, asks for something that takes long, and will leave without a word."""
    peer = opened.enter_context(zmq.Context.instance().socket(zmq.DEALER))
    peer.linger = 0
    peer.rcvtimeo = WAIT * 1000
    peer.connect(address)
    uid = type(CLIENT.uid)(int=1000 + number)
    peer.send_multipart(hello(PeerDescriptor(uid, 1, "gone")).as_zmsg())
    assert len(peer.recv_multipart()) == 2
    peer.send_multipart(make(MsgType.REQUEST, type_data=0x0200 | Calls.WAIT).as_zmsg())
    return peer


def packet_client(
    opened: ExitStack, service: Sample, ends: list[PacketConnection]
) -> tuple[ServiceClient, socket.socket]:
    theirs, ours = socket.socketpair()
    opened.enter_context(theirs)
    opened.enter_context(ours)
    conn = PacketConnection(ours, close_timeout=WAIT)
    service.serve_on(conn)
    opened.enter_context(conn)
    caller = PacketConnection(theirs, close_timeout=WAIT)
    ends.append(caller)
    return opened.enter_context(ServiceClient.on(caller, agent=CLIENT)), theirs


@pytest.mark.timeout(100)
def test_two_hundred_clients_and_eight_threads(tmp_path: Any) -> None:
    ends: list[PacketConnection] = []
    with ExitStack() as opened:
        service = opened.enter_context(Sample(threads=THREADS))
        opened.callback(service.go_on.set)
        address = service.serve(f"ipc://{tmp_path}/service", idle_limit=0.2, linger=0).address
        on_zmq = [
            opened.enter_context(ServiceClient.connect(address, agent=CLIENT, channel={"linger": 0}))
            for _ in range(CLIENTS // 10 * 6)
        ]
        on_packets = [packet_client(opened, service, ends)[0] for _ in range(CLIENTS // 10)]
        cut_off = [packet_client(opened, service, ends) for _ in range(CLIENTS // 10)]
        gone = [vanishing(opened, address, number) for number in range(CLIENTS // 10 * 2)]
        assert len(service.protocol._partners) == CLIENTS

        lost: list[Call] = [client.start(Calls.WAIT) for client, _ in cut_off]
        calls: list[Call] = [client.start(Calls.WAIT) for client in (*on_zmq, *on_packets)]
        for _ in range(THREADS):
            assert service.waiting.acquire(timeout=WAIT)
        assert [client.call(Calls.QUICK, b"x", timeout=WAIT) for client in on_zmq] == [[b"x"]] * len(on_zmq)
        for peer in gone:
            peer.close()
        for _, end in cut_off:
            end.shutdown(socket.SHUT_RDWR)
        (router,) = service._channels
        live = len(on_zmq)
        assert router.wait_until(lambda: len(router.sessions) == live, WAIT), "who vanished is found out"
        for call in lost:
            with pytest.raises(ConnectionEnded):
                call.result(WAIT)
        while len(service.protocol._partners) > len(calls):
            pass

        service.go_on.set()
        assert [call.result(WAIT) for call in calls] == [[b"done"]] * len(calls)
        assert service.most <= THREADS
        names = [each.name for each in threading.enumerate()]
        assert names.count("service service") <= THREADS
        for conn in ends:
            assert conn.outstanding == 0
            assert conn.late_responses == 0, "each packet request ended once"
        for client in (*on_zmq, *on_packets):
            client.close()
        assert router.wait_until(lambda: not service.protocol._partners, WAIT)
    assert service.core.requests == {}
