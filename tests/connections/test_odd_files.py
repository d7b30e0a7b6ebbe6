"""File objects and iterables that do less than others: what is in non-blocking mode, or says nothing."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from packetwire import ConnectionEnded, Packet, PacketConnection, PacketDecoder, PeerClosed
from packetwire.core.packets import EOF_PACKET, ERQ_PACKET

pytestmark = pytest.mark.timeout(60)


class Sink:
    """A file that keeps what is written, and returns no number, as some files of Python do."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.came = threading.Event()

    def write(self, octets: bytes) -> None:
        self.written += octets
        self.came.set()

    def flush(self) -> None: ...

    def packets(self) -> list[Packet]:
        return PacketDecoder().feed(bytes(self.written))


def test_an_iterable_to_read_from_and_a_file_that_returns_no_numbers() -> None:
    sink = Sink()

    def chunks() -> Iterator[bytes]:
        yield b""  # nothing is no end
        assert sink.came.wait(20)
        yield bytes(Packet(is_request=False, tag=2, flags=1, payload=b"yes"))

    with PacketConnection((chunks(), sink), close_timeout=0.1) as conn:
        assert conn(1, b"x" * 100_000, timeout=20) == (True, 0, b"yes")
        assert conn.join_recv(20)
        assert isinstance(conn.ended, PeerClosed)
        assert "without saying EOF" in str(conn.ended)
    request = sink.packets()[0]
    assert (request.tag, request.payload) == (2, b"x" * 100_000)


def test_an_iterable_that_ends_in_order() -> None:
    sink = Sink()
    with PacketConnection(([bytes(ERQ_PACKET), bytes(EOF_PACKET) + b"behind"], sink)) as conn:
        assert conn.join_recv(20)
    assert sink.packets() == [ERQ_PACKET, EOF_PACKET]
    assert conn.trailing_octets == b"behind"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    recv, send = os.pipe()
    yield recv, send
    os.close(recv)
    os.close(send)


class Impatient(io.BufferedIOBase):
    """A file in non-blocking mode that nothing tells of."""

    def read1(self, size: int = -1) -> Any:
        return None


def test_a_file_in_non_blocking_mode_cannot_be_waited_for(pipe: tuple[int, int]) -> None:
    with PacketConnection((Impatient(), pipe[1]), close_timeout=0.1) as conn:
        with pytest.raises(ConnectionEnded, match="non-blocking mode and has nothing to read now"):
            conn(1, timeout=20)


def test_a_raw_file_in_non_blocking_mode_is_waited_for(pipe: tuple[int, int]) -> None:
    """It takes nothing while the pipe is full, and more when there is room."""
    recv, send = pipe
    os.set_blocking(send, False)
    payload = bytes(1_000_000)
    packets: list[Packet] = []

    def read() -> None:
        decoder = PacketDecoder()
        while not packets:
            packets.extend(decoder.feed(os.read(recv, 65536)))

    other_recv, other_send = os.pipe()
    try:
        with io.FileIO(send, "wb", closefd=False) as file:
            with PacketConnection((other_recv, file), close_timeout=0.1) as conn:
                conn.submit(1, payload=payload)
                reading = threading.Thread(target=read)
                reading.start()
                reading.join(20)
        assert packets[0].payload == payload
    finally:
        os.close(other_recv)
        os.close(other_send)
