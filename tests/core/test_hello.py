"""What HELLO carries: examples of docs/wire.md, round trips, and everything that is malformed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetwire import LocalProtocolError
from packetwire.core.fields import MAX_METADATA_SIZE, FieldError, encode_fields, metadata_fields, metadata_of
from packetwire.core.hello import (
    LEAST_PIECE,
    MAX_HELLO_SIZE,
    MAX_REASON,
    MAX_TEXT_SIZE,
    MOST_PIECE,
    Feature,
    Hello,
    decode_drain,
    decode_hello,
    encode_drain,
    encode_hello,
)
from packetwire.core.varint import MAX_UINT

texts = st.one_of(st.none(), st.text(max_size=60))
numbers = st.integers(0, MAX_UINT)

hellos = st.builds(
    Hello,
    features=st.integers(0, 511).map(Feature),
    max_packet_size=numbers,
    max_inbound=st.one_of(st.none(), numbers),
    body_credit=numbers,
    max_bodies=numbers,
    max_piece=st.integers(LEAST_PIECE, MOST_PIECE),
    protocol=texts,
    protocol_version=texts,
    schema_hash=st.one_of(st.none(), st.binary(min_size=8, max_size=8)),
    software=texts,
    epoch=st.one_of(st.none(), st.binary(min_size=8, max_size=8)),
    client_id=st.one_of(st.none(), st.binary(min_size=16, max_size=16)),
    metadata=st.dictionaries(st.text(max_size=20), st.binary(max_size=20), max_size=4),
)


@given(hellos)
def test_what_is_encoded_is_decoded(hello: Hello) -> None:
    assert decode_hello(encode_hello(hello)) == hello


def test_the_example_of_the_specification() -> None:
    """Version 1, and the first seven features."""
    hello = Hello(features=Feature(0x7F))
    assert encode_hello(hello) == bytes.fromhex("010101 02017f")
    assert decode_hello(bytes.fromhex("010101 02017f")) == hello


def test_what_is_not_said_has_its_default() -> None:
    assert decode_hello(bytes.fromhex("010101")) == Hello()


def test_unknown_fields_and_features_are_skipped() -> None:
    data = encode_fields([(99, b"?"), (1, b"\x01"), (2, b"\xff\x7f"), (63, b"")])
    assert decode_hello(data) == Hello(features=Feature(511))


def test_a_later_version_is_spoken_to() -> None:
    assert decode_hello(encode_fields([(1, b"\x02")])).version == 2


def test_of_a_field_that_comes_twice_the_first_counts() -> None:
    assert decode_hello(encode_fields([(1, b"\x01"), (8, b"one"), (8, b"two")])).protocol == "one"


def test_metadata_may_come_repeatedly() -> None:
    pairs = {"a": b"1", "b": b"", "é": b"\xff"}
    assert decode_hello(encode_hello(Hello(metadata=pairs))).metadata == pairs
    assert metadata_of([*metadata_fields({"a": b"1"}), *metadata_fields({"a": b"2"})]) == {"a": b"1"}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "without a version"),
        ("02017f", "without a version"),
        ("010100", "field 1 must be 1 or more, it is 0"),
        ("0100", "field 1 is incomplete"),
        ("01020100", "field 1 has 1 bytes behind its integer"),
        ("010181", "field 1 is incomplete"),
        ("010101 05", "the length of field 5 is incomplete"),
        ("010101 81", "the id of a field is incomplete"),
        ("010101 05 09 00", "field 5 announces 9 bytes, 1 are left"),
        ("010101 " + "ff" * 10, "the id of a field is too long an integer"),
        ("010101 07018a", "field 7 is incomplete"),
        ("010101 070101", "field 7 must be 1024 or more, it is 1"),
        ("010101 0703 c0 80 01", "field 7 must be at most 1048576, it is 1048577"),
        ("010101 0a0401020304", "field 10 must have 8 bytes, it has 4"),
        ("010101 0c00", "field 12 must have 8 bytes, it has 0"),
        ("010101 0d0102", "field 13 must have 16 bytes, it has 1"),
        ("010101 4000", "the length of a key of metadata is incomplete"),
        ("010101 40020561", "a key of metadata announces 5 bytes, 1 are left"),
    ],
)
def test_what_is_malformed(data: Any, text: str) -> None:
    with pytest.raises(FieldError) as caught:
        decode_hello(data if isinstance(data, bytes) else bytes.fromhex(data))
    assert text in str(caught.value)


def test_the_bounds_of_what_is_received() -> None:
    filler = (99, bytes(1000))
    with pytest.raises(FieldError, match=f"the limit is {MAX_HELLO_SIZE}"):
        decode_hello(encode_fields([(1, b"\x01"), *[filler] * 5]))
    pair = (64, b"\x01k" + bytes(1000))
    with pytest.raises(FieldError, match=f"more than {MAX_METADATA_SIZE} bytes of metadata"):
        decode_hello(encode_fields([(1, b"\x01"), *[pair] * 3]))


@given(st.binary(max_size=100))
def test_any_bytes_are_understood_or_refused(data: bytes) -> None:
    try:
        hello = decode_hello(data)
    except FieldError:
        return
    assert decode_hello(encode_hello(hello)) == hello


def test_what_cannot_be_said() -> None:
    with pytest.raises(LocalProtocolError, match=f"protocol has 300 bytes, the limit is {MAX_TEXT_SIZE}"):
        encode_hello(Hello(protocol="x" * 300))
    with pytest.raises(LocalProtocolError, match="epoch must have 8 bytes, got 3"):
        encode_hello(Hello(epoch=b"abc"))
    with pytest.raises(LocalProtocolError, match="bytes of metadata, the limit is"):
        encode_hello(Hello(metadata={"key": bytes(3000)}))
    with pytest.raises(TypeError, match="software must be a string, got bytes"):
        Hello(software=b"x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="metadata must be bytes by str"):
        encode_hello(Hello(metadata={"key": "text"}))  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="metadata must be bytes by str"):
        encode_hello(Hello(metadata={1: b""}))  # type: ignore[dict-item]


@given(st.one_of(st.none(), numbers), st.text(max_size=60))
def test_drain_is_decoded_as_it_was_encoded(milliseconds: int | None, text: str) -> None:
    said = text.encode(errors="replace").decode()
    assert decode_drain(encode_drain(milliseconds, text)) == (milliseconds, said)


def test_the_example_of_drain() -> None:
    assert encode_drain(60_000, "") == bytes.fromhex("010383d460")
    assert encode_drain(None, "") == b""
    assert encode_drain(0, "why") == bytes.fromhex("010100 0203776879")


def test_a_reason_to_drain_is_short() -> None:
    data = encode_drain(MAX_UINT, "\U0001f600" * 5000)
    assert len(data) <= MAX_HELLO_SIZE
    assert decode_drain(data) == (MAX_UINT, "\U0001f600" * MAX_REASON)
    long = encode_fields([(2, b"x" * 4000)])
    assert decode_drain(long) == (None, "x" * MAX_REASON)


@pytest.mark.parametrize("payload", [b"\1", b"\1\0", b"\1\2\1\1", bytes(MAX_HELLO_SIZE + 1)], ids=len)
def test_a_malformed_drain(payload: bytes) -> None:
    with pytest.raises(FieldError):
        decode_drain(payload)
