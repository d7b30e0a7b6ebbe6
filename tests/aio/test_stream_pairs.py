"""asyncio's own (StreamReader, StreamWriter) when they fail, or are closed by somebody else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from packetwire import AsyncPacketConnection, ConnectionEnded

from .conftest import Run, streams

pytestmark = pytest.mark.timeout(60)

MUCH = 50_000_000
"""Octets that no socket takes at once."""


@asynccontextmanager
async def silent() -> AsyncIterator[tuple[Any, socket.socket]]:
    """Something to open with, and the other end, which nobody reads."""
    ours, theirs = socket.socketpair()
    with theirs:
        yield (lambda: asyncio.open_unix_connection(sock=ours)), theirs


def test_a_writer_that_somebody_else_has_closed(run: Run) -> None:
    async def main() -> None:
        async with streams() as ((reader, writer), _):
            async with AsyncPacketConnection((reader, writer), close_timeout=0.1) as conn:
                writer.close()
                with pytest.raises(ConnectionEnded):
                    await conn(1)

    run(main)


def test_a_reader_that_fails(run: Run) -> None:
    async def main() -> None:
        async with streams() as ((reader, writer), _):
            async with AsyncPacketConnection((reader, writer), close_timeout=0.1) as conn:
                asking = asyncio.create_task(conn(1))
                await asyncio.sleep(0)
                reader.set_exception(ValueError("no octets"))
                with pytest.raises(ConnectionEnded, match="reading failed: no octets") as caught:
                    await asking
                assert isinstance(caught.value.__cause__, ValueError)

    run(main)


def test_a_peer_that_goes_while_much_is_written(run: Run) -> None:
    async def main() -> None:
        async with silent() as (connect, theirs):
            async with AsyncPacketConnection(connect, close_timeout=0.1) as conn:
                asking = asyncio.create_task(conn(1, bytes(MUCH)))
                while not conn.outstanding:
                    await asyncio.sleep(0)
                theirs.close()
                with pytest.raises(ConnectionEnded):
                    await asking

    run(main)


def test_what_cannot_be_written_in_time_is_given_up(run: Run) -> None:
    async def main() -> None:
        async with silent() as (connect, _):
            conn = AsyncPacketConnection(connect)
            await conn.open()
            asking = asyncio.create_task(conn(1, bytes(MUCH)))
            while not conn.outstanding:
                await asyncio.sleep(0)
            await conn.close(0.05)
            with pytest.raises(ConnectionEnded):
                await asking

    run(main)


def test_a_peer_that_never_confirms_the_end_is_not_waited_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packetwire.aio.streampair.CLOSE_SECONDS", 0.01)

    async def main() -> None:
        async with silent() as (connect, _):
            conn = AsyncPacketConnection(connect)
            await conn.open()
            assert conn._driver is not None
            transport: Any = conn._driver.transport
            writer = transport._writer
            monkeypatch.setattr(writer, "wait_closed", asyncio.Event().wait)
            await conn.close(0.05)
            assert transport._transport.is_closing()

    run(main)
