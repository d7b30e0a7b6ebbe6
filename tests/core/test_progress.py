"""Reports on how far a request is: only where they are wanted, not too often, and never behind the response."""

from __future__ import annotations

from typing import Any

import pytest

from packetwire import ConnectionEnded, LocalProtocolError, RemoteProtocolError, RequestReceived, StreamEnded
from packetwire.core.engine import ConnectionEngine
from packetwire.core.events import ProgressReceived, ResponseReceived
from packetwire.core.frames import FRAME_CHANNEL, FrameType, Meta, encode_frame
from packetwire.core.hello import ALL_FEATURES, Feature, Hello
from packetwire.core.packets import EOF_PACKET, ERQ_PACKET, Packet

from .agreed import agreed_pair, packets_of, request_from, sent


def asked(a: ConnectionEngine, b: ConnectionEngine, channel: int = 0, interval: int | None = 50) -> int:
    """The tag of a request of `a`, which wants to know how far it is."""
    tag = a.ask_with(Meta(progress_interval=interval), 0, 0, b"", channel, "w")
    (request,) = b.receive(sent(a))
    assert isinstance(request, RequestReceived)
    return tag


def payloads(engine: ConnectionEngine) -> list[bytes]:
    """Of the reports that it sends."""
    return [packet.payload for packet in packets_of(engine) if packet.channel == FRAME_CHANNEL]


@pytest.mark.parametrize("channel", [0, 16])
def test_a_report_comes_before_the_response(channel: int) -> None:
    a, b = agreed_pair()
    tag = asked(a, b, channel)
    assert b.respond(channel, asked(a, b, channel), True)
    assert b.report(channel, tag, b"half", now=1.0)
    assert b.respond(channel, tag, True, 0, b"all")
    other, report, response = sorted(a.receive(sent(b)), key=lambda event: event[1] != tag + 1)
    assert other == ResponseReceived(channel, tag + 1, True, 0, b"", "w")
    assert report == ProgressReceived(channel, tag, b"half", "w")
    assert response == ResponseReceived(channel, tag, True, 0, b"all", "w")


def test_the_bytes_of_the_specification() -> None:
    a, b = agreed_pair()
    for _ in range(6):
        tag = asked(a, b)
    assert tag == 7
    b.report(0, 7, b"x", now=1.0)
    assert sent(b) == bytes.fromhex("05 07 07 02 07 78")


def test_what_is_not_sent_yet_is_replaced() -> None:
    a, b = agreed_pair()
    tag = asked(a, b)
    for step in range(5):
        assert b.report(0, tag, b"%d" % step, now=float(step))
    assert payloads(b) == [b"4"]
    assert sent(b) == b""
    assert b.report(0, tag, b"5", now=5.0)
    assert payloads(b) == [b"5"]


