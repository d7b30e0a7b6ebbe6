"""Attacks on servers at tcp: and unix: addresses, by plain sockets. `python -m tools.attacks.packets` runs all.

Each takes the address of the victim, and is bounded in what it sends and in time.
"""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from packetwire import Packet, PacketDecoder
from packetwire.core.frames import FrameType, Meta, encode_frame, encode_meta
from packetwire.core.hello import ALL_FEATURES, ASK, CONTROL_CHANNEL, HELLO, Hello, encode_hello
from packetwire.core.varint import MAX_UINT, encode_varint
from tools.attacks.local import connect_locally
from tools.attacks.victim import ECHO, LARGE, RAISE, Victim
from tools.attacks.zmtp import LIMIT, Attack, Outcome, run

STAY = 2.0
"""Seconds for which idle clients stay."""
PLACES = 128
BATCH = 100
HALF_A_PACKET = b"\xff\xff"
"""The beginning of a length."""


def connect(address: str) -> socket.socket:
    """A plain socket; only to this machine."""
    scheme, _, rest = address.partition(":")
    return connect_locally(f"{'ipc' if scheme == 'unix' else 'tcp'}://{rest}")


def request(tag: int, rq_type: int, payload: bytes = b"") -> bytes:
    """`rq_type` as handlers see it."""
    return bytes(Packet(is_request=True, channel=0, tag=tag, flags=0, rq_type=rq_type + 1, payload=payload))


def idle_clients(address: str, _: bytes, count: int, sent: bytes = b"") -> None:
    """So many clients that say nothing, or no more than `sent`, and come again when they are ended."""
    clients: list[socket.socket] = []
    end = time.monotonic() + STAY
    with ExitStack() as opened:
        while time.monotonic() < end:
            while len(clients) < count:
                sock = opened.enter_context(connect(address))
                sock.sendall(sent)
                clients.append(sock)
            time.sleep(0.01)
            clients = [sock for sock in clients if not was_ended(sock)]


def half_packets(address: str, kind: bytes, count: int) -> None:
    """The same with a packet begun."""
    idle_clients(address, kind, count, HALF_A_PACKET)


def served_once(address: str, kind: bytes, count: int) -> None:
    """The same with one request each, so that none of them is silent."""
    idle_clients(address, kind, count, request(2, ECHO, b"once"))


def was_ended(sock: socket.socket) -> bool:
    """Whether the server has ended it; what it sent before is dropped."""
    with suppress(TimeoutError, BlockingIOError, ConnectionError):
        sock.settimeout(0)
        while got := sock.recv(4096):
            if got.endswith(b"\x03\x00\x02\x00"):  # EOF
                return True
        return True
    return False


def clients_that_do_not_read(address: str, _: bytes, count: int, requests: int = 300) -> None:
    """So many that send a megabyte with each request, get it back, and take nothing."""
    with ExitStack() as opened:
        for _client in range(count):
            sock = opened.enter_context(connect(address))
            sock.settimeout(LIMIT)
            for tag in range(2, 2 + requests):
                sock.sendall(request(tag, ECHO, b"x" * (1 << 20)))
        time.sleep(STAY)


def clients_that_ask_for_much(address: str, _: bytes, count: int) -> None:
    """So many that send small requests for large replies, and take none of them."""
    with ExitStack() as opened:
        asking = b"".join(request(tag, LARGE) for tag in range(2, 1002))
        for _client in range(count):
            sock = opened.enter_context(connect(address))
            sock.settimeout(LIMIT)
            sock.sendall(asking)
        time.sleep(STAY)


def packets_without_an_end(address: str, _: bytes, count: int, size: int = 60 << 20) -> None:
    """So many large requests, of which the last byte never comes."""
    begun = memoryview(request(2, ECHO, bytes(size)))[:-1]
    with ExitStack() as opened:
        for _client in range(count):
            sock = opened.enter_context(connect(address))
            sock.settimeout(LIMIT)
            with suppress(OSError):
                sock.sendall(begun)
        time.sleep(STAY)


def requests_that_raise(address: str, _: bytes, count: int) -> None:
    """A flood of small requests whose handler raises, by who reads the answers."""
    with connect(address) as sock:
        sock.settimeout(LIMIT)
        for first in range(2, count + 2, BATCH):
            sock.sendall(b"".join(request(tag, RAISE) for tag in range(first, first + BATCH)))
            read_responses(sock, BATCH)


def read_responses(sock: socket.socket, count: int) -> None:
    decoder = PacketDecoder()
    while count > 0 and (got := sock.recv(65536)):
        count -= len(decoder.feed(got))


def oversize_packets(address: str, _: bytes, count: int) -> None:
    """So many clients, one after the other, that announce a packet which is too large."""
    for _client in range(count):
        with connect(address) as sock, suppress(OSError):
            sock.sendall(b"\xff\xff\xff\xff\xff\x7f\x02\x02\x01")
            sock.recv(100)


