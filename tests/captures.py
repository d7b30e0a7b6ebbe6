"""Captures that are made up: conversations of some connections, with all that can be in them, as long as wanted."""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from packetwire import Packet
from packetwire.capture import HEADER, Kind, Record
from packetwire.core.frames import FrameType, Meta, encode_frame, encode_meta, encode_reason
from packetwire.core.hello import ALL_FEATURES, ANSWER, ASK, CONTROL_CHANNEL, DESCRIBE, HELLO, Hello, encode_hello
from packetwire.core.packet import EOF_PACKET
from packetwire.core.statuses import StatusCode, flags_of
from packetwire.core.varint import encode_varint

BEGIN = 1_700_000_000 * 10**9
MICROSECOND = 10**3
MILLISECOND = 10**6
WINDOW = 65_536
"""Bytes of each body that may be sent at once."""
CHUNK = 16_384
EXTRA_PACKETS = 40
"""Packets of a connection that are no plain requests, at least."""


@dataclass(frozen=True)
class Method:
    """A type of requests: how often it is called, and how long it takes."""

    name: str
    share: float
    milliseconds: float
    """The median of its latencies."""
    failures: float = 0.0
    """The share that fails."""


METHODS = {
    1: Method("get", 70, 0.4),
    2: Method("put", 20, 2.0, failures=0.01),
    3: Method("search", 8, 12.0, failures=0.03),
    7: Method("reindex", 2, 90.0, failures=0.05),
}
UPLOAD, DOWNLOAD = 20, 21
BODY_METHODS = {UPLOAD: "upload", DOWNLOAD: "export"}


def request(tag: int, rq_type: int, payload: bytes = b"", *, flags: int = 0, channel: int = 0) -> bytes:
    """The bytes of a request, with its type as callers count."""
    return bytes(
        Packet(is_request=True, tag=tag, rq_type=rq_type + 1, payload=payload, flags=flags, channel=channel)
    )


def response(tag: int, payload: bytes = b"", *, ok: bool = True, flags: int = 0, channel: int = 0) -> bytes:
    """The bytes of a response, with its flags as callers see them."""
    return bytes(Packet(is_request=False, tag=tag, payload=payload, flags=flags << 1 | ok, channel=channel))


def capture_of(*records: tuple[str, int, float, bytes]) -> bytes:
    """The capture with these (sign, connection, milliseconds, bytes)."""
    return HEADER + b"".join(
        bytes(Record(Kind(ord(sign)), connection, BEGIN + round(when * MILLISECOND), data))
        for sign, connection, when, data in records
    )


def write_capture(path: Path, packets: int, *, connections: int = 3, seed: int = 1) -> None:
    """Write a capture with about so many packets, each in a record of its own."""
    with path.open("wb") as file:
        file.write(HEADER)
        for record in records(packets, connections=connections, seed=seed):
            file.write(bytes(record))


def records(packets: int, *, connections: int = 3, seed: int = 1) -> Iterator[Record]:
    """The records of such a capture, in the order of their times."""
    each = packets // connections
    made = [
        _Conversation(number, each, random.Random(f"{seed} {number}")).records()
        for number in range(1, connections + 1)
    ]
    return heapq.merge(*made, key=lambda record: record.time)


