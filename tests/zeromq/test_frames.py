"""Frames from elsewhere as a buffer, and a file whose flushes are frames."""

from __future__ import annotations

import os
from contextlib import ExitStack
from itertools import pairwise

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packetwire import Packet, PacketConnection, PacketDecoder
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.frames import FrameWriter, frames_to_buffer
from packetwire.streams.zmq import open_dealer
from packetwire.streams.zmqrouter import ZmqListener

from .conftest import RawDealer, accepted, readable

packets = st.lists(
    st.builds(
        Packet,
        is_request=st.just(True),
        channel=st.integers(0, 300),
        tag=st.integers(2, 1 << 40),
        flags=st.integers(0, 1 << 20),
        rq_type=st.integers(1, 1 << 20),
        payload=st.binary(max_size=300),
    ),
    max_size=8,
)


@given(packets, st.lists(st.integers(0, 3000), max_size=40))
def test_packets_are_the_same_wherever_the_frames_are_split(sent: list[Packet], cuts: list[int]) -> None:
    data = b"".join(map(bytes, sent))
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]  # some frames are empty
    frames = [data[start:end] for start, end in pairwise(places)]
    assert list(Packet.scan(frames_to_buffer(frames))) == sent


def test_frames_are_taken_only_when_they_are_needed() -> None:
    frames = iter([b"ab", b"", bytearray(b"cd"), memoryview(b"ef")])
    bfr = frames_to_buffer(frames)
    assert bytes(bfr.take(2)) == b"ab"
    assert next(frames) == b""
    assert bytes(bfr.take(4)) == b"cdef"
    assert bfr.at_eof()


def test_each_flush_is_a_frame() -> None:
    sent: list[bytes] = []
    file = FrameWriter(sent.append)
    assert file.write(b"one ") == 4
    file.write(memoryview(b"frame"))
    file.flush()
    file.flush()
    file.write(b"another")
    assert sent == [b"one frame"]
    file.flush()
    assert sent == [b"one frame", b"another"]


def test_a_long_frame_is_sent_in_pieces() -> None:
    sent: list[bytes] = []
    file = FrameWriter(sent.append, max_size=3)
    file.write(b"1234567")
    file.flush()
    assert sent == [b"123", b"456", b"7"]


def test_what_could_not_be_sent_is_kept() -> None:
    sent: list[bytes] = []

    def send(frame: bytes) -> None:
        if not sent and not refused:
            refused.append(frame)
            raise BlockingIOError
        sent.append(frame)

    refused: list[bytes] = []
    file = FrameWriter(send)
    file.write(b"abc")
    with pytest.raises(BlockingIOError):
        file.flush()
    file.flush()
    assert sent == [b"abc"]


def test_a_size_that_is_none() -> None:
    with pytest.raises(ValueError, match="max_size"):
        FrameWriter(print, max_size=0)


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("accepts", [False, True], ids=["dealer", "router"])
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=packets, cuts=st.lists(st.integers(0, 3000), max_size=40), size=st.integers(1, 5000))
def test_packets_are_the_same_over_sockets(accepts: bool, sent: list[Packet], cuts: list[int], size: int) -> None:
    """A raw socket sends the frames, and a stream is read in pieces of up to `size` bytes."""
    data = b"".join(map(bytes, sent))
    places = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    frames = [data[start:end] for start, end in pairwise(places)]
    endpoint = f"inproc://frames-{os.urandom(8).hex()}"
    with ExitStack() as opened:
        if accepts:
            listener = ZmqListener(endpoint)
            opened.callback(listener.close)
            raw = opened.enter_context(RawDealer(listener.endpoint))
            raw.send(b"", *frames, b"")
            stream = accepted(listener) if frames else None
        else:
            router = opened.enter_context(zmq.Context.instance().socket(zmq.ROUTER))
            router.linger = 0
            router.bind(endpoint)
            stream = open_dealer(endpoint)
            identity, _ = router.recv_multipart()
            for frame in (b"", *frames, b""):
                router.send_multipart([identity, frame])
        decoder, received = PacketDecoder(), []
        while stream is not None and (piece := _next_piece(stream, size)):
            received += decoder.feed(piece)
        if stream is not None:
            stream.close()
    assert received == sent


def _next_piece(stream: ByteStream, size: int) -> bytes:
    """Up to `size` bytes; none at the end."""
    while (piece := stream.try_read(size)) is None:
        assert readable(stream.read_fd)
    assert len(piece) <= size
    return piece


@pytest.mark.timeout(30)
def test_a_connection_over_them() -> None:
    import queue

    there: queue.Queue[bytes] = queue.Queue()
    back: queue.Queue[bytes] = queue.Queue()

    def end(frames: queue.Queue[bytes], to: queue.Queue[bytes]) -> tuple[object, object]:
        return frames_to_buffer(iter(frames.get, b"")), FrameWriter(to.put)

    with (
        PacketConnection(end(back, there), "a") as a,
        PacketConnection(end(there, back), "b", request_handler=lambda rq_type, flags, payload: payload),
    ):
        assert a(1, b"payload", timeout=20) == (True, 0, b"payload")
    for frames in there, back:
        frames.put(b"")
