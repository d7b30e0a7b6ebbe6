"""How a connection ends: in order, by the peer, by a broken stream."""

from __future__ import annotations

import pytest

from packetwire import (
    ChildExited,
    ConnectionEnded,
    LocalProtocolError,
    PeerClosed,
    PeerEndedRequests,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamTruncated,
)
from packetwire.core.engine import NOT_BEGUN, NOT_DONE, ConnectionEngine
from packetwire.core.packets import MAX_UINT
from packetwire.core.state import Half

from .wire import EOF, ERQ, request, response, sent, sent_packets


def only_end(events: list[object]) -> StreamEnded:
    (end,) = events
    assert isinstance(end, StreamEnded)
    return end


# by our own ERQ and EOF


def test_erq_and_eof_are_sent_once() -> None:
    engine = ConnectionEngine()
    engine.end_requests()
    engine.end_requests()
    assert sent(engine) == ERQ
    engine.end()
    engine.end()
    engine.end_requests()
    assert sent(engine) == EOF
    assert engine.ended is None, "the peer may go on"


def test_end_sends_both() -> None:
    engine = ConnectionEngine()
    engine.end()
    assert sent(engine) == ERQ + EOF


def test_winding_down_lets_what_was_begun_finish_with_requests_of_its_own() -> None:
    engine = ConnectionEngine()
    engine.receive(request(2))
    engine.wind_down()
    engine.wind_down()
    assert sent(engine) == b"", "no ERQ yet"
    assert engine.request(7, waiter="progress") == 2
    assert sent(engine)
    engine.receive(response(2))
    engine.respond(0, 2, True)
    assert sent(engine) == response(2) + ERQ + EOF


def test_winding_down_with_nothing_to_do_is_the_end() -> None:
    engine = ConnectionEngine()
    engine.wind_down()
    assert sent(engine) == ERQ + EOF


def test_what_comes_while_winding_down_is_not_begun() -> None:
    engine = ConnectionEngine()
    engine.receive(request(2))
    engine.wind_down()
    assert engine.receive(request(3) + request(4)) == []
    assert engine.owed == 1
    assert sent(engine) == b""
    engine.respond(0, 2, True)
    refusals = response(3, 0, NOT_BEGUN) + response(4, 0, NOT_BEGUN)
    assert sent(engine) == response(2) + ERQ + refusals + EOF
    assert engine.owed == 0


def test_what_comes_while_winding_down_is_refused_at_once_if_a_request_of_ours_may_wait_for_it() -> None:
    engine = ConnectionEngine()
    engine.receive(request(2))
    engine.request(7)
    sent(engine)
    engine.wind_down()
    assert engine.receive(request(3)) == []
    assert sent(engine) == response(3, 0, NOT_BEGUN)


@pytest.mark.parametrize("how", ["end", "abandon", "the peer's EOF"])
def test_whatever_ends_the_winding_down_answers_what_was_not_begun(how: str) -> None:
    engine = ConnectionEngine()
    engine.receive(request(2))
    engine.wind_down()
    engine.receive(request(3))
    if how == "abandon":
        engine.end_requests()
        engine.abandon(NOT_DONE.decode())
        engine.end()
        assert sent(engine) == ERQ + response(3, 0, NOT_BEGUN) + response(2, 0, NOT_DONE) + EOF
        return
    if how == "end":
        engine.end()
        engine.receive(request(4))
        assert sent(engine) == ERQ + response(3, 0, NOT_BEGUN) + response(4, 0, NOT_BEGUN)
    else:
        engine.receive(EOF)
        assert sent(engine) == ERQ + response(3, 0, NOT_BEGUN)
    engine.respond(0, 2, True)
    assert sent(engine) == response(2) + EOF


@pytest.mark.parametrize("text", [NOT_DONE, NOT_BEGUN])
def test_a_request_that_an_ending_peer_gives_up_is_lost_with_the_connection(text: bytes) -> None:
    engine = ConnectionEngine()
    engine.request(1, waiter="given up")
    engine.request(1, waiter="answered")
    assert engine.receive(ERQ + response(2, 0, text)) == [PeerEndedRequests()]
    answered, end = engine.receive(response(3) + EOF)
    assert isinstance(answered, ResponseReceived)
    assert answered.waiter == "answered"
    assert isinstance(end, StreamEnded)
    assert end.lost == ("given up",)
    assert isinstance(end.cause, PeerClosed)
    assert text.decode() in str(end.cause)


