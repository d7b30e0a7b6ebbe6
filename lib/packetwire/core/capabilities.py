"""How the two ends of a connection come to know what both understand, without disturbing a peer that knows nothing.

Strategy: nothing new is sent to a peer that has not shown that it wants it. It shows that by a *mark*, one
superfluous byte before its first packet, which every receiver accepts. HELLO then goes to and fro beside the
ordinary requests, and nobody waits for it but who needs it. The engine carries what is decided here; this knows
neither packets nor tags.
"""

from __future__ import annotations

from enum import StrEnum

from packetwire.core.fields import FieldError
from packetwire.core.hello import ANSWER, ASK, NO_FEATURES, Feature, Hello, decode_hello, encode_hello
from packetwire.core.requestids import RequestIds
from packetwire.errors import CapabilityMissing, ProtocolMismatch

MARK = b"\x80"
"""Before the length of the first packet: HELLO is welcome."""

REFLECTED = "this stream returns what is sent"
SAID_BEFORE = b"HELLO was said before"


class Mode(StrEnum):
    """How an end goes about capabilities."""

    AUTO = "auto"
    """Mark the first packet, ask when something needs it."""
    REQUIRE = "require"
    """Ask at the opening, and fail without an answer."""
    PASSIVE = "passive"
    """Mark the first packet, but never ask a peer of which nothing is known."""
    OFF = "off"
    """Nothing new is sent or understood."""


class Capabilities:
    """The known facts about the peer of one connection, for one life of it.

    `mode` says what this end sends unasked, `own` what it says of itself, `description` what it tells of its
    service to whoever asks; None for nothing.
    """

    def __init__(
        self, mode: Mode, own: Hello, description: bytes | None = None, request_ids: RequestIds | None = None
    ) -> None:
        self.mode = mode
        self.request_ids = request_ids
        """Those of this end, for requests that are to be done only once."""
        self.own = own
        self.description = description
        self.peer: Hello | None = None
        """The peer's HELLO; None until it has come."""
        self.features = NO_FEATURES
        """Understood by both ends."""
        self.has_spoken = False
        """Our HELLO is in the stream: from here on this end may send frames. The engine sets it."""
        self.is_marked = False
        """The peer's first packet said that HELLO is welcome."""
        self.missing: str | None = None
        """Why the peer has no capabilities; None if it has some, or if that is not known yet."""
        self.listens = True
        """Its first bytes have not arrived yet."""
        self._opening = b""
        self._was_asked = False
        self._unasked = [None]  # popped in one step, as any thread may be the one that asks

    @property
    def is_known(self) -> bool:
        """It is known what the peer understands, or that it understands nothing."""
        return self.peer is not None or self.missing is not None

    def hear(self, data: bytes) -> None:
        """Look at the first bytes of the peer's stream for its mark."""
        self._opening += data[: 2 - len(self._opening)]
        if len(self._opening) == 2:
            self.listens = False
            self.is_marked = self._opening[:1] == MARK != self._opening[1:]
            if not self.is_marked and self.peer is None:
                self.missing = "its first packet is not marked"

    @property
    def is_open(self) -> bool:
        """The peer's first bytes are awaited, or it is to be asked behind them."""
        return self.listens or self.wants_to_ask

    @property
    def wants_to_ask(self) -> bool:
        """HELLO is to be said behind the bytes that were received: the peer welcomes it, and knows nothing yet."""
        return self.is_marked and bool(self._unasked) and not self.has_spoken

    def ask(self) -> bytes | None:
        """The payload of our HELLO, said now; None if that was done before, or the peer has said its own."""
        if self.peer is not None:
            return None
        try:
            self._unasked.pop()
        except IndexError:
            return None
        return ASK + encode_hello(self.own)

    def answer(self, payload: bytes) -> tuple[bool, bytes]:
        """(ok, payload) of the response to the peer's HELLO, which is said now."""
        if not payload.startswith(ASK):
            return False, b"a HELLO begins with " + ASK
        if self._was_asked:
            return False, SAID_BEFORE
        try:
            peer = decode_hello(payload[len(ASK) :])
        except FieldError as error:
            return False, f"malformed HELLO: {error}".encode()
        if self.peer is None and not self._learn(peer):
            return False, REFLECTED.encode()
        self._was_asked = True
        return True, ANSWER + encode_hello(self.own)

    def take_answer(self, ok: bool, payload: bytes) -> bool:
        """The response to our HELLO; returns whether it said something new."""
        if self.peer is not None:
            return False
        if not ok:
            self.missing = f"it answered HELLO not ok: {payload[:200].decode(errors='replace')}"
        elif not payload.startswith(ANSWER):
            self.missing = "it answered HELLO as something else"
        else:
            try:
                self._learn(decode_hello(payload[len(ANSWER) :]))
            except FieldError as error:
                self.missing = f"its answer to HELLO is malformed: {error}"
        return self.peer is not None

    def _learn(self, peer: Hello) -> bool:
        """Keep what the peer said, unless that is what this end said itself."""
        own = self.own
        if (own.client_id and own.client_id == peer.client_id) or (own.epoch and own.epoch == peer.epoch):
            self.missing = REFLECTED
            return False
        self.peer, self.missing = peer, None
        self.features = own.features & peer.features
        if peer.epoch is None:
            self.features &= ~Feature.REQUEST_IDS  # it remembers nothing
        return True

    @property
    def has_agreed(self) -> bool:
        """Both ends have said HELLO."""
        return self.has_spoken and self.peer is not None

    @property
    def is_settled(self) -> bool:
        """Both ends have said HELLO, or the peer understands nothing."""
        return self.has_agreed or self.missing is not None

    def have(self, features: Feature) -> bool:
        """Both ends understand all of these, and ours has said so already."""
        return self.has_spoken and self.features & features == features

    @property
    def must_be_asked(self) -> bool:
        """It is not settled yet, and may be asked, or is about to be: the peer has said HELLO, and is answered."""
        return not (self.is_settled or (self.mode is Mode.PASSIVE and self.peer is None))

    def check(self, features: Feature, what: str) -> None:
        """Raise `CapabilityMissing` unless both ends understand these; `what` needs them."""
        if not self.has_agreed or self.features & features != features:
            forgets = self.has_agreed and features & ~self.features == Feature.REQUEST_IDS
            why = "the peer's service has no Dedup, which would remember what was done" if forgets else ""
            raise CapabilityMissing(f"{what}: {why or self.peer_text()}")

    def mismatch(self) -> ProtocolMismatch | None:
        """The error for our requests if both ends have named what they speak, and it is not the same."""
        own, peer = self.own, self.peer
        if own.protocol is None or peer is None or peer.protocol is None or own.protocol == peer.protocol:
            return None
        return ProtocolMismatch(f"the peer speaks {_spoken(peer)}, this end {_spoken(own)}")

    def peer_text(self) -> str:
        """The peer, for the text of an error."""
        if self.missing is not None:
            return f"the peer has no capabilities: {self.missing}"
        if self.peer is None:
            return "the peer has not said yet what it understands"
        software = self.peer.software or "unknown software"
        names = ", ".join(feature.name.lower() for feature in self.peer.features if feature.name) or "nothing more"
        return f"the peer is {software} and understands {names}"


def _spoken(hello: Hello) -> str:
    version = f" {hello.protocol_version}" if hello.protocol_version else ""
    return f"{hello.protocol!r}{version} ({hello.software or 'unknown software'})"
