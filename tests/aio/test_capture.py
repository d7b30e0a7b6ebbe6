"""A connection in an event loop that records what goes over it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packetwire import (
    AsyncPacketConnection,
    ChildExited,
    ConnectionEnded,
    PacketDecoder,
    RemoteProtocolError,
    StreamTruncated,
    child,
)
from packetwire.capture import CaptureDecoder, CaptureWriter
from packetwire.core.packets import EOF_PACKET, ERQ_PACKET

from .conftest import RawPeer, Run

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("plain_streams")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.cap"


def happened(path: Path) -> list[tuple[str, int, bytes]]:
    """All but the times."""
    records = CaptureDecoder().feed(path.read_bytes())
    return [(record.sign, record.connection, record.octets) for record in records]


def octets(path: Path, sign: str, connection: int = 1) -> bytes:
    """All that went in one direction of a connection."""
    return b"".join(piece for which, number, piece in happened(path) if (which, number) == (sign, connection))


def test_both_directions_are_recorded(run: Run, ends: Callable[[], Any], path: Path) -> None:
    async def main() -> None:
        with CaptureWriter(path) as capture:
            async with (
                ends() as (ours, theirs),
                AsyncPacketConnection(theirs, request_handler=lambda rq_type, flags, payload: payload[::-1]),
                AsyncPacketConnection(ours, "ours", capture=capture) as conn,
            ):
                assert await conn(1, b"abc") == (True, 0, b"cba")
                replies = await asyncio.gather(*(conn(2, bytes(100_000)) for _ in range(10)))
                assert {len(payload) for _, _, payload in replies} == {100_000}

    run(main)
    asked, answered = PacketDecoder().feed(octets(path, ">")), PacketDecoder().feed(octets(path, "<"))
    assert [packet.payload for packet in asked] == [b"abc", *[bytes(100_000)] * 10, b"", b""]
    assert asked[-2:] == [ERQ_PACKET, EOF_PACKET]
    assert answered[-1] == EOF_PACKET
    assert answered[0].payload == b"cba"
    assert happened(path)[0] == ("+", 1, b"ours")
    assert happened(path)[-1] == ("-", 1, b"")


def test_each_opening_is_a_connection_of_its_own(run: Run, fd_ends: Callable[[], Any], path: Path) -> None:
    async def main() -> None:
        with CaptureWriter(path) as capture:
            async with fd_ends() as (ours, theirs):
                conn = AsyncPacketConnection(ours, "ours", capture=capture)
                peer = AsyncPacketConnection(theirs, request_handler=lambda rq_type, flags, payload: payload)
                for word in (b"first", b"second"):
                    async with peer, conn:
                        await conn(1, word)

    run(main)
    for number, word in ((1, b"first"), (2, b"second")):
        assert PacketDecoder().feed(octets(path, ">", number))[0].payload == word
        assert PacketDecoder().feed(octets(path, "<", number))[0].payload == word


BROKEN = [(b"", ConnectionEnded), (b"\x07\x02\x02", StreamTruncated), (b"\x00", RemoteProtocolError)]


@pytest.mark.parametrize(("last", "error"), BROKEN)
def test_what_a_peer_sent_before_it_broke_off_is_recorded(
    run: Run, fd_ends: Callable[[], Any], path: Path, last: bytes, error: type[Exception]
) -> None:
    async def main() -> None:
        with CaptureWriter(path) as capture:
            async with fd_ends() as (ours, theirs):
                peer = RawPeer(theirs)
                async with AsyncPacketConnection(ours, "ours", capture=capture) as conn:
                    asking = asyncio.create_task(conn(1))
                    await peer.read()
                    peer.send(last)
                    peer.shut_down()
                    with pytest.raises(ConnectionEnded) as caught:
                        await asking
                    assert isinstance(caught.value, error) or isinstance(caught.value.__cause__, error)

    run(main)
    assert octets(path, "<") == last
    assert happened(path)[-1] == ("-", 1, b"")


def test_a_child_is_known_through_it(run: Run, path: Path) -> None:
    async def main() -> None:
        with CaptureWriter(path) as capture:
            program = "import sys; print('last words', file=sys.stderr); sys.exit(3)"
            async with AsyncPacketConnection(child([sys.executable, "-c", program]), capture=capture) as conn:
                assert conn.process is not None
                with pytest.raises(ChildExited) as caught:
                    await conn(1)
                assert caught.value.returncode == 3
                assert b"last words" in caught.value.stderr

    run(main)
    assert happened(path)[-1][0] == "-"
