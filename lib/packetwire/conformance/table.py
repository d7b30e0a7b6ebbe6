"""The table of all checks: their numbers, titles and places in docs/wire.md, and what is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from packetwire.conformance import capabilitychecks as capability
from packetwire.conformance import clientchecks as client
from packetwire.conformance import packetchecks as packet
from packetwire.conformance.rulechecks import ordinary
from packetwire.conformance.steps import Steps
from packetwire.conformance.talk import Talk


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `rule` is that of the ledger which it is about: it looks at all conversations of a run."""

    number: int
    title: str
    section: str
    """The heading in docs/wire.md under which the rule stands."""
    steps: Callable[[Talk], Steps[None]]
    roles: frozenset[str]
    rule: str = ""


LIFE = "The life of a connection"
BOTH, SERVER, CLIENT = frozenset({"client", "server"}), frozenset({"server"}), frozenset({"client"})

_PACKETS = [
    Check(1, "a request is answered, and the connection ended", "Requests and responses", packet.request, BOTH),
    Check(2, "tags of one and two bytes", "Integers", packet.tag_of_two_bytes, BOTH),
    Check(3, "a tag of three bytes", "Integers", packet.tag_of_three_bytes, BOTH),
    Check(4, "the largest tag, of nine bytes", "Integers", packet.largest_tag, BOTH),
    Check(5, "a length with leading 80 bytes", "Integers", packet.longer_length, BOTH),
    Check(6, "tag, flags and type with leading 80 bytes", "Integers", packet.longer_fields, BOTH),
    Check(7, "channel 0 written out", "A packet", packet.channel_zero, BOTH),
    Check(8, "user flags of nine bytes", "A packet", packet.large_flags, BOTH),
    Check(9, "a request type of nine bytes", "A packet", packet.large_type, BOTH),
    Check(10, "a payload of 70000 bytes", "A packet", packet.long_payload, BOTH),
    Check(11, "bytes that come one by one", "The stream", packet.piecemeal, BOTH),
    Check(12, "requests, ERQ and EOF in one piece", "The stream", packet.together, BOTH),
    Check(13, "a connection over which nothing is asked", LIFE, packet.no_request, BOTH),
    Check(14, "50 requests at once, each answered once", "Requests and responses", packet.many_requests, BOTH),
    Check(15, "10000 requests before any response is read", "Bounds", packet.flood, BOTH),
    Check(16, "tags in any order, from 0", "What to accept, what never to send", packet.any_order, BOTH),
    Check(17, "a tag again, after its response", "Requests and responses", packet.tag_again, BOTH),
    Check(18, "a tag again, at once", "Requests and responses", packet.tag_twice, BOTH),
    Check(19, "the same tag on channel 16", "Requests and responses", packet.unknown_channel, BOTH),
    Check(20, "requests on channels 3 and 15: not ok", "Requests and responses", packet.reserved_channels, BOTH),
    Check(21, "an unknown request on channel 1: not ok", "Control requests", packet.unknown_control, BOTH),
    Check(
        22,
        "a request on channel 2, without capabilities: not ok",
        "Requests and responses",
        capability.frames_unknown,
        BOTH,
    ),
]

_ENDS = [
    Check(23, "a request behind ERQ: not ok", LIFE, packet.after_erq, BOTH),
    Check(24, "ERQ behind requests, which are answered", LIFE, packet.owed_after_erq, BOTH),
    Check(25, "ERQ twice", "What to accept, what never to send", packet.erq_twice, BOTH),
    Check(26, "EOF without ERQ", LIFE, packet.eof_alone, SERVER),
    Check(27, "ERQ and EOF with superfluous 80 bytes", "A packet", packet.longer_eof, SERVER),
    Check(28, "bytes behind EOF", LIFE, packet.behind_eof, SERVER),
    Check(29, "the end of the stream, without EOF", LIFE, packet.stream_ends, BOTH),
    Check(
        30,
        "the end of the stream, right behind a request",
        "The life of a connection",
        packet.stream_ends_behind_request,
        BOTH,
    ),
    Check(31, "the end of the stream, in a packet", LIFE, packet.stream_ends_in_packet, BOTH),
]

