"""The words for responses that all faces share."""

from __future__ import annotations

import pytest

from packetwire import PeerClosed, ResponseReceived
from packetwire.core.engine import NOT_BEGUN, NOT_DONE
from packetwire.core.responses import RESPONSE, ending_of


def received(ok: bool = False, flags: int = 0, payload: bytes = NOT_BEGUN) -> ResponseReceived:
    return ResponseReceived(channel=16, tag=3, ok=ok, flags=flags, payload=payload, waiter=None)


def test_a_request_that_was_not_begun_ends_as_its_peer_does() -> None:
    cause = ending_of(received())
    assert type(cause) is PeerClosed
    assert str(cause) == NOT_BEGUN.decode()


@pytest.mark.parametrize("response", [received(ok=True), received(flags=1), received(payload=NOT_DONE)])
def test_any_other_response_is_one(response: ResponseReceived) -> None:
    assert ending_of(response) is None


def test_the_fields_of_a_response() -> None:
    assert received(True, 5, b"payload")[RESPONSE] == (True, 5, b"payload")
