"""Keep files in a chunk store: a directory on another machine, over SSH, or on this one, behind a child process.

    python chunk_store.py put FILE ...             prints the address of each file
    python chunk_store.py get ADDRESS FILE         brings it back

A file is cut into chunks, each of which is stored under its SHA-256, and so is the list of them: the address of
a file is that of its list. The default is a child that keeps its chunks in ./chunks. On another machine, where
packetwire and this program are needed too:

    python chunk_store.py --at 'ssh:user@host python3 chunk_store.py serve /var/tmp/chunks' put FILE
"""

import argparse
import hashlib
import os
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from packetwire import BaseRequest, HasPacketConnection, PacketwireError, RequestFailed, child, connect_to, stdio

CHUNK_SIZE = 64 << 10
WINDOW = 64  # requests under way at a time: while one travels the others fill the line
TIMEOUT = 60  # seconds for each answer
ADDRESS_SIZE = 32


class Damaged(Exception):
    """The bytes are not those that belong to the address."""


def address_of(data):
    return hashlib.sha256(data).digest()


@dataclass
class ChunkRequest(BaseRequest[bytes]):
    """A request that is nothing but bytes, as its answer is."""

    data: bytes

    def __bytes__(self):
        return self.data

    @classmethod
    def from_bytes(cls, data):
        return cls(data)


class Put(ChunkRequest):
    """Store a chunk. The answer is its address, which both ends make of the bytes."""

    def fulfil(self, store):
        return store.write(self.data)

    def decode_response_payload(self, flags, payload):
        if payload != address_of(self.data):
            raise Damaged("a chunk was stored that is not the one that was sent")
        return payload


class Get(ChunkRequest):
    """Fetch the chunk at an address."""

    def fulfil(self, store):
        return store.read(self.data)

    def decode_response_payload(self, flags, payload):
        if address_of(payload) != self.data:
            raise Damaged(f"the chunk {self.data.hex()} is damaged")
        return payload


class Store(HasPacketConnection):
    """Either end of the connection; the one that serves has the directory."""

    def __init__(self, recv_send, directory=None):
        super().__init__(recv_send, "chunk store", rq_type_map={0: Put, 1: Get})
        self.directory = directory

    def write(self, data):
        address = address_of(data)
        path = self.directory / address.hex()
        if not path.exists():
            with tempfile.NamedTemporaryFile(dir=self.directory, delete=False) as file:
                file.write(data)
            os.replace(file.name, path)  # so that nobody ever reads half a chunk
        return address

    def read(self, address):
        try:
            return (self.directory / address.hex()).read_bytes()
        except FileNotFoundError:
            raise LookupError(f"there is no chunk {address.hex()}") from None


def address_argument(text):
    try:
        address = bytes.fromhex(text)
    except ValueError:
        address = b""
    if len(address) != ADDRESS_SIZE:
        raise argparse.ArgumentTypeError(f"an address has {2 * ADDRESS_SIZE} hexadecimal digits, got {text!r}")
    return address


def serve(directory):
    directory.mkdir(parents=True, exist_ok=True)
    with Store(stdio(), directory) as store:
        store.conn.join_recv()


def put(store, path):
    with open(path, "rb") as file:
        chunks = iter(partial(file.read, CHUNK_SIZE), b"")
        addresses = store.conn_map(map(Put, chunks), window=WINDOW, timeout=TIMEOUT)
        return store.conn_do_remote(Put(b"".join(addresses)), timeout=TIMEOUT)


def get(store, address, path):
    addresses = store.conn_do_remote(Get(address), timeout=TIMEOUT)
    if len(addresses) % ADDRESS_SIZE:
        raise Damaged(f"{address.hex()} is the address of a chunk, not that of a file")
    requests = (Get(addresses[at : at + ADDRESS_SIZE]) for at in range(0, len(addresses), ADDRESS_SIZE))
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            for data in store.conn_map(requests, window=WINDOW, timeout=TIMEOUT):
                file.write(data)
        part.replace(path)  # all of the file or nothing
    finally:
        part.unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at", metavar="ADDRESS", help="where the store is, such as 'ssh:HOST COMMAND'")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    putting = commands.add_parser("put", help="store files, print their addresses")
    putting.add_argument("files", nargs="+", metavar="FILE")
    getting = commands.add_parser("get", help="fetch a file")
    getting.add_argument("address", type=address_argument, metavar="ADDRESS")
    getting.add_argument("file", type=Path, metavar="FILE")
    serving = commands.add_parser("serve", help="be the store, on standard input and output")
    serving.add_argument("directory", type=Path, metavar="DIRECTORY")
    args = parser.parse_args()
    local = [sys.executable, __file__, "serve", "chunks"]
    try:
        if args.command == "serve":
            serve(args.directory)
            return 0
        # in a process group of its own: Ctrl-C is for this end, which then ends the other
        with Store(connect_to(args.at) if args.at else child(local, process_group=0)) as store:
            if args.command == "get":
                get(store, args.address, args.file)
            else:
                for path in args.files:
                    print(f"{put(store, path).hex()}  {path}", flush=True)
        return 0
    except KeyboardInterrupt:
        return 130
    except RequestFailed as error:
        print(f"chunk_store: {error.text}", file=sys.stderr)
    except (PacketwireError, OSError, Damaged) as error:
        print(f"chunk_store: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