_ERRORS = [
    Check(32, "error: a length of ten bytes", LIFE, packet.integer_too_long, BOTH),
    Check(33, "error: a tag of ten bytes", LIFE, packet.field_too_long, BOTH),
    Check(34, "error: a packet of 2**63 - 1 bytes", LIFE, packet.packet_too_large, BOTH),
    Check(35, "error: a packet of length 0", LIFE, packet.empty_packet, BOTH),
    Check(36, "error: a tag that runs past its packet", LIFE, packet.field_overruns, BOTH),
    Check(37, "error: a request without a type", LIFE, packet.no_type, BOTH),
    Check(38, "error: rq_type 0 on the wire", "A packet", packet.reserved_type, BOTH),
    Check(39, "error: EOF with a payload", "A packet", packet.eof_with_payload, BOTH),
    Check(40, "error: EOF on channel 16", "A packet", packet.eof_on_a_channel, BOTH),
    Check(41, "error: ERQ with user flags", "A packet", packet.erq_with_flags, BOTH),
    Check(42, "error: a response to a tag never used", "Requests and responses", packet.never_asked, BOTH),
    Check(
        43,
        "error: a response on a channel never used",
        "Requests and responses",
        packet.never_asked_on_a_channel,
        BOTH,
    ),
]

_CAPABILITIES = [
    Check(44, "HELLO unasked is no error", "HELLO", capability.hello_is_no_error, BOTH),
    Check(45, "its first packet is marked", "The mark", capability.marks, BOTH),
    Check(46, "it answers HELLO", "HELLO", capability.answers_hello, BOTH),
    Check(47, "HELLO with odd fields", "HELLO", capability.odd_fields, BOTH),
    Check(48, "HELLO without version, or malformed: not ok", "HELLO", capability.hello_without_version, BOTH),
    Check(49, "a second HELLO: not ok", "HELLO", capability.second_hello, BOTH),
    Check(50, "HELLO behind ERQ", "HELLO", capability.hello_after_erq, BOTH),
    Check(51, "it says HELLO after a mark", "HELLO", capability.says_hello, BOTH),
    Check(52, "it says no HELLO without a mark", "HELLO", capability.no_hello_unmarked, SERVER),
    Check(53, "a late response is dropped", "Requests and responses", capability.late_response, BOTH),
    Check(54, "nothing larger than field 3 of HELLO", "HELLO", capability.keeps_to_size, BOTH, "fits"),
    Check(55, "PING comes back", "PING", capability.ping, BOTH),
    Check(56, "PING of 33 bytes: not ok", "PING", capability.long_ping, BOTH),
    Check(57, "DRAIN, twice", "DRAIN", capability.drain, SERVER),
    Check(58, "DRAIN with malformed fields: not ok", "DRAIN", capability.malformed_drain, BOTH),
    Check(59, "DRAIN of an end that saw an error", "DRAIN", capability.drain_before_end, BOTH),
    Check(60, "META, with unknown fields", "Frames", capability.meta, BOTH),
    Check(61, "META, and CANCEL in place of the request", "Frames", capability.meta_taken_back, BOTH),
    Check(62, "META without any time left", "Frames", capability.deadline_over, BOTH),
    Check(63, "CANCEL, twice: one response", "Cancelling", capability.cancel, BOTH),
    Check(64, "CANCEL of what was answered", "Cancelling", capability.cancel_answered, BOTH),
    Check(65, "CANCEL behind ERQ", "Frames", capability.cancel_after_erq, BOTH),
    Check(66, "error: a frame before HELLO", "Frames", capability.frame_before_hello, SERVER),
    Check(67, "error: a frame that was not agreed", "Frames", capability.frame_not_agreed, BOTH),
    Check(68, "error: an unknown frame", "Frames", capability.unknown_frame, BOTH),
    Check(69, "error: CANCEL without a code", "Frames", capability.malformed_cancel, BOTH),
    Check(70, "error: CANCEL of a request of its receiver", "Frames", capability.wrong_side, BOTH),
    Check(71, "error: malformed META", "Frames", capability.malformed_meta, BOTH),
    Check(72, "error: PROGRESS of nothing", "Frames", capability.progress_never_asked, BOTH),
]

