"""A socket that strangers can reach is warned about, unless keys keep them out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from packetwire.messaging.message import SimpleMessage
from packetwire.messaging.protocol import Protocol
from packetwire.messaging.zmq import RouterChannel
from packetwire.streams.curve import CurveServer, curve_keys
from packetwire.streams.zmqrouter import ZmqListener
from packetwire.zmq.exposure import is_exposed, warn_if_exposed

WARNING = "whoever reaches this address can make this process run out of memory"


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://127.0.0.1:5570",
        "tcp://127.8.9.10:*",
        "tcp://localhost:1",
        "tcp://LocalHost:1",
        "tcp://lo:1",
        "tcp://[::1]:5570",
        "tcp://[::ffff:127.0.0.1]:5570",
        "ws://127.0.0.1:80",
        "ipc:///run/store.zmq",
        "ipc://@abstract",
        "ipc://*",
        "inproc://here",
    ],
)
def test_what_nobody_else_reaches(endpoint: str) -> None:
    assert not is_exposed(endpoint)


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://*:5570",
        "tcp://*:*",
        "tcp://0.0.0.0:5570",
        "tcp://192.168.1.1:5570",
        "tcp://[::]:5570",
        "tcp://[fe80::1%eth0]:5570",
        "tcp://[::ffff:10.0.0.1]:1",
        "tcp://eth0:5570",
        "tcp://localhost.example.org:1",
        "ws://*:80",
        "udp://127.0.0.1x:80",
    ],
)
def test_what_strangers_reach(endpoint: str) -> None:
    assert is_exposed(endpoint)


def test_keys_are_enough(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "packetwire"):
        warn_if_exposed("tcp://*:5570", with_curve=True)
        warn_if_exposed("tcp://127.0.0.1:5570", with_curve=False)
    assert caplog.records == []


@pytest.mark.parametrize("pair", [True, False])
@pytest.mark.parametrize("curve", [None, CurveServer(curve_keys()[1])])
def test_a_listener_warns_once(
    listening: Callable[..., ZmqListener], pair: bool, curve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "packetwire"):
        listening("tcp://127.0.0.1:*", pair=pair, curve=curve)
        assert caplog.records == []
        listening("tcp://*:*", pair=pair, curve=curve)
    warned = [record for record in caplog.records if WARNING in record.getMessage()]
    assert [record.levelname for record in warned] == (["WARNING"] if curve is None else [])


def test_a_channel_warns(caplog: pytest.LogCaptureFixture) -> None:
    class Anything(Protocol):
        def message_factory(self, zmsg: Any = None) -> SimpleMessage:
            return SimpleMessage()

    with caplog.at_level(logging.WARNING, "packetwire"), RouterChannel(Anything()) as channel:
        channel.bind("tcp://127.0.0.1:*")
        assert caplog.records == []
        channel.bind("tcp://*:*")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert WARNING in caplog.text
