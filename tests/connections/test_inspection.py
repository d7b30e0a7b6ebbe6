"""`inspect=`: what a server tells at a Unix socket, to whoever may ask, and that nobody who asks is in its way."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import select
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from packetwire import (
    AsyncPacketConnection,
    BaseRequest,
    HasPacketConnection,
    PacketConnection,
    Responder,
    aserve,
    connect_to,
    serve,
)
from packetwire.core.durations import MOST_KINDS
from packetwire.inspection import endpoint, snapshot, views

from .serving import FACES, serving

WATCHDOG = 30.0


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """A path that is short enough for a socket."""
    with ExitStack() as stack:
        place = Path(f"/tmp/packetwire-inspect-{os.getpid()}-{time.monotonic_ns()}")
        stack.callback(lambda: place.unlink(missing_ok=True))
        yield str(place)


class Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=WATCHDOG)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WATCHDOG)
        self.sock.connect(self._path)


def get(path: str, what: str = "/", method: str = "GET") -> tuple[int, str, str]:
    """The status, type and text of an answer."""
    connection = Unix(path)
    try:
        connection.request(method, what)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read().decode()
    finally:
        connection.close()


def told(path: str) -> dict[str, Any]:
    status, kind, text = get(path)
    assert (status, kind) == (200, "application/json")
    found: dict[str, Any] = json.loads(text)
    return found


def told_when(path: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first snapshot of which that is true."""
    until = time.monotonic() + WATCHDOG
    while True:
        found = told(path)
        if is_so(found):
            return found
        assert time.monotonic() < until, found


def told_in_time(path: str) -> dict[str, Any]:
    """A snapshot, of a server that hangs up so soon that it may have to be asked again."""
    until = time.monotonic() + WATCHDOG
    while True:
        try:
            return told(path)
        except (http.client.HTTPException, OSError):
            assert time.monotonic() < until


