"""What a request class costs over a bare call: `python tests/bench/typed_calls.py`, medians of rounds in turns."""

from __future__ import annotations

import os
import socket
import statistics
import time
from dataclasses import dataclass
from typing import Any

from packetwire import BaseRequest, HasPacketConnection

REQUESTS = 3000
ROUNDS = 9


@dataclass
class Upper(BaseRequest[str]):
    text: str

    def __bytes__(self) -> bytes:
        return self.text.encode()

    @classmethod
    def from_bytes(cls, octets: bytes) -> Upper:
        return cls(octets.decode())

    def fulfil(self, context: Any) -> str:
        return self.text.upper()

    def decode_response_payload(self, flags: int, payload: bytes) -> str:
        return payload.decode()


class Typed(HasPacketConnection):
    def __init__(self, recv_send: Any) -> None:
        super().__init__(recv_send, rq_type_map={0: Upper})


class Bare(HasPacketConnection):
    def __init__(self, recv_send: Any) -> None:
        super().__init__(
            recv_send, rq_type_map={}, request_handler=lambda rq_type, flags, payload: payload.upper(), inline=None
        )


def serve(service: Any, far: socket.socket) -> int:
    pid = os.fork()
    if pid == 0:
        with service(far) as serving:
            serving.conn.join_recv()
        os._exit(0)
    far.close()
    return pid


def main() -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    for service, (_, far) in zip((Typed, Bare), pairs, strict=True):
        serve(service, far)
    with Typed(pairs[0][0]) as typed, Bare(pairs[1][0]) as bare:
        ways = {
            "conn_do_remote": lambda: typed.conn_do_remote(Upper("0123456789abcdef")),
            "conn()": lambda: bare.conn(0, b"0123456789abcdef"),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, call in ways.items():
                began = time.perf_counter()
                for _ in range(REQUESTS):
                    call()
                times[way].append((time.perf_counter() - began) / REQUESTS * 1e6)
    medians = {way: statistics.median(found) for way, found in times.items()}
    for way, median in medians.items():
        print(f"{way:15} {median:6.1f} µs")
    print(f"ratio           {medians['conn_do_remote'] / medians['conn()']:6.2f}")


if __name__ == "__main__":
    main()
