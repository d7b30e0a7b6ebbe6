"""Every recorded connection: its octets, and each of its sides played by the engine."""

from __future__ import annotations

import pytest

from packetwire import Packet, RequestReceived, ResponseReceived, StreamEnded
from packetwire.core.engine import NO_HANDLER, ConnectionEngine
from packetwire.core.packets import EOF_PACKET, ERQ_PACKET

from .golden import DIRECTIONS, STREAMS, StreamCase, decode

SIDES = [
    pytest.param(role, decode(sent), decode(received), id=f"{case.id}-{role}")
    for case in STREAMS
    for role, sent, received in case.sides()
]


@pytest.mark.parametrize("octets", DIRECTIONS)
def test_reencodes_to_the_same_octets(octets: bytes) -> None:
    packets = decode(octets)
    assert packets[-1] == EOF_PACKET
    assert b"".join(map(bytes, packets)) == octets


def corrected(mine: list[Packet], theirs: list[Packet]) -> tuple[list[Packet], list[Packet]]:
    """Both directions as they are if this side sends only what is right.

    That is: ERQ before EOF, and no request behind ERQ, so that none is answered either.
    """
    if ERQ_PACKET not in mine:
        mine = [*mine[:-1], ERQ_PACKET, EOF_PACKET]
    end = mine.index(ERQ_PACKET)
    wrong = {packet.tag for packet in mine[end + 1 : -1] if packet.is_request}
    return (
        [packet for packet in mine if packet == EOF_PACKET or not (packet.is_request and packet.tag in wrong)],
        [packet for packet in theirs if packet.is_request or packet.tag not in wrong],
    )


class Player:
    """Does with an engine what one side of a recorded connection did, hearing the other side meanwhile."""

    def __init__(self, sent: list[Packet], received: list[Packet]) -> None:
        refused = any(packet.payload == NO_HANDLER for packet in sent if not packet.is_request)
        self.engine = ConnectionEngine(accepts_requests=not refused)
        self.sent = sent
        self.unheard = received[::-1]
        self.asked: set[tuple[int, int]] = set()
        self.waiting: set[tuple[int, int]] = set()
        self.responses: list[ResponseReceived] = []
        self.ends: list[StreamEnded] = []
        self.octets = b""

    def hear(self) -> None:
        packet = self.unheard.pop()
        if packet.is_request:
            self.asked.add((packet.channel, packet.tag))
        for event in self.engine.receive(bytes(packet)):
            if isinstance(event, RequestReceived):
                self.waiting.add((event.channel, event.tag))
            elif isinstance(event, ResponseReceived):
                self.responses.append(event)
            elif isinstance(event, StreamEnded):
                self.ends.append(event)

    def hear_all(self) -> None:
        while self.unheard:
            self.hear()

    def respond(self, response: Packet) -> None:
        """Answer as it was recorded, unless the engine refuses the request, which it does by itself."""
        channel, tag, flags = response.channel, response.tag, response.flags
        while (channel, tag) not in self.asked:
            self.hear()
        if (channel, tag) in self.waiting:
            self.waiting.remove((channel, tag))
            assert self.engine.respond(channel, tag, bool(flags & 1), flags >> 1, response.payload)

    def request(self, packet: Packet) -> None:
        assert packet.rq_type
        rq_type, flags, payload = packet.rq_type - 1, packet.flags, packet.payload
        assert self.engine.request(rq_type, flags, payload, channel=packet.channel, waiter=packet) == packet.tag

    def take(self) -> None:
        self.octets += b"".join(self.engine.data_to_send())
        self.engine.data_sent()

    def play(self, role: str) -> bytes:
        for packet in self.sent:
            if not packet.is_request:
                self.respond(packet)
            elif packet == ERQ_PACKET and role == "server":
                self.hear_all()  # the end of the other side makes us end
            elif packet == ERQ_PACKET:
                self.engine.end_requests()
            elif packet == EOF_PACKET:
                self.engine.end()
            else:
                self.request(packet)
            self.take()
        self.hear_all()
        self.take()
        return self.octets


@pytest.mark.parametrize(("role", "sent", "received"), SIDES)
def test_engine_sends_what_the_reference_sent(role: str, sent: list[Packet], received: list[Packet]) -> None:
    sent, received = corrected(sent, received)
    player = Player(sent, received)
    assert player.play(role) == b"".join(map(bytes, sent))
    (end,) = player.ends
    assert end.clean
    assert end.lost == ()
    recorded = [packet for packet in received if not packet.is_request]
    assert [
        Packet(is_request=False, channel=e.channel, tag=e.tag, flags=e.flags << 1 | e.ok, payload=e.payload)
        for e in player.responses
    ] == recorded
    assert [event.waiter.tag for event in player.responses] == [packet.tag for packet in recorded]
    assert (player.engine.owed, player.engine.outstanding, player.engine.unsent_octets) == (0, 0, 0)


@pytest.mark.parametrize("case", STREAMS, ids=lambda case: case.id)
def test_the_recorded_servers_sent_what_is_right(case: StreamCase) -> None:
    server, client = decode(case.server_to_client), decode(case.client_to_server)
    assert corrected(server, client) == (server, client)