class Slow:
    """A handler: requests of type 9 wait until they may go on, those of type 8 fail."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()

    def __call__(self, rq_type: int, flags: int, payload: bytes) -> bytes:
        if rq_type == 9:
            self.begun.release()
            assert self.go_on.wait(WATCHDOG)
        if rq_type == 8:
            raise ValueError("eight")
        return payload


@pytest.mark.parametrize("face", FACES)
def test_requests_under_way_and_done(face: str, path: str) -> None:
    """An event loop whose handler blocks is looked into as well."""
    slow = Slow()
    with serving(face, "tcp:127.0.0.1:0", slow, {"inspect": path}) as served:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        with PacketConnection(connect_to(served.address)) as conn, PacketConnection(connect_to(served.address)):
            assert [conn(5, b"abc")[0] for _ in range(20)] == [True] * 20
            assert conn(8)[0] is False
            late = conn.submit(9)
            assert slow.begun.acquire(timeout=WATCHDOG)
            found = told_when(path, lambda found: found["server"]["connections"] == 2)
            slow.go_on.set()
            assert late()[0]
            done = told_when(path, lambda found: found["server"]["under_way"] == 0)
        gone = told_when(path, lambda found: found["server"]["connections"] == 0)
    assert not os.path.exists(path)
    assert (found["format"], found["server"]["state"], found["server"]["pid"]) == (1, "serving", os.getpid())
    assert found["server"]["address"] == served.address
    assert found["server"]["under_way"] == 1
    busy, idle = found["connections"]
    assert busy["name"].startswith("client 127.0.0.1:")
    (running,) = busy["under_way"]
    assert (running["channel"], running["type"], running["label"]) == (0, 9, None)
    assert 0 <= running["age"] < WATCHDOG
    assert idle["under_way"] == []
    assert (busy["state"], busy["requests_received"], busy["owed"], busy["waiting"]) == ("open", 22, 1, 0)
    kinds = {kind["type"]: kind for kind in found["requests"]}
    assert (kinds[5]["count"], kinds[5]["failed"], kinds[8]["failed"]) == (20, 0, 1)
    assert (kinds[9]["count"], kinds[9]["under_way"], kinds[9]["p50"]) == (0, 1, None)
    assert 0 < kinds[5]["p50"] <= kinds[5]["p99"] <= kinds[5]["longest"]
    assert kinds[5]["rate"] > 0
    assert {kind["type"]: kind["count"] for kind in done["requests"]} == {5: 20, 8: 1, 9: 1}
    assert (gone["totals"]["clients"], gone["totals"]["requests_received"]) == (2, 22)


@pytest.mark.parametrize("face", FACES)
def test_all_is_told_until_the_last_client_has_gone(face: str, path: str) -> None:
    slow = Slow()
    with serving(face, "tcp:127.0.0.1:0", slow, {"inspect": path}, handlers=4) as served:
        with PacketConnection(connect_to(served.address)) as conn:
            late = conn.submit(9)
            assert slow.begun.acquire(timeout=WATCHDOG)
            if face == "threads":  # in a loop the handler blocks, so it is not told
                served.stop(WATCHDOG)
                found = told_when(path, lambda found: found["server"]["state"] == "draining")
                assert 0 < found["server"]["drain_left"] <= WATCHDOG
                told_when(path, lambda found: found["connections"][0]["state"] == "draining")
            slow.go_on.set()
            assert late()[0]


class Put(BaseRequest[bytes]):
    """A request class."""

    @classmethod
    def from_request_payload(cls, flags: int, payload: bytes) -> Put:
        return cls()

    def __bytes__(self) -> bytes:
        return b""

    def fulfil(self, context: Any) -> bytes:
        return b"put"


def test_request_classes_have_their_names(path: str) -> None:
    with serve(
        "tcp:127.0.0.1:0", lambda stream: HasPacketConnection(stream, rq_type_map={4: Put}), inspect=path
    ) as server:
        with HasPacketConnection(connect_to(str(server.address)), rq_type_map={4: Put}) as client:
            client.conn_do_remote(Put())
            client.conn(77)
            kinds = told(path)["requests"]
    assert {kind["type"]: (kind["label"], kind["failed"]) for kind in kinds} == {4: ("Put", 0), 77: (None, 1)}


def test_results_that_come_later_and_other_channels(path: str) -> None:
    made: list[Responder] = []
    has_come = threading.Event()

    def later(rq_type: int, flags: int, payload: bytes) -> Responder:
        made.append(Responder())
        has_come.set()
        return made[-1]

    with serve(
        "tcp:127.0.0.1:0",
        lambda stream: PacketConnection(stream, channels={20: later}, close_timeout=0.1),
        inspect=path,
    ) as server:
        with PacketConnection(connect_to(str(server.address)), close_timeout=0.1) as conn:
            result = conn.submit(1, channel=20)
            assert has_come.wait(WATCHDOG)
            found = told_when(path, lambda found: found["server"]["under_way"] == 1)
            assert found["connections"][0]["under_way"][0]["channel"] == 20
            made[0].respond(b"late")
            assert result() == (True, 0, b"late")
            told_when(path, lambda found: found["requests"][0]["count"] == 1)
            conn.submit(2, channel=20)
            told_when(path, lambda found: found["server"]["under_way"] == 1)
        told_when(path, lambda found: found["server"]["connections"] == 0)
        assert told(path)["server"]["under_way"] == 0


def test_everything_is_bounded(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "MOST_CONNECTIONS", 3)
    monkeypatch.setattr(snapshot, "MOST_UNDER_WAY", 2)
    slow = Slow()
    with serving("threads", "tcp:127.0.0.1:0", slow, {"inspect": path}, handlers=4) as served, ExitStack() as stack:
        conns = [stack.enter_context(PacketConnection(connect_to(served.address))) for _ in range(5)]
        for rq_type in range(100, 100 + 2 * MOST_KINDS):
            conns[0](rq_type)
        for conn in conns[1:4]:
            for _ in range(4):
                conn.submit(9)
        for _ in range(12):
            assert slow.begun.acquire(timeout=WATCHDOG)
        for _ in range(7):
            conns[1].submit(9)
        found = told_when(
            path, lambda found: found["server"]["waiting"] == 7 and found["server"]["connections"] == 5
        )
        slow.go_on.set()
    assert [len(each["under_way"]) for each in found["connections"]] == [2] * 3
    assert [each["under_way_left_out"] for each in found["connections"]] == [2] * 3
    assert found["connections_left_out"] == 2
    assert found["connections"][0]["waiting"] == 7
    assert len(found["requests"]) == MOST_KINDS
    assert found["other_requests"]["count"] == MOST_KINDS


def test_prometheus(path: str) -> None:
    with serving("threads", "tcp:127.0.0.1:0", Slow(), {"inspect": path}) as served:
        with PacketConnection(connect_to(served.address)) as conn:
            for rq_type in 5, 5, 8:
                conn(rq_type)
            told_when(path, lambda found: sum(kind["count"] for kind in found["requests"]) == 3)
            status, kind, text = get(path, "/metrics")
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    for line in samples:
        found = re.fullmatch(r'(\w+?)(?:\{(?:\w+="[^"]*",?)*\})? [-+.0-9e]+', line)
        assert found, line
        name = found[1]
        assert name in types or re.sub("_(bucket|sum|count)$", "", name) in types, line
    assert "packetwire_connections 1" in samples
    assert "packetwire_requests_received_total 3" in samples
    assert 'packetwire_failed_requests_total{method="",type="8",channel="0"} 1' in samples
    assert 'packetwire_request_seconds_count{method="",type="5",channel="0"} 2' in samples
    buckets = [
        int(line.rpartition(" ")[2])
        for line in samples
        if line.startswith('packetwire_request_seconds_bucket{method="",type="5"')
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 2


def test_labels_are_escaped() -> None:
    assert views._labels({"label": 'a"b\\c\nd', "type": 1, "channel": 0}) == (
        'method="a\\"b\\\\c\\nd",type="1",channel="0"'
    )


def test_what_is_answered(path: str) -> None:
    with serving("threads", "tcp:127.0.0.1:0", Slow(), {"inspect": path}):
        assert get(path, "/stats?x=1")[:2] == (200, "application/json")
        assert get(path, "/nothing") == (404, "text/plain", views.HELP)
        assert get(path, "/", "POST") == (405, "text/plain", views.HELP)
        assert get(path, "/", "HEAD")[2] == ""
        for wrong in b"hello\r\n\r\n", b"\x00" * 10000, b"GET /" + b"x" * 9000, b"GET / HTTP/1.1\r\nHost: x":
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(WATCHDOG)
                sock.connect(path)
                with suppress(OSError):  # it may have been answered before all was sent
                    sock.sendall(wrong)
                    sock.shutdown(socket.SHUT_WR)
                answer = b""
                with suppress(ConnectionResetError):  # what it did not read
                    while data := sock.recv(65536):
                        answer += data
                assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 200", b"")


@pytest.mark.parametrize("face", FACES)
def test_those_who_ask_and_do_nothing_are_in_nobodys_way(
    face: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They fill all places; the server goes on, and after their time somebody else is answered."""
    monkeypatch.setattr(endpoint, "ASK_SECONDS", 1.0)
    with serving(face, "tcp:127.0.0.1:0", Slow(), {"inspect": path}) as served, ExitStack() as stack:
        for number in range(2 * endpoint.MOST_ASKERS):
            idle = stack.enter_context(socket.socket(socket.AF_UNIX))
            idle.connect(path)
            if number % 2:
                with suppress(OSError):  # its time may be over already
                    idle.sendall(b"GET / HT")
        with PacketConnection(connect_to(served.address)) as conn:
            for _ in range(50):
                assert conn(5, b"abc") == (True, 0, b"abc")
        assert told_in_time(path)["totals"]["requests_received"] == 50


