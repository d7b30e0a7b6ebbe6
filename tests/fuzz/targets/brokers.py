"""hololinked: messages, and what servers, clients and consumers of events make of them."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from packetwire.errors import RequestTimeout
from packetwire.hololinked import (
    EventMessage,
    InvalidMessage,
    OperationFailed,
    PayloadError,
    RequestMessage,
    ResponseMessage,
    serializers,
    servercore,
)
from packetwire.hololinked import messages as messages_module
from packetwire.hololinked.clientcore import ClientCore
from packetwire.hololinked.constants import HEADER_LIMIT
from packetwire.hololinked.eventcore import ConsumerCore
from packetwire.hololinked.messages import glance
from packetwire.hololinked.servercore import ServerCore

from ..frames import pack, unpack
from ..mutators import frames_mutator, json_mutator, octets_mutator
from ..reasons import RaisedIn, TextsOf
from ..target import Mutate, Target, choices_of
from .golden import HOLOLINKED_FRAMES

WORDS = (
    *("HANDSHAKE", "OPERATION", "EXIT", "REPLY", "TIMEOUT", "EXCEPTION", "INVALID_MESSAGE", "EVENT"),
    *("messageType", "messageID", "senderID", "serverExecutionContext", "invokationTimeout", "executionTimeout"),
    *("oneway", "invokation_timeout", "thingExecutionContext", "fetch_execution_logs", "payloadContentType"),
    *("application/json", "text/plain", "application/octet-stream", "exception", "message", "traceback", "notes"),
)
KINDS: tuple[type[Any], ...] = (RequestMessage, ResponseMessage, EventMessage)
MESSAGES = RaisedIn(
    messages_module,
    without=[
        "Fields.__getitem__",  # a field that there is not, asked for by the user
        "ResponseMessage.result",  # what a message says that is right
        *("RequestMessage.craft_with_message_type", "response_header"),  # what is made here
        *("EventMessage.craft_from_arguments", "identity_bytes", "_context", "_check_times"),
    ],
)
PAYLOADS = RaisedIn(
    serializers,
    without=[
        *("SerializerRegistry.register", "SerializableData.serialize", "TextSerializer.dumps", "BytesSerializer"),
    ],
)

SEEDS = [pack(frames) for frames in HOLOLINKED_FRAMES]
mutate_json = json_mutator(WORDS)


def message_mutator(mutate_frames: Mutate) -> Mutate:
    """For the five frames of a message."""

    def mutate(octets: bytes, random: Random) -> bytes:
        frames = unpack(octets)
        if len(frames) == 5 and random.randrange(3):
            number = random.choice((2, 2, 2, 3))
            frames[number] = mutate_json(frames[number], random)
            return pack(frames)
        return mutate_frames(octets, random)

    return mutate


mutate_message = message_mutator(
    frames_mutator(
        octets_mutator([word.encode() for word in WORDS], [frame for each in HOLOLINKED_FRAMES for frame in each]),
        SEEDS,
    )
)

# messages


def read(frames: list[bytes]) -> list[str]:
    """A message as each of the three kinds."""
    reasons: list[str] = []
    for kind in KINDS:
        try:
            message = kind(frames)
        except InvalidMessage as error:
            reasons += MESSAGES.of(error)
            if error.message_id not in ("", glance(frames)[0]):
                raise
            continue
        again = kind(message.byte_array)
        assert again.header == message.header
        assert again.byte_array == message.byte_array
        assert str(again) == str(message)
        assert message.header.json()["messageID"] == message.id
        try:
            message.result() if kind is ResponseMessage else message.value()
        except PayloadError as error:
            reasons += PAYLOADS.of(error)
        except OperationFailed as error:
            if not (isinstance(error.message, str) and isinstance(error.type, str)):
                raise
    return reasons


def hear_hololinked(octets: bytes) -> list[str]:
    return read(unpack(octets))


# servers, clients, consumers

LIMITS: Any = {"max_pending": 3, "max_pending_per_client": 2, "max_clients": 2, "max_message_size": 5000}
ROUTES = (b"one", b"two", b"\0three", b"\xff")
REFUSALS = TextsOf(servercore, ["LimitExceeded", "InvalidMessage", "PermissionError"])


class Broker:
    """A server that is told messages, and what must hold of what it answers."""

    def __init__(self, random: Random) -> None:
        self.core = ServerCore("srv", allow_exit=bool(random.randrange(3)), **LIMITS)
        self.random = random
        self.now = 100.0
        self.told = 0
        self.reasons: list[str] = []

    def hear(self, frames: list[bytes]) -> None:
        self.now += self.random.choice((0.0, 0.1, 3.0))
        self.told += 1
        self.core.receive([self.random.choice(ROUTES), *frames[1:]], self.now)
        self.core.expire(self.now)
        due = self.core.next_deadline()
        assert due is None or due > self.now
        if self.random.randrange(2):
            self.serve()
        self.read_answers()

    def serve(self) -> None:
        request = self.core.take(self.now)
        if request is not None and self.random.randrange(2):
            self.core.respond(request)
            assert not self.core.respond(request), "twice"

    def read_answers(self) -> None:
        while self.core.outbox:
            answer = ResponseMessage(self.core.outbox.popleft())
            self.told -= 1
            assert self.told >= 0, "more answers than messages"
            if answer.type in ("EXCEPTION", "INVALID_MESSAGE"):
                try:
                    answer.result()
                except OperationFailed as error:
                    self.reasons += REFUSALS.of(error.message)

    def finish(self) -> None:
        """Serve what is left: then nothing is."""
        while (request := self.core.take(self.now)) is not None:
            self.core.respond(request)
        self.core.expire(float("inf"))
        self.read_answers()
        taken = self.core.pending - self.core.waiting
        assert self.core.waiting == 0
        assert self.core.next_deadline() is None
        assert taken <= LIMITS["max_pending"]


def hear_brokers(octets: bytes) -> list[str]:
    """Messages to a server, to a client that has asked and shakes hands, and to a consumer."""
    random = choices_of(octets)
    broker = Broker(random)
    client = ClientCore("cli", "srv")
    asked = RequestMessage.craft_from_arguments("srv", "cli", "thing", "prop", "readProperty")
    asked.header.messageID = ASKED_ID
    exchange = client.request(asked, 100.0, 10.0)
    client.handshake(100.0, 10.0)
    consumer = ConsumerCore("con", "", max_message_size=5000)
    for message in unpack(octets)[:40]:
        frames = unpack(message)
        if frames:  # as all that ZMQ brings
            broker.hear(frames)
            client.receive(frames, 101.0)
            consumer.accept(frames)
    broker.finish()
    client.expire(1000.0)
    assert exchange is not None
    assert exchange.done
    try:
        exchange.result()
    except (InvalidMessage, RequestTimeout):
        pass
    return broker.reasons


def request_like(random: Random) -> bytes:
    """A request; the first of the recorded ones with other values."""
    header = {
        "messageType": random.choice(("OPERATION", "OPERATION", "OPERATION", "EXIT", "HANDSHAKE")),
        "messageID": random.choice((ASKED_ID, "b", "c")),
        "senderID": "cli",
        "receiverID": "srv",
        "serverExecutionContext": {
            "invokationTimeout": random.choice((5, 0, 0.5, None, 1e300)),
            "executionTimeout": random.choice((5, 0, 0.5, None)),
            "oneway": random.randrange(5) == 0,
        },
    }
    payload = random.choice((b"null", b"5", b"", b"{"))
    return pack([b"srv", b"", json.dumps(header).encode(), payload, b""])


ASKED_ID = "00000000-0000-0000-0000-000000000001"
SESSIONS = [pack(SEEDS[start : start + 4]) for start in range(0, len(SEEDS), 3)]
TOO_LONG = pack([b"srv", b"", b"{}", bytes(LIMITS["max_message_size"]), b""])
_mutate_session = frames_mutator(mutate_message, SESSIONS, fresh=request_like)


def mutate_session(octets: bytes, random: Random) -> bytes:
    return pack([*unpack(octets)[:3], TOO_LONG]) if random.randrange(200) == 0 else _mutate_session(octets, random)


TARGETS = (
    Target(
        name="hololinked",
        seeds=[*SEEDS, pack([b"srv", b"", b"{" + b" " * HEADER_LIMIT + b"}", b"", b""])],
        mutate=mutate_message,
        hear=hear_hololinked,
        reasons=MESSAGES.reasons | PAYLOADS.reasons,
    ),
    Target(
        name="brokers",
        seeds=[*SESSIONS, pack([TOO_LONG])],
        mutate=mutate_session,
        hear=hear_brokers,
        reasons=REFUSALS.reasons,
        growth=5000,  # as sessions of the others
    ),
)
