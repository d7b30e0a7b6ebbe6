"""The chunk store of the demo, as a child over its pipes."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator

import pytest

from packetwire import RequestFailed
from packetwire.cli.chunkclient import ChunkClient
from packetwire.cli.chunkstore import Add, Contains, Get, Length, store_command

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def store() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        store_command(hashlib.sha256(b"damaged").digest()), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        yield process
        process.kill()


@pytest.fixture
def client(store: subprocess.Popen[bytes]) -> Iterator[ChunkClient]:
    with ChunkClient(store) as client:
        yield client


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 1000])
def test_a_chunk_comes_back_by_its_digest(client: ChunkClient, data: bytes) -> None:
    address = hashlib.sha256(data).digest()
    assert client.ask(Contains(address)) is False
    assert client.ask(Add(data)) == address
    assert client.ask(Contains(address)) is True
    assert client.ask(Get(address)) == data


def test_equal_chunks_are_stored_once(client: ChunkClient) -> None:
    assert client.ask(Length()) == 0
    for data in b"one", b"two", b"one":
        client.ask(Add(data))
    assert client.ask(Length()) == 2


def test_an_unknown_address_fails_and_is_named(client: ChunkClient) -> None:
    with pytest.raises(RequestFailed, match=bytes(32).hex()):
        client.ask(Get(bytes(32)))
    assert client.ask(Length()) == 0


def test_one_byte_is_flipped_if_asked_for(client: ChunkClient) -> None:
    got = client.ask(Get(client.ask(Add(b"damaged"))))
    assert [index for index in range(7) if got[index] != b"damaged"[index]] == [3]


def test_many_in_flight_are_measured(client: ChunkClient) -> None:
    addresses = list(client.ask_in_flight("Add", (Add(bytes((n,))) for n in range(100)), 100))
    assert addresses == [hashlib.sha256(bytes((n,))).digest() for n in range(100)]
    assert all(client.ask_in_turn("Contains", map(Contains, addresses)))
    added, contained = client.measured
    for measured in added, contained:
        assert len(measured.round_trips) == 100
        assert 0 < min(measured.round_trips) <= measured.median <= measured.p99 <= max(measured.round_trips)
        assert max(measured.round_trips) <= measured.seconds


def test_it_leaves_with_its_connection(store: subprocess.Popen[bytes]) -> None:
    with ChunkClient(store) as client:
        client.ask(Length())
    assert store.wait() == 0
