"""Messages with faults, said to a service and to a client without a carrier; what came of each is counted.

    cd tests; python -m fbsp.mutations 1000000

says a million, half of them to each side, and prints how often each reason to refuse one was met.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from packetwire.errors import ProtocolError
from packetwire.fbsp import FBSPEventClient, MsgFlag, MsgType, PeerDescriptor, State, StopError
from packetwire.fbsp.protocol import LEAST_MAX_MESSAGE_SIZE, MAX_FRAMES
from packetwire.fbsp.refusals import INVALID, VIOLATIONS
from packetwire.messaging import ServiceError

from .fake import (
    CLIENT_PEER,
    CODEC,
    HELLO_TOKEN,
    OTHER_ROUTE,
    ROUTE,
    SERVICE_PEER,
    Asking,
    CountAPI,
    EchoAPI,
    Serving,
    call,
    cancel,
    hello,
    make,
    request,
    welcome,
)
from .golden import MESSAGES, frames_of

GOLDEN = [frames_of(item) for item in MESSAGES]
TOKENS = (HELLO_TOKEN, *(b"token-%02d" % number for number in range(4)))
CALLS = (EchoAPI.ECHO, EchoAPI.LATER, EchoAPI.UNHANDLED, CountAPI.COUNT)
PEERS = (CLIENT_PEER, SERVICE_PEER, PeerDescriptor(CLIENT_PEER.uid.__class__(int=99), 1, "third"))
ROUTES = (ROUTE, OTHER_ROUTE, b"route-3")
LIMITS: Any = {"max_message_size": LEAST_MAX_MESSAGE_SIZE, "max_sessions": 2, "max_requests": 2}
SESSION_MESSAGES = 40
"""Messages that a session is told before the next one begins."""

AT_SERVICE = {*VIOLATIONS} - {
    *("welcome-expected", "not-our-hello", "never-asked", "wrong-call", "out-of-order", "no-reply-handler"),
}
AT_CLIENT = {
    *("incomplete", "wrong-side", "wrong-acknowledgement", "welcome-expected", "not-our-hello", "never-asked"),
    *("wrong-call", "out-of-order", "no-reply-handler"),
}
OF_FRAMES = {*INVALID} - {"class"}
"""`class` is no fault of the frames."""
EXPECTED = {f"service: {rule}" for rule in AT_SERVICE | OF_FRAMES} | {
    f"client: {rule}" for rule in AT_CLIENT | OF_FRAMES
}


def damage(zmsg: list[bytes], random: Random) -> list[bytes]:
    """One message with one thing wrong, or several."""
    broken = list(zmsg)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        if not broken:
            return broken
        number = random.randrange(len(broken))
        frame = bytearray(broken[number])
        match random.randrange(9):
            case 8 if len(broken[0]) == 16:
                number, frame = 0, bytearray(broken[0])
                frame[random.randrange(4, 8)] = random.choice((0, 1, 4, 8, 0xF9))
            case 0 if frame:
                frame[random.randrange(len(frame))] ^= 1 << random.randrange(8)
            case 1 if frame:
                frame[random.randrange(len(frame))] = random.randrange(256)
            case 2:
                frame = frame[: random.randrange(len(frame) + 1)]
            case 3:
                frame += random.randbytes(random.randrange(1, 20))
            case 4:
                del broken[number]
                continue
            case 5:
                broken.insert(number, random.randbytes(random.randrange(20)))
            case 6:
                broken.append(bytes(frame))
            case _:
                random.shuffle(broken)
                continue
        broken[number] = bytes(frame)
    return broken


def any_message(random: Random) -> list[bytes]:
    """A whole message of either side, which may fit what was said before."""
    token = random.choice(TOKENS)
    flags = MsgFlag(random.choice((0, 0, 0, 1, 2, 4, 5)))
    api_code = random.choice(CALLS)
    msg: Any
    match random.randrange(9):
        case 0:
            msg = hello(random.choice(PEERS), token) if random.randrange(4) else make(MsgType.HELLO, token)
        case 1:
            msg = welcome(token) if random.randrange(4) else make(MsgType.WELCOME, token)
        case 2 | 3:
            msg = request(api_code, token, flags, [b"x"])
        case 4:
            msg = cancel(random.choice((*TOKENS, b"short")), token)
        case 5:
            msg = make(MsgType.STATE, token, call(api_code), flags)
            msg.state = random.choice(list(State))
        case 6:
            msg = make(random.choice((MsgType.NOOP, MsgType.DATA)), token, 0, flags)
        case 7:
            msg = make(MsgType.REPLY, token, call(api_code), flags)
        case _:
            msg = make(MsgType.ERROR, token)
            msg.error_code, msg.relates_to = random.choice((1, 12, 17)), random.choice(list(MsgType))
    zmsg: list[bytes] = msg.as_zmsg()
    return zmsg


def too_much(random: Random) -> list[bytes]:
    """More than a message may be."""
    if random.randrange(4):
        return [*random.choice(GOLDEN), bytes(LEAST_MAX_MESSAGE_SIZE)]
    return [*random.choice(GOLDEN), *[b""] * MAX_FRAMES]


def next_message(random: Random) -> list[bytes]:
    """What is said next."""
    choice = random.randrange(1000)
    if choice < 2:
        return too_much(random)
    if choice < 400:
        return any_message(random)
    return damage(random.choice(GOLDEN) if choice < 800 else any_message(random), random)


class Counted:
    """Counts the reasons for refusals; what is none, a handler has failed with."""

    def __init__(self, side: str, count: Counter[str]) -> None:
        self.side = side
        self.count = count

    def __call__(self, error: BaseException | None) -> None:
        if error is None:
            return
        if not isinstance(error, StopError | ServiceError | ProtocolError):
            self.count[f"{self.side}: {error!r}"] += 1  # for whoever calls this may log what is raised, and go on
            raise error
        reason = getattr(error, "rule", None) or getattr(error, "code", None)
        if reason in VIOLATIONS or reason in INVALID:
            self.count[f"{self.side}: {reason}"] += 1


def service_hears(count: Counter[str], random: Random) -> Callable[[list[bytes]], None]:
    """Says a message to a service on one of three routes; others are served all the same."""
    serving = Serving(**LIMITS)
    counted = Counted("service", count)
    if random.randrange(4):
        serving.connect()
    service: Any = serving.service
    send_error = service.send_error
    if random.randrange(4):
        service.on_cancel = lambda channel, session, msg: None

    def counting(channel: Any, session: Any, msg: Any, code: int, exc: Exception | None = None) -> None:
        counted(exc)
        send_error(channel, session, msg, code, exc)

    service.send_error = counting
    service.on_invalid_msg = lambda channel, session, exc: counted(exc)
    service.on_exception = lambda channel, session, msg, exc: (
        counted(exc) if exc.__class__ is not StopError else None
    )

    def hear(zmsg: list[bytes]) -> None:
        for answer in serving.say(zmsg, random.choice(ROUTES)):
            assert CODEC.is_valid(answer.as_zmsg())

    return hear


def client_hears(count: Counter[str], random: Random) -> Callable[[list[bytes]], None]:
    """Says a message to a client with requests under way."""
    asking = Asking(FBSPEventClient)
    asking.client.max_message_size = LEAST_MAX_MESSAGE_SIZE
    if random.randrange(4):
        asking.connect()
        for token in TOKENS[1:]:
            asking.ask(random.choice((EchoAPI.ECHO, CountAPI.COUNT)), token)
    else:
        asking.send(hello())
    counted = Counted("client", count)

    def hear(zmsg: list[bytes]) -> None:
        if asking.session.routing_id in asking.channel.sessions:
            asking.hear(zmsg)
        while asking.refused:
            counted(asking.refused.pop())
        asking.take()

    return hear


def run(messages: int, seed: int) -> Counter[str]:
    """Say so many messages, half of them to each side."""
    random = Random(seed)
    count: Counter[str] = Counter()
    for begun in range(0, messages, 2 * SESSION_MESSAGES):
        for begin in service_hears, client_hears:
            hear = begin(count, random)
            for _ in range(min(SESSION_MESSAGES, (messages - begun) // 2)):
                hear(next_message(random))
    return count


def main(messages: int, seed: int = 0) -> None:
    count = run(messages, seed)
    for reason in sorted(EXPECTED):
        print(f"{count[reason]:8}  {reason}")
    print(f"{sum(count.values())} of {messages} messages were refused; not met: {sorted(EXPECTED - set(count))}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
