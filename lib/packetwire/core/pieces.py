"""Payloads that arrive in pieces, before the packet with their rest.

Strategy: pieces are kept as they came, and joined once. Only whoever receives adds and takes. Bytes beyond a bound
are dropped at once, and that is said of the request, or response, when its packet comes.
"""

from __future__ import annotations

from packetwire.core.packetcodec import Key

SMALL = 1024
"""Bytes of a piece below which it is joined to the one before: by itself it would take many times its size."""


class Collected:
    """The pieces of one payload that have come."""

    __slots__ = ("pieces", "problem", "size")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size = 0
        """Bytes that came, kept or not."""
        self.problem = b""
        """Why they were dropped."""


class Pieces:
    """The payloads of one connection of which pieces have come, but not the packet."""

    def __init__(self) -> None:
        self.requests: dict[Key, Collected] = {}
        """Of the peer."""
        self.responses: dict[Key, Collected] = {}
        """To requests of ours."""
        self.held = 0
        """Bytes of all of them."""

    def add(self, collected: Collected, piece: bytes) -> None:
        """Keep a piece, or only count it."""
        collected.size += len(piece)
        if collected.problem or not piece:
            return
        self.held += len(piece)
        kept = collected.pieces
        if kept and len(piece) < SMALL and len(kept[-1]) < SMALL:
            kept[-1] += piece
        else:
            kept.append(piece)

    def drop(self, collected: Collected, problem: bytes) -> None:
        """Keep nothing of it any more."""
        if not collected.problem:
            self.held -= collected.size
        collected.pieces.clear()
        collected.problem = problem

    def join(self, collected: Collected, rest: bytes) -> bytes:
        """The whole payload."""
        self.held -= collected.size
        collected.pieces.append(rest)
        return b"".join(collected.pieces)

    def forget(self, key: Key, *, of_peer: bool) -> None:
        """Nothing more is to come of a payload."""
        collected = (self.requests if of_peer else self.responses).pop(key, None)
        if collected is not None:
            self.drop(collected, b"given up")

    def clear(self) -> None:
        """Nothing more is received."""
        self.requests.clear()
        self.responses.clear()
        self.held = 0
