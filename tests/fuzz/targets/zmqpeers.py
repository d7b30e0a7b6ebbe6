"""The streams of the peers of a listening ZMQ socket: which frame belongs to which."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from packetwire.streams import zmqpeers
from packetwire.streams.bytestream import Buffers
from packetwire.streams.zmqpeers import Identity, Peers, PeerStream
from packetwire.zmq.links import Link

from ..frames import pack, unpack
from ..mutators import frames_mutator, octets_mutator
from ..target import Target

IDENTITIES = (b"a", b"b", b"c")
LINKS: tuple[Link, ...] = (None, (7, 1), (7, 2), (8, 1))
BOUNDARY, ARRIVAL, OCTETS, LOSS, BREAK, CLOSE = range(6)
STRANGER = "octets without a boundary"
NO_PLACE = "there is no place for a stream"
MAX_STREAMS = 12


class Sender:
    """A socket that takes all, and keeps the streams that began."""

    def __init__(self) -> None:
        self.streams: list[PeerStream] = []
        self.came: dict[PeerStream, bytes] = {}
        self.reasons: list[str] = []

    def begin(self, identity: Identity, is_greeted: bool) -> PeerStream | None:
        if len(self.streams) >= MAX_STREAMS:
            self.reasons.append(NO_PLACE)
            return None
        stream = PeerStream(identity, self, has_begun=is_greeted)
        self.streams.append(stream)
        self.came[stream] = b""
        return stream

    def refuse(self, identity: Identity, is_greeted: bool) -> None:
        self.reasons.append(STRANGER)

    def send(self, stream: PeerStream, buffers: Buffers) -> int:
        return sum(map(len, buffers))

    def end(self, stream: PeerStream) -> None: ...

    def receive(self) -> None: ...

    def drained(self) -> None: ...

    def released(self, stream: PeerStream) -> None: ...


@contextmanager
def sending() -> Iterator[Sender]:
    sender = Sender()
    try:
        yield sender
    finally:
        for stream in sender.streams:
            stream.close()


def hear_peers(octets: bytes) -> list[str]:
    with sending() as sender:
        peers = Peers(sender.begin, sender.refuse)
        closed: set[PeerStream] = set()
        over: set[PeerStream] = set()
        for step in unpack(octets)[:100]:
            act, who, link, content = (*step[:3], step[3:]) if len(step) >= 3 else (*(0, 0, 0), step)
            before = [peers.stream_of(identity) for identity in IDENTITIES]
            _act(peers, sender, closed, act % 6, IDENTITIES[who % 3], LINKS[link % 4], content)
            live = [peers.stream_of(identity) for identity in IDENTITIES]
            over.update(old for old, now in zip(before, live, strict=True) if old is not None and old is not now)
            assert len({id(each) for each in live if each is not None}) == sum(each is not None for each in live)
            assert all(each is None or not each.is_superseded for each in live)
            known = {identity for identities in peers._by_link.values() for identity in identities}
            assert known <= set(peers._peers)
            assert len(peers) <= zmqpeers.MAX_PEERS
        for stream in sender.streams:
            if stream not in closed:
                _read_to_the_end(stream, sender.came[stream], stream in over)
        return sender.reasons


def _act(
    peers: Peers, sender: Sender, closed: set[PeerStream], act: int, identity: Identity, link: Link, content: bytes
) -> None:
    """One thing that happens to the socket, as `zmqrouter` tells of it."""
    stream = peers.stream_of(identity)
    if act == BOUNDARY:
        peers.receive_boundary(identity)
        assert stream is None or peers.stream_of(identity) is not stream
    elif act == ARRIVAL:
        if not peers.knows(identity, link):
            peers.arrive(identity, link)
    elif act == OCTETS and content:
        peers.receive_data(identity, content)
        now = peers.stream_of(identity)
        if now is not None:
            sender.came[now] += content
    elif act == LOSS:
        peers.lose_link(link)
    elif act == BREAK:
        peers.break_off(identity, OSError("broken"))
    elif act == CLOSE and stream is not None:
        stream.incoming.close()
        peers.release(stream)
        closed.add(stream)


def _read_to_the_end(stream: PeerStream, came: bytes, is_over: bool) -> None:
    """All that came is read, in order; then the end if there was one."""
    read = b""
    try:
        while octets := stream.incoming.try_read(5):
            read += octets
    except OSError:
        assert is_over
        assert read == came
        return
    assert read == came
    assert (octets == b"") == stream.incoming.is_over == is_over


def any_step(random: Random) -> bytes:
    """Something that happens."""
    act = random.choice((BOUNDARY, ARRIVAL, ARRIVAL, OCTETS, OCTETS, OCTETS, LOSS, BREAK, CLOSE))
    return bytes((act, random.randrange(3), random.randrange(4))) + random.randbytes(random.randrange(12))


SEEDS = [
    pack(b"%c\0\1%s" % (act, content) for act, content in acts)
    for acts in (
        [(ARRIVAL, b""), (OCTETS, b"hello"), (BOUNDARY, b""), (BOUNDARY, b""), (OCTETS, b"again")],
        [(OCTETS, b"x"), (ARRIVAL, b""), (OCTETS, b"y"), (LOSS, b"")],
        [(ARRIVAL, b""), (BREAK, b""), (OCTETS, b"z"), (CLOSE, b"")],
        [(ARRIVAL, b""), *[(BOUNDARY, b"")] * 2 * (MAX_STREAMS + 2)],
    )
]

TARGETS = (
    Target(
        name="zmq-peers",
        seeds=SEEDS,
        mutate=frames_mutator(octets_mutator(), SEEDS, any_step),
        hear=hear_peers,
        reasons=frozenset({STRANGER, NO_PLACE}),
    ),
)