@pytest.mark.parametrize(
    "answers",
    [
        response(2, 0, NOT_BEGUN) + response(3, 0, NOT_DONE),
        response(3, 0, NOT_DONE) + response(2, 0, NOT_BEGUN),
        response(2, 0, NOT_BEGUN),
    ],
    ids=["not begun first", "not done first", "one has no answer"],
)
def test_a_request_that_may_have_begun_is_not_said_not_to_have(answers: bytes) -> None:
    engine = ConnectionEngine()
    engine.request(1, waiter="not begun")
    engine.request(1, waiter="begun")
    *_, end = engine.receive(ERQ + answers + EOF)
    assert isinstance(end, StreamEnded)
    assert set(end.lost) == {"not begun", "begun"}
    assert str(end.cause).endswith(NOT_DONE.decode())


@pytest.mark.parametrize(
    "stream",
    [
        response(2, 0, NOT_DONE),
        ERQ + response(2, 0, b"another reason"),
        ERQ + response(2, 0, NOT_DONE + b"!"),
        ERQ + response(2, 2, NOT_DONE),
        ERQ + response(2, 1, NOT_DONE),
    ],
    ids=["the peer does not end", "another text", "a longer text", "flags", "ok"],
)
def test_all_else_is_a_response(stream: bytes) -> None:
    engine = ConnectionEngine()
    engine.request(1, waiter="asked")
    *_, answered = engine.receive(stream)
    assert isinstance(answered, ResponseReceived)
    assert answered.waiter == "asked"


def test_eof_leaves_behind_the_last_reply() -> None:
    engine = ConnectionEngine()
    engine.receive(request(2) + request(3))
    engine.end()
    assert sent(engine) == ERQ
    engine.respond(0, 3, True)
    assert sent(engine) == response(3)
    engine.respond(0, 2, False)
    assert sent(engine) == response(2, 0) + EOF
    assert engine.ours is Half.ENDED
    assert not engine.respond(0, 2, True), "an answer behind EOF is not sent"
    assert sent(engine) == b""


def test_a_request_that_comes_before_our_eof_is_answered() -> None:
    engine = ConnectionEngine()
    engine.receive(request(2))
    engine.end()
    assert engine.receive(request(3)) == [RequestReceived(0, 3, 0, 0, b"")]
    engine.respond(0, 2, True)
    assert sent(engine) == ERQ + response(2)
    engine.respond(0, 3, True)
    assert sent(engine) == response(3) + EOF


@pytest.mark.parametrize("accepts_requests", [True, False])
def test_nothing_is_sent_behind_our_eof(accepts_requests: bool) -> None:
    """A request that crosses our EOF cannot be answered, so it is not delivered; the peer learns by EOF."""
    engine = ConnectionEngine(accepts_requests=accepts_requests)
    engine.end()
    assert sent(engine) == ERQ + EOF
    assert engine.receive(request(2) + request(2)) == []
    assert engine.owed == 0
    assert not engine.respond(0, 2, True)
    assert sent(engine) == b""
    assert only_end(engine.receive(ERQ + EOF)[1:]).clean


def test_our_requests_are_answered_after_our_eof() -> None:
    engine = ConnectionEngine()
    engine.request(1, waiter="waiting")
    engine.end()
    (answer,) = engine.receive(response(2))
    assert isinstance(answer, ResponseReceived)
    assert answer.waiter == "waiting"


# by the peer's


def test_erq_of_the_peer() -> None:
    engine = ConnectionEngine()
    engine.request(1, waiter="waiting")
    assert engine.receive(ERQ + ERQ) == [PeerEndedRequests()]
    assert engine.theirs is Half.ENDED_REQUESTS
    assert engine.may_request, "we may go on asking"
    assert len(engine.receive(response(2))) == 1


def test_eof_of_the_peer_is_answered_at_once() -> None:
    engine = ConnectionEngine()
    end = only_end(engine.receive(EOF))
    assert isinstance(end.cause, PeerClosed)
    assert end.clean
    assert end is engine.ended
    assert sent(engine) == ERQ + EOF
    assert (engine.ours, engine.theirs) == (Half.ENDED, Half.ENDED)


