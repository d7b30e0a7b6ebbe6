"""How many peers a listening socket remembers, where no link says that one is gone."""

from __future__ import annotations

import pytest

from packetwire.streams import zmqpeers

from .test_peers import Socket, close_all, contents

MOST = 10


@pytest.fixture
def sock(monkeypatch: pytest.MonkeyPatch) -> Socket:
    monkeypatch.setattr(zmqpeers, "MAX_PEERS", MOST)
    return Socket()


def identity(number: int) -> bytes:
    return b"peer %d" % number


def test_strangers_are_forgotten_the_oldest_first(sock: Socket) -> None:
    """Each is told once that its bytes are no stream's, as long as it is remembered."""
    for _ in range(2):
        for number in range(MOST):
            sock.receive_frames(identity(number), b"bytes of no stream")
    assert sock.refused == [identity(number) for number in range(MOST)]
    sock.receive_frames(identity(MOST), b"one more")
    assert len(sock.peers) == MOST
    sock.receive_frames(identity(1), b"is remembered")
    sock.receive_frames(identity(0), b"is not")
    assert sock.refused[MOST:] == [identity(MOST), identity(0)]


def test_a_peer_with_a_stream_is_not_forgotten(sock: Socket) -> None:
    sock.receive_frames(identity(0), b"", b"begun")
    for number in range(1, 3 * MOST):
        sock.receive_frames(identity(number), b"bytes of no stream")
    assert len(sock.peers) == MOST
    sock.receive_frames(identity(0), b" and ended", b"")
    assert contents(sock.streams[0]) == (b"begun and ended", True)
    close_all(sock)


def test_more_peers_with_streams_than_are_remembered_without(sock: Socket) -> None:
    """Who has a stream is counted by who accepts them, and bounded there."""
    for number in range(2 * MOST):
        sock.receive_frames(identity(number), b"", b"%d" % number)
    assert len(sock.peers) == 2 * MOST
    assert [contents(stream)[0] for stream in sock.streams] == [b"%d" % number for number in range(2 * MOST)]
    close_all(sock)