def test_no_sooner_than_is_wanted() -> None:
    a, b = agreed_pair()
    tag = asked(a, b, interval=1000)
    assert [b.report(0, tag, b"", now) for now in (10.0, 10.9, 11.0, 11.5, 12.5)] == [
        True,
        False,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize("interval", [None, 0])
def test_only_where_it_is_wanted(interval: int | None) -> None:
    a, b = agreed_pair()
    tag = asked(a, b, interval=interval)
    assert b.report(0, tag, b"", 1.0) is (interval is not None)
    assert not b.report(0, tag + 1, b"", 1.0), "there is no such request"
    request = request_from(a, b)
    assert not b.report(0, request.tag, b"", 1.0), "it has no metadata"


def test_without_capabilities_there_is_none() -> None:
    engine = ConnectionEngine()
    engine.receive(bytes(Packet(is_request=True, tag=2, rq_type=1)))
    assert not engine.report(0, 2, b"", 1.0)


def test_a_peer_that_did_not_agree_on_it() -> None:
    a, b = agreed_pair(Feature.META)
    tag = asked(a, b)
    assert not b.report(0, tag, b"", 1.0)


def test_behind_the_response_there_is_nothing_to_tell() -> None:
    a, b = agreed_pair()
    tag = asked(a, b)
    b.respond(0, tag, True)
    assert not b.report(0, tag, b"", 1.0)
    assert packets_of(b) == [Packet(is_request=False, tag=tag, flags=1)]


def test_a_report_that_crosses_the_response_is_dropped() -> None:
    """Another thread answers while one reports: the caller does not mind."""
    a, b = agreed_pair()
    tag = asked(a, b)
    b.respond(0, tag, True)
    assert len(a.receive(sent(b))) == 1
    assert a.receive(encode_frame(FrameType.PROGRESS, 0, tag, b"x", of_receiver=True)) == []


def test_a_request_for_which_no_waiter_was_given() -> None:
    a, b = agreed_pair()
    tag = a.ask_with(Meta(progress_interval=0), 0, 0, b"", 0, None)
    b.receive(sent(a))
    b.report(0, tag, b"x", 1.0)
    assert a.receive(sent(b)) == [ProgressReceived(0, tag, b"x", None)]


def test_a_report_of_a_request_that_was_given_up_is_dropped() -> None:
    a, b = agreed_pair()
    tag = asked(a, b)
    b.report(0, tag, b"x", 1.0)
    a.forget(0, tag)
    assert a.receive(sent(b)) == []


@pytest.mark.parametrize("channel", [0, 16])
def test_a_report_of_a_request_that_never_was(channel: int) -> None:
    a, _ = agreed_pair()
    (end,) = a.receive(encode_frame(FrameType.PROGRESS, channel, 2, b"x", of_receiver=True))
    assert isinstance(end, StreamEnded)
    assert isinstance(end.cause.__cause__, RemoteProtocolError)
    assert end.cause.__cause__.code == "response-never-asked"


def test_a_report_counts_as_unsent_while_it_is_written() -> None:
    a, b = agreed_pair()
    tag = asked(a, b)
    b.report(0, tag, b"x" * 100, 1.0)
    assert b.unsent, "whoever writes finds that there is something"
    assert len(b.data_to_send()) == 1
    assert b.unsent_octets == 105
    assert b.more_data_to_send() == []
    assert b.unsent_octets == 0


def test_reports_behind_the_end_of_requests_but_not_behind_the_end() -> None:
    a, b = agreed_pair()
    tag = asked(a, b)
    b.end()
    assert sent(b) == bytes(ERQ_PACKET)
    assert b.report(0, tag, b"x", 1.0)
    b.respond(0, tag, True)
    report, response, eof = packets_of(b)
    assert report.channel == FRAME_CHANNEL
    assert response.tag == tag
    assert eof == EOF_PACKET
    assert not b.report(0, tag, b"x", 2.0)


@pytest.mark.parametrize("ends", [False, True])
def test_the_writer_comes_in_between(ends: bool) -> None:
    """A batch is taken between the two steps of a report: then there is nothing to write, not an empty piece."""
    a, b = agreed_pair()
    tag = asked(a, b)
    assert b.control is not None
    taken: list[bytes] = []

    class Reports(dict[Any, bytes]):
        def __setitem__(self, key: Any, frame: bytes) -> None:
            super().__setitem__(key, frame)
            taken.extend(b.data_to_send())
            b.data_sent()

    b.control.reports = Reports()
    assert b.report(0, tag, b"x", 1.0)
    assert len(taken) == 1
    if ends:
        b.end_requests()
    assert b.data_to_send() == [bytes(ERQ_PACKET)] * ends


def test_all_reports_are_taken_by_another_thread() -> None:
    _, b = agreed_pair()
    assert b.control is not None

    class Reports(dict[Any, bytes]):
        def popitem(self) -> Any:
            self.clear()
            return super().popitem()

    b.control.reports = Reports({2: b"frame"})
    assert b.control.take_reports() == []


def test_nothing_is_left_of_a_stream_that_broke() -> None:
    a, b = agreed_pair()
    tag = asked(a, b)
    b.report(0, tag, b"x", 1.0)
    b.fail(ConnectionEnded("it broke"))
    assert b.data_to_send() == []
    assert b.unsent_octets == 0
    assert not b.report(0, tag, b"x", 2.0)


def test_no_larger_than_the_peer_takes() -> None:
    """Else the peer would end the connection."""
    hello = Hello(features=ALL_FEATURES, max_packet_size=200)
    a, b = agreed_pair(own_a=hello, own_b=Hello(features=ALL_FEATURES))
    tag = asked(a, b, interval=0)
    with pytest.raises(LocalProtocolError, match="exceeds the peer's max_packet_size=200"):
        b.report(0, tag, bytes(200), 1.0)
    assert b.report(0, tag, bytes(190), 1.0)
    assert len(payloads(b)) == 1
