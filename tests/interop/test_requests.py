"""Requests and responses between packetwire and the reference, both ways round, over each transport."""

from __future__ import annotations

import pytest
from askers import Asker
from exchange import ECHO, HOLD, MEANINGLESS, ON_THE_WIRE, ON_THE_WIRE_BY_OURS, OTHERS, RELEASE, RESULT
from reference_process import ReferencePeer

from packetwire import PacketConnection

pytestmark = pytest.mark.timeout(60, func_only=True)

MIB = 1 << 20

# with one octet each for tag, flags and rq_type the length field grows at 125 and at 16381
SIZES = [0, 1, 2, *range(123, 132), *range(16_379, 16_389), 65_535, 65_536, 65_537, *range(MIB - 4, MIB + 5)]
SIZES_AT_4_OCTETS = [2 * MIB - 4, 2 * MIB - 3, 2 * MIB]

# a request's flags are shifted by two on the wire, a response's by three
FLAGS = [
    *(0, 1, 2, 15, 16, 17, 31, 32, 33, 2047, 2048, 4095, 4096),
    *(1 << bits for bits in range(13, 41)),
    *((1 << bits) - 1 for bits in range(13, 41)),
    (1 << 40) + 1,
]

RQ_TYPES = [OTHERS, 125, 126, 127, 128, 16_381, 16_382, 16_383, 16_384, 1 << 21, 1 << 40]


def octets(size: int) -> bytes:
    """A payload in which a shift by any number of octets shows."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def test_sequential(asker: Asker) -> None:
    for number in range(200):  # the tags pass 128
        assert asker.call(ECHO, number, b"%d" % number) == (True, number, b"%d" % number)


def test_64_in_flight(asker: Asker) -> None:
    requests = [(ECHO, number, b"payload %d" % number) for number in range(64)]
    for _ in range(8):
        asker.submit(requests)
        responses, order = asker.collect()
        assert responses == [(True, flags, payload) for _, flags, payload in requests]
        assert sorted(order) == list(range(64))


def test_replies_out_of_order(asker: Asker) -> None:
    held = [(HOLD, number, b"held %d" % number) for number in range(3)]
    quick = [(ECHO, number, b"quick %d" % number) for number in range(20)]
    asker.submit([*held, *quick, (RELEASE, 0, b"")])
    responses, order = asker.collect()
    assert responses == [(True, flags, payload) for _, flags, payload in held + quick] + [(True, 0, b"")]
    assert sorted(order) == list(range(24))
    assert set(order[:20]) == set(range(3, 23))


def test_payload_sizes(asker: Asker) -> None:
    for size in SIZES:
        assert asker.call(ECHO, 0, octets(size)) == (True, 0, octets(size))


def test_a_length_field_of_4_octets(asker: Asker) -> None:
    for size in SIZES_AT_4_OCTETS:
        assert asker.call(ECHO, 0, octets(size)) == (True, 0, octets(size))


def test_payload_sizes_in_flight(asker: Asker) -> None:
    requests = [(ECHO, size, octets(size)) for size in SIZES]
    asker.submit(requests)
    responses, _ = asker.collect()
    assert responses == [(True, flags, payload) for _, flags, payload in requests]


def test_flags(asker: Asker) -> None:
    asker.submit([(ECHO, flags, b"x") for flags in FLAGS])
    responses, _ = asker.collect()
    assert responses == [(True, flags, b"x") for flags in FLAGS]


def test_request_types(asker: Asker) -> None:
    asker.submit([(rq_type, 1, b"%d" % rq_type) for rq_type in RQ_TYPES])
    responses, _ = asker.collect()
    assert responses == [(True, rq_type, b"%d" % rq_type) for rq_type in RQ_TYPES]


def test_each_kind_of_result(asker: Asker) -> None:
    answered = {name: asker.call(RESULT, 7, name.encode()) for name in ON_THE_WIRE}
    assert answered == {name: (True, *expected) for name, expected in ON_THE_WIRE.items()}


def test_a_handler_that_raises(asker: Asker) -> None:
    ok, flags, payload = asker.call(RESULT, 7, b"no such result")
    assert (ok, flags) == (False, 0)
    assert payload
    assert asker.call(ECHO, 1, b"it lives on") == (True, 1, b"it lives on")


def test_handlers_that_raise_in_flight(asker: Asker) -> None:
    asker.submit([(RESULT, 0, b"no such result"), (ECHO, 2, b"between")] * 32)
    responses, _ = asker.collect()
    assert [ok for ok, _, _ in responses] == [False, True] * 32
    assert {response for response in responses if response[0]} == {(True, 2, b"between")}


def test_results_that_only_ours_answers(they_ask: Asker) -> None:
    answered = {name: they_ask.call(RESULT, 0, name.encode()) for name in ON_THE_WIRE_BY_OURS}
    assert answered == {name: (True, *expected) for name, expected in ON_THE_WIRE_BY_OURS.items()}


def test_results_that_mean_nothing_are_answered_not_ok(they_ask: Asker) -> None:
    for name in MEANINGLESS:
        ok, flags, payload = they_ask.call(RESULT, 0, name.encode())
        assert (name, ok, flags) == (name, False, 0)
        assert payload


def test_the_reference_is_told_what_was_raised(they_ask: Asker) -> None:
    assert they_ask.call(RESULT, 0, b"no such result") == (False, 0, b"KeyError: 'no such result'")


def test_no_handler_at_the_reference(reference: ReferencePeer) -> None:
    reference.ask("open", False)
    with PacketConnection(reference.recv_send) as conn:
        assert conn(ECHO, b"x") == (False, 0, b"no request handler")
        reference.tell("close")
    reference.answer()


def test_no_handler_here(reference: ReferencePeer) -> None:
    with PacketConnection(reference.recv_send) as conn:
        reference.ask("open", True)
        assert reference.ask("call", ECHO, 0, b"x") == (False, 0, b"no request handler")
        assert conn(ECHO, b"y", 1) == (True, 1, b"y")
        reference.ask("close")
