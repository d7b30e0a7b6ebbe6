"""ZMQ alone: the frames of a request and its response go back and forth, and nobody looks into them.

The same processes as in `hololinked_contender.py`, which runs this as `alone`: no more can be had from pyzmq.
"""

from __future__ import annotations

import asyncio
import os
import select
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import zmq

NOBLOCK = int(zmq.NOBLOCK)
NOBLOCK_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
EVENTS = int(zmq.EVENTS)
POLLIN = int(zmq.POLLIN)
SERVER = b"bench"
REQUEST = [SERVER, b"", b"h" * 417, b'{"value":12.5,"unit":"mm"}', b""]
"""Of the length that those of hololinked have."""

Socket = zmq.Socket[bytes]


def open_socket(identity: bytes) -> Socket:
    socket: Socket = zmq.Context.instance().socket(zmq.ROUTER)
    socket.routing_id = identity
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    return socket


def send(socket: Socket, frames: list[bytes]) -> None:
    for frame in frames[:-1]:
        socket.send(frame, NOBLOCK_MORE)
    socket.send(frames[-1], NOBLOCK)


def receive(socket: Socket) -> list[bytes] | None:
    try:
        return [socket.recv(NOBLOCK) for _ in REQUEST]
    except zmq.Again:
        return None


def poller_of(socket: Socket) -> select.poll:
    poller = select.poll()
    poller.register(socket.get(zmq.FD), select.POLLIN)
    return poller


def serve(address: str) -> None:
    socket = open_socket(SERVER)
    socket.bind(address)
    poller = poller_of(socket)
    while True:
        frames = receive(socket)
        if frames is None:
            poller.poll()
        else:
            send(socket, frames)


def connect(name: str, address: str) -> Socket:
    """A socket that has had its first response."""
    socket = open_socket(name.encode())
    socket.connect(address)
    while True:
        try:
            send(socket, REQUEST)
        except zmq.ZMQError:
            socket.poll(10)  # there is no link yet
        else:
            break
    socket.poll()
    receive(socket)
    return socket


def ask_one(socket: Socket, poller: select.poll, count: int) -> None:
    for _ in range(count):
        send(socket, REQUEST)
        while not int(socket.get(EVENTS)) & POLLIN:
            poller.poll()
        receive(socket)


async def ask_one_async(socket: Socket, count: int) -> None:
    loop = asyncio.get_running_loop()
    done, left = loop.create_future(), count

    def go_on() -> None:
        nonlocal left
        while left and int(socket.get(EVENTS)) & POLLIN:
            receive(socket)
            left -= 1
            if left:
                send(socket, REQUEST)
            else:
                done.set_result(None)

    loop.add_reader(int(socket.get(zmq.FD)), go_on)  # type: ignore[call-overload]
    send(socket, REQUEST)
    loop.call_soon(go_on)
    await done
    loop.remove_reader(int(socket.get(zmq.FD)))  # type: ignore[call-overload]


def ask(address: str, measured: Callable[[int], Any]) -> None:
    socket = connect(f"sync client of process {os.getpid()}", address)
    poller = poller_of(socket)
    for line in sys.stdin:
        with measured(int(line)):
            ask_one(socket, poller, int(line))


async def ask_async(address: str, measured: Callable[[int], Any], many: int, blocking: int) -> None:
    """Requests of that many clients in a loop, and of others that block in threads."""
    loop = asyncio.get_running_loop()
    sockets = [connect(f"async client {number} of process {os.getpid()}", address) for number in range(many)]
    others = [connect(f"sync client {number} of process {os.getpid()}", address) for number in range(blocking)]
    with ThreadPoolExecutor(max(1, blocking)) as threads:
        for line in sys.stdin:
            count = int(line) // (many + blocking)
            with measured(count * (many + blocking)):
                await asyncio.gather(
                    *(loop.run_in_executor(threads, ask_one, each, poller_of(each), count) for each in others),
                    *(ask_one_async(each, count) for each in sockets),
                )