def test_a_server_whose_loop_ends_without_it(path: str) -> None:
    """Its task is cancelled, and nothing is left."""

    async def run() -> None:
        await aserve("tcp:127.0.0.1:0", AsyncPacketConnection, inspect=path)
        assert (await asyncio.to_thread(told, path))["server"]["state"] == "serving"

    asyncio.run(run())
    assert not os.path.exists(path)
    assert not [thread for thread in threading.enumerate() if "inspect" in thread.name]


def test_without_threads_there_is_no_server(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(endpoint.Inspection, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        serve("tcp:127.0.0.1:0", PacketConnection, inspect=path)

    async def run() -> None:
        with pytest.raises(RuntimeError, match="new thread"):
            await aserve("tcp:127.0.0.1:0", AsyncPacketConnection, inspect=path)

    asyncio.run(run())
    assert not os.path.exists(path)


def test_a_fork_does_not_answer(path: str) -> None:
    with serving("threads", "tcp:127.0.0.1:0", Slow(), {"inspect": path}) as served:
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                served.server.stop(0)
                os._exit(0 if served.server._inspection._listener.sockets == [] else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert told(path)["server"]["pid"] == os.getpid()


def test_a_snapshot_is_used_for_a_while(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FRESH_SECONDS", 1000.0)
    with serving("threads", "tcp:127.0.0.1:0", Slow(), {"inspect": path}):
        assert told(path) == told(path)


def test_who_takes_no_answer_is_hung_up_on(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "ASK_SECONDS", 0.2)
    monkeypatch.setattr(views, "HELP", "x" * (1 << 22))
    with serving("threads", "tcp:127.0.0.1:0", Slow(), {"inspect": path}):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(WATCHDOG)
            sock.connect(path)
            with suppress(OSError):  # its time may be over already
                sock.sendall(b"GET /nothing HTTP/1.0\r\n\r\n")
            poller = select.poll()
            poller.register(sock, select.POLLHUP)
            assert poller.poll(WATCHDOG * 1000)
            size = 0
            with suppress(ConnectionResetError):
                while data := sock.recv(1 << 20):
                    size += len(data)
            assert size < len(views.HELP)


@pytest.mark.parametrize("face", FACES)
def test_a_path_that_cannot_be_used(face: str, path: str) -> None:
    Path(path).write_text("a file")
    before = set(threading.enumerate())
    with pytest.raises(OSError, match=re.escape(path)):
        with serving(face, "tcp:127.0.0.1:0", Slow(), {"inspect": path}):
            pass
    assert Path(path).read_text() == "a file"
    assert {thread for thread in threading.enumerate() if "inspect" in thread.name} <= before
    os.unlink(path)
    with serving(face, "tcp:127.0.0.1:0", Slow(), {"inspect": path}):
        with pytest.raises(OSError, match="another server is serving there"):
            with serving(face, "tcp:127.0.0.1:0", Slow(), {"inspect": path}):
                pass
        assert told(path)["server"]["connections"] == 0


def test_an_address_that_cannot_be_used_leaves_no_socket(path: str) -> None:
    with serving("threads", "tcp:127.0.0.1:0", Slow(), {}) as served:
        with pytest.raises(OSError, match="in use"):
            serve(served.address, PacketConnection, inspect=path)
    assert not os.path.exists(path)


def test_a_server_that_takes_the_place_of_another_is_asked_from_then_on(path: str, tmp_path: Path) -> None:
    with serving("threads", f"unix:{path}.at", Slow(), {"inspect": path}):
        with serving("threads", f"unix:{path}.at", Slow(), {"inspect": path, "replace": True}) as second:
            with PacketConnection(connect_to(f"unix:{path}.at")) as conn:
                conn(5)
                assert told_when(path, lambda found: bool(found["requests"]))["server"]["connections"] == 1
                assert second.connections == 1
        assert not os.path.exists(path)


@pytest.mark.parametrize("make", [PacketConnection, AsyncPacketConnection])
def test_without_it_handlers_are_called_as_ever(make: Any) -> None:
    def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        return payload

    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = make(ours, request_handler=handler)
        assert conn._as_called(handler, 0) is handler


UNUSED = """
import sys
from packetwire import PacketConnection, connect_to, serve
with serve("tcp:127.0.0.1:0", lambda stream: PacketConnection(stream, request_handler=lambda *a: b"")) as server:
    with PacketConnection(connect_to(str(server.address))) as conn:
        conn(1)
print([name for name in sys.modules if "inspection" in name or "durations" in name or name == "packetwire.hooks"])
"""


@pytest.mark.timeout(60)
def test_without_it_nothing_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", UNUSED], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
