"""What docs/porting.md says of the reference, tried on it: run by the interpreter of its own environment.

Prints what became of each claim as one JSON object. The docstring of a claim is what the page says.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from cs.binary import AbstractBinary
from cs.packetstream import DEFAULT_PACKET_GRACE, BaseRequest, Packet, PacketConnection
from cs.resources import MultiOpenMixin

WATCHDOG_SECONDS = 60
WAITED_IN_VAIN = 0.3
"""Seconds without what would come at once, if it came at all."""

CLAIMS: list[Callable[[], None]] = []


def claim(tried: Callable[[], None]) -> Callable[[], None]:
    CLAIMS.append(tried)
    return tried


def reverse(rq_type: int, flags: int, payload: bytes) -> Any:
    return flags, payload[::-1]


def opened(recv_send: Any, handler: Any = None) -> Any:
    """A connection that nobody closes: most of these cannot be. The process ends without asking it."""
    return PacketConnection(recv_send, request_handler=handler, packet_grace=0).open()


def pair(handler: Any = reverse, other_handler: Any = None) -> tuple[Any, Any]:
    client, server = socket.socketpair()
    client_fd, server_fd = client.detach(), server.detach()
    return opened((client_fd, client_fd), other_handler), opened((server_fd, server_fd), handler)


def against_raw_peer() -> tuple[Any, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(WAITED_IN_VAIN)
    fd = ours.detach()
    return opened((fd, fd), reverse), theirs


def waits(job: Callable[[], Any]) -> bool:
    """Whether the job is not done after a while."""
    thread = threading.Thread(target=job, daemon=True)
    thread.start()
    thread.join(WAITED_IN_VAIN)
    return thread.is_alive()


def raised_by(job: Callable[[], Any]) -> type[BaseException] | None:
    try:
        job()
    except Exception as error:
        return type(error)
    return None


def receiver_stops(conn: Any) -> bool:
    conn._recv_thread.join(10)
    return not conn._recv_thread.is_alive()


def request(tag: int) -> bytes:
    packet = Packet()
    packet.is_request, packet.channel, packet.tag = True, 0, tag
    packet.flags, packet.rq_type, packet.payload = 0, 1, b"ab"
    return bytes(packet)


@claim
def callable_order() -> None:
    """A callable `recv_send` shall return `(recv, send, close)`, and is unpacked as `(send, recv, close)`."""
    server_recv, send = os.pipe()
    recv, server_send = os.pipe()
    opened((server_recv, server_send), reverse)
    assert opened(lambda: (send, recv, None))(0, b"ab") == (True, 0, b"ba")


@claim
def forms_that_fail() -> None:
    """One descriptor as `recv_send`, or a pair `(callable, None)`, is documented and fails."""
    fd = socket.socketpair()[0].detach()
    assert raised_by(lambda: opened(fd)) is TypeError
    assert raised_by(lambda: opened((lambda: (fd, fd, None), None))) is TypeError


@claim
def submit_opens() -> None:
    """`submit` on a connection that was never opened opens it, for that request."""
    fd = socket.socketpair()[0].detach()
    conn = PacketConnection((fd, fd))
    conn.submit(0)
    assert conn.is_open()


@claim
def close_returns() -> None:
    """A request that is under way keeps the connection open: the last `close` returns at once."""
    client, _ = pair(lambda *rq: threading.Event().wait())
    client.submit(0)
    client.close()
    assert not client.closed


@claim
def closing_waits() -> None:
    """Closing waits for the peer's EOF without limit."""
    client, _ = pair()
    assert waits(client.close)


@claim
def callers_wait_on() -> None:
    """A caller that waits when the peer ends the connection goes on waiting."""
    conn, peer = against_raw_peer()
    caller = threading.Thread(target=conn, args=(0,), daemon=True)
    caller.start()
    peer.recv(100)
    peer.send(bytes(PacketConnection.EOF_Packet))
    assert receiver_stops(conn)
    caller.join(WAITED_IN_VAIN)
    assert caller.is_alive()


@claim
def requests_after_eof() -> None:
    """After the peer's EOF requests are taken, and never answered."""
    conn, peer = against_raw_peer()
    peer.send(bytes(PacketConnection.EOF_Packet))
    assert receiver_stops(conn)
    assert not conn.submit(0).ready
    peer.close()


@claim
def truncated() -> None:
    """A packet that is truncated stops the receiver, and callers wait for ever."""
    conn, peer = against_raw_peer()
    result = conn.submit(0)
    peer.recv(100)
    peer.send(b"\x05\x02")
    peer.close()
    assert receiver_stops(conn)
    assert waits(result)


@claim
def no_time_limit() -> None:
    """A result is called with a `timeout=`, and there is no limit."""
    client, _ = pair(lambda *rq: threading.Event().wait())
    assert waits(lambda: client.submit(0)(timeout=0.01))


