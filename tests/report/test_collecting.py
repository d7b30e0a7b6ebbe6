"""The model of a report: everything in a capture that it tells of, and how little it keeps however much comes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.captures import capture_of, records, request, response

from packetwire.capture import CaptureDecoder, Kind, Record
from packetwire.cli.conversation import Conversations
from packetwire.cli.dump import Summary
from packetwire.cli.reporting import collecting
from packetwire.cli.reporting.collecting import Collector, report_of
from packetwire.cli.reporting.model import Body, Exchange, Outcome, Report
from packetwire.cli.reporting.sampling import AT_RANDOM
from packetwire.core.frames import FrameType, Meta, encode_frame, encode_meta, encode_reason
from packetwire.core.hello import ALL_FEATURES, ANSWER, ASK, CONTROL_CHANNEL, HELLO, Hello, encode_hello
from packetwire.core.packet import EOF_PACKET, ERQ_PACKET
from packetwire.core.statuses import StatusCode, flags_of
from packetwire.core.varint import encode_varint

MILLISECOND = 10**6
CREDIT = 65536

Event = tuple[str, int, float, bytes]
"""(sign, connection, milliseconds, bytes)"""

SAID = encode_hello(Hello(features=ALL_FEATURES, body_credit=CREDIT))
GREETING: list[Event] = [
    (">", 1, 0, request(2, HELLO, ASK + SAID, channel=CONTROL_CHANNEL)),
    ("<", 1, 0, response(2, ANSWER + SAID, channel=CONTROL_CHANNEL)),
]


def report(*events: Event) -> Report:
    return report_of(CaptureDecoder().feed(capture_of(*events)))


def exchange(made: Report, tag: int) -> Exchange:
    """The one request with that tag on channel 0."""
    (found,) = (each for each in made.exchanges if (each.tag, each.channel) == (tag, 0))
    return found


def frame(kind: FrameType, tag: int, payload: bytes = b"", *, of_receiver: bool = False) -> bytes:
    return encode_frame(kind, 0, tag, payload, of_receiver=of_receiver)


# requests and responses


def test_a_request_and_its_response() -> None:
    made = report((">", 1, 1, request(2, 7, b"hi", flags=5)), ("<", 1, 3.5, response(2, b"hello", flags=3)))
    found = exchange(made, 2)
    assert (found.rq_type, found.flags, found.request, found.request_size) == (7, 5, b"hi", 2)
    assert (found.outcome, found.response, found.response_size, found.response_flags) == (
        Outcome.OK,
        b"hello",
        5,
        3,
    )
    assert found.latency == 2.5 * MILLISECOND
    figures = made.types[Kind.FORTH, 0, 7]
    assert (figures.requests, figures.answered, figures.failed, figures.unanswered) == (1, 1, 0, 0)
    assert (figures.request_bytes, figures.response_bytes, figures.latencies.count) == (2, 5, 1)


def test_a_request_of_the_peer() -> None:
    made = report(("<", 1, 1, request(2, 7)), (">", 1, 2, response(2)))
    assert exchange(made, 2).asker is Kind.BACK
    assert (made.connections[0].requests, made.packets) == ([0, 1], [1, 1])


def test_of_a_long_payload_the_beginning_is_kept() -> None:
    found = exchange(report((">", 1, 1, request(2, 7, bytes(70000)))), 2)
    assert (len(found.request), found.request_size) == (collecting.PREVIEW, 70000)


def test_failures_are_counted_by_their_words_and_without_agreement_have_no_status() -> None:
    made = report(
        *((">", 1, tag, request(tag, 7)) for tag in (2, 3, 4)),
        *(("<", 1, 9, response(tag, b"no", ok=False, flags=20)) for tag in (2, 3)),
        ("<", 1, 10, response(4, b"\x1b[31m", ok=False)),
    )
    assert made.outcomes[Outcome.FAILED] == 3
    assert made.errors == {(Kind.FORTH, 0, 7, "", "no"): 2, (Kind.FORTH, 0, 7, "", "\\x1b[31m"): 1}


def test_agreed_statuses_are_said() -> None:
    flags = flags_of(StatusCode.BUSY, begun=False)
    made = report(*GREETING, (">", 1, 1, request(4, 7)), ("<", 1, 2, response(4, b"later", ok=False, flags=flags)))
    assert exchange(made, 4).status == "BUSY, not begun"


def test_what_has_no_answer_and_what_answers_nothing() -> None:
    made = report(
        (">", 1, 1, request(2, 7)),
        (">", 1, 2, request(3, 7)),
        (">", 1, 3, request(3, 8)),
        ("<", 1, 4, response(99)),
    )
    assert (made.unanswered, made.strays) == (3, 1)
    assert [each.outcome for each in made.exchanges] == [Outcome.UNANSWERED, Outcome.SUPERSEDED, Outcome.UNANSWERED]
    assert made.types[Kind.FORTH, 0, 7].unanswered == 2


def test_types_have_the_names_that_the_far_end_says() -> None:
    assert next(iter(records_of_one())).kind is Kind.BEGIN
    assert report_of(records_of_one()).names[Kind.FORTH, 1] == "get"


def records_of_one() -> Iterator[Record]:
    return records(200, connections=1)


@pytest.mark.parametrize(
    "schema",
    [b"", b"[]", b"{", b'{"methods": 5}', b'{"methods": {"a": 5}}', b'{"methods": {"a": {}}}', b"[" * 9999],
)
def test_a_schema_that_is_none_names_nothing(schema: bytes) -> None:
    events = [(">", 1, 1, request(4, 3, channel=CONTROL_CHANNEL)), ("<", 1, 2, response(4, schema, channel=1))]
    assert report(*GREETING, *events).names == {}


# frames


def test_a_cancelled_request() -> None:
    flags = flags_of(StatusCode.CANCELLED, begun=True)
    made = report(
        *GREETING,
        (">", 1, 1, frame(FrameType.META, 4, encode_meta(Meta(milliseconds_left=20, metadata={"user": b"emma"})))),
        (">", 1, 1, request(4, 7)),
        (">", 1, 21, frame(FrameType.CANCEL, 4, encode_reason(2, "late"))),
        ("<", 1, 22, response(4, b"cancelled", ok=False, flags=flags)),
    )
    extra = exchange(made, 4).extra
    assert extra is not None
    assert extra.cancel is not None
    assert (extra.cancel.code, extra.cancel.text) == (2, "late")
    assert (extra.milliseconds_left, extra.metadata) == (20, {"user": b"emma"})
    assert (made.cancels.cancels, made.cancels.answered_cancelled) == (1, 1)
    assert made.types[Kind.FORTH, 0, 7].cancelled == 1


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (response(4), "answered_ok"),
        (response(4, ok=False), "answered_otherwise"),
        (response(9), "unanswered"),
    ],
)
def test_how_cancels_are_answered(answer: bytes, name: str) -> None:
    cancel = frame(FrameType.CANCEL, 4, encode_reason(1))
    made = report(*GREETING, (">", 1, 1, request(4, 7)), (">", 1, 2, cancel), ("<", 1, 3, answer))
    assert getattr(made.cancels, name) == 1


def test_a_request_that_is_taken_back_never_was_one() -> None:
    pieces = [(">", 1, 1, frame(FrameType.PIECE, 4, b"abc")), (">", 1, 2, frame(FrameType.CANCEL, 4, b"\x01"))]
    made = report(*GREETING, *pieces)
    assert made.outcomes[Outcome.TAKEN_BACK] == 1
    assert (Kind.FORTH, 0, 0) not in made.types


def test_pieces_are_part_of_the_payload() -> None:
    made = report(
        *GREETING,
        (">", 1, 1, frame(FrameType.PIECE, 4)),
        (">", 1, 1, frame(FrameType.PIECE, 4, b"abc")),
        (">", 1, 2, request(4, 3, b"f")),
        ("<", 1, 3, frame(FrameType.PIECE, 4, b"xy", of_receiver=True)),
        ("<", 1, 4, response(4, b"z")),
    )
    found = exchange(made, 4)
    assert (found.request, found.request_size, found.response) == (b"abcf", 4, b"xyz")
    assert found.extra is not None
    assert found.extra.pieces == 3
    assert found.latency == 2 * MILLISECOND


def upload(*rest: Event) -> tuple[Report, Body]:
    meta = frame(FrameType.META, 4, encode_meta(Meta(has_body=True)))
    made = report(*GREETING, (">", 1, 1, meta), (">", 1, 1, request(4, 7)), *rest)
    extra = exchange(made, 4).extra
    assert extra is not None
    assert extra.sent is not None
    return made, extra.sent


DATA = frame(FrameType.DATA, 4, bytes(CREDIT))
MORE = frame(FrameType.CREDIT, 4, encode_varint(CREDIT), of_receiver=True)


def test_the_time_for_which_a_body_waited_for_credit() -> None:
    made, body = upload(
        (">", 1, 2, DATA),
        ("<", 1, 7, MORE),
        (">", 1, 9, DATA),
        ("<", 1, 10, MORE),
        (">", 1, 10, frame(FrameType.DATA, 4, b"x")),
        (">", 1, 11, frame(FrameType.END, 4)),
        ("<", 1, 12, response(4)),
    )
    assert (body.sent, body.chunks, body.is_whole) == (2 * CREDIT + 1, 3, True)
    assert (body.waits, body.waited, body.longest) == (2, 6 * MILLISECOND, 5 * MILLISECOND)
    assert (made.bodies.bodies, made.bodies.whole, made.bodies.sizes) == (1, 1, [2 * CREDIT + 1, 0])
    assert (made.bodies.waits, made.bodies.longest, made.bodies.waiting) == (2, 5 * MILLISECOND, 0)


def test_a_body_that_waits_at_the_end() -> None:
    made, body = upload((">", 1, 2, DATA))
    assert body.waits_since is not None
    assert made.bodies.waiting == 1


def test_a_body_that_its_reader_stops() -> None:
    stop = frame(FrameType.STOP, 4, encode_reason(1, "enough"), of_receiver=True)
    made, body = upload((">", 1, 2, DATA), ("<", 1, 3, stop), ("<", 1, 4, response(4)))
    assert (body.stopped, body.waits_since, made.bodies.whole) == ("code 1: enough", None, 0)


def test_the_body_of_a_response_is_whole_with_it() -> None:
    made = report(
        *GREETING,
        (">", 1, 1, frame(FrameType.META, 4, encode_meta(Meta(response_credit=100)))),
        (">", 1, 1, request(4, 7)),
        ("<", 1, 2, frame(FrameType.DATA, 4, bytes(100), of_receiver=True)),
        (">", 1, 5, frame(FrameType.CREDIT, 4, encode_varint(100))),
        ("<", 1, 6, frame(FrameType.DATA, 4, bytes(10), of_receiver=True)),
        ("<", 1, 6, frame(FrameType.PROGRESS, 4, b"half", of_receiver=True)),
        ("<", 1, 7, response(4)),
    )
    extra = exchange(made, 4).extra
    assert extra is not None
    assert extra.received is not None
    assert (extra.received.is_whole, extra.received.waited, extra.progress) == (True, 3 * MILLISECOND, 1)
    assert made.bodies.sizes == [0, 110]
    assert made.types[Kind.FORTH, 0, 7].body_bytes == 110


def test_without_hello_channel_2_has_requests() -> None:
    made = report((">", 1, 1, frame(FrameType.CANCEL, 4, b"\x01")))
    assert made.types[Kind.FORTH, 2, 5].requests == 1


@pytest.mark.parametrize("packet", [frame(FrameType.META, 4, b"\x01"), request(4, 99, channel=2)])
def test_a_frame_that_nobody_understands(packet: bytes) -> None:
    made = report(*GREETING, (">", 1, 1, packet))
    assert made.fault_count == 1
    assert made.faults[0].startswith("connection 1 > malformed: ")


# ends


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([(">", 1, 1, request(2, 7))], "still open at the end of the capture"),
        ([("-", 1, 2, b"because")], "because"),
        ([(">", 1, 1, request(2, 7)), ("-", 1, 2, b"")], "cut off: neither end had ended its direction"),
        (
            [(">", 1, 1, bytes(ERQ_PACKET) + bytes(EOF_PACKET)), ("-", 1, 2, b"")],
            "closed: the first end had ended its direction, the second had not",
        ),
        (
            [(">", 1, 1, bytes(EOF_PACKET)), ("<", 1, 1, b""), ("-", 1, 2, b"")],
            "closed: both ends had ended their directions",
        ),
    ],
)
def test_why_a_connection_ended(events: list[Event], why: str) -> None:
    assert report(("+", 1, 0, b"a b"), *events).connections[0].why == why


def test_a_violation_is_the_reason_of_an_end() -> None:
    made = report(("<", 1, 1, b"\xff" * 99), ("-", 1, 2, b""))
    assert made.connections[0].why.startswith("a violation of the protocol: < malformed: ")
    assert made.fault_count == 1


def test_a_direction_that_was_cut_off_in_a_packet() -> None:
    made = report((">", 1, 1, request(2, 1, bytes(50))[:20]), (">", 1, 2, b""))
    (remark,) = made.connections[0].remarks
    assert remark.startswith("> the stream ended inside a packet")


def test_a_number_that_comes_again_is_another_connection() -> None:
    made = report(("+", 1, 0, b"one"), (">", 1, 1, request(2, 7)), ("+", 1, 2, b"two"), ("<", 1, 3, response(2)))
    assert [each.text for each in made.connections] == ["one", "two"]
    assert (made.unanswered, made.strays) == (1, 1)


# as much as it is


def test_the_counts_are_those_of_a_dump() -> None:
    conversations, summary, collector = Conversations(), Summary(), Collector()
    for record in records(4000):
        happenings = list(conversations.add(record))
        collector.add_all(happenings)
        for happening in happenings:
            summary.add(happening)
    made = collector.finish()
    for key, figures in made.types.items():
        assert key is not None
        group = summary._groups[key]
        assert (figures.requests, figures.answered, figures.failed) == (
            group.requests,
            group.answered,
            group.refused,
        )
        assert figures.request_bytes + figures.response_bytes == group.size
    assert made.packets == list(summary._packets.values())


@pytest.mark.timeout(60)
def test_of_many_requests_a_sample_is_kept() -> None:
    made = report_of(records(30_000))
    assert made.is_sampled
    assert AT_RANDOM < len(made.exchanges) < made.exchange_count
    serials = [each.serial for each in made.exchanges]
    assert len(set(serials)) == len(serials)
    assert [each.time for each in made.exchanges] == sorted(each.time for each in made.exchanges)
    assert {*range(500), made.exchange_count - 1} <= set(serials)
    kept = sum(each.outcome is Outcome.FAILED for each in made.exchanges)
    assert kept == made.outcomes[Outcome.FAILED] > 0
    assert sum(len(each.bodies) for each in made.exchanges) == made.bodies.bodies > 0
    slowest = max((each for each in made.exchanges if each.rq_type == 7), key=lambda each: each.latency or 0)
    assert slowest.latency == made.types[Kind.FORTH, 0, 7].latencies.most


def test_few_requests_are_all_kept() -> None:
    made = report_of(records(3000))
    assert not made.is_sampled
    assert len(made.exchanges) == made.exchange_count


def test_beyond_the_bound_the_oldest_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "MAX_WAITING", 3)
    made = report(*((">", 1, tag, request(tag, 7)) for tag in range(2, 7)), ("<", 1, 9, response(2)))
    assert (made.outcomes[Outcome.FORGOTTEN], made.strays) == (2, 1)


def test_types_and_errors_beyond_the_bound_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "MAX_TYPES", 2)
    monkeypatch.setattr(collecting, "MAX_ERRORS", 2)
    made = report(
        *((">", 1, tag, request(tag, tag)) for tag in range(2, 8)),
        *(("<", 1, 9, response(tag, b"%d" % tag, ok=False)) for tag in range(2, 8)),
    )
    assert made.types[None].requests == 4
    assert made.errors[None] == 4


def test_an_empty_capture() -> None:
    made = report()
    assert (made.exchanges, made.connections, made.timeline.used) == ([], [], 0)