_RESPONSES = [
    Check(73, "it asks, and ends when it is answered", "Requests and responses", client.asks, CLIENT),
    Check(74, "a marked response", "The mark", client.marked_response, CLIENT),
    Check(75, "a response that is not ok", "A packet", client.not_ok, CLIENT),
    Check(76, "a response that comes byte by byte", "The stream", client.response_piecemeal, CLIENT),
    Check(77, "a response with leading 80 bytes", "Integers", client.longer_response, CLIENT),
    Check(78, "a response with application flags", "A packet", client.response_flags, CLIENT),
    Check(79, "a second response is dropped", "Requests and responses", client.second_response, CLIENT),
    Check(80, "ERQ ahead of the responses", LIFE, client.erq_first, CLIENT),
    Check(81, "EOF in place of a response", LIFE, client.eof_first, CLIENT),
    Check(82, "the stream ends in place of a response", LIFE, client.stream_ends, CLIENT),
    Check(
        83,
        "the end of the stream in a response",
        "The life of a connection",
        client.stream_ends_in_response,
        CLIENT,
    ),
    Check(84, "bytes behind our EOF", LIFE, client.eof_then_bytes, CLIENT),
    Check(85, "error: a response never asked for", "Requests and responses", client.response_never_asked, CLIENT),
    Check(
        86, "error: a response on a wrong channel", "Requests and responses", client.response_on_a_channel, CLIENT
    ),
    Check(87, "error: a response without flags", "A packet", client.response_without_flags, CLIENT),
    Check(88, "no request after DRAIN", "DRAIN", client.drained, CLIENT),
    Check(89, "DESCRIBE is answered by JSON, or not ok", "DESCRIBE", capability.describe, BOTH),
]

_RULES = [
    (90, "all that it sends are packets", "The stream", "well-formed"),
    (91, "integers in the shortest form", "Integers", "shortest-form"),
    (92, "a mark on the first packet only, and not on ERQ or EOF", "The mark", "mark"),
    (93, "channel 0 is not written out", "A packet", "channel-zero"),
    (94, "its tags go upwards from 2 by 1", "Requests and responses", "tags"),
    (95, "no requests on channels 3 to 15", "Requests and responses", "channels"),
    (96, "no rq_type 0 on the wire", "A packet", "reserved-rq-type"),
    (97, "one response to each request", "Requests and responses", "one-response"),
    (98, "no request behind ERQ", LIFE, "request-after-erq"),
    (99, "ERQ once", "What to accept, what never to send", "erq-once"),
    (100, "ERQ before EOF", "What to accept, what never to send", "erq-before-eof"),
    (101, "nothing behind EOF", LIFE, "nothing-behind-eof"),
    (102, "the stream ends by EOF", "What to accept, what never to send", "ends-by-eof"),
    (103, "HELLO once", "HELLO", "hello-once"),
    (104, "frames, PING and DRAIN after HELLO only", "Frames", "frames-after-hello"),
    (105, "PROGRESS only where it is wanted", "Frames", "progress"),
]

CHECKS = [*_PACKETS, *_ENDS, *_ERRORS, *_CAPABILITIES, *_RESPONSES] + [
    Check(number, title, section, ordinary, BOTH, rule) for number, title, section, rule in _RULES
]
"""All checks, in the order in which they run: those of rules come last, when most has been seen."""
