"""Conversations of real RIAPS ports, with either side played from the record and the other one by a port of ours.

`fixtures/riaps_conversations.json` says how it was recorded. What our port sends has to be what the port of RIAPS
sent, byte by byte, but for the time of sending; and what that sent has to be understood.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from packetwire.riaps import GroupAnsPort, GroupPubPort, GroupQryPort, GroupSubPort
from packetwire.riaps.aio import AsyncGroupAnsPort, AsyncGroupPubPort, AsyncGroupQryPort, AsyncGroupSubPort

from .peers import WAIT, address_of

Make = Callable[..., Any]

PATH = Path(__file__).parents[2] / "fixtures" / "riaps_conversations.json"
CONVERSATIONS = json.loads(PATH.read_text())["items"]
PORTS = {port.__name__: port for port in (GroupAnsPort, GroupPubPort, GroupQryPort, GroupSubPort)}
FACES: dict[Any, Any] = {
    GroupAnsPort: AsyncGroupAnsPort,
    GroupPubPort: AsyncGroupPubPort,
    GroupQryPort: AsyncGroupQryPort,
    GroupSubPort: AsyncGroupSubPort,
}
SENDING = {GroupPubPort: "sendGroup", GroupQryPort: "sendToLeader", GroupAnsPort: "sendToMember"}
RECEIVING = {GroupSubPort: "recvGroup", GroupQryPort: "recvFromLeader", GroupAnsPort: "recvFromMember"}
GREETING = 64
"""Bytes that each side of ZMTP begins with."""
MORE, LONG, COMMAND = 1, 2, 4
PROBE = [b"tic", b"?"]
"""What a publisher of ours sends until somebody hears it."""


def frame_of(unit: bytes) -> bytes:
    """What a frame of ZMTP holds."""
    return unit[9:] if unit[0] & LONG else unit[2:]


def turns(units: list[list[str]]) -> Iterator[tuple[str, list[bytes]]]:
    """Who, and its units: a greeting, a command, or all frames of a message."""
    for who in ("connecting", "listening"):  # neither waits for the other with it
        yield who, [next(bytes.fromhex(unit) for by, unit in units if by == who)]
    message: list[bytes] = []
    for who, text in units:
        unit = bytes.fromhex(text)
        if len(unit) == GREETING and unit[0] == 0xFF:
            continue
        message.append(unit)
        if not unit[0] & MORE:
            yield who, message
            message = []


def is_message(turn: list[bytes]) -> bool:
    return turn[0][0] not in (0xFF, COMMAND, COMMAND | LONG)


class Player(threading.Thread):
    """One side of a conversation, played from the record."""

    def __init__(self, script: list[tuple[str, list[bytes]]], side: str, timed: bool) -> None:
        super().__init__(daemon=True)
        self.script, self.side, self.timed = script, side, timed
        self.heard_probe = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self.open()
            try:
                # neither side of ZMTP sends all of its greeting before it has seen the beginning of the other's
                for by_us in (True, False):
                    for who, turn in self.script[:2]:
                        if by_us == (who == self.side):
                            self.play(who, turn)
                for who, turn in self.script[2:]:
                    self.play(who, turn)
            finally:
                self.stream.close()
        except BaseException as error:
            self.failure = error

    def open(self) -> None: ...

    stream: socket.socket

    def play(self, who: str, turn: list[bytes]) -> None:
        if who == self.side:
            self.stream.sendall(b"".join(turn))
        elif turn[0][0] == 0xFF:
            greeting = self.read(GREETING)
            # bytes 1 to 8 are of no meaning, the last of the version is the minor one
            assert (greeting[0], greeting[9:11], greeting[12:]) == (0xFF, turn[0][9:11], turn[0][12:])
        elif is_message(turn):
            self.check_message(turn)
        else:
            command = self.read_unit()
            assert command[0] & COMMAND
            assert frame_of(command).split(b"\0")[0][:6] == frame_of(turn[0])[:6], "the same command"

    def check_message(self, turn: list[bytes]) -> None:
        """The next message is what was recorded, its time aside."""
        message = self.read_message()
        while [frame_of(unit) for unit in message[:2]] == PROBE:
            self.heard_probe.set()
            message = self.read_message()
        if self.timed:
            *turn, recorded = turn
            *message, now = message
            assert len(now) == len(recorded) == 10
            assert now[:2] == recorded[:2]
            assert struct.unpack("<d", frame_of(now)) > struct.unpack("<d", frame_of(recorded))
        assert message == turn

    def read_message(self) -> list[bytes]:
        message = []
        while True:
            unit = self.read_unit()
            if unit[0] & COMMAND:
                continue  # a heartbeat
            message.append(unit)
            if not unit[0] & MORE:
                return message

    def read_unit(self) -> bytes:
        flags = self.read(1)
        length = self.read(8 if flags[0] & LONG else 1)
        return flags + length + self.read(int.from_bytes(length))

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self.stream.recv(size - len(data))
            assert chunk, "the port has closed the link"
            data += chunk
        return data

    def finish(self) -> None:
        self.join(2 * WAIT)
        assert not self.is_alive()
        if self.failure is not None:
            raise self.failure


class ListeningPlayer(Player):
    """The side that listens, played."""

    def __init__(self, script: Any, timed: bool) -> None:
        super().__init__(script, "listening", timed)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(WAIT)

    def open(self) -> None:
        self.stream, _ = self.listener.accept()
        self.stream.settimeout(WAIT)
        self.listener.close()


class ConnectingPlayer(Player):
    """The side that connects, played."""

    def __init__(self, script: Any, timed: bool, address: tuple[str, int]) -> None:
        super().__init__(script, "connecting", timed)
        self.address = address

    def open(self) -> None:
        self.stream = socket.create_connection(self.address, WAIT)


class Ours:
    """A port of ours, by threads or in an event loop."""

    def __init__(self, port: Any, face: str) -> None:
        self.port, self.face = port, face
        self.identity: list[bytes] = []

    def call(self, name: str, *args: Any) -> Any:
        if self.face == "threads":
            return getattr(self.port, name)(*args)

        async def main() -> Any:
            return await getattr(FACES[type(self.port)](self.port), name)(*args)

        return asyncio.run(main())

    def send(self, command: bytes, payload: bytes) -> None:
        assert self.call(SENDING[type(self.port)], command, payload, *self.identity)

    def receive(self) -> Any:
        return self.call(RECEIVING[type(self.port)])


@pytest.mark.parametrize("face", ["threads", "asyncio"])
@pytest.mark.parametrize("side", ["connecting", "listening"])
@pytest.mark.parametrize("recorded", CONVERSATIONS, ids=[each["id"] for each in CONVERSATIONS])
def test_ours_in_place_of_one_of_riaps(make: Make, recorded: dict[str, Any], side: str, face: str) -> None:
    kind, timed = PORTS[recorded[side]], recorded["timed"]
    script = list(turns(recorded["units"]))
    identity = bytes.fromhex(recorded.get("identity", ""))
    options = {"identity": identity} if kind is GroupQryPort else {}
    ours = Ours(make(kind, timed=timed, **options), face)
    player: Player
    if side == "connecting":
        player = ListeningPlayer(script, timed)
        ours.port.update(*player.listener.getsockname())
    else:
        player = ConnectingPlayer(script, timed, address_of(ours.port))
    player.start()
    messages = [(who, turn) for who, turn in script if is_message(turn)]
    if kind is GroupPubPort:
        while not player.heard_probe.wait(0.01):
            assert player.is_alive()
            ours.send(*PROBE)
    for who, turn in messages:
        frames = [frame_of(unit) for unit in turn]
        if who == side:
            ours.send(*frames[:2])
            continue
        message = ours.receive()
        assert list(message) == frames
        if timed:
            assert ours.port.sendTime == message.send_time == struct.unpack("<d", frames[2])[0]
        if kind is GroupAnsPort:
            assert message.identity == identity
            ours.identity = [identity]
    player.finish()
    assert len(messages) >= 9
    if kind is not GroupPubPort:
        assert ours.port.malformed == 0
