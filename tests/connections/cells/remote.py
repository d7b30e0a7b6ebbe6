"""A `Peer` in a process of its own, over its standard input and output, and what gives it orders.

    python -m tests.connections.cells.remote FACE CONTROL

The orders come over the Unix socket CONTROL: the name of a method and its arguments, pickled.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from packetwire import PacketConnection, connect_to, stdio

from .peer import LIMIT, Peer, cut_fd

ROOT = Path(__file__).parents[3]
ORDERS = 8
"""Orders at a time."""


class RemotePeer:
    """A stand-in for the `Peer` at the other end of the control socket; raises what it raises."""

    def __init__(self, control: socket.socket) -> None:
        self._conn = PacketConnection(control, "orders", close_timeout=1).open()
        self._socket = control
        self._killed = False

    def __getattr__(self, name: str) -> Any:
        def order(*args: Any, **kw: Any) -> Any:
            ok, _, answer = self._conn(0, pickle.dumps((name, args, kw)), timeout=2 * LIMIT)
            assert ok, answer
            returned, error = pickle.loads(answer)
            if error is not None:
                raise error
            return returned

        return order

    def cut(self) -> None:
        """Kill its process."""
        os.kill(self.pid(), signal.SIGKILL)
        self._killed = True

    def close(self, timeout: float | None = None) -> None:
        if not self._killed:
            self.__getattr__("close")(timeout)

    def let_go(self) -> None:
        self._conn.close()
        self._socket.close()


def main(face: str, control: str) -> None:
    stream = stdio()
    fds = os.dup(stream.read_fd), os.dup(stream.write_fd)
    stream.close()
    peer = Peer(face, fds, lambda: cut_fd(fds[1]))

    def obey(rq_type: int, flags: int, payload: bytes) -> bytes:
        name, args, kw = pickle.loads(payload)
        try:
            return pickle.dumps((getattr(peer, name)(*args, **kw), None))
        except Exception as error:
            return pickle.dumps((None, error))

    with PacketConnection(connect_to(f"unix:{control}"), "orders", request_handler=obey, handlers=ORDERS) as orders:
        orders.join_recv()


def command(face: str, control: Path) -> list[str]:
    """What starts one. The directory is changed by the command, as ssh would not keep ours."""
    start = f"import os, sys; os.chdir({str(ROOT)!r}); sys.path[:0] = ['', {str(ROOT / 'lib')!r}]; "
    run = f"from tests.connections.cells.remote import main; main({face!r}, {str(control)!r})"
    return [sys.executable, "-c", start + run]
