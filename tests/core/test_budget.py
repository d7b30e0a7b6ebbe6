"""The bound for all connections of a server: who is held, who is refused, who is ended."""

from __future__ import annotations

from dataclasses import dataclass

from packetwire import ConnectionEnded, RequestReceived
from packetwire.core.budget import STALL_SECONDS, Budget
from packetwire.core.engine import TOO_MUCH_FOR_ALL, ConnectionEngine
from packetwire.core.packets import Packet, PacketDecoder

from .wire import request, response, sent


@dataclass(eq=False)
class Debtor:
    owed_bytes: int = 0
    waits_for_peer: bool = True
    bytes_written: int = 0

    def resume(self) -> None: ...

    def abort(self, cause: ConnectionEnded) -> None: ...


def budget(*debtors: Debtor, limit: int = 100, most: int = 4) -> tuple[Budget, list[str]]:
    pressed: list[str] = []
    made = Budget(limit, most, lambda: pressed.append("pressed"))
    for debtor in debtors:
        made.add(debtor)
    return made, pressed


def test_nobody_is_held_while_there_is_room() -> None:
    made, pressed = budget(Debtor(90), Debtor(10))
    assert not made.holds(90)
    assert not made.holds(10)
    assert made.was_used
    assert pressed == []


def test_past_the_limit_who_holds_more_than_a_share_is_held() -> None:
    made, pressed = budget(Debtor(90), Debtor(25))
    assert not made.holds(25)
    assert not made.was_used
    assert made.holds(90)
    assert made.holds(90)
    assert made.is_pressed
    assert pressed == ["pressed"]
    assert not made.is_exhausted(90)
    made.add(Debtor(90))
    assert made.is_exhausted(90)
    assert not made.is_exhausted(25)


def test_with_room_again_it_is_over() -> None:
    large = Debtor(120)
    made, pressed = budget(large)
    assert made.holds(120)
    large.owed_bytes = 100
    assert made.look(1.0) == []
    assert not made.is_pressed
    large.owed_bytes = 120
    assert made.holds(120)
    assert pressed == ["pressed"] * 2
    made.discard(large)
    made.discard(large)
    assert made.owed_bytes == 0


def test_only_who_takes_nothing_for_long_is_ended() -> None:
    stalled, slow, working, small = Debtor(60), Debtor(60), Debtor(60, waits_for_peer=False), Debtor(5)
    made, _ = budget(stalled, slow, working, small)
    assert made.holds(60)
    assert made.look(1.0) == []
    slow.bytes_written += 1
    assert made.look(STALL_SECONDS) == []
    slow.bytes_written += 1
    assert made.look(1.0 + STALL_SECONDS) == [stalled]


def test_room_between_begins_the_time_anew() -> None:
    stalled = Debtor(120)
    made, _ = budget(stalled)
    assert made.holds(120)
    assert made.look(1.0) == []
    stalled.owed_bytes = 50
    assert made.look(20.0) == []
    stalled.owed_bytes = 120
    assert made.look(STALL_SECONDS + 5.0) == []


def engine_within(limit: int) -> ConnectionEngine:
    engine = ConnectionEngine()
    engine.budget, _ = budget(limit=limit)
    engine.budget.add(engine)  # type: ignore[arg-type]
    return engine


def test_what_an_engine_holds() -> None:
    engine = engine_within(1000)
    assert engine.owed_bytes == 0
    octets = request(2, payload=bytes(100))
    engine.receive(octets[:50])
    assert engine.owed_bytes == 50
    engine.receive(octets[50:])
    assert engine.owed_bytes == 100
    assert not engine.waits_for_peer
    engine.respond(0, 2, True, 0, bytes(300))
    assert engine.owed_bytes == engine.unsent_octets
    assert engine.waits_for_peer
    sent(engine)
    assert engine.owed_bytes == 0


def test_past_the_limit_requests_of_who_holds_much_are_refused() -> None:
    engine = engine_within(100)
    assert len(engine.receive(request(2, payload=bytes(120)))) == 1
    assert engine.receive(request(3, payload=b"x")) == []
    assert sent(engine) == response(3, 0, TOO_MUCH_FOR_ALL)
    engine.respond(0, 2, True)
    sent(engine)
    (event,) = engine.receive(request(4, payload=b"x"))
    assert isinstance(event, RequestReceived)


def test_handlers_are_held_only_while_the_peer_has_something_to_take() -> None:
    engine = engine_within(100)
    engine.receive(request(2, payload=bytes(60)) + request(3, payload=bytes(60)))
    assert not engine.is_held(1000), "it makes room"
    engine.respond(0, 2, True, 0, bytes(60))
    assert engine.is_held(1000)
    assert engine.overdue == TOO_MUCH_FOR_ALL
    sent(engine)
    assert not engine.is_held(1000)
    assert engine.overdue == b""


def test_past_twice_the_limit_replies_are_refused() -> None:
    engine = engine_within(100)
    engine.receive(request(2) + request(3))
    engine.respond(0, 2, True, 0, bytes(250))
    engine.respond(0, 3, True, 0, bytes(250))
    assert sent(engine) == response(2, 1, bytes(250)) + response(3, 0, TOO_MUCH_FOR_ALL)


def test_a_large_request_is_refused_before_it_has_arrived() -> None:
    engine = engine_within(100)
    octets = request(2, payload=bytes(1000))
    assert engine.receive(octets[:90]) == []
    assert sent(engine) == b""
    assert engine.receive(octets[90:300]) == []
    assert sent(engine) == response(2, 0, TOO_MUCH_FOR_ALL)
    assert engine.owed_bytes == 1
    assert engine.receive(octets[300:600]) == []
    (event,) = engine.receive(octets[600:] + request(3, payload=b"next"))
    assert isinstance(event, RequestReceived)
    assert event.payload == b"next"
    assert sent(engine) == b""


def test_a_packet_that_is_skipped_leaves_nothing() -> None:
    decoder = PacketDecoder()
    octets = request(2, payload=bytes(300_000))
    assert decoder.feed(octets[:10_000]) == []
    decoder.skip()
    for start in range(10_000, len(octets) - 1, 70_000):
        assert decoder.feed(octets[start : min(start + 70_000, len(octets) - 1)]) == []
        assert decoder.bytes_kept == 1
    assert decoder.octets_wanted == 1
    assert decoder.incomplete_head() is None
    assert decoder.feed(octets[-1:]) == []
    assert decoder.bytes_kept == 0
    assert decoder.octets_decoded == len(octets)
    (packet,) = decoder.feed(request(3))
    assert isinstance(packet, Packet)
    assert packet.tag == 3


def test_what_is_attached_is_not_called_for_one_that_holds_too_much_of_all() -> None:
    engine = ConnectionEngine()
    engine.receive(request(2) + request(3, payload=b"abc"))
    engine.budget, _ = budget(Debtor(200), most=100)
    assert engine.overdue == b"", "nothing waits to be written"
    engine.respond(0, 2, True, 0, b"x")
    assert engine.owed_bytes == 3 + 4
    assert engine.overdue == TOO_MUCH_FOR_ALL
    engine.data_to_send()
    engine.data_sent()
    assert engine.overdue == b""
