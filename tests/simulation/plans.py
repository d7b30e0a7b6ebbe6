"""The conversation of one round and its faults, drawn from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from .links import Weather

ENDS = (
    "clean",
    "a-closes",
    "b-closes",
    "both-close",
    "close-cancelled",
    "abandoned",
    "cut",
    "reset",
    "stall",
    "silence",
    "flip",
    "noise",
)
"""How the conversation of two ends goes on and ends. In a "silence" no byte comes through any more, unnoticed."""
FORMS = ("plain", "owned", "pair", "made-pair")
"""How a connection is given its stream."""
KINDS = (
    "call",
    "call",
    "call",
    "submit",
    "submit",
    "map",
    "stream",
    "body",
    "ping",
    "drain",
    "progress",
    "dropped",
)
"""How something is asked."""


@dataclass(frozen=True)
class EndPlan:
    """One end: the arguments of its connection, the form of its stream, and how much it asks."""

    form: str
    arguments: dict[str, Any]
    askers: int
    requests: int
    has_coroutines: bool

    @property
    def keepalive(self) -> float | None:
        """Seconds, if it looks after its peer."""
        value: float | None = self.arguments["keepalive"]
        return value if self.arguments["capabilities"] != "off" else None


@dataclass(frozen=True)
class Plan:
    """One round."""

    topology: str
    end: str
    when: float
    """Seconds after the begin at which the end comes, if it comes at a time."""
    a: EndPlan
    b: EndPlan
    forth: Weather
    back: Weather
    pauses: tuple[tuple[float, int, float], ...]
    """(time, end, seconds): the process of this end is stopped then, for so long."""

    @property
    def is_damaged(self) -> bool:
        """Answers may be wrong: bits flip, or noise comes in between."""
        return self.end in ("flip", "noise")

    @property
    def may_lose(self) -> bool:
        """Requests may be lost with their connection."""
        if self.topology == "pool" or self.end not in ("clean", "stall"):
            return True
        looks_after = self.a.keepalive is not None or self.b.keepalive is not None
        return looks_after and (bool(self.pauses) or self.end == "stall")

    @property
    def is_late(self) -> bool:
        """An answer may be very late, though it comes."""
        return self.end == "stall" or bool(self.pauses)

    @property
    def most_size(self) -> int:
        """Bytes of a payload: only small ones where the link takes a few bytes at a time."""
        least = min(each for weather in (self.forth, self.back) for each in (weather.capacity, weather.chunk))
        return 1 << 20 if least >= 1000 else 100 + 30 * least

    @property
    def have_capabilities(self) -> bool:
        """Both ends understand all."""
        return all(each.arguments["capabilities"] != "off" for each in (self.a, self.b))

    def __str__(self) -> str:
        return "\n".join(f"    {name} = {getattr(self, name)}" for name in self.__dataclass_fields__)


def draw(chance: random.Random, topology: str | None = None) -> Plan:
    """A plan by chance; of a pair or a pool by chance, too, unless that is given."""
    drawn = "pool" if chance.random() < 0.2 else "pair"
    topology = topology or drawn
    end = chance.choice(ENDS)
    weathers = [_weather(chance) for _ in range(2)]
    if end in ("cut", "reset", "flip", "stall", "silence"):
        which = chance.randrange(2)
        weathers[which] = _with_fault(weathers[which], end, chance)
        if end == "silence":
            weathers[1 - which] = _with_fault(weathers[1 - which], end, chance)
    pauses: tuple[tuple[float, int, float], ...] = ()
    if chance.random() < 0.3:
        pauses = tuple(
            (chance.expovariate(0.3), chance.randrange(2), chance.choice((0.1, 1.0, 10.0, 200.0)))
            for _ in range(chance.randint(1, 3))
        )
    ends = [_end(chance, end) for _ in range(2)]
    return Plan(topology, end, chance.expovariate(2.0), ends[0], ends[1], weathers[0], weathers[1], pauses)


def _weather(chance: random.Random) -> Weather:
    low = chance.choice((0.0, 0.0001, 0.02))
    return Weather(
        capacity=chance.choice((1, 7, 64, 4096, 4096, 1 << 16, 1 << 16, 1 << 20)),
        latency=(low, low + chance.choice((0.0, 0.001, 0.05))),
        chunk=chance.choice((1, 5, 1000, 1 << 16, 1 << 16, 1 << 20)),
    )


def _with_fault(weather: Weather, end: str, chance: random.Random) -> Weather:
    at = int(chance.choice((10, 300, 10_000, 100_000)) * chance.random() * 2)
    faults: dict[str, Any] = {}
    if end in ("cut", "reset"):
        faults = {"cut_at": at, "is_reset": end == "reset"}
    elif end == "flip":
        faults = {"flip_at": at}
    elif end == "stall":
        faults = {"stall_at": at, "stall_for": chance.choice((0.1, 3.0, 50.0))}
    else:
        faults = {"stall_at": at}
    return Weather(weather.capacity, weather.latency, weather.chunk, **faults)


def _end(chance: random.Random, end: str) -> EndPlan:
    capabilities = "off" if chance.random() < 0.15 and end != "silence" else "auto"
    has_coroutines = chance.random() < 0.8
    arguments: dict[str, Any] = {
        "handlers": "inline" if chance.random() < 0.3 else 4,
        "max_outstanding": chance.choice((1, 2, 5, 1024, 1024)),
        "max_unsent": chance.choice((0, 1, 1000, 100_000, 1 << 20, 1 << 20)),
        "close_timeout": chance.choice((0.0, 0.3, 5.0, 5.0)),
        "capabilities": capabilities,
        "keepalive": chance.choice((0.5, 3.0, 15.0))
        if end == "silence"
        else chance.choice((None, None, 1.0, 15.0)),
        "body_timeout": chance.choice((60.0, 60.0, 0.5, None)),
        "on_event": (lambda event: None) if chance.random() < 0.2 else None,
    }
    if not has_coroutines:
        arguments["handlers"] = "inline"
    return EndPlan(
        form=chance.choice(FORMS),
        arguments=arguments,
        askers=chance.choice((0, 1, 1, 2, 5)),
        requests=chance.choice((1, 5, 10, 30)),
        has_coroutines=has_coroutines,
    )


@dataclass(frozen=True)
class Question:
    """One thing to be asked."""

    kind: str
    op: int
    size: int
    seconds: float
    """For which its handler waits, if that waits."""
    number: int
    options: dict[str, float]
    """Its time limits: timeout, deadline, idle_timeout."""
    cancelled_after: float | None
    pause: float
    """Seconds before it is asked."""

    @property
    def is_limited(self) -> bool:
        """It ends by itself."""
        return bool(self.options) or self.cancelled_after is not None


ECHO, DIGEST, SLEEP, LATER, RAISE, BACK, NEVER, PROGRESS, BODY = range(9)


def draw_question(chance: random.Random, number: int, plan: Plan, *, may_ask_back: bool) -> Question:
    """A question by chance."""
    kind = chance.choice(KINDS)
    ops = [ECHO, ECHO, ECHO, DIGEST, SLEEP, LATER, RAISE]
    if may_ask_back:
        ops.append(BACK)
    op = chance.choice(ops)
    options: dict[str, float] = {}
    cancelled_after = None
    if chance.random() < 0.25:
        options["timeout"] = chance.choice((0.0, 0.001, 0.1, 5.0))
    if plan.have_capabilities and kind not in ("ping", "drain") and chance.random() < 0.15:
        options["deadline"] = chance.choice((0.001, 0.1, 5.0))
    if chance.random() < 0.15:
        cancelled_after = chance.choice((0.0, 0.0001, 0.01, 1.0))
    if kind == "progress":
        op = PROGRESS
        if plan.have_capabilities:
            options["idle_timeout"] = chance.choice((0.05, 3.0, 60.0))
        else:
            kind = "call"
    elif kind in ("stream", "body"):
        op = BODY
    elif (
        (options or cancelled_after is not None)
        and kind != "map"
        and plan.have_capabilities  # or its handler is never told, and it counts as long as that runs
        and chance.random() < 0.2
    ):
        op = NEVER
    if kind in ("ping", "drain"):
        options.pop("deadline", None)
    size = chance.choice((0, 10, 700, 5000, 300_000 if chance.random() < 0.15 else 100))
    return Question(
        kind=kind,
        op=op,
        size=min(plan.most_size, int(size * chance.random())),
        seconds=chance.choice((0.0, 0.001, 0.05, 2.0)),
        number=number,
        options=options,
        cancelled_after=cancelled_after,
        pause=chance.choice((0.0, 0.0, 0.001, 0.1, 1.0)),
    )
