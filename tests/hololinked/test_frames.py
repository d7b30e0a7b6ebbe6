"""Messages in and out of a socket: none is lost or mixed up, whatever frames a peer sends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from packetwire.hololinked.frames import FrameReader, LinkReader, PlainSocket, send_frames
from packetwire.hololinked.messages import FRAMES

pytestmark = pytest.mark.timeout(110)

SERVER, CLIENT = b"server", b"client"
VALID = [b"", b"{}", b"payload", b""]

frame = st.sampled_from([b"", b"{}", b"payload", SERVER, CLIENT])
message = st.one_of(st.just(VALID), st.lists(frame, min_size=1, max_size=9))


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[PlainSocket, PlainSocket]]:
    """What sends, and what receives."""
    context = zmq.Context()
    server: PlainSocket = context.socket(zmq.ROUTER)
    client: PlainSocket = context.socket(zmq.ROUTER)
    for socket, identity in ((server, SERVER), (client, CLIENT)):
        socket.routing_id = identity
        socket.linger = 0
    server.bind("inproc://frames")
    client.connect("inproc://frames")
    yield server, client
    context.destroy()


def received(reader: FrameReader) -> list[list[bytes]]:
    """All that is there; nothing for what was thrown away."""
    messages = []
    while (frames := reader.receive()) is not None:
        if frames:
            messages.append(frames)
    assert not reader.holds_some
    return messages


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(message, max_size=6))
@example([[b"?"], VALID])
@example([VALID[:-1], [b"?"], VALID])
@example([[*VALID, b""], VALID])
@example([[b""] * 9, VALID])
def test_what_is_valid_arrives_whatever_is_sent_beside_it(
    pair: tuple[PlainSocket, PlainSocket], messages: list[list[bytes]]
) -> None:
    server, client = pair
    for reader in (FrameReader(client), LinkReader(client, SERVER)):
        for frames in messages:
            assert send_frames(server, [CLIENT, *frames]) == 0
        whole = [each for each in received(reader) if each == [SERVER, *VALID]]
        assert len(whole) == messages.count(VALID)


@given(st.lists(message, max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_server_knows_each_message_by_its_frames(
    pair: tuple[PlainSocket, PlainSocket], messages: list[list[bytes]]
) -> None:
    server, client = pair
    for frames in messages:
        assert send_frames(server, [CLIENT, *frames]) == 0
    assert received(FrameReader(client)) == [[SERVER, *frames][: FRAMES + 1] for frames in messages]


@pytest.mark.parametrize("taken", range(1, FRAMES))
def test_after_an_interruption_in_the_midst_of_a_message(pair: tuple[PlainSocket, PlainSocket], taken: int) -> None:
    """What is left of it is no message, and the next ones are as they were sent."""
    server, client = pair
    reader = LinkReader(client, SERVER)
    for _ in range(3):
        assert send_frames(server, [CLIENT, *VALID]) == 0
    for _ in range(taken):
        client.recv(zmq.NOBLOCK)
    assert received(reader) == [[SERVER, *VALID][taken:], [SERVER, *VALID], [SERVER, *VALID]]


def test_what_cannot_be_sent(pair: tuple[PlainSocket, PlainSocket]) -> None:
    server, client = pair
    server.setsockopt(zmq.ROUTER_MANDATORY, 1)
    assert send_frames(server, [b"nobody", *VALID]) == zmq.EHOSTUNREACH
    server.setsockopt(zmq.ROUTER_MANDATORY, 0)
    assert send_frames(server, [CLIENT, *VALID]) == 0
    assert received(FrameReader(client)) == [[SERVER, *VALID]]
