"""What a request asks of its handler, and the answer that its caller must get."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

Response = tuple[bool, int, bytes]

MIB = 1 << 20
MAX_SIZE = 4 * MIB
CHUNK = 50_000
MAX_DEPTH = 15
_OFFSETS = 65521
_BLOCK = random.Random("the same in all processes").randbytes(MAX_SIZE + _OFFSETS)


class Behaviour(IntEnum):
    """Each is a request type."""

    ECHO = 0
    DIGEST = 1
    PRODUCE = 2
    SLEEP = 3
    DEFER = 4
    FUTURE = 5
    CALL_BACK = 6
    RAISE = 7
    NONSENSE = 8
    NEVER = 9
    UP = 10
    DOWN = 11
    THROUGH = 12


ANSWERED = (Behaviour.ECHO, Behaviour.DIGEST, Behaviour.PRODUCE, Behaviour.SLEEP, Behaviour.DEFER, Behaviour.FUTURE)
"""Those that are always answered "ok"."""
STREAMED = (Behaviour.UP, Behaviour.DOWN, Behaviour.THROUGH)
"""Those with a body: of the request, of the response, or both."""
UNSTREAMED = tuple(behaviour for behaviour in Behaviour if behaviour not in STREAMED)
TIMED = (Behaviour.SLEEP, Behaviour.DEFER, Behaviour.FUTURE)
"""Those whose payload begins with an octet of milliseconds."""


def contents(number: int, size: int) -> bytes:
    """Octets that differ from those of any other request of a round."""
    offset = number * 97 % _OFFSETS
    return _BLOCK[offset : offset + size]


@dataclass(frozen=True)
class Ask:
    """One request: `number` is its own in the round, `depth` how many more calls back and forth it causes."""

    number: int
    behaviour: Behaviour
    size: int
    milliseconds: int = 0
    depth: int = 0
    channel: int = 0
    timeout: float | None = None
    is_deadline: bool = False
    """Whether the far end is told of the time limit."""
    may_fail: bool = False
    """Whether a handler on its way may be in a thread that must not wait, so that the calls back fail."""

    @property
    def flags(self) -> int:
        """Which request it is, so that a response that belongs to another one is found out."""
        return self.number << 4 | self.depth

    @property
    def payload(self) -> bytes:
        if self.behaviour in (Behaviour.PRODUCE, Behaviour.DOWN):
            return self.size.to_bytes(4, "big")
        if self.behaviour in STREAMED:
            return b""
        octets = contents(self.number, self.size)
        return bytes([self.milliseconds]) + octets if self.behaviour in TIMED else octets

    @property
    def body(self) -> bytes:
        """That of the request, of the response, or both."""
        return contents(self.number, self.size)

    def is_answered_by(self, response: Response) -> bool:
        """Whether this is what its handler was asked for."""
        ok, flags, payload = response
        if self.behaviour is Behaviour.NEVER:
            return False
        if self.behaviour is Behaviour.RAISE:
            return (ok, flags, payload) == (False, 0, b"ValueError: %d" % self.flags)
        if self.behaviour is Behaviour.NONSENSE:
            return (ok, flags) == (False, 0) and payload.startswith(b"TypeError: a handler must return ")
        if self.may_fail and not ok:
            return flags == 0 and b"LocalProtocolError" in payload
        if self.behaviour is Behaviour.DIGEST:
            expected = digest(self.payload)
        elif self.behaviour is Behaviour.UP:
            expected = digest(self.body)
        elif self.behaviour in STREAMED:  # its asker gives what came as the payload
            expected = self.body
        elif self.behaviour is Behaviour.PRODUCE:
            expected = contents(self.number, self.size)
        else:
            expected = self.payload
        return (ok, flags, payload) == (True, self.flags, expected)


def chunks_of(body: bytes) -> Iterator[bytes]:
    """A body as it is written."""
    return (body[begin : begin + CHUNK] for begin in range(0, len(body), CHUNK))


def digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=16).digest()
