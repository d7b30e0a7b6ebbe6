"""The model of a report: what was found in a capture, as plain values. All times are nanoseconds since 1970."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from packetwire.capture import Kind
from packetwire.cli.reporting.latencies import Latencies
from packetwire.cli.reporting.timeline import Timeline
from packetwire.core.sendingbody import LEAST_CREDIT

WAITS_SHOWN = 50
"""Waits of a body with their times, at most."""


class Outcome(StrEnum):
    """The end of an exchange."""

    OK = "ok"
    FAILED = "not ok"
    UNANSWERED = "no answer"
    """There was none until its connection, or the capture, ended."""
    TAKEN_BACK = "taken back"
    """A CANCEL came in place of a request that was announced."""
    SUPERSEDED = "tag used again"
    """Another request with the same tag came before the response."""
    FORGOTTEN = "not followed"
    """Too many others waited at the same time."""


class Body:
    """A body that streams: what was sent, and the times for which its sender had too little credit to go on."""

    __slots__ = (
        *("announced", "chunks", "credit", "first", "is_whole", "last", "longest", "sent", "stopped"),
        *("waited", "waits", "waits_shown", "_low_since", "_raised", "_threshold"),
    )

    def __init__(self, credit: int, announced: int | None = None) -> None:
        self.announced = announced
        """Its length, if that was said."""
        self.credit = credit
        """Bytes that could be sent so far, altogether."""
        self.sent = self.chunks = 0
        self.first: int | None = None
        self.last: int | None = None
        self.is_whole = False
        self.stopped: str | None = None
        """The reason why its reader wanted no more of it."""
        self.waits = self.waited = self.longest = 0
        self.waits_shown: list[tuple[int, int]] = []
        self._threshold = min(LEAST_CREDIT, credit // 2)
        self._low_since: int | None = None
        self._raised: int | None = None

    @property
    def waits_since(self) -> int | None:
        """The time since which its sender waits for credit; None if it does not."""
        is_over = self.is_whole or self.stopped is not None or self.sent == self.announced
        return None if is_over or self._raised is not None else self._low_since

    def add_data(self, size: int, when: int) -> None:
        """So many bytes of it were sent."""
        if self._low_since is not None and self._raised is not None:
            self._add_wait(self._low_since, self._raised)
        if self.first is None:
            self.first = when
        self.last = when
        self.sent += size
        self.chunks += 1
        self._low_since = when if self.credit - self.sent < self._threshold else None
        self._raised = None

    def add_credit(self, size: int, when: int) -> None:
        """So many bytes more may be sent."""
        self.credit += size
        if self._raised is None and self.credit - self.sent >= self._threshold:
            self._raised = when

    def _add_wait(self, since: int, until: int) -> None:
        wait = max(0, until - since)
        self.waits += 1
        self.waited += wait
        self.longest = max(self.longest, wait)
        if len(self.waits_shown) < WAITS_SHOWN:
            self.waits_shown.append((since, until))


@dataclass(slots=True)
class Cancel:
    """A CANCEL frame."""

    time: int
    code: int
    text: str


@dataclass(slots=True)
class Extra:
    """Further facts about an exchange: those that frames have told."""

    milliseconds_left: int | None = None
    metadata: dict[str, bytes] = field(default_factory=dict)
    cancel: Cancel | None = None
    progress: int = 0
    """PROGRESS frames."""
    pieces: int = 0
    """PIECE frames of the request and of its response."""
    sent: Body | None = None
    """The body of the request."""
    received: Body | None = None
    """The body of its response."""


class Exchange:
    """A request, and its response if there is one."""

    __slots__ = (
        *("asker", "channel", "connection", "end", "extra", "flags", "is_announced", "outcome", "request"),
        *(
            "request_size",
            "response",
            "response_flags",
            "response_size",
            "rq_type",
            "serial",
            "status",
            "tag",
            "time",
        ),
    )

    def __init__(
        self, serial: int, connection: int, asker: Kind, channel: int, tag: int, rq_type: int, flags: int, time: int
    ) -> None:
        self.serial = serial
        """Its number among all requests of the capture, from 0."""
        self.connection = connection
        self.asker = asker
        """`Kind.FORTH` if the first end has asked."""
        self.channel = channel
        self.tag = tag
        self.rq_type = rq_type
        """As in calls; -1 for the type that is reserved."""
        self.flags = flags
        self.time = time
        self.is_announced = False
        """True until the request itself comes, behind frames about it."""
        self.request = b""
        """The first bytes of its payload."""
        self.request_size = 0
        self.end: int | None = None
        """The time of the response, or of what ended it otherwise."""
        self.outcome = Outcome.UNANSWERED
        self.status = ""
        """The status of a response that is not ok, in words."""
        self.response = b""
        """The first bytes of the payload of its response."""
        self.response_size = 0
        self.response_flags = 0
        self.extra: Extra | None = None

    @property
    def latency(self) -> int | None:
        """Nanoseconds from the request to its response."""
        if self.end is None or self.outcome not in (Outcome.OK, Outcome.FAILED):
            return None
        return max(0, self.end - self.time)

    @property
    def bodies(self) -> list[Body]:
        """The bodies of the request and of its response, as far as there are any."""
        extra = self.extra
        return [] if extra is None else [body for body in (extra.sent, extra.received) if body is not None]


@dataclass(slots=True)
class TypeFigures:
    """The requests of one type on one channel, of one end."""

    requests: int = 0
    answered: int = 0
    failed: int = 0
    cancelled: int = 0
    unanswered: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    body_bytes: int = 0
    latencies: Latencies = field(default_factory=Latencies)
    """Of all responses, ok or not."""


TypeKey = tuple[Kind, int, int] | None
"""(asker, channel, request type); None for those that are counted together."""


@dataclass(slots=True)
class ConnectionFigures:
    """One connection."""

    number: int
    begin: int
    text: str = ""
    """The text about it in the capture."""
    end: int | None = None
    """The time at which it was over; None if the capture ended before."""
    over: str = ""
    """The reason that the capture has for that."""
    packets: list[int] = field(default_factory=lambda: [0, 0])
    """Of the first end, of the second end."""
    sizes: list[int] = field(default_factory=lambda: [0, 0])
    """Bytes of payloads, likewise."""
    requests: list[int] = field(default_factory=lambda: [0, 0])
    failed: int = 0
    unanswered: int = 0
    ended: list[bool] = field(default_factory=lambda: [False, False])
    """True for an end that has sent EOF, or whose direction has ended."""
    fault: str = ""
    """The first violation of the protocol."""
    remarks: list[str] = field(default_factory=list)
    """Anything else about its ends: the first few."""
    software: list[str] = field(default_factory=lambda: ["", ""])
    """As both ends have called themselves."""

    @property
    def why(self) -> str:
        """The reason for its end, in words."""
        if self.end is None:
            return "still open at the end of the capture"
        if self.over:
            return self.over
        if self.fault:
            return f"a violation of the protocol: {self.fault}"
        if all(self.ended):
            return "closed: both ends had ended their directions"
        if any(self.ended):
            which, other = ("first", "second") if self.ended[0] else ("second", "first")
            return f"closed: the {which} end had ended its direction, the {other} had not"
        return "cut off: neither end had ended its direction"


@dataclass(slots=True)
class BodyFigures:
    """All bodies together."""

    bodies: int = 0
    whole: int = 0
    sizes: list[int] = field(default_factory=lambda: [0, 0])
    """Bytes from the first end, from the second end."""
    waits: int = 0
    waited: int = 0
    longest: int = 0
    waiting: int = 0
    """Bodies whose senders still waited for credit at the end."""


@dataclass(slots=True)
class CancelFigures:
    """All CANCEL frames about requests that were under way."""

    cancels: int = 0
    answered_cancelled: int = 0
    answered_ok: int = 0
    answered_otherwise: int = 0
    unanswered: int = 0


ErrorKey = tuple[Kind, int, int, str, str] | None
"""(asker, channel, request type, status, the beginning of the text); None for those that are counted together."""


@dataclass(slots=True)
class Report:
    """A capture, in figures and in a sample of its exchanges."""

    types: dict[TypeKey, TypeFigures] = field(default_factory=dict)
    names: dict[tuple[Kind, int], str] = field(default_factory=dict)
    """The names of request types on channel 0, as the far end of (asker, request type) has described itself."""
    connections: list[ConnectionFigures] = field(default_factory=list)
    """The first of them."""
    connection_count: int = 0
    timeline: Timeline = field(default_factory=Timeline)
    errors: dict[ErrorKey, int] = field(default_factory=dict)
    """Responses that are not ok, by what they say."""
    bodies: BodyFigures = field(default_factory=BodyFigures)
    cancels: CancelFigures = field(default_factory=CancelFigures)
    exchanges: list[Exchange] = field(default_factory=list)
    """A sample of them, or all, in the order of their requests."""
    exchange_count: int = 0
    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    faults: list[str] = field(default_factory=list)
    """Violations of the protocol: the first of them."""
    fault_count: int = 0
    strays: int = 0
    """Responses to no request that was seen."""
    packets: list[int] = field(default_factory=lambda: [0, 0])
    sizes: list[int] = field(default_factory=lambda: [0, 0])
    damage: str = ""
    """The reason why nothing after some place of the capture could be read."""

    @property
    def unanswered(self) -> int:
        """Requests that had no answer when their connection, or the capture, ended, or whose tag was used again."""
        return self.outcomes[Outcome.UNANSWERED] + self.outcomes[Outcome.SUPERSEDED]

    @property
    def is_sampled(self) -> bool:
        """True if there were more exchanges than are kept."""
        return len(self.exchanges) < self.exchange_count
