"""A peer of plain ZMQ sockets, as a RIAPS node has them, and what the tests share."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from packetwire.riaps import GroupKeys

WAIT = 20.0
"""Seconds that nothing here takes unless it hangs."""

GOLDEN = json.loads((Path(__file__).parents[2] / "fixtures" / "riaps_group.json").read_text())["items"]


def frames_of(item: dict[str, Any]) -> list[bytes]:
    return [bytes.fromhex(frame) for frame in item["frames"]]


def listen(socket: zmq.Socket[bytes], keys: GroupKeys | None = None) -> tuple[str, int]:
    """Bind a plain socket as RIAPS does; where it is."""
    if keys is not None:
        socket.curve_secretkey = keys.client.secret_key
        socket.curve_publickey = keys.client.public_key
        socket.curve_server = True
    return "127.0.0.1", socket.bind_to_random_port("tcp://127.0.0.1")


def connect(socket: zmq.Socket[bytes], address: tuple[str, int], keys: GroupKeys | None = None) -> None:
    """Connect a plain socket as RIAPS does."""
    if keys is not None:
        socket.curve_secretkey = keys.client.secret_key
        socket.curve_publickey = keys.client.public_key
        socket.curve_serverkey = keys.client.public_key
    if socket.type == zmq.SUB:
        socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.connect("tcp://{}:{}".format(*address))


def address_of(port: Any) -> tuple[str, int]:
    """Where a port listens."""
    info = port.getInfo()
    return info.portHost, info.portNum


def received(socket: zmq.Socket[bytes]) -> list[bytes]:
    assert socket.poll(WAIT * 1000), "nothing came"
    return socket.recv_multipart()


def publish_until_heard(publish: Callable[[], object], *hearers: zmq.Socket[bytes]) -> None:
    """Publish again and again until each has a message: a subscription takes its time, and nobody tells."""
    for _ in range(int(WAIT * 100)):
        publish()
        if all(hearer.poll(10) for hearer in hearers):
            return
    raise AssertionError("nobody heard anything")


def link(pub: Any, *subs: Any) -> None:
    """Have these ports hear the other one, and read what that takes."""
    for sub in subs:
        sub.update(*address_of(pub))
    publish_until_heard(lambda: pub.sendGroup(b"tic", b"?"), *(sub.getSocket() for sub in subs))
    pub.sendGroup(b"tic", b"last")
    for sub in subs:
        while sub.recvGroup().payload != b"last":
            pass


def wait_until_it_waits(port: Any) -> None:
    """Until a thread sleeps because nothing comes there, or nothing can be sent."""
    deadline = time.monotonic() + WAIT
    while not port.shared_socket._waitings:
        assert time.monotonic() < deadline
        time.sleep(0)


class Running:
    """A function in a thread; its result or exception is that of `result`."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._outcome: Callable[[], Any] = lambda: None
        self._thread = threading.Thread(target=self._run, args=(function, args), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[..., Any], args: Any) -> None:
        try:
            result = function(*args)
        except BaseException as error:
            failure = error

            def fail() -> None:
                raise failure

            self._outcome = fail
        else:
            self._outcome = lambda: result

    def result(self) -> Any:
        self._thread.join(2 * WAIT)
        assert not self._thread.is_alive(), "it does not return"
        return self._outcome()


def open_fds() -> set[str]:
    found = set()
    for fd in os.listdir("/dev/fd"):
        try:
            found.add(f"{fd} {os.readlink(f'/dev/fd/{fd}')}")
        except OSError:
            pass  # the one that listdir used, or a system where these are no links
    return found
