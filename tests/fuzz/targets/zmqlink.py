"""The stream of a ZMQ socket that connects: its frames, boundaries among them, as octets."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, NamedTuple

import zmq

from packetwire.streams import zmq as zmq_module
from packetwire.streams.wakeup import Wakeup
from packetwire.streams.zmq import _Link

from ..frames import pack, unpack
from ..mutators import frames_mutator, headed_mutator, octets_mutator
from ..target import Target, choices_of

MAX_FRAME_SIZE = 100
"""Here, so that frames are often too long."""
MORE = 15
"""The first octet of an item says in its lower half whether its frame is followed by another one of a message."""
NO_STREAM = "a message that is no piece of a stream"


class Received(NamedTuple):
    """A frame as pyzmq gives it."""

    bytes: bytes
    more: bool


class FakeSocket:
    """A socket to which messages have come."""

    def __init__(self) -> None:
        self.inbox: deque[Received] = deque()
        self._wakeup = Wakeup()

    def fileno(self) -> int:
        return self._wakeup.fileno()

    def get(self, option: int) -> int:
        return int(zmq.POLLOUT | (zmq.POLLIN if self.inbox else 0))

    def send(self, frame: bytes, flags: int) -> None: ...

    def recv(self, flags: int, *, copy: bool) -> Received:
        if not self.inbox:
            raise zmq.Again
        return self.inbox.popleft()

    def close(self, linger: int | None = None) -> None:
        self._wakeup.close()


@contextmanager
def linked(known_before: bool) -> Iterator[tuple[FakeSocket, _Link]]:
    """A socket and the link that reads it."""
    socket: Any = FakeSocket()
    before, zmq_module.MAX_FRAME_SIZE = zmq_module.MAX_FRAME_SIZE, MAX_FRAME_SIZE
    link = _Link(socket, None, known_before=known_before)
    try:
        yield socket, link
    finally:
        link.close()
        zmq_module.MAX_FRAME_SIZE = before


def hear_link(octets: bytes) -> list[str]:
    random = choices_of(octets)
    known_before = bool(octets and octets[0] & 1)
    frames = [Received(item[1:], item[:1] != b"" and item[0] & 15 == MORE) for item in unpack(octets[1:])[:500]]
    octets_due, has_ended, is_wrong = read_by_hand(frames, known_before)
    got = bytearray()
    error: OSError | None = None
    with linked(known_before) as (socket, link):
        coming = deque(frames)
        while error is None:
            socket.inbox.extend(coming.popleft() for _ in range(random.randrange(len(coming) + 1)))
            try:
                piece = link.read(random.choice((1, 3, 50, 1000)))
            except OSError as raised:
                error = raised
                continue
            if piece == b"":
                break
            got += piece or b""
            if piece is None and not coming:
                break
        assert bytes(got) == octets_due
        assert (error is not None) == is_wrong
        if error is None:
            assert (link.read(10) == b"") == has_ended
        assert not link.is_cut_off
    return [NO_STREAM] if is_wrong else []


def read_by_hand(frames: list[Received], known_before: bool) -> tuple[bytes, bool, bool]:
    """The octets of the stream, whether it has ended, and whether that is because of what is no piece of one."""
    octets = b""
    has_begun = False
    for frame in frames:
        if frame.more or len(frame.bytes) > MAX_FRAME_SIZE:
            return octets, False, True
        if frame.bytes:
            octets += frame.bytes if has_begun else b""
            known_before = known_before and not has_begun
        elif not has_begun:
            has_begun = True
        elif known_before:
            known_before = False
        else:
            return octets, True, False
    return octets, False, False


def any_frame(random: Random) -> bytes:
    """A boundary, or octets."""
    return random.choice(
        (b"\0", b"\0", b"\0ab", b"\0" + random.randbytes(30), b"\0" * (MAX_FRAME_SIZE + 2), b"\x0fx")
    )


SEEDS = [
    bytes((known_before,)) + pack([b"\0", *[b"\0" + bytes((number,)) * 9 for number in range(12)], *end])
    for known_before in (0, 1)
    for end in ([], [b"\0"], [b"\0", b"\0more"], [b"\0", b"\0", b"\0again"], [b"\x0fno"])
]

TARGETS = (
    Target(
        name="zmq-link",
        seeds=SEEDS,
        mutate=headed_mutator(frames_mutator(octets_mutator(), [seed[1:] for seed in SEEDS], any_frame), 2),
        hear=hear_link,
        reasons=frozenset({NO_STREAM}),
    ),
)