def test_eof_of_the_peer_with_replies_owed() -> None:
    engine = ConnectionEngine()
    events = engine.receive(request(2) + ERQ + EOF)
    assert [type(event) for event in events] == [RequestReceived, PeerEndedRequests, StreamEnded]
    assert sent(engine) == ERQ
    assert engine.respond(0, 2, True)
    assert sent(engine) == response(2) + EOF


def test_eof_of_the_peer_after_ours() -> None:
    engine = ConnectionEngine()
    engine.end()
    sent(engine)
    assert only_end(engine.receive(EOF)).clean
    assert sent(engine) == b""


def test_eof_of_the_peer_loses_our_requests() -> None:
    engine = ConnectionEngine()
    for waiter in "abc":
        engine.request(1, waiter=waiter)
    engine.forget(0, 3)
    end = only_end(engine.receive(EOF))
    assert end.lost == ("a", "c")
    assert engine.outstanding == 0
    assert engine.receive(response(2)) == []


@pytest.mark.parametrize("eof", [EOF, bytes.fromhex("048000 0200"), bytes.fromhex("800400030000"), b"\x80" + EOF])
def test_eof_is_recognised_by_value(eof: bytes) -> None:
    engine = ConnectionEngine()
    assert only_end(engine.receive(eof + b"more")).clean
    assert engine.trailing_octets == b"more"


def test_what_follows_eof_is_kept_and_not_understood() -> None:
    engine = ConnectionEngine()
    assert len(engine.receive(EOF + request(2) + b"\xff")) == 1
    assert engine.receive(b"\x00" * 3) == []
    assert engine.trailing_octets == request(2) + b"\xff\0\0\0"
    assert engine.partial_octets == b""
    assert sent(engine) == ERQ + EOF


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_eof_in_two_chunks(cut: int) -> None:
    engine = ConnectionEngine()
    assert engine.receive(EOF[:cut]) == []
    assert only_end(engine.receive(EOF[cut:] + ERQ)).clean
    assert engine.trailing_octets == ERQ


# by the end of the stream


def test_nothing_is_kept_of_a_packet_that_never_was_whole() -> None:
    """Its bytes can be many, and whoever keeps the connection needs them no more."""
    engine = ConnectionEngine()
    engine.receive(request(2, payload=b"abc")[:5])
    end = only_end(engine.receive_eof())
    assert engine.partial_octets == b""
    assert end.cause.__traceback__ is None  # whose frames would hold them


def test_the_stream_ends_between_two_packets() -> None:
    engine = ConnectionEngine()
    engine.request(1, waiter="waiting")
    engine.receive(request(2))
    end = only_end(engine.receive_eof())
    assert isinstance(end.cause, PeerClosed)
    assert "without saying EOF" in str(end.cause)
    assert end.lost == ("waiting",)
    assert not end.clean
    assert engine.outstanding == 0


REPLIES = response(2, payload=b"two") + response(3)

INCOMPLETE: dict[bytes, type[ConnectionEnded]] = {b"": PeerClosed, request(4)[:2]: StreamTruncated}
"""Bytes behind which the stream ends, and what that is."""


@pytest.mark.parametrize("half_close", [False, True])
@pytest.mark.parametrize("incomplete", INCOMPLETE)
def test_what_was_asked_before_the_end_of_the_stream_is_answered(incomplete: bytes, half_close: bool) -> None:
    engine = ConnectionEngine(half_close=half_close)
    engine.receive(request(2) + request(3) + incomplete)
    *_, end = engine.receive_eof()
    assert isinstance(end, StreamEnded)
    assert type(end.cause) is INCOMPLETE[incomplete]
    assert engine.owed == 2
    assert sent(engine) == ERQ
    assert engine.respond(0, 2, True, 0, b"two")
    assert engine.respond(0, 3, True)
    assert sent(engine) == REPLIES + EOF
    assert engine.ours is Half.ENDED


@pytest.mark.parametrize("octets", [b"", request(2)[:1]])
def test_a_peer_that_never_sent_a_packet_is_sent_none(octets: bytes) -> None:
    engine = ConnectionEngine()
    engine.receive(octets)
    engine.receive_eof()
    engine.end()
    assert sent(engine) == b""


def test_a_peer_that_is_owed_nothing_any_more_is_told_the_end() -> None:
    engine = ConnectionEngine()
    engine.receive(request(2))
    engine.respond(0, 2, True)
    assert sent(engine) == response(2)
    engine.receive_eof()
    assert sent(engine) == ERQ + EOF