class _Conversation:
    """One connection."""

    def __init__(self, number: int, packets: int, choose: random.Random) -> None:
        self._number = number
        self._packets = packets
        self._choose = choose
        self._serial = count()
        self._later: list[tuple[int, int, Kind, bytes]] = []
        self._tags = count(2)

    def records(self) -> Iterator[Record]:
        """All of it."""
        now = BEGIN + self._number * MILLISECOND
        yield Record(
            Kind.BEGIN, self._number, now, f"shop {self._number}: tcp:192.0.2.{self._number}:4711".encode()
        )
        self._greet(now)
        rq_types = list(METHODS)
        weights = [METHODS[rq_type].share for rq_type in rq_types]
        plain = max(1, (self._packets - EXTRA_PACKETS) // 2)
        bodies = {plain // 7: UPLOAD, plain // 3: DOWNLOAD, plain // 2: UPLOAD, 2 * plain // 3: DOWNLOAD}
        for number in range(plain):
            now += int(self._choose.expovariate(1) * 300 * MICROSECOND) + 1000
            yield from self._until(now)
            if number in bodies:
                self._with_body(now, bodies[number])
            elif number % 297 == 150:
                self._cancelled(now)
            elif number % 199 == 100:
                self._by_the_peer(now)
            else:
                self._call(now, self._choose.choices(rq_types, weights)[0])
        now += MILLISECOND
        self._never_answered(now)
        yield from self._until(1 << 63)
        now += 60 * MILLISECOND
        yield Record(Kind.FORTH, self._number, now, bytes(EOF_PACKET))
        if self._number == 1:
            yield Record(Kind.OVER, self._number, now, b"")
        else:
            yield Record(Kind.OVER, self._number, now, b"PeerUnresponsive: nothing was heard for 15 s")

    def _until(self, now: int) -> Iterator[Record]:
        while self._later and self._later[0][0] <= now:
            when, _, kind, data = heapq.heappop(self._later)
            yield Record(kind, self._number, when, data)

    def _at(self, when: int, kind: Kind, data: bytes) -> None:
        heapq.heappush(self._later, (when, next(self._serial), kind, data))

    def _greet(self, now: int) -> None:
        ours = Hello(features=ALL_FEATURES, body_credit=WINDOW, protocol="shop", software="shop client 1.4")
        theirs = Hello(features=ALL_FEATURES, body_credit=WINDOW, protocol="shop", software="shop 2.0")
        hello, describe = next(self._tags), next(self._tags)
        methods = {method.name: {"number": rq_type} for rq_type, method in METHODS.items()}
        methods |= {name: {"number": rq_type} for rq_type, name in BODY_METHODS.items()}
        schema = json.dumps({"packetwire": 1, "name": "shop", "methods": methods}).encode()
        self._at(now, Kind.FORTH, request(hello, HELLO, ASK + encode_hello(ours), channel=CONTROL_CHANNEL))
        answer = response(hello, ANSWER + encode_hello(theirs), channel=CONTROL_CHANNEL)
        self._at(now + 90 * MICROSECOND, Kind.BACK, answer)
        self._at(now + 100 * MICROSECOND, Kind.FORTH, request(describe, DESCRIBE, channel=CONTROL_CHANNEL))
        self._at(now + 210 * MICROSECOND, Kind.BACK, response(describe, schema, channel=CONTROL_CHANNEL))

    def _latency(self, milliseconds: float) -> int:
        return int(self._choose.lognormvariate(0, 0.5) * milliseconds * MILLISECOND)

    def _call(self, now: int, rq_type: int) -> None:
        tag, method, choose = next(self._tags), METHODS[rq_type], self._choose
        self._at(now, Kind.FORTH, request(tag, rq_type, b'{"title": "Emma", "shelf": %d}' % choose.randrange(9999)))
        when = now + self._latency(method.milliseconds)
        if choose.random() >= method.failures:
            self._at(when, Kind.BACK, response(tag, b"a line of the answer; " * choose.randrange(1, 12)))
        elif choose.random() < 0.5:
            self._at(when, Kind.BACK, response(tag, b"KeyError: 'Emma'", ok=False))
        else:
            busy = flags_of(StatusCode.BUSY, begun=False)
            self._at(when, Kind.BACK, response(tag, b"too many requests wait already", ok=False, flags=busy))

    def _cancelled(self, now: int) -> None:
        tag = next(self._tags)
        meta = Meta(milliseconds_left=20, metadata={"user": b"emma"})
        self._at(now, Kind.FORTH, encode_frame(FrameType.META, 0, tag, encode_meta(meta)))
        self._at(now, Kind.FORTH, request(tag, 7, b"all of it"))
        given_up = now + 20 * MILLISECOND
        reason = encode_reason(StatusCode.DEADLINE, "no response within 20 ms")
        self._at(given_up, Kind.FORTH, encode_frame(FrameType.CANCEL, 0, tag, reason))
        flags = flags_of(StatusCode.CANCELLED, begun=True)
        self._at(given_up + MILLISECOND, Kind.BACK, response(tag, b"cancelled", ok=False, flags=flags))

    def _by_the_peer(self, now: int) -> None:
        tag = next(self._tags)
        self._at(now, Kind.BACK, request(tag, 40, b"are you still interested?"))
        self._at(now + self._latency(0.2), Kind.FORTH, response(tag, b"yes"))

    def _never_answered(self, now: int) -> None:
        self._at(now, Kind.FORTH, request(next(self._tags), 3, b"what nobody answers"))

    def _with_body(self, now: int, rq_type: int) -> None:
        """A body of eight windows; twice its receiver is slow, so that its sender waits for credit."""
        tag, up = next(self._tags), rq_type == UPLOAD
        meta = Meta(has_body=up, response_credit=None if up else WINDOW)
        sender, receiver = (Kind.FORTH, Kind.BACK) if up else (Kind.BACK, Kind.FORTH)
        self._at(now, Kind.FORTH, encode_frame(FrameType.META, 0, tag, encode_meta(meta)))
        self._at(now, Kind.FORTH, request(tag, rq_type, b"catalogue.tar"))
        credit = encode_frame(FrameType.CREDIT, 0, tag, encode_varint(WINDOW), of_receiver=up)
        data = encode_frame(FrameType.DATA, 0, tag, bytes(CHUNK), of_receiver=not up)
        for window in range(8):
            for _ in range(WINDOW // CHUNK):
                now += 100 * MICROSECOND
                self._at(now, sender, data)
            if window < 7:
                now += 25 * MILLISECOND if window in (2, 5) else 40 * MICROSECOND
                self._at(now, receiver, credit)
        if up:
            self._at(now, sender, encode_frame(FrameType.END, 0, tag))
        self._at(now + MILLISECOND, Kind.BACK, response(tag, b"done"))
