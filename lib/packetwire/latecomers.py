"""Closing the queue of a listening socket, so that all who wait there can be accepted before it is closed.

A client that has connected, and was not accepted when the last descriptor of the socket is closed, is reset by the
system, maybe after it has sent a request. So nobody new may get into the queue while the last of those in there is
accepted.
"""

from __future__ import annotations

import array
import socket
import struct
import sys
from contextlib import suppress

_SO_ATTACH_FILTER = 26  # on Linux; Python has no name for it
_FIRST_SYN = (
    (0x30, 0, 0, 13),  # load the byte of a TCP header that has the flags
    (0x54, 0, 0, 0x12),  # of them SYN and ACK
    (0x15, 0, 1, 0x02),  # if it is SYN alone
    (0x06, 0, 0, 0),  # drop it,
    (0x06, 0, 0, 0xFFFFFFFF),  # else let it pass
)
"""A program of BPF, whose instructions are (operation, jump if true, jump if false, operand)."""


def hold_off(sock: socket.socket) -> None:
    """Let nobody new into the queue, as far as the system can: only where no other process accepts at that socket.

    At a Unix socket they are refused at once. At TCP, on Linux, the first packet of a client is dropped, which the
    client repeats after a second: then the socket is closed, and it gets to another one that listens at the same
    port, or is refused.
    """
    with suppress(OSError):
        if sock.family == socket.AF_UNIX:
            sock.shutdown(socket.SHUT_RD)
        elif sys.platform == "linux":
            _drop_first_syns(sock)


def _drop_first_syns(sock: socket.socket) -> None:
    program = array.array("B", b"".join(struct.pack("=HBBI", *each) for each in _FIRST_SYN))
    place, _ = program.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(_FIRST_SYN), place))