@pytest.mark.parametrize(
    ("cause", "gone"),
    [
        (None, True),
        (PeerClosed("it is gone"), True),
        (ConnectionEnded("reading failed"), False),
        (ChildExited("exited", ["cmd"], 0, b""), False),
    ],
)
def test_a_peer_that_is_gone_is_owed_nothing(cause: ConnectionEnded | None, gone: bool) -> None:
    engine = ConnectionEngine()
    engine.receive(request(2))
    end = only_end(engine.receive_eof(cause, gone=gone))
    assert engine.send_failure is end.cause
    assert (engine.owed, engine.unsent_octets) == (0, 0)
    assert not engine.respond(0, 2, True)


@pytest.mark.parametrize(
    "cause", [None, PeerClosed("closed"), ChildExited("exited with status 0", ["cmd"], 0, b"")], ids=repr
)
@pytest.mark.parametrize("gone", [False, True])
def test_with_half_close_the_end_of_the_stream_is_clean(cause: ConnectionEnded | None, gone: bool) -> None:
    engine = ConnectionEngine(half_close=True)
    engine.request(1, waiter="waiting")
    erq, end = engine.receive_eof(cause, gone=gone)
    assert erq == PeerEndedRequests()
    assert isinstance(end, StreamEnded)
    assert end.clean
    assert end.lost == ("waiting",)
    assert isinstance(end.cause, PeerClosed)
    assert str(end.cause) == "the peer ended the connection (end of the stream)"
    assert sent(engine).endswith(ERQ + EOF)


def test_with_half_close_a_peer_can_say_erq_as_well() -> None:
    engine = ConnectionEngine(half_close=True)
    assert engine.receive(ERQ) == [PeerEndedRequests()]
    assert only_end(engine.receive_eof()).clean


@pytest.mark.parametrize(
    "cause",
    [
        ChildExited("exited with status 1", ["cmd"], 1, b""),
        StreamTruncated("cut off"),
        ConnectionEnded("reading failed"),
    ],
    ids=repr,
)
def test_with_half_close_a_stream_that_broke_is_not_clean(cause: ConnectionEnded) -> None:
    engine = ConnectionEngine(half_close=True)
    end = only_end(engine.receive_eof(cause))
    assert not end.clean
    assert end.cause is cause


def test_with_half_close_the_end_inside_a_packet_is_not_clean() -> None:
    engine = ConnectionEngine(half_close=True)
    engine.receive(request(2)[:1])
    cause = ChildExited("exited with status 0", ["cmd"], 0, b"")
    end = only_end(engine.receive_eof(cause))
    assert not end.clean
    assert end.cause is cause
    assert isinstance(cause.__cause__, StreamTruncated)


def test_the_stream_ends_inside_a_packet() -> None:
    engine = ConnectionEngine()
    assert engine.octets_wanted == 0
    engine.receive(request(2, payload=b"abc")[:5])
    assert engine.partial_octets == request(2, payload=b"abc")[:5]
    assert engine.octets_wanted == 2
    engine.receive(b"bc")
    assert engine.octets_wanted == 0
    engine.receive(request(3, payload=b"abc")[:5])
    end = only_end(engine.receive_eof())
    assert isinstance(end.cause, StreamTruncated)
    assert "after 5 of 7 bytes of it: b'\\x06\\x03\\x02\\x01a'" in str(end.cause)


def test_the_end_of_the_stream_after_eof_says_nothing_new() -> None:
    engine = ConnectionEngine()
    engine.receive(EOF)
    assert engine.receive_eof() == []
    assert sent(engine) == ERQ + EOF, "what is to be sent still can be"


@pytest.mark.parametrize("partial", [b"", b"\x05\x02"])
def test_the_cause_that_the_owner_knows_is_given_and_chained(partial: bytes) -> None:
    error = OSError("read failed")
    cause = ChildExited("killed", ["cmd"], -9, b"")
    cause.__cause__ = error
    engine = ConnectionEngine()
    engine.receive(partial)
    end = only_end(engine.receive_eof(cause))
    assert end.cause is cause
    chain = [cause.__cause__]
    while chain[-1] is not None:
        chain.append(chain[-1].__cause__)
    assert [type(link) for link in chain[:-1]] == ([StreamTruncated, OSError] if partial else [OSError])


