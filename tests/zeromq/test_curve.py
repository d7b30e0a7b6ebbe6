"""CURVE: who has no key, or a wrong one, gets no service and is told so."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from packetwire import LocalProtocolError, PacketConnection, connect_to, serve
from packetwire.addresses import ZmqDealerAddress, ZmqPairAddress, ZmqRouterAddress
from packetwire.streams.curve import CurveClient, CurveServer, curve_keys

from .conftest import echo

pytestmark = pytest.mark.timeout(60)

SERVER, CLIENT, STRANGER = curve_keys(), curve_keys(), curve_keys()
ADDRESSES = {"router": (ZmqRouterAddress, ZmqDealerAddress), "pair": (ZmqPairAddress, ZmqPairAddress)}


@pytest.fixture(params=ADDRESSES)
def serving(request: pytest.FixtureRequest, linked_endpoint: str) -> Callable[..., Any]:
    """Serves with keys; `ask(curve)` is a client's one request."""
    ours, theirs = ADDRESSES[request.param]

    def ask(served: CurveServer | None, curve: CurveClient | None) -> Any:
        make = lambda recv_send: PacketConnection(recv_send, request_handler=echo)  # noqa: E731
        with serve(ours(linked_endpoint, curve=served), make) as server:
            target = theirs(server.address.endpoint, curve=curve)
            with PacketConnection(connect_to(target, timeout=20)) as conn:
                return conn(1, b"secret", timeout=20)

    return ask


@pytest.mark.parametrize("clients", [None, [CLIENT[0]], [STRANGER[0], CLIENT[0].decode()]])
def test_the_right_keys(serving: Callable[..., Any], clients: Any) -> None:
    server = CurveServer(SERVER[1], clients)
    assert serving(server, CurveClient(SERVER[0], *CLIENT)) == (True, 0, b"secret")


@pytest.mark.parametrize("clients", [[], [CLIENT[0]]])
def test_a_client_that_is_not_on_the_list(
    serving: Callable[..., Any], clients: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "packetwire"), pytest.raises(OSError, match="let us in|broke off"):
        serving(CurveServer(SERVER[1], clients), CurveClient(SERVER[0], *STRANGER))
    assert "a client was not let in" in caplog.text


def test_another_server_than_we_wanted(serving: Callable[..., Any]) -> None:
    with pytest.raises(OSError, match="wrong key|broke off"):
        serving(CurveServer(SERVER[1]), CurveClient(STRANGER[0], *CLIENT))


def test_a_client_without_keys(serving: Callable[..., Any]) -> None:
    with pytest.raises(OSError, match="wrong key|broke off"):
        serving(CurveServer(SERVER[1]), None)


def test_a_server_without_keys(serving: Callable[..., Any]) -> None:
    with pytest.raises(OSError, match="wrong key|broke off"):
        serving(None, CurveClient(SERVER[0], *CLIENT))


def test_keys_are_checked_and_not_shown() -> None:
    with pytest.raises(LocalProtocolError, match="server_key must have 40 characters"):
        CurveClient("short", *CLIENT)
    with pytest.raises(LocalProtocolError, match="a key of clients"):
        CurveServer(SERVER[1], ["short"])
    with pytest.raises(LocalProtocolError, match="collection"):
        CurveServer(SERVER[1], SERVER[0])
    for shown in repr(CurveServer(SERVER[1])), repr(CurveClient(SERVER[0], *CLIENT)):
        assert SERVER[1].decode() not in shown
        assert CLIENT[1].decode() not in shown
    server_keys = CurveServer(SERVER[1])
    with pytest.raises(LocalProtocolError, match="CurveClient"):
        connect_to(ZmqPairAddress("tcp://127.0.0.1:1", curve=server_keys))()
