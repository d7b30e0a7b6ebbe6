"""A chunk store that is killed amid a transfer, and the errors that its client gets."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from packetwire import PacketwireError
from packetwire.cli.chunkclient import REPLY_TIMEOUT, ChunkClient
from packetwire.cli.chunkstore import OWN_GROUP, Add, store_command

REQUESTS_BEFORE = 32
"""Requests that are answered before the store is killed."""
REQUESTS_IN_FLIGHT = 32
CHUNK_SIZE = 32 << 10


@dataclass
class Killed:
    """The outcome of the requests to a store that was killed."""

    submitted: int
    answered: int = 0
    errors: list[PacketwireError] = field(default_factory=list)
    """One for each request that has no answer."""


def kill_store() -> Killed:
    """Start a store, kill it by SIGKILL with requests in flight, and collect all results."""
    with _killable_store() as process, ChunkClient(process, max_unsent=REQUESTS_IN_FLIGHT * CHUNK_SIZE) as client:
        results = [client.conn_submit(_chunk(number)) for number in range(REQUESTS_BEFORE)]
        for result in results:
            result(timeout=REPLY_TIMEOUT)
        # stopped first, so that requests submitted now are in flight when it dies
        process.send_signal(signal.SIGSTOP)
        results += [client.conn_submit(_chunk(number)) for number in range(REQUESTS_IN_FLIGHT)]
        process.kill()
        killed = Killed(submitted=len(results))
        for result in results:
            try:
                result(timeout=REPLY_TIMEOUT)
                killed.answered += 1
            except PacketwireError as error:
                killed.errors.append(error)
    return killed


def _chunk(number: int) -> Add:
    return Add(bytes((number,)) * CHUNK_SIZE)


@contextmanager
def _killable_store() -> Iterator[subprocess.Popen[bytes]]:
    """A store that we start ourselves, as we want to kill it; it is gone afterwards in any case."""
    process = subprocess.Popen(
        store_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, process_group=OWN_GROUP
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
