"""A store of chunks, addressed by their SHA-256, as a program that talks over its standard input and output.

The requests are at the top: both sides of the connection use them. `python -m packetwire.cli.chunkstore`
is the far side.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from packetwire import BaseRequest, ByteStream, HasPacketConnection, stdio

OWN_GROUP = 0
"""The `process_group` of a store: Ctrl-C at the terminal reaches the client only, which then ends its store."""


def address_of(data: bytes) -> bytes:
    """The address of a chunk: its SHA-256 digest, 32 bytes."""
    return hashlib.sha256(data).digest()


@dataclass(frozen=True)
class Add(BaseRequest[bytes]):
    """Store a chunk; the answer is its address."""

    data: bytes

    def __bytes__(self) -> bytes:
        return self.data

    @classmethod
    def from_bytes(cls, bs: bytes) -> Self:
        return cls(bs)

    def fulfil(self, context: ChunkStore) -> bytes:
        return context.add(self.data)

    def decode_response_payload(self, flags: int, payload: bytes) -> bytes:
        return payload


@dataclass(frozen=True)
class Get(BaseRequest[bytes]):
    """Fetch the chunk at an address; an address that is not there fails."""

    address: bytes
    inline = True

    def __bytes__(self) -> bytes:
        return self.address

    @classmethod
    def from_bytes(cls, bs: bytes) -> Self:
        return cls(bs)

    def fulfil(self, context: ChunkStore) -> bytes:
        return context.get(self.address)

    def decode_response_payload(self, flags: int, payload: bytes) -> bytes:
        return payload


@dataclass(frozen=True)
class Contains(BaseRequest[bool]):
    """Ask if there is a chunk at an address; the answer is in the flags."""

    address: bytes
    inline = True

    def __bytes__(self) -> bytes:
        return self.address

    @classmethod
    def from_bytes(cls, bs: bytes) -> Self:
        return cls(bs)

    def fulfil(self, context: ChunkStore) -> int:
        return self.address in context.chunks

    def decode_response_payload(self, flags: int, payload: bytes) -> bool:
        return flags == 1


@dataclass(frozen=True)
class Length(BaseRequest[int]):
    """Ask how many chunks there are; the answer is a number of 8 bytes, big-endian."""

    inline = True

    def __bytes__(self) -> bytes:
        return b""

    @classmethod
    def from_bytes(cls, bs: bytes) -> Self:
        return cls()

    def fulfil(self, context: ChunkStore) -> bytes:
        return len(context.chunks).to_bytes(8, "big")

    def decode_response_payload(self, flags: int, payload: bytes) -> int:
        return int.from_bytes(payload, "big")


REQUESTS: dict[int, type[BaseRequest[Any]]] = {0: Add, 1: Get, 2: Contains, 3: Length}


def store_command(corrupt: bytes | None = None) -> list[str]:
    """The command that starts a store; see `ChunkStore` for `corrupt`."""
    argv = [sys.executable, "-m", "packetwire.cli.chunkstore"]
    return argv if corrupt is None else [*argv, "--corrupt", corrupt.hex()]


class ChunkStore(HasPacketConnection):
    """The store itself, in memory, and its connection.

    `corrupt` is the address of a chunk to damage: one byte of it is flipped as it is stored.
    """

    def __init__(self, stream: ByteStream, corrupt: bytes | None = None) -> None:
        super().__init__(stream, "chunkstore", rq_type_map=REQUESTS)
        self.chunks: dict[bytes, bytes] = {}
        self._corrupt = corrupt

    def add(self, data: bytes) -> bytes:
        """Store a chunk, return its address."""
        address = address_of(data)
        self.chunks[address] = _with_flipped_byte(data) if address == self._corrupt else data
        return address

    def get(self, address: bytes) -> bytes:
        """The chunk at an address."""
        try:
            return self.chunks[address]
        except KeyError:
            raise KeyError(f"no chunk at {address.hex()}") from None


def _with_flipped_byte(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes((data[middle] ^ 0xFF,)) + data[middle + 1 :]


def main(argv: Sequence[str] | None = None) -> int:
    """Serve a chunk store to the process that started this one, until it ends the connection."""
    parser = argparse.ArgumentParser(prog="python -m packetwire.cli.chunkstore", description=main.__doc__)
    parser.add_argument(
        "--corrupt", metavar="ADDRESS", type=bytes.fromhex, help="flip a byte of the chunk with this SHA-256"
    )
    args = parser.parse_args(argv)
    with ChunkStore(stdio(), args.corrupt) as store:
        store.conn.join_recv()
    return 0


if __name__ == "__main__":
    sys.exit(main())
