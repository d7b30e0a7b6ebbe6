"""What requests as classes are called, in results and in errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from packetwire import BaseRequest, HasPacketConnection, RequestFailed

pytestmark = pytest.mark.timeout(60)


@dataclass
class Check(BaseRequest[str]):
    text: str

    def __bytes__(self) -> bytes:
        return self.text.encode()

    @classmethod
    def from_bytes(cls, bs: bytes) -> Check:
        return cls(bs.decode())

    def fulfil(self, context: Any) -> str:
        if self.text == "bad":
            raise ValueError("as I said")
        return self.text.upper()

    def decode_response_payload(self, flags: int, payload: bytes) -> str:
        return payload.decode()


@pytest.fixture
def client(fd_ends: Any) -> Any:
    with (
        HasPacketConnection(fd_ends.b, rq_type_map={0: Check}),
        HasPacketConnection(fd_ends.a, "ours", rq_type_map={0: Check}) as client,
    ):
        yield client


def test_a_result_has_the_name_of_its_request_or_the_given_one(client: Any) -> None:
    assert client.conn_submit(Check("good")).name == "ours:2:Check"
    assert client.conn_submit(Check("good"), label="mine").name == "ours:3:mine"


def test_the_first_that_fails_ends_a_map(client: Any) -> None:
    results = client.conn_map(map(Check, ["one", "two", "bad", "three"]), window=2, timeout=20)
    assert [next(results), next(results)] == ["ONE", "TWO"]
    with pytest.raises(RequestFailed, match="answered Check not ok") as caught:
        next(results)
    assert caught.value.text == "ValueError: as I said"
    assert client.conn_do_remote(Check("still"), timeout=20) == "STILL"
