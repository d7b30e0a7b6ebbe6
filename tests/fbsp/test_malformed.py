"""Frames that are no message, over real carriers: they are refused, and nobody else notices."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import Any

import pytest

from packetwire.fbsp import MsgType
from packetwire.fbsp.protocol import LEAST_MAX_MESSAGE_SIZE
from packetwire.messaging import INVALID

from .carriers import SERVICES
from .fake import CODEC, OTHER_PEER, OTHER_ROUTE, TOKEN, Asking, EchoAPI, Serving, hello, make, request
from .mutations import GOLDEN, damage
from .test_refusals import BROKEN

MUTATIONS = 1000
CARRIERS = pytest.mark.parametrize("carrier", SERVICES, indirect=True)
BROKEN_FRAMES = [(rule, zmsg) for rule, cases in BROKEN.items() for zmsg, _ in cases if zmsg and rule != "class"]
"""A message without frames cannot be sent over ZMQ, and `class` is no fault of the frames."""


def others_are_served(serving: Serving) -> bool:
    return [each.msg_type for each in serving.say(request(EchoAPI.ECHO), OTHER_ROUTE)] == [MsgType.REPLY]


@CARRIERS
def test_a_service_answers_each_by_an_error_and_lives_on(carrier: str) -> None:
    serving = Serving(max_message_size=LEAST_MAX_MESSAGE_SIZE)
    serving.connect()
    serving.connect(OTHER_PEER, OTHER_ROUTE)
    for rule, zmsg in BROKEN_FRAMES:
        for answer in serving.say(zmsg):
            assert answer.msg_type is MsgType.ERROR, rule
        assert serving.events[-1][0] == "on_invalid_msg", rule
        assert others_are_served(serving)
    assert [each.msg_type for each in serving.say(request())] == [MsgType.REPLY], "the same session lives on"


@CARRIERS
def test_a_client_notes_each_and_lives_on(carrier: str) -> None:
    asking = Asking()
    asking.client.max_message_size = LEAST_MAX_MESSAGE_SIZE
    asking.connect()
    for rule, zmsg in BROKEN_FRAMES:
        assert asking.hear(zmsg) is INVALID, rule
        assert asking.refused.pop().code == rule  # type: ignore[attr-defined]
        assert asking.take() == []
    asking.ask()
    assert asking.hear(make(MsgType.REPLY, TOKEN, 0x0101)) is not INVALID


@CARRIERS
@pytest.mark.timeout(60)
def test_damaged_messages(carrier: str) -> None:
    """A bounded number of them, always the same."""
    random = Random(20)
    serving, asking = Serving(), Asking()
    serving.connect(OTHER_PEER, OTHER_ROUTE)
    asking.connect()
    for number in range(MUTATIONS):
        broken = [*damage(random.choice(GOLDEN), random)] or [b""]
        for answer in serving.say(broken):
            assert CODEC.is_valid(answer.as_zmsg())
        if number % 50 == 0:
            assert others_are_served(serving)
        asking.hear(broken)
        if asking.session.closed or asking.session.routing_id not in asking.channel.sessions:
            asking = Asking()
            asking.connect()
    serving.say(make(MsgType.CLOSE))
    assert serving.say(hello())[0].msg_type is MsgType.WELCOME


@pytest.mark.parametrize("carrier", ["packets", "aio-packets"], indirect=True)
def test_packets_that_hold_no_frames(carrier: str) -> None:
    """Not the protocol's, but the carrier's matter: it answers not ok."""
    serving = Serving()
    serving.connect()
    channel: Any = serving.channel
    _, peer = channel._end(b"route-1")
    for payload in (b"\x05abc", b"\x80" * 10, b"\xff"):
        ok, _, text = channel.wait(partial(peer.conn, int(MsgType.REQUEST), payload, timeout=10))
        assert (ok, b"frame 0" in text) == (False, True)
    noop = b"\x10" + request().get_header()
    ok, _, text = channel.wait(partial(peer.conn, int(MsgType.NOOP), noop, timeout=10))
    assert (ok, text) == (False, b"ValueError: a message of the type 4 came as rq_type 3")
    assert [each.msg_type for each in serving.say(request())] == [MsgType.REPLY]
