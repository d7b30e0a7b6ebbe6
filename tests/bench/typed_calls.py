"""What request classes and typed methods cost over a bare call: `python tests/bench/typed_calls.py`.

Medians of rounds in turns, one pair of processes over a socket pair for each. With `--pure` msgspec is not used.
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

from packetwire import BaseRequest, HasPacketConnection

if "--pure" in sys.argv:
    sys.modules["msgspec"] = None  # type: ignore[assignment]
from packetwire.typed import Client, Service, method

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


class Shop(Service):
    @method(1)
    def put(self, title: str, count: int, price: float) -> int:
        return count


FIELDS = bytes(Shop.put("0123456789abcdef", 3, 1.5))


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
    pairs = [socket.socketpair() for _ in range(3)]
    for service, (_, far) in zip((Typed, Bare, Shop().session), pairs, strict=True):
        serve(service, far)
    with Typed(pairs[0][0]) as typed, Bare(pairs[1][0]) as bare, Client(pairs[2][0]) as client:
        put = Shop.put
        ways = {
            "conn_do_remote": lambda: typed.conn_do_remote(Upper("0123456789abcdef")),
            "conn()": lambda: bare.conn(0, b"0123456789abcdef"),
            "conn(), the bytes of the method": lambda: bare.conn(0, FIELDS),
            "a method with three fields": lambda: client.do(put("0123456789abcdef", 3, 1.5)),
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
        print(f"{way:35} {median:6.1f} µs")
    print(f"{'a request class ÷ the bare call':35} {medians['conn_do_remote'] / medians['conn()']:6.2f}")
    ratio = medians["a method with three fields"] / medians["conn(), the bytes of the method"]
    print(f"{'a method ÷ the bare call':35} {ratio:6.2f}")


if __name__ == "__main__":
    main()
