"""Two engines with capabilities, and what they say to each other."""

from __future__ import annotations

from typing import Any

from packetwire import Packet, RequestReceived
from packetwire.core.capabilities import Capabilities, Mode
from packetwire.core.engine import ConnectionEngine
from packetwire.core.events import Event
from packetwire.core.hello import ALL_FEATURES, Feature, Hello

SEVEN = Hello(features=Feature(0x7F))


def engine_of(mode: Mode = Mode.AUTO, own: Hello = SEVEN, **options: Any) -> ConnectionEngine:
    return ConnectionEngine(capabilities=Capabilities(mode, own), **options)


def known(engine: ConnectionEngine) -> Capabilities:
    assert engine.control is not None
    return engine.control.capabilities


def sent(engine: ConnectionEngine) -> bytes:
    data = b"".join(engine.data_to_send())
    engine.data_sent()
    while engine.unsent:  # large payloads leave in pieces
        data += b"".join(engine.data_to_send())
        engine.data_sent()
    assert engine.unsent_octets == 0
    return data


def exchange(a: ConnectionEngine, b: ConnectionEngine) -> tuple[list[Event], list[Event]]:
    """All that the ends have to say to each other, until they are quiet."""
    events_a: list[Event] = []
    events_b: list[Event] = []
    while a.unsent or b.unsent:
        b.receive(sent(a), events_b)
        a.receive(sent(b), events_a)
    return events_a, events_b


def agreed_pair(
    features: Feature = ALL_FEATURES, own_a: Hello | None = None, own_b: Hello | None = None, **options: Any
) -> tuple[ConnectionEngine, ConnectionEngine]:
    """Two that have said HELLO, and have nothing more to say."""
    hello = Hello(features=features)
    a, b = engine_of(own=own_a or hello, **options), engine_of(own=own_b or hello, **options)
    a.ask_capabilities()
    exchange(a, b)
    assert known(a).has_agreed
    assert known(b).has_agreed
    return a, b


def request_from(a: ConnectionEngine, b: ConnectionEngine, waiter: Any = None, **arguments: Any) -> RequestReceived:
    """A request of `a` that has come to `b`."""
    a.request(3, waiter=waiter, **arguments)
    (request,) = b.receive(sent(a))
    assert isinstance(request, RequestReceived)
    return request


def packets_of(engine: ConnectionEngine) -> list[Packet]:
    """What it has to send, as packets."""
    data, offset, packets = sent(engine), 0, []
    while offset < len(data):
        packet, offset = Packet.parse_bytes(data, offset)
        packets.append(packet)
    return packets


class Waiter:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def set_response(self, ok: bool, flags: int, payload: bytes) -> None:
        self.told.append((ok, flags, payload))

    def fail(self, cause: Exception) -> None:
        self.told.append(cause)
