"""What is done in a round: all of it drawn from the seed and the number of the round, before anything runs."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field, replace
from functools import cached_property

from packetwire.testing import NO_FAULTS, Faults

from .behaviours import ANSWERED, MAX_SIZE, MIB, STREAMED, TIMED, UNSTREAMED, Ask, Behaviour

FACES = ("threads", "asyncio", "uvloop")
PLAIN_TRANSPORTS = ("pipes", "socketpair", "unix", "tcp", "files", "buffers")
ZMQ_TRANSPORTS = ("zmq+pair-ipc", "zmq+pair-tcp", "zmq+pair-inproc", "zmq+router-ipc", "zmq+router-tcp")
TLS_TRANSPORTS = ("tls",) if shutil.which("openssl") else ()
SERVED = ("unix", "tcp", "zmq+router", *TLS_TRANSPORTS)

ENDS_OF_PAIRS = ("clean", "owing", "a-closes", "b-closes", "a-announces", "a-drains", "cut", "half-close")
ENDS_OF_FAULTY_LINKS = ("pieces", "delay", "stall", "stall-cut", "stall-close", "truncated", "flips", "noise")
ENDS_OF_CHILDREN = ("clean", "parent-closes", "killed", "stopped", "paused", "exits")
ENDS_OF_OLD_CHILDREN = ("clean", "parent-closes", "killed", "stopped", "paused")
ENDS_OF_KEPT = ("links-cut", "kept")
ENDS_OF_SERVERS = ("clean", "server-stops", "client-closes", "client-cut", "full")

WHOLE = ("clean", "pieces", "delay", "stall", "paused", "links-cut", "kept")
"""How rounds end in which every request gets its answer."""
SPOILT = ("flips", "noise")
"""How rounds end in which octets are not what was sent."""

SIZES = ((0, 0), (1, 64), (65, 4096), (4097, 128 << 10), (128 << 10, MIB), (MIB, MAX_SIZE))
SIZE_WEIGHTS = (6, 40, 30, 15, 5, 1)
CHANNELS = (16, 20)
"""The channels that are asked on beside 0."""
BUDGET = 24 * MIB
"""Octets of requests in a round."""
LOST_TIMEOUT = 0.3
"""Seconds that a request waits for its answer in a round that may lose it silently."""


@dataclass(frozen=True)
class Turn:
    """What one asker does next: some requests, and how they are made and collected."""

    way: str
    asks: tuple[Ask, ...]
    window: int = 1
    taken: int = 0
    """Answers of a `map` that are taken before it is left."""


@dataclass(frozen=True)
class EndPlan:
    """One end of a connection: its face, how its handlers run, and what its askers ask."""

    name: str
    face: str
    is_service: bool
    handling: str
    handlers: int
    close_timeout: float
    max_unsent: int
    capabilities: str = "auto"
    is_old: bool = False
    """Whether it is packetwire 0.1.0."""
    askers: tuple[tuple[Turn, ...], ...] = ()

    @property
    def handlers_must_not_wait(self) -> bool:
        """Whether a call back from a handler may be refused: one that is inline can be in the thread that reads."""
        return self.face == "threads" and self.handling != "workers"

    @property
    def may_stream(self) -> bool:
        """Whether bodies are asked for, and handled: by handlers that may wait."""
        return not self.is_service and self.handling in ("workers", "coroutines")

    def knows(self, peer: EndPlan) -> bool:
        """Whether it comes to know what the peer understands, without waiting for the peer to ask."""
        return self.capabilities in ("auto", "require") and peer.capabilities != "off" and not peer.is_old

    @property
    def words(self) -> set[str]:
        kind = "service" if self.is_service else "connection"
        return {self.face, self.handling, kind, self.capabilities} | ({"old"} if self.is_old else set())


@dataclass(frozen=True)
class RoundPlan:
    """A round. `at` is how many requests have ended when it is disturbed."""

    seed: int
    number: int
    topology: str
    transport: str
    end: str
    ends: tuple[EndPlan, ...]
    server: EndPlan | None = None
    at: int = 0
    a_to_b: Faults = NO_FAULTS
    b_to_a: Faults = NO_FAULTS
    bridge: bool = False
    kept: str = ""
    """What keeps the connections, such as "pool"."""
    strangers: int = 0
    drain_timeout: float = 5.0
    noise: bytes = field(default=b"", repr=False)

    @property
    def may_end(self) -> bool:
        """Whether requests may be lost with their connection."""
        return self.end not in WHOLE

    @property
    def is_spoilt(self) -> bool:
        """Whether octets are changed on their way."""
        return self.end in SPOILT

    @cached_property
    def words(self) -> set[str]:
        """What it can be selected by."""
        found = {self.topology, *transport_words(self.transport), self.end}
        found |= ({"bridge"} if self.bridge else set()) | ({self.kept} if self.kept else set())
        return found.union(*(end.words for end in (*self.ends, *([self.server] if self.server else []))))

    def __str__(self) -> str:
        ends = ", ".join(f"{end.name} {end.face} {end.handling}" for end in self.ends)
        server = f" with {self.server.face} {self.server.handling}" if self.server else ""
        bridge = " behind a bridge" if self.bridge else ""
        return f"{self.topology} over {self.transport}{bridge}{server}, end {self.end} at {self.at}: {ends}"


def transport_words(transport: str) -> set[str]:
    """What a transport can be selected by: its name, and what it is a kind of, as zmq+pair-ipc is of zmq."""
    family, _, _ = transport.partition("+")
    socket, _, _ = transport.partition("-")
    return {transport, socket, family}


HANDLING = ("workers", "inline", "some inline", "coroutines")
TOPOLOGIES = ("pair", "faulty", "server", "child", "old-child", "kept")
CAPABILITIES = ("auto", "passive", "off", "require")
KEEPERS = ("reconnecting", "pool", "supervised", "shipped")
WORDS = frozenset(
    {
        *TOPOLOGIES,
        *(ENDS_OF_PAIRS + ENDS_OF_FAULTY_LINKS + ENDS_OF_CHILDREN + ENDS_OF_SERVERS),
        *FACES,
        *HANDLING,
        *CAPABILITIES,
        *KEEPERS,
        *(ENDS_OF_OLD_CHILDREN + ENDS_OF_KEPT),
        *("bridge", "service", "connection", "stdio", "old"),
    }
).union(*map(transport_words, (*PLAIN_TRANSPORTS, *ZMQ_TRANSPORTS, *TLS_TRANSPORTS, *SERVED)))
"""All that a round can be selected by."""


def draw(seed: int, number: int) -> RoundPlan:
    """The plan of a round, the same in every process."""
    return _Drawing(seed, number).draw()


class _Drawing:
    def __init__(self, seed: int, number: int) -> None:
        self._seed = seed
        self._number = number
        self._random = random.Random(f"{seed}:{number}")
        self._asked = 0
        self._budget = BUDGET
        self._end = ""

    def draw(self) -> RoundPlan:
        topology = self._random.choices(TOPOLOGIES, (8, 5, 4, 2, 1, 1))[0]
        plan: RoundPlan = getattr(self, f"_{topology.replace('-', '_')}")()
        return plan

    def _pair(self) -> RoundPlan:
        kinds = PLAIN_TRANSPORTS, ZMQ_TRANSPORTS, TLS_TRANSPORTS
        transport = self._random.choice(self._random.choices(kinds, (6, 2, len(TLS_TRANSPORTS)))[0])
        self._end = self._random.choice(ENDS_OF_PAIRS)
        return self._plan("pair", transport, self._two_ends())

    def _faulty(self) -> RoundPlan:
        self._end = self._random.choice(ENDS_OF_FAULTY_LINKS)
        ends = self._two_ends()
        directions = [self._faults(), self._faults()]
        if self._end != "pieces" and self._random.random() < 0.7:
            directions[self._random.randrange(2)] = NO_FAULTS
        noise = self._random.randbytes(self._random.choice((1, 7, 300))) if self._end == "noise" else b""
        return self._plan("faulty", "pipes", ends, a_to_b=directions[0], b_to_a=directions[1], noise=noise)

    def _child(self) -> RoundPlan:
        self._end = self._random.choice(ENDS_OF_CHILDREN)
        return self._plan("child", "stdio", self._two_ends())

    def _old_child(self) -> RoundPlan:
        """The child is packetwire 0.1.0, which only answers."""
        self._end = self._random.choice(ENDS_OF_OLD_CHILDREN)
        a, b = self._an_end("a"), replace(self._an_end("b"), face="threads", handling="workers", is_service=False)
        b = replace(b, is_old=True, handlers=4, capabilities="off")
        return self._plan("old-child", "stdio", (self._with_askers(replace(a, capabilities="auto"), b), b))

    def _kept(self) -> RoundPlan:
        """Connections that come back: whatever happens to them, each request has its answer."""
        kept = self._random.choice(KEEPERS)
        is_child = kept in ("supervised", "shipped")
        self._end = self._random.choice(ENDS_OF_KEPT)
        a = replace(self._an_end("a"), face="threads", is_service=False, capabilities="auto")
        server = None if is_child else replace(self._an_end("server"), capabilities="auto")
        asks = tuple(
            tuple(self._turn_of_kept() for _ in range(self._random.randint(1, 4)))
            for _ in range(self._random.choice((1, 2, 4)))
        )
        transport = "stdio" if is_child else self._random.choice(("unix", "tcp"))
        return self._plan("kept", transport, (replace(a, askers=asks),), server=server, kept=kept)

    def _turn_of_kept(self) -> Turn:
        asks = []
        for _ in range(self._random.choice((1, 5, 20))):
            self._asked += 1
            behaviour = self._random.choice((Behaviour.ECHO, Behaviour.DIGEST, Behaviour.PRODUCE))
            asks.append(Ask(self._asked, behaviour, self._size(behaviour)))
        return Turn("call", tuple(asks))

    def _server(self) -> RoundPlan:
        transport = self._random.choice(SERVED)
        self._end = self._random.choice(ENDS_OF_SERVERS)
        server = self._an_end("server")
        clients = [self._an_end(f"client {i}") for i in range(self._random.randint(1, 5))]
        ends = tuple(self._with_askers(client, server) for client in clients)
        return self._plan(
            "server",
            transport,
            ends,
            server=server,
            bridge=transport in ("unix", "tcp") and self._random.random() < 0.4,
            strangers=self._random.choice((0, 0, 1, 3)),
            drain_timeout=self._random.choice((0.0, 0.05, 5.0)) if self._end == "server-stops" else 5.0,
        )

    def _plan(self, topology: str, transport: str, ends: tuple[EndPlan, ...], **more: object) -> RoundPlan:
        at = self._random.randint(0, max(1, self._asked))
        return RoundPlan(self._seed, self._number, topology, transport, self._end, ends, at=at, **more)  # type: ignore[arg-type]

    def _faults(self) -> Faults:
        place = self._random.choice((0, 1, self._random.randrange(300), self._random.randrange(1 << 18)))
        end = self._end
        if end == "pieces":
            few_octets = self._budget > BUDGET - (1 << 18)
            sizes = [self._random.choice((1, 2, 3, 5, 17, 100, 4096) if few_octets else (100, 1000, 4096))]
            return Faults(pieces=sizes + [self._random.randint(100, 4096) for _ in range(3)])
        if end == "delay":
            return Faults(delay_at=place)
        if end.startswith("stall"):
            return Faults(stall_at=place)
        if end == "truncated":
            return Faults(cut_at=place)
        if end == "flips":
            return Faults(
                flips={place + self._random.randrange(100): 1 << self._random.randrange(8) for _ in range(3)}
            )
        return NO_FAULTS

    # ends

    def _an_end(self, name: str) -> EndPlan:
        face = self._random.choices(FACES, (5, 4, 2))[0]
        handling = ["workers", "workers", "inline", "some inline"] + ["coroutines"] * 3 * (face != "threads")
        return EndPlan(
            name,
            face,
            is_service=self._random.random() < 0.35,
            handling=self._random.choice(handling),
            handlers=self._random.choice((1, 2, 4)),
            close_timeout=self._random.choice((0.05, 0.2)),
            max_unsent=self._random.choice((1, 1 << 16, 1 << 20)),
            capabilities=self._random.choices(CAPABILITIES[:3], (8, 1, 1))[0],
        )

    def _two_ends(self) -> tuple[EndPlan, ...]:
        a, b = self._an_end("a"), self._an_end("b")
        if self._end == "clean" and "off" not in (a.capabilities, b.capabilities) and self._random.random() < 0.2:
            a = replace(a, capabilities="require")
        asked_by = self._random.choice(("a", "b", "ab", "ab", "ab"))
        return (
            self._with_askers(a, b) if "a" in asked_by else a,
            self._with_askers(b, a) if "b" in asked_by else b,
        )

    def _with_askers(self, end: EndPlan, peer: EndPlan) -> EndPlan:
        askers = tuple(
            tuple(self._turn(end, peer) for _ in range(self._random.randint(1, 8)))
            for _ in range(self._random.choice((1, 1, 2, 4)))
        )
        return replace(end, askers=askers)

    # requests

    def _turn(self, end: EndPlan, peer: EndPlan) -> Turn:
        ways = ["call"] * 4 + ["submit"] * 3 + ["map"] * 2 + ["cancel"]
        if self._end not in WHOLE:
            ways += ["abandon"] * (6 if self._end == "owing" else 1)
        if end.may_stream and peer.may_stream and end.knows(peer) and self._end not in SPOILT:
            ways += ["stream"] * 3
        way = self._random.choice(ways)
        count = self._random.choice((1, 2, 5, 20, 50) if way != "stream" else (1, 2, 5))
        window = self._random.choice((1, 3, 64))
        taken = count if self._random.random() < 0.7 else self._random.randint(0, count)
        asks = [self._ask(way, end, peer) for _ in range(count)]
        if way == "map":  # which has one timeout for all
            asks = [replace(ask, timeout=asks[0].timeout) for ask in asks]
        return Turn(way, tuple(asks), window, taken)

    def _ask(self, way: str, end: EndPlan, peer: EndPlan) -> Ask:
        behaviours = {"map": (ANSWERED,), "stream": (STREAMED,)}.get(way, (ANSWERED, ANSWERED, UNSTREAMED))
        behaviour = self._random.choice(self._random.choice(behaviours))
        timeout = self._random.choice((0.0, 0.001, 0.01, 0.1)) if self._random.random() < 0.08 else None
        if self._end in SPOILT:
            timeout = LOST_TIMEOUT if timeout is None else timeout
        elif behaviour is Behaviour.NEVER and way not in ("cancel", "abandon"):
            timeout = self._random.choice((0.001, 0.01))
        depth = self._random.randint(1, 4) if behaviour is Behaviour.CALL_BACK else 0
        self._asked += 1
        return Ask(
            self._asked,
            behaviour,
            self._size(behaviour),
            milliseconds=self._random.choice((0, 1, 1, 5, 20)) if behaviour in TIMED else 0,
            depth=depth,
            channel=self._random.choice((0, 0, 0, *CHANNELS)) if way != "stream" and not peer.is_old else 0,
            timeout=timeout if way != "stream" else None,
            is_deadline=way == "call" and end.knows(peer) and self._random.random() < 0.5,
            may_fail=any((peer, end)[(depth - k) % 2].handlers_must_not_wait for k in range(1, depth + 1)),
        )

    def _size(self, behaviour: Behaviour) -> int:
        low, high = self._random.choices(SIZES, SIZE_WEIGHTS)[0]
        size = min(self._random.randint(low, high), self._budget >> 2)
        self._budget -= size
        return size
