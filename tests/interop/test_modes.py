"""cs.packetstream beside each mode of capabilities, in both roles: it must not notice any."""

from __future__ import annotations

import re

import pytest
from exchange import ECHO, OTHERS, Exchange
from reference_process import ReferencePeer

from packetwire import CapabilityMissing, PacketConnection, RequestFailed, RequestTimeout
from packetwire.core.statuses import StatusCode

pytestmark = pytest.mark.timeout(60, func_only=True)

MODES = ("auto", "passive", "off")


def lines(log: str) -> list[str]:
    """The lines of a log without their order and what else differs from run to run."""
    return sorted(re.sub(r"0x[0-9a-f]+|\d", "", line) for line in log.splitlines())


@pytest.fixture(scope="module")
def logs() -> dict[tuple[str, str], list[str]]:
    """What the reference has said for a role over a transport: first with "off", which is as ever."""
    return {}


def check(logs: dict[tuple[str, str], list[str]], reference: ReferencePeer, role: str, transport: str) -> None:
    """It says nothing more than beside an end without capabilities."""
    assert reference.exit_status() == 0
    said = lines(reference.log())
    assert logs.setdefault((role, transport), said) == said


@pytest.mark.parametrize("capabilities", sorted(MODES, reverse=True))  # "off" is not the last
def test_it_serves(
    reference: ReferencePeer, transport: str, capabilities: str, logs: dict[tuple[str, str], list[str]]
) -> None:
    with reference.serving(), PacketConnection(reference.recv_send, capabilities=capabilities) as conn:
        for number in range(10):
            assert conn(ECHO, b"%d" % number, number) == (True, number, b"%d" % number)
        with pytest.raises(RequestTimeout):  # nothing is sent of that
            conn(OTHERS, b"x", timeout=0.0)
        assert conn.peer is None
        assert conn(OTHERS, b"y") == (True, OTHERS, b"y")
    check(logs, reference, "serves", transport)


@pytest.mark.parametrize("capabilities", sorted(MODES, reverse=True))
def test_it_asks(
    reference: ReferencePeer, transport: str, capabilities: str, logs: dict[tuple[str, str], list[str]]
) -> None:
    with PacketConnection(reference.recv_send, request_handler=Exchange(), capabilities=capabilities) as conn:
        reference.ask("open", False)
        for number in range(10):
            assert reference.ask("call", ECHO, number, b"%d" % number) == (True, number, b"%d" % number)
        assert conn.peer is None
        reference.ask("close")
    check(logs, reference, "asks", transport)


def test_what_it_does_not_understand_is_not_sent(reference: ReferencePeer) -> None:
    """A call that needs more asks it, once, and it refuses; a passive end does not even ask."""
    with reference.serving(), PacketConnection(reference.recv_send, capabilities="auto") as conn:
        for _ in range(2):
            with pytest.raises(CapabilityMissing, match="it answered HELLO not ok"):
                conn(ECHO, b"x", deadline=30)
        assert conn(ECHO, b"x") == (True, 0, b"x")
        with pytest.raises(CapabilityMissing):
            conn.ping(30)


def test_a_passive_end_does_not_ask_it(reference: ReferencePeer) -> None:
    with reference.serving(), PacketConnection(reference.recv_send, capabilities="passive") as conn:
        with pytest.raises(CapabilityMissing, match="has not said yet what it understands"):
            conn(ECHO, b"x", deadline=30)
        assert conn(ECHO, b"x") == (True, 0, b"x")
        with pytest.raises(CapabilityMissing, match="its first packet is not marked"):
            conn(ECHO, b"x", deadline=30)


def test_an_opening_that_requires_capabilities(reference: ReferencePeer) -> None:
    with reference.serving():
        with pytest.raises(CapabilityMissing, match="it answered HELLO not ok"):
            PacketConnection(reference.recv_send, capabilities="require").open()


def test_a_status_is_no_status_there(reference: ReferencePeer) -> None:
    """Flags of its refusals are its own: nothing of this version is read into them."""
    with reference.serving(), PacketConnection(reference.recv_send) as conn:
        ok, flags, payload = conn(1, b"no such result")
        assert not ok
        error = conn.failure(flags, payload)
        assert isinstance(error, RequestFailed)
        assert (error.code, error.begun) == (StatusCode.NONE, None)
