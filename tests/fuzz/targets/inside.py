"""A look inside a server: requests for it, and what `packetwire top` makes of answers from wherever."""

from __future__ import annotations

import argparse
import io
import json
import re
import socket
from contextlib import redirect_stdout
from random import Random

from packetwire.cli import asking, top
from packetwire.cli.failure import CommandFailed
from packetwire.inspection.endpoint import MOST_REQUEST, _Asker
from packetwire.inspection.snapshot import ServerState, Totals, snapshot_of
from packetwire.inspection.views import answer_to, is_whole
from packetwire.watching import Watch

from ..mutators import headed_mutator, json_mutator, octets_mutator
from ..target import Target, chunks_of

SNAPSHOT = snapshot_of(
    ServerState(address="tcp:localhost:1", clients=[], max_connections=5, max_memory=9, drain_left=None),
    Watch(),
    Totals(),
)

# requests

REFUSED = {400: "400 no request", 404: "404 no such path", 405: "405 no such method"}


def asked(octets: bytes) -> bytes:
    """The answer to somebody who sends this in pieces, and then nothing more."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        ours.settimeout(5)
        asker = _Asker(theirs)
        answer = b""
        for piece in [*filter(None, chunks_of(octets)), b""]:
            if piece:
                ours.sendall(piece)
            else:
                ours.shutdown(socket.SHUT_WR)
            for _ in range(3):
                if not asker.is_over:
                    asker.go_on(lambda: SNAPSHOT)
            if asker.is_over:
                break
        assert asker.is_over
        while data := ours.recv(1 << 16):
            answer += data
    return answer


def hear_request(octets: bytes) -> list[str]:
    taken: list[None] = []
    answer = answer_to(octets, lambda: taken.append(None) or SNAPSHOT)
    head, _, body = answer.partition(b"\r\n\r\n")
    found = re.fullmatch(rb"HTTP/1.1 (\d+) [\w ]+(\r\n[\w-]+: [^\r\n]+)+", head)
    assert found is not None
    status = int(found[1])
    if octets.startswith(b"HEAD ") and status == 200:
        assert body == b""
    else:
        assert f"Content-Length: {len(body)}".encode() in head
    assert bool(taken) is (status == 200)
    if len(octets) < MOST_REQUEST:
        whole = next((n for n in range(len(octets) + 1) if is_whole(octets[:n])), len(octets))
        assert asked(octets) in {answer_to(octets[:n], lambda: SNAPSHOT) for n in range(whole, len(octets) + 1)}
    return [REFUSED[status]] if status != 200 else []


REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n",
    b"GET /stats?x=1 HTTP/1.0\r\n\r\n",
    b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /stats.json HTTP/1.1\n\n",
    b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    b"GET /etc/passwd HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]

# answers

WRONG = "no answer of a server"
NOT_SHOWN = "no snapshot"


def hear_answer(octets: bytes) -> list[str]:
    choice, answer = octets[0] if octets else 0, octets[1:]
    args = argparse.Namespace(
        socket="place", once=True, json=False, interval=1.0, sort=top.topview.SORTS[choice % 5], rows=None
    )
    exchange, asking._exchange = asking._exchange, lambda path, seconds: answer
    failed: CommandFailed | None = None
    try:
        with redirect_stdout(io.StringIO()) as shown:
            assert top.run(args) == 0
    except CommandFailed as error:
        failed = error
    finally:
        asking._exchange = exchange
    if failed is not None:
        assert str(failed) == f"place: {asking.WRONG}"
        return [WRONG if failed.__cause__ is None else NOT_SHOWN]
    assert shown.getvalue().replace("\n", "").isprintable()
    return []


def full_snapshot() -> dict[str, object]:
    """With a client, and a request under way."""
    kind = {"channel": 0, "type": 3, "label": "get", "under_way": 1}
    figures = {"count": 5, "failed": 1, "seconds": 0.5, "longest": 0.2, "rate": 2.5, "p50": 0.1, "p99": 0.2}
    client = {
        "number": 3,
        "name": "unix 3",
        "state": "open",
        "age": 5.5,
        "silence": 0.1,
        "rtt": None,
        "memory": 700,
    }
    client |= {"rate": 2.5, "waiting": 1, "owed": 2, "outstanding": 0, "bytes_unsent": 5, "under_way_left_out": 0}
    client |= dict.fromkeys(SNAPSHOT["totals"], 7) | {"under_way": [{**kind, "age": 0.25}]}
    return {
        **SNAPSHOT,
        "requests": [{**kind, **figures, "buckets": [[0.1, 5]]}],
        "connections": [client, {**client, "number": 4, "name": "x" * 90}],
        "connections_left_out": 3,
    }


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
ANSWERS = [
    *(HEAD + json.dumps(each).encode() for each in (SNAPSHOT, full_snapshot())),
    answer_to(REQUESTS[5], lambda: SNAPSHOT),
    b"ERROR",
]
KEYS = sorted({*SNAPSHOT, *SNAPSHOT["server"], *SNAPSHOT["totals"], "age", "under_way", "label", "name", "state"})
_mutate_json = json_mutator([*KEYS, "\x1b[2J", "\u202e", "Infinity"])
_mutate_octets = octets_mutator([b"\r\n\r\n", b"HTTP/1.", b"1e999", b"NaN", b"Infinity", b"-1"], ANSWERS)


def mutate_answer(octets: bytes, random: Random) -> bytes:
    """Mostly other values in the JSON."""
    head, between, body = octets.partition(b"\r\n\r\n")
    if random.randrange(4) and body:
        return head + between + _mutate_json(body, random)
    return _mutate_octets(octets, random)


TARGETS = (
    Target(
        name="inspection",
        seeds=REQUESTS,
        mutate=octets_mutator(
            [b"\r\n\r\n", b"\n\n", b" HTTP/1.1\r\n", b"GET ", b"/metrics", b"?", b"\0"], REQUESTS
        ),
        hear=hear_request,
        reasons=frozenset(REFUSED.values()),
    ),
    Target(
        name="top",
        seeds=[bytes((n,)) + answer for n, answer in enumerate(ANSWERS)],
        mutate=headed_mutator(mutate_answer, 5),
        hear=hear_answer,
        reasons=frozenset({WRONG, NOT_SHOWN}),
        growth=3000,
    ),
)
