"""The words for responses that all faces share."""

from __future__ import annotations

import copy
import pickle

import pytest

from packetwire import (
    ConnectionEnded,
    DeadlineExceeded,
    Draining,
    PeerClosed,
    ProtocolMismatch,
    RequestCancelled,
    RequestFailed,
    RequestTimeout,
    ResponseReceived,
)
from packetwire.core.engine import NOT_BEGUN, NOT_DONE
from packetwire.core.responses import RESPONSE, ending_of, failure_of
from packetwire.core.statuses import UNKNOWN_STATUS, Status, StatusCode
from packetwire.errors import copy_of, never_sent


def test_a_request_that_was_not_begun_ends_as_its_peer_does() -> None:
    cause = ending_of(0, NOT_BEGUN)
    assert type(cause) is PeerClosed
    assert str(cause) == NOT_BEGUN.decode()
    assert cause.begun is False
    assert cause.for_waiter().begun is False


@pytest.mark.parametrize(("flags", "payload"), [(1, NOT_BEGUN), (0, NOT_DONE), (0, b"")])
def test_any_other_refusal_is_one(flags: int, payload: bytes) -> None:
    assert ending_of(flags, payload) is None


def test_the_fields_of_a_response() -> None:
    received = ResponseReceived(channel=16, tag=3, ok=True, flags=5, payload=b"payload", waiter=None)
    assert received[RESPONSE] == (True, 5, b"payload")


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("code", StatusCode)
def test_a_refusal_says_why_and_whether_it_was_begun(code: StatusCode, begun: bool) -> None:
    error = failure_of(Status(code, begun), code + 16, b"the text", "put")
    kinds = {StatusCode.CANCELLED: RequestCancelled, StatusCode.DEADLINE: DeadlineExceeded}
    assert type(error) is kinds.get(code, RequestFailed)
    assert isinstance(error, RequestFailed)
    assert (error.code, error.begun) == (code, begun)
    assert (error.flags, error.payload, error.text) == (code + 16, b"the text", "the text")
    assert "put" in str(error)
    assert "the text" in str(error)


def test_the_texts() -> None:
    cancelled = failure_of(Status(StatusCode.CANCELLED, True), 1, b"no \xff", "put")
    assert str(cancelled) == "put was cancelled at the far end: no \ufffd"
    late = failure_of(Status(StatusCode.DEADLINE, False), 18, b"late", "put")
    assert str(late) == "put was not done in time at the far end: late"
    assert isinstance(late, RequestTimeout)
    assert isinstance(late, TimeoutError)
    plain = failure_of(UNKNOWN_STATUS, 0, b"no", "put")
    assert str(plain) == "the peer answered put not ok: flags=0x00, 'no'"
    assert (plain.code, plain.begun) == (0, None)


@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_copies_say_the_same(copied: object) -> None:
    assert callable(copied)
    for code in (StatusCode.BUSY, StatusCode.CANCELLED, StatusCode.DEADLINE):
        error = failure_of(Status(code, False), code + 16, b"the text", "put")
        again = copied(error)
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert (again.code, again.begun) == (code, False)
        assert (again.flags, again.payload, again.text) == (code + 16, b"the text", "the text")


def test_a_request_that_this_side_gave_up() -> None:
    error = RequestCancelled("given up")
    assert (str(error), error.code, error.begun, error.flags) == ("given up", 1, None, 0)
    assert (error.payload, error.text) == (b"given up", "given up")
    assert str(RequestCancelled()) == ""


def test_what_was_never_sent_was_never_begun() -> None:
    assert ConnectionEnded("it broke").begun is None
    assert never_sent(ConnectionEnded("it broke")).begun is False
    assert Draining("not now").begun is False


def test_a_copy_for_each_thread() -> None:
    cause = OSError("why")
    for error in (Draining("not now"), ProtocolMismatch("shop, bank")):
        error.__cause__ = cause
        copied = copy_of(error)
        assert copied is not error
        assert type(copied) is type(error)
        assert str(copied) == str(error)
        assert copied.__cause__ is cause