@claim
def cancelling() -> None:
    """A request is cancelled, and when its response comes the receiver stops."""
    gate = threading.Event()
    client, _ = pair(lambda *rq: gate.wait() and None)
    client.submit(0).cancel()
    gate.set()
    assert receiver_stops(client)


@claim
def exceptions() -> None:
    """A handler's exception reaches the caller as `exception during handler`."""
    client, _ = pair(lambda *rq: 1 // 0)
    assert client(0) == (False, 0, b"exception during handler")


@claim
def odd_results() -> None:
    """After an int with a text, or a `bytearray`, as its result a caller gets not ok, or no response at all."""
    results = {0: (1, "text"), 1: bytearray(2), 2: memoryview(bytes(2)), 3: bytearray(3)}
    client, _ = pair(lambda rq_type, flags, payload: results[rq_type])
    lost = [client.submit(rq_type) for rq_type in range(3)]
    assert client(3) == (False, 0, b"exception during handler")
    assert waits(lost[0])
    assert not any(result.ready for result in lost)


@claim
def negative_results() -> None:
    """A handler that returns a negative int sends other flags."""
    client, _ = pair(lambda *rq: -1)
    ok, flags, _ = client(0)
    assert ok
    assert flags > 0


@claim
def four_handlers() -> None:
    """Four handlers run at once."""
    started = threading.Semaphore(0)

    def handler(rq_type: int, flags: int, payload: bytes) -> None:
        started.release()
        threading.Event().wait()

    client, _ = pair(handler)
    for _ in range(10):
        client.submit(0)
    for _ in range(4):
        assert started.acquire(timeout=10)
    assert not started.acquire(timeout=WAITED_IN_VAIN)


@claim
def call_backs() -> None:
    """A handler that calls back keeps its place: when all four do, everything stands still."""
    ends: list[Any] = []

    def handler(rq_type: int, flags: int, payload: bytes) -> Any:
        return ends[rq_type](1 - rq_type, b"", flags - 1)[1] if flags else 7

    ends += pair(handler, handler)
    assert ends[0](1, b"", 3) == (True, 7, b"")
    assert waits(ends[0].submit(1, 20))


@claim
def channels() -> None:
    """`submit` on a channel other than 0 raises `ValueError`."""
    client, _ = pair()
    assert raised_by(lambda: client.submit(0, channel=16)) is ValueError


@claim
def tags() -> None:
    """When a tag comes for the third time the receiver stops."""
    conn, peer = against_raw_peer()
    peer.send(request(2))
    assert peer.recv(100)
    peer.send(request(2))
    assert raised_by(lambda: peer.recv(100)) is TimeoutError
    peer.send(request(2))
    assert receiver_stops(conn)


@claim
def tags_are_kept() -> None:
    """All tags that were ever sent are remembered."""
    client, _ = pair()
    for _ in range(50):
        client(0)
    assert len(client._sent) >= 50


@claim
def large_packets() -> None:
    """Packets of any size are read."""
    client, _ = pair(lambda rq_type, flags, payload: len(payload))
    assert client(0, bytes(65 << 20)) == (True, 65 << 20, b"")


@claim
def grace() -> None:
    """By default a packet waits 10 ms for company before it leaves."""
    assert DEFAULT_PACKET_GRACE == 0.01


@claim
def packets() -> None:
    """A packet is made empty, and filled by assignment."""
    assert request(5) != request(6)


@claim
def mixin() -> None:
    """`PacketConnection` is a `MultiOpenMixin`."""
    assert issubclass(PacketConnection, MultiOpenMixin)


@claim
def abstract_binary() -> None:
    """`BaseRequest` is an `AbstractBinary`."""
    assert issubclass(BaseRequest, AbstractBinary)


@claim
def eof_callables() -> None:
    """While it is open, `notify_recv_eof` is a set of callables for the peer's EOF."""
    told: list[Any] = []
    conn, peer = against_raw_peer()
    conn.notify_recv_eof.add(told.append)
    peer.send(bytes(PacketConnection.EOF_Packet))
    assert receiver_stops(conn)
    assert told == [conn]


def outcomes() -> dict[str, str]:
    """What became of each claim: an empty text if it is true."""
    found = {}
    for tried in CLAIMS:
        assert tried.__doc__
        try:
            tried()
            found[tried.__doc__] = ""
        except Exception:
            found[tried.__doc__] = traceback.format_exc()
    return found


def main() -> None:
    faulthandler.dump_traceback_later(WATCHDOG_SECONDS, exit=True)
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # the reference prints its progress
        json.dump(outcomes(), out)
    sys.stderr.flush()
    os._exit(0)  # the connections cannot all be closed


if __name__ == "__main__":
    main()