CAUSES = {
    "the peer ended the connection (EOF)": lambda engine: engine.receive(EOF),
    "the peer closed the stream without saying EOF": lambda engine: engine.receive_eof(),
}


@pytest.mark.parametrize("text", CAUSES)
def test_what_is_said_of_the_end(text: str) -> None:
    engine = ConnectionEngine()
    assert str(only_end(CAUSES[text](engine)).cause) == text
    assert str(engine.why_not()) == text


BREAKS = {
    "the peer broke the protocol: a packet announces 200 bytes at byte 0 of the stream, the limit is 100; "
    "the bytes there: b'\\x81H'": b"\x81\x48",
    "a limit was passed: 1 refused requests, and the peer does not read their answers": request(2) + request(3),
}


@pytest.mark.parametrize("text", BREAKS)
def test_what_is_said_of_a_peer_that_cannot_be_understood(text: str) -> None:
    engine = ConnectionEngine(accepts_requests=False, max_packet_size=100, max_refusals=1)
    assert str(only_end(engine.receive(BREAKS[text])).cause) == text


def test_what_is_said_after_our_erq() -> None:
    engine = ConnectionEngine()
    engine.end_requests()
    assert str(engine.why_not()) == "this side has ended its requests (ERQ), it cannot ask any more"


# by a failure on our side


def test_fail() -> None:
    engine = ConnectionEngine()
    engine.request(1, waiter="waiting")
    engine.receive(request(2))
    cause = ConnectionEnded("given up")
    end = only_end(engine.fail(cause))
    assert end == StreamEnded(cause, ("waiting",), False)
    assert engine.send_failure is cause
    assert (engine.owed, engine.outstanding, engine.unsent_octets) == (0, 0, 0)
    assert engine.fail(ConnectionEnded("again")) == []
    assert engine.send_failure is cause
    assert engine.receive(request(3) + b"\xff" * 20) == engine.receive_eof() == []
    engine.end()
    engine.end_requests()
    engine.abandon("too late")
    assert sent(engine) == b""
    with pytest.raises(ConnectionEnded, match="given up") as caught:
        engine.request(1)
    assert caught.value is not cause


def test_fail_after_eof_of_the_peer() -> None:
    engine = ConnectionEngine()
    engine.receive(request(2) + EOF)
    assert engine.fail(ConnectionEnded("given up")) == []
    assert engine.ended is not None
    assert engine.ended.clean
    assert not engine.respond(0, 2, True)
    assert sent(engine) == b""


def test_answers_are_received_after_a_write_failed() -> None:
    engine = ConnectionEngine()
    engine.request(1, waiter="waiting")
    engine.receive(request(2))
    engine.data_to_send()
    engine.respond(0, 2, True)
    engine.receive(request(3))
    failure = BrokenPipeError("broken")
    engine.send_failed(failure)
    engine.data_sent()
    assert (engine.owed, engine.unsent_octets) == (0, 0)
    assert engine.send_failure is failure
    assert engine.ended is None
    assert not engine.respond(0, 3, True)
    assert len(engine.receive(response(2))) == 1
    assert len(engine.receive(request(4))) == 1, "what was asked before the peer went is not lost"
    assert engine.receive(request(4)) == [], "its tag is in use"
    assert engine.owed == 1
    assert not engine.respond(0, 4, True)
    assert engine.owed == 0
    with pytest.raises(ConnectionEnded, match="nothing can be sent any more: broken") as caught:
        engine.request(1)
    assert caught.value.__cause__ is failure
    assert not only_end(engine.receive_eof()).clean
    assert engine.send_failure is failure
    engine.end()
    assert sent(engine) == b""


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (TimeoutError(110, "Connection timed out"), ConnectionEnded),
        (BrokenPipeError(), PeerClosed),
        (ConnectionResetError(), PeerClosed),
        (ValueError("a file of somebody's"), PeerClosed),
    ],
)
@pytest.mark.parametrize("known", [None, PeerClosed("closed"), StreamTruncated("cut off")], ids=repr)
def test_a_failed_write_can_say_why_the_stream_ended(
    failure: Exception, kind: type[ConnectionEnded], known: ConnectionEnded | None
) -> None:
    engine = ConnectionEngine()
    engine.send_failed(failure)
    cause = only_end(engine.receive_eof(known)).cause
    assert type(cause) is (kind if known is None or kind is ConnectionEnded else type(known))
    assert (cause.__cause__ is failure) == (kind is ConnectionEnded)


