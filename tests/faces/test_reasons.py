"""Ends that a connection makes by itself: the other end learns why, if it understands that."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest

from packetwire import AsyncPacketConnection, Packet, PeerClosed, PeerUnresponsive, Responder
from packetwire.core.hello import CONTROL_CHANNEL, DRAIN, Feature, decode_drain
from packetwire.core.packets import EOF_PACKET, ERQ_PACKET

from .conftest import Ends
from .test_capabilities import AgreedPeer


def echo(rq_type: int, flags: int, payload: bytes) -> bytes:
    return payload


def test_a_silent_peer_is_told_why_it_was_given_up(ends: Ends) -> None:
    peer = AgreedPeer(ends, Feature.CANCEL | Feature.DRAIN).peer
    with pytest.raises(PeerUnresponsive):
        ends.call(1, b"x")
    assert peer.read().payload == b"x"
    while (packet := peer.read()).rq_type != DRAIN + 1:
        assert packet.channel == CONTROL_CHANNEL
    milliseconds, text = decode_drain(packet.payload)
    assert milliseconds == 0
    assert text == "this end was unresponsive: it was asked for a sign of life, and sent nothing for 0.2 s"
    assert [peer.read(), peer.read()] == [ERQ_PACKET, EOF_PACKET]


def test_a_silent_peer_is_told_though_it_is_owed_something(ends: Ends) -> None:
    begun = threading.Event()
    responder = Responder()

    def handler(rq_type: int, flags: int, payload: bytes) -> Responder:
        begun.set()
        return responder

    peer = AgreedPeer(ends, Feature.CANCEL | Feature.DRAIN, handler).peer
    peer.send(Packet(is_request=True, channel=0, tag=2, flags=0, rq_type=1, payload=b""))
    assert begun.wait(30)
    with pytest.raises(PeerUnresponsive):
        ends.call(1, b"x")
    while peer.read() != EOF_PACKET:
        pass
    responder.respond(b"too late")


def test_the_time_limit_of_closing(ends: Ends) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        if rq_type == 1:
            begun.set()
            go_on.wait(30)
        return payload

    with ends.face.opened(ends.make(request_handler=handler, close_timeout=0.1)):
        asker = ends.asker()
        assert asker(2)[0]
        result = asker.submit(1)
        assert begun.wait(30)
    with pytest.raises(PeerClosed, match="time limit for closing passed, which is 0.1 s"):
        result()
    assert "time limit for closing" in str(asker.ended)
    go_on.set()


def test_a_connection_that_is_dropped(ends: Ends) -> None:
    if ends.face.make is AsyncPacketConnection:
        pytest.skip("a loop that runs in a thread of the test's keeps it a little longer")
    kept: list[Any] = [ends.make(request_handler=echo)]
    kept[0].open()
    asker = ends.asker()
    asker.ping(30)  # so that it has agreed

    def drop() -> None:
        kept.clear()
        del ends.conn
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed"):
        drop()
    assert asker.join(30)
    assert isinstance(asker.ended, PeerClosed)
    assert "was dropped without being closed" in str(asker.ended)
