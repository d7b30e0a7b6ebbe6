"""To which loop something belongs, and what it says if it is used from elsewhere."""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop
from threading import get_ident

from packetwire.errors import LocalProtocolError

running_loop = _get_running_loop
"""The loop that runs in this thread, or None: without the exception that asyncio's own function raises."""


def check_loop(what: object, loop: asyncio.AbstractEventLoop, thread: int) -> None:
    """Raise `LocalProtocolError` in another thread than this one of the loop, or while another loop runs.

    While none runs its thread may go on: between two `run_until_complete`.
    """
    running = running_loop()
    if running is loop:
        return
    if get_ident() != thread:
        raise LocalProtocolError(
            f"{what} belongs to an event loop in another thread: use asyncio.run_coroutine_threadsafe, or "
            "loop.call_soon_threadsafe for what is no coroutine, or a PacketConnection"
        )
    if running is not None:
        state = "is closed" if loop.is_closed() else "is another one"
        raise LocalProtocolError(f"{what} belongs to the event loop that it was opened in, which {state}")
