"""When the streams of a listening socket begin and end: by frames alone, without a socket."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetwire.streams.zmqpeers import QUEUE_LIMIT, Peers, PeerStream

from .conftest import readable

A, B = b"a", b"b"
LINK = (7, 1)
LATER = (7, 2)


class Socket:
    """Takes what streams send."""

    def __init__(self) -> None:
        self.streams: list[PeerStream] = []
        self.refused: list[bytes] = []
        self.peers = Peers(self.begin, lambda identity, _: self.refused.append(identity))

    def begin(self, identity: bytes, is_greeted: bool) -> PeerStream:
        self.streams.append(PeerStream(identity, self, has_begun=is_greeted))
        return self.streams[-1]

    def send(self, stream: PeerStream, buffers: object) -> int:
        return 0

    def end(self, stream: PeerStream) -> None: ...

    def receive(self) -> None: ...

    def drained(self) -> None: ...

    def released(self, stream: PeerStream) -> None:
        self.peers.release(stream)

    def receive_frames(self, identity: bytes, *frames: bytes, link: tuple[int, int] | None = None) -> None:
        for frame in frames:
            if frame:
                self.peers.receive_data(identity, frame)
            elif self.peers.knows(identity, link):
                self.peers.receive_boundary(identity)
            else:
                self.peers.arrive(identity, link)


@pytest.fixture
def sock() -> Iterator[Socket]:
    made = Socket()
    yield made
    close_all(made)


def close_all(sock: Socket) -> None:
    for stream in sock.streams:
        stream.close()


def contents(stream: PeerStream) -> tuple[bytes, bool]:
    """What a stream has brought, and whether it has ended."""
    data = b""
    while got := stream.try_read(3):
        data += got
    return data, got == b""


def test_streams_one_after_the_other(sock: Socket) -> None:
    sock.receive_frames(A, b"", b"one", b"", b"", b"two", b"", b"", b"three")
    assert [contents(stream) for stream in sock.streams] == [(b"one", True), (b"two", True), (b"three", False)]


def test_a_boundary_ends_a_stream_and_begins_the_next(sock: Socket) -> None:
    sock.receive_frames(A, b"", b"killed in mid-pa", b"", b"reborn", b"")
    assert [contents(stream) for stream in sock.streams] == [(b"killed in mid-pa", True), (b"reborn", True)]


def test_another_link_is_another_peer(sock: Socket) -> None:
    sock.receive_frames(A, b"", b"killed in mid-pa", link=LINK)
    sock.receive_frames(A, b"", link=LATER)
    assert [contents(stream) for stream in sock.streams] == [(b"killed in mid-pa", True), (b"", False)]
    sock.peers.lose_link(LINK)
    assert contents(sock.streams[1]) == (b"", False)
    sock.peers.lose_link(LATER)
    assert contents(sock.streams[1]) == (b"", True)
    assert len(sock.peers) == 0


def test_the_last_boundary_of_who_is_gone_begins_nothing(sock: Socket) -> None:
    sock.receive_frames(A, b"", b"one", link=LINK)
    sock.peers.lose_link(LINK)
    sock.peers.receive_boundary(A)
    assert [contents(stream) for stream in sock.streams] == [(b"one", True)]
    assert len(sock.peers) == 0


def test_bytes_without_a_boundary_are_refused_once(sock: Socket) -> None:
    sock.receive_frames(A, b"no", b"boundary")
    assert sock.refused == [A]
    assert sock.streams == []
    sock.receive_frames(A, b"", b"now")
    assert [contents(stream) for stream in sock.streams] == [(b"now", False)]


def test_what_comes_after_our_close_belongs_to_nobody(sock: Socket) -> None:
    sock.receive_frames(A, b"", b"one")
    sock.streams[0].close()
    sock.receive_frames(A, b"late", b"", b"", b"two")
    assert contents(sock.streams[1]) == (b"two", False)
    assert sock.refused == []


def test_a_superseded_stream_may_not_send(sock: Socket) -> None:
    sock.receive_frames(A, b"", b"one", b"")
    assert sock.streams[0].may_send, "only one direction has ended"
    sock.receive_frames(A, b"", b"two")
    assert [stream.may_send for stream in sock.streams] == [False, True]


def test_peers_do_not_mix(sock: Socket) -> None:
    for identity in A, B:
        sock.receive_frames(identity, b"")
    for i in range(10):
        sock.receive_frames(A, b"a%d" % i)
        sock.receive_frames(B, b"b%d" % i)
    assert contents(sock.streams[0])[0] == b"".join(b"a%d" % i for i in range(10))
    assert contents(sock.streams[1])[0] == b"".join(b"b%d" % i for i in range(10))


def test_a_queue_that_is_full_says_so_until_it_is_read(sock: Socket) -> None:
    sock.receive_frames(A, b"")
    frame = bytes(1 << 20)
    full = [sock.peers.receive_data(A, frame) for _ in range(QUEUE_LIMIT // len(frame) + 1)]
    assert full == [False] * (len(full) - 1) + [True]
    stream = sock.streams[0]
    assert stream.incoming.is_full
    assert stream.try_read(len(frame)) == frame
    assert not stream.incoming.is_full


def test_who_was_told_to_look_and_need_not_any_more_is_told_once(sock: Socket) -> None:
    sock.receive_frames(A, b"", b"x")
    stream = sock.streams[0]
    assert contents(stream) == (b"x", False)
    stream.incoming.look()
    assert readable(stream.read_fd, 0)
    assert stream.try_read(1) is None
    assert not readable(stream.read_fd, 0)


def test_a_stream_is_readable_while_it_has_something(sock: Socket) -> None:
    sock.receive_frames(A, b"")
    stream = sock.streams[0]
    assert not readable(stream.read_fd, 0)
    sock.receive_frames(A, b"abc", b"d")
    for rest in b"abcd":
        assert readable(stream.read_fd, 0)
        assert stream.try_read(1) == bytes([rest])
    assert not readable(stream.read_fd, 0)
    sock.receive_frames(A, b"")
    assert readable(stream.read_fd, 0)
    assert stream.try_read(1) == b""
    assert readable(stream.read_fd, 0), "the end can be read again"


@given(
    data=st.lists(st.binary(min_size=1, max_size=40), max_size=4),
    cuts=st.lists(st.integers(0, 40), max_size=30),
    size=st.integers(1, 50),
)
def test_frames_split_and_joined_anywhere_are_the_same_streams(
    data: list[bytes], cuts: list[int], size: int
) -> None:
    sock = Socket()
    try:
        for one in data:
            sock.receive_frames(A, b"")
            places = sorted({0, len(one), *(cut for cut in cuts if cut < len(one))})
            sock.receive_frames(A, *(one[start:end] for start, end in pairwise(places)))
            sock.receive_frames(A, b"")
        read = []
        for stream in sock.streams:
            pieces = []
            while piece := stream.try_read(size):
                assert len(piece) <= size
                pieces.append(piece)
            assert piece == b""
            read.append(b"".join(pieces))
        assert read == data
    finally:
        close_all(sock)
