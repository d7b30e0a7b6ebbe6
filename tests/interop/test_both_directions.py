"""Both ends ask and serve on one connection, and call back while they are being called."""

from __future__ import annotations

import pytest
from askers import OurAsker, ReferenceAsker
from exchange import BOUNCE, CALL_BACK, ECHO

pytestmark = pytest.mark.timeout(60, func_only=True)

Both = tuple[OurAsker, ReferenceAsker]

REFERENCE_HANDLERS = 4
"""The reference runs so many handlers at once, waiting ones included."""


def test_each_end_asks(both_ask: Both) -> None:
    for asker in both_ask:
        assert asker.call(ECHO, 3, b"x") == (True, 3, b"x")


@pytest.mark.parametrize("rq_type", [ECHO, CALL_BACK], ids=["plain", "calling back"])
def test_64_in_flight_each_way(both_ask: Both, rq_type: int) -> None:
    ours, theirs = both_ask
    to_reference = [(rq_type, number, b"to the reference %d" % number) for number in range(64)]
    to_us = [(rq_type, number, b"to us %d" % number) for number in range(64)]
    theirs.submit(to_us)
    ours.submit(to_reference)
    assert ours.collect()[0] == [(True, flags, payload) for _, flags, payload in to_reference]
    assert theirs.collect()[0] == [(True, flags, payload) for _, flags, payload in to_us]


def test_large_payloads_each_way(both_ask: Both) -> None:
    ours, theirs = both_ask
    requests = [(ECHO, number, bytes([number]) * (1 << 20)) for number in range(4)]
    theirs.submit(requests)
    ours.submit(requests)
    expected = [(True, flags, payload) for _, flags, payload in requests]
    assert ours.collect()[0] == expected
    assert theirs.collect()[0] == expected


def test_requests_passed_to_and_fro(both_ask: Both) -> None:
    depth = 2 * REFERENCE_HANDLERS - 1  # as deep as the reference can
    for asker in both_ask:
        assert asker.call(BOUNCE, depth) == (True, 0, b"%d" % depth)
