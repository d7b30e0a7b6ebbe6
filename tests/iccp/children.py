"""Components as children: quick ones, which say what they are told to, octet by octet."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from textwrap import dedent
from typing import Any

from packetwire import Packet
from packetwire.iccp import ICCPMessage, MsgType, Outcome
from packetwire.messaging.multipart import join_frames

from .fake import PEER, make

READY = make(MsgType.READY, peer=PEER, endpoints={"x": ["ipc://x"]})
OK = make(MsgType.OK)
STOP = make(MsgType.STOP)
CONFIGURE = make(MsgType.REQUEST)


def finished(outcome: Outcome = Outcome.OK, *details: str) -> ICCPMessage:
    return make(MsgType.FINISHED, outcome=outcome, details=list(details))


PRELUDE = """
import os, signal, subprocess, sys, time

packets = iter([{packets}])

def say():
    os.write(1, next(packets))

def wait_for(octets):
    heard = b""
    while octets not in heard:
        more = os.read(0, 65536)
        if not more:
            sys.exit("the controller is gone")
        heard += more

def wait_stop():
    wait_for(bytes((2, 0, 5)))

def hang():
    while True:
        time.sleep(60)

def leave():
    os.write(1, bytes((3, 0, 2, 0)))
    while os.read(0, 65536):
        pass
"""


def component(body: str, *messages: ICCPMessage | list[bytes]) -> list[str]:
    """A command: a program that runs `body`, where `say()` sends the next of the messages.

    If it gets to the end of `body` it ends its packet stream in order, and then exits.
    """
    packets = ", ".join(repr(octets) for octets in packets_of(messages))
    # without the site, and without packetwire, it starts in no time
    return [sys.executable, "-I", "-S", "-c", PRELUDE.format(packets=packets) + dedent(body) + "\nleave()"]


def packets_of(messages: Iterable[ICCPMessage | list[bytes]]) -> Iterable[bytes]:
    for tag, message in enumerate(messages, 2):
        frames = message if isinstance(message, list) else message.as_zmsg()
        rq_type = int.from_bytes(frames[0], "big") + 1  # as it is on the wire
        packet: Any = Packet(
            is_request=True, channel=0, tag=tag, flags=0, rq_type=rq_type, payload=join_frames(frames)
        )
        yield bytes(packet)
