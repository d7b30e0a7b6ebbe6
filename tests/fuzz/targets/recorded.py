"""Capture files, and what `dump` makes of the packets in them."""

from __future__ import annotations

from random import Random

from core.golden import STREAMS
from fbsp.golden import CONVERSATION
from packetwire import Packet, RemoteProtocolError, capture
from packetwire.capture import HEADER, MAX_RECORD, CaptureDecoder, CaptureError, Kind, Record
from packetwire.cli.conversation import Conversations, Note, Seen
from packetwire.cli.fbspdump import as_fbsp
from packetwire.messaging.multipart import join_frames

from ..frames import pack, unpack
from ..mutators import frames_mutator, octets_mutator
from ..reasons import RaisedIn
from ..target import Target, chunks_of

RAISED = RaisedIn(
    capture,
    without=[
        "CaptureWriter",  # what cannot be written to
        *("_open", "CapturedStream"),
    ],
)
FAULT = "a malformed packet"
HEAD_OCTETS = 17

Read = tuple[list[Record], CaptureError | None, int]


def read(chunks: list[bytes]) -> Read:
    """The records, what ended them, and the octets behind the last one."""
    decoder = CaptureDecoder()
    records: list[Record] = []
    try:
        for chunk in chunks:
            records += decoder.feed(chunk)
    except CaptureError as error:
        return records, error, 0
    assert decoder.octets_decoded + decoder.partial_octets == sum(map(len, chunks))
    return records, None, decoder.partial_octets


def shown(records: list[Record]) -> list[str]:
    """The records as `dump` shows them; why packets in there were refused."""
    conversations = Conversations(max_packet_size=1 << 16)
    told: list[Seen | Note] = []
    for record in records:
        told += conversations.add(record)
    told += conversations.finish()
    for each in told:
        if isinstance(each, Seen):
            try:
                assert (as_fbsp(each) or "").isprintable()
            except (ValueError, RemoteProtocolError):
                pass  # the payload is no message
            assert each.latency is None or each.request is not None
        else:
            assert each.text.isprintable()
    faults = sum(isinstance(each, Note) and each.fault for each in told)
    assert faults == conversations.faults
    return [FAULT] * faults


def hear_captures(octets: bytes) -> list[str]:
    records, error, partial = read([octets])
    again, error_again, partial_again = read(chunks_of(octets))
    assert RAISED.of(error_again) == RAISED.of(error)
    assert partial_again == partial
    if error is None:
        assert again == records
        header = HEADER if len(octets) >= len(HEADER) else b""
        whole = len(octets) - partial
        assert header + b"".join(map(bytes, records)) == octets[:whole]
        if whole and partial >= HEAD_OCTETS:
            assert int.from_bytes(octets[whole + HEAD_OCTETS - 4 : whole + HEAD_OCTETS], "big") <= MAX_RECORD
    return [*RAISED.of(error), *shown(again)]


def recorded() -> list[bytes]:
    """Captures of what was recorded of the references."""
    captures = []
    for case in STREAMS:
        records = [
            Record(Kind.BEGIN, 1, 10, case.id.encode()),
            Record(Kind.FORTH, 1, 20, case.client_to_server[:700]),
            Record(Kind.BACK, 1, 30, case.server_to_client[:700]),
            Record(Kind.FORTH, 1, 40),
            Record(Kind.OVER, 1, 50, b"that was it"),
        ]
        captures.append(HEADER + b"".join(map(bytes, records)))
    packets = [
        Packet(is_request=True, tag=tag, rq_type=5, payload=join_frames(frames))
        for tag, (_, frames) in enumerate(CONVERSATION[:12])
    ]
    captures.append(HEADER + b"".join(bytes(Record(Kind.FORTH, 2, 9, bytes(packet))) for packet in packets))
    return captures


CAPTURES = recorded()
_mutate_octets = octets_mutator([b"+", b">", b"<", b"-", b"\0\0\0\1"], CAPTURES)


def any_record(random: Random) -> bytes:
    """A record; mostly a good one."""
    stream = random.choice(STREAMS).client_to_server
    start = random.randrange(len(stream))
    record = bytes(
        Record(
            random.choice(list(Kind)), random.choice((1, 1, 2)), 99, stream[start : start + random.randrange(50)]
        )
    )
    size = random.choice((MAX_RECORD, MAX_RECORD + 1, 1 << 31))
    return record[: HEAD_OCTETS - 4] + size.to_bytes(4, "big") if random.randrange(10) == 0 else record


_mutate_records = frames_mutator(_mutate_octets, fresh=any_record)


def mutate_capture(octets: bytes, random: Random) -> bytes:
    """A capture with other records, or other octets."""
    if random.randrange(3) == 0:
        return _mutate_octets(octets, random)
    try:
        records = CaptureDecoder().feed(octets)
    except CaptureError:
        return _mutate_octets(octets, random)
    header = octets[: len(HEADER)]
    if random.randrange(20) == 0:
        header = _mutate_octets(header, random)
    return header + b"".join(unpack(_mutate_records(pack(map(bytes, records)), random)))


TARGETS = (
    Target(
        name="captures",
        seeds=CAPTURES,
        mutate=mutate_capture,
        hear=hear_captures,
        reasons=RAISED.reasons | {FAULT},
    ),
)
