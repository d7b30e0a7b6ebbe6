"""The words for responses that all faces share."""

from __future__ import annotations

import pytest

from packetwire import PeerClosed, ResponseReceived
from packetwire.core.engine import NOT_BEGUN, NOT_DONE
from packetwire.core.responses import RESPONSE, ending_of


def test_a_request_that_was_not_begun_ends_as_its_peer_does() -> None:
    cause = ending_of(0, NOT_BEGUN)
    assert type(cause) is PeerClosed
    assert str(cause) == NOT_BEGUN.decode()


@pytest.mark.parametrize(("flags", "payload"), [(1, NOT_BEGUN), (0, NOT_DONE), (0, b"")])
def test_any_other_refusal_is_one(flags: int, payload: bytes) -> None:
    assert ending_of(flags, payload) is None


def test_the_fields_of_a_response() -> None:
    received = ResponseReceived(channel=16, tag=3, ok=True, flags=5, payload=b"payload", waiter=None)
    assert received[RESPONSE] == (True, 5, b"payload")