def test_what_is_known_of_the_end_comes_before_a_failed_write() -> None:
    engine = ConnectionEngine()
    engine.send_failed(TimeoutError(110, "Connection timed out"))
    cause = ChildExited("killed", ["cmd"], -9, b"")
    assert only_end(engine.receive_eof(cause)).cause is cause


def test_eof_of_the_peer_after_a_write_failed_is_clean() -> None:
    engine = ConnectionEngine()
    engine.send_failed(BrokenPipeError())
    assert only_end(engine.receive(EOF)).clean
    assert sent(engine) == b""


# by giving up what is owed


def test_abandon_answers_what_is_owed() -> None:
    engine = ConnectionEngine()
    engine.receive(request(2) + request(9, channel=19) + request(4))
    engine.respond(0, 4, True)
    engine.abandon("we close: “now” \ud800")
    assert engine.owed == 0
    text = "we close: “now” ?".encode()
    assert sent(engine) == response(4) + response(2, 0, text) + response(9, 0, text, channel=19)
    engine.abandon("again")
    assert sent(engine) == b""


def test_abandon_lets_eof_go() -> None:
    engine = ConnectionEngine()
    engine.receive(request(2) + request(3))
    engine.end()
    engine.abandon("")
    assert sent(engine) == ERQ + response(2, 0) + response(3, 0) + EOF


@pytest.mark.parametrize("size", [4, 45, 46, 60])
def test_abandon_with_a_text_that_is_too_long(size: int) -> None:
    engine = ConnectionEngine(max_packet_size=size)
    engine.receive(request(2))
    engine.abandon("x" * 100)
    (answer,) = sent_packets(engine)
    assert answer.payload == b"x" * max(0, size - 45)
    assert engine.owed == 0


@pytest.mark.parametrize("size", [4, 45, 46, 1000])
def test_a_failure_is_told_in_as_much_text_as_fits(size: int) -> None:
    engine = ConnectionEngine(max_packet_size=size)
    engine.receive(request(2) + request(3))
    assert engine.respond_failure(0, 3, b"x" * 100)
    assert sent(engine) == response(3, 0, b"x" * min(100, max(0, size - 45)))
    assert engine.owed == 1
    with pytest.raises(LocalProtocolError, match="tag 3"):
        engine.respond_failure(0, 3, b"again")
    engine.fail(ConnectionEnded("given up"))
    assert not engine.respond_failure(0, 2, b"too late")


@pytest.mark.parametrize(("channel", "tag"), [(0, 0), (MAX_UINT, MAX_UINT)])
def test_a_request_that_was_received_can_always_be_answered(channel: int, tag: int) -> None:
    """With the smallest packets that let the request in, and no room for any text."""
    octets = request(tag, channel=channel)
    engine = ConnectionEngine(max_packet_size=len(octets) - 1)
    engine.receive(octets)
    assert engine.respond_failure(channel, tag, b"x" * 100)
    assert sent(engine) == response(tag, 0, channel=channel)


# a peer that cannot be understood


def test_after_a_broken_rule_only_eof_is_sent() -> None:
    engine = ConnectionEngine()
    engine.request(1, waiter="waiting")
    sent(engine)
    events = engine.receive(request(2, payload=b"abc") + b"\x00" + request(3))
    assert isinstance(events[0], RequestReceived)
    assert only_end(events[1:]).lost == ("waiting",)
    assert events[-1].clean is False
    assert (engine.owed, engine._inbound_bytes) == (0, 0)
    assert not engine.respond(0, 2, True), "who broke the protocol is owed nothing"
    assert sent(engine) == ERQ + EOF
    assert (engine.ours, engine.theirs) == (Half.ENDED, Half.ENDED)
    assert engine.receive(request(4)) == engine.receive_eof() == engine.fail(ConnectionEnded("x")) == []
    assert engine.trailing_octets == b""


def test_what_is_settled_and_how_far_the_peer_has_come() -> None:
    engine = ConnectionEngine()
    assert engine.is_settled
    assert engine.octets_decoded == 0
    octets = request(2)
    engine.receive(octets + octets[:2])
    assert engine.octets_decoded == len(octets)
    assert not engine.is_settled
    engine.respond(0, 2, True)
    assert not engine.is_settled
    sent(engine)
    assert engine.is_settled