def drop_by_drop(address: str, _: bytes, count: int, pause: float = 1.0) -> None:
    """So many clients that send a request, a byte after each pause; where they are ended, they come again."""
    octets = request(2, ECHO, b"x" * 60)
    clients: list[tuple[socket.socket, int]] = []
    end = time.monotonic() + max(STAY, 3 * pause)
    with ExitStack() as opened:
        while time.monotonic() < end:
            while len(clients) < count:
                clients.append((opened.enter_context(connect(address)), 0))
            left = []
            for sock, sent in clients:
                with suppress(OSError):
                    sock.settimeout(LIMIT)
                    sock.sendall(octets[sent : sent + 1])
                if sent + 1 < len(octets) and not was_ended(sock):
                    left.append((sock, sent + 1))
            clients = left
            time.sleep(pause)


def hello() -> bytes:
    """What asks for all capabilities."""
    payload = ASK + encode_hello(Hello(features=ALL_FEATURES))
    return bytes(Packet(is_request=True, channel=CONTROL_CHANNEL, tag=2, rq_type=HELLO + 1, payload=payload))


def bodies(address: str, _: bytes, count: int, pieces: bytes) -> None:
    """So many clients, one after the other, that begin bodies, and go on with what is not theirs to send."""
    meta = encode_meta(Meta(has_body=True, response_credit=1))
    begun = b"".join(
        encode_frame(FrameType.META, 0, tag, meta) + request(tag, ECHO, b"with a body") for tag in range(2, 12)
    )
    for _client in range(count):
        with connect(address) as sock, suppress(OSError):
            sock.settimeout(LIMIT)
            sock.sendall(hello() + begun + pieces)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass


def floods_of_data(address: str, kind: bytes, count: int) -> None:
    """Many empty frames, then more bytes of a body than were granted."""
    empty = encode_frame(FrameType.DATA, 0, 2) * 2000
    bodies(address, kind, count, empty + encode_frame(FrameType.DATA, 0, 2, bytes(200_000)) * 40)


def credit_beyond_measure(address: str, kind: bytes, count: int) -> None:
    """More credit than can be counted, stops and cancels, again and again, for bodies that are there or not."""
    frames = b"".join(
        encode_frame(FrameType.CREDIT, 0, tag, encode_varint(MAX_UINT), of_receiver=False)
        + encode_frame(FrameType.STOP, 0, tag, b"\1")
        + encode_frame(FrameType.CANCEL, 0, tag, b"\1")
        for tag in range(2, 40)
    )
    bodies(address, kind, count, frames * 20)


def responses_to_nothing(address: str, _: bytes, count: int) -> None:
    """So many clients, one after the other, that answer what was never asked, and do so twice."""
    answers = b"".join(bytes(Packet(is_request=False, tag=tag, flags=1, payload=b"!")) for tag in range(2, 200))
    for client in range(count):
        with connect(address) as sock, suppress(OSError):
            sock.settimeout(LIMIT)
            sock.sendall((hello() if client % 2 else b"") + request(2, ECHO, b"x") + answers * 2)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass


ATTACKS: dict[str, tuple[Attack, int]] = {
    "128 idle clients": (idle_clients, PLACES),
    "128 clients with half a packet": (half_packets, PLACES),
    "128 clients that were served once": (served_once, PLACES),
    "five clients that do not read": (clients_that_do_not_read, 5),
    "100 clients that ask for much and do not read": (clients_that_ask_for_much, 100),
    "40 packets of 60 MiB without an end": (packets_without_an_end, 40),
    "a flood of 20,000 requests that raise": (requests_that_raise, 20_000),
    "500 packets that are too large": (oversize_packets, 500),
    "100 clients that send a byte a second": (drop_by_drop, 100),
    "100 floods of DATA": (floods_of_data, 100),
    "100 clients with credit beyond measure": (credit_beyond_measure, 100),
    "500 clients that answer what nobody asked": (responses_to_nothing, 500),
}
KINDS = ("serve", "aserve", "bridge")


def show(outcome: Outcome) -> None:
    print(f"  before:   {outcome.before}\n  then:     {outcome.worst or 'it is gone'}")
    print(f"  after:    {outcome.after or 'it is gone'}")
    print(f"  innocent: {outcome.report}\n  a new client is served: {outcome.served_after}", flush=True)


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.attacks.packets", description=__doc__)
    parser.add_argument("--only", default="", help="attacks with this in their names")
    parser.add_argument("--target", default="", help="targets with this in them")
    chosen = parser.parse_args(args)
    with tempfile.TemporaryDirectory() as directory:
        for kind in KINDS:
            for address in "tcp:127.0.0.1:0", f"unix:{directory}/victim":
                for name, (attack, count) in ATTACKS.items():
                    if chosen.only not in name or chosen.target not in f"{kind} {address}":
                        continue
                    print(f"{kind} {address}: {name}", flush=True)
                    with Victim(kind, address) as victim:
                        show(run(victim, attack, count))
                    print(f"  it ended with {victim.status}")


if __name__ == "__main__":
    sys.exit(main())
