"""CURVE keys for ZMQ: our own, and those of the peers we accept.

A key is a string of 40 characters (Z85), as made by `zmq.curve_keypair`. The connecting side knows the server's
public key, so it talks to nobody else; the listening side may have a list of its clients' public keys.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import reduce

from packetwire.errors import LocalProtocolError, extra_missing

__all__ = ["CurveClient", "CurveServer", "curve_keys"]

KEY_LENGTH = 40
"""Characters of a key."""
GROUP_LENGTH = 5
"""Characters that encode four bytes."""
Z85_DIGITS = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"

Key = str | bytes


@dataclass(frozen=True)
class CurveClient:
    """Keys of the connecting side: the server's public key, and a key pair of its own.

    A key has 40 characters. Raises `LocalProtocolError`, without the key in it, if one is invalid.
    """

    server_key: Key
    public_key: Key
    secret_key: Key = field(repr=False)

    def __post_init__(self) -> None:
        for what in "server_key", "public_key", "secret_key":
            object.__setattr__(self, what, key_bytes(getattr(self, what), what))


@dataclass(frozen=True)
class CurveServer:
    """Keys of the listening side: its secret key, and the public keys of the `clients` that it lets in.

    Without `clients` it lets in every client that knows the server's public key. A key has 40 characters. Raises
    `LocalProtocolError`, without the key in it, if one is invalid.
    """

    secret_key: Key = field(repr=False)
    clients: Collection[Key] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "secret_key", key_bytes(self.secret_key, "secret_key"))
        if self.clients is not None:
            if isinstance(self.clients, str | bytes):
                raise LocalProtocolError("clients must be a collection of keys, not one")
            keys = frozenset(key_bytes(key, "a key of clients") for key in self.clients)
            object.__setattr__(self, "clients", keys)


def curve_keys() -> tuple[bytes, bytes]:
    """A new pair of keys: (public, secret)."""
    try:
        import zmq
    except ModuleNotFoundError as error:
        raise extra_missing("zmq", error) from error
    return zmq.curve_keypair()


def key_bytes(key: Key, what: str = "a key") -> bytes:
    """A key in the form that ZMQ takes. Raises `LocalProtocolError`, which calls it `what`, if it is invalid."""
    data = key.encode("ascii", errors="replace") if isinstance(key, str) else bytes(key)
    if len(data) != KEY_LENGTH:
        raise LocalProtocolError(f"{what} must have {KEY_LENGTH} characters (Z85), got {len(data)}")
    if not all(_is_group(data[start : start + GROUP_LENGTH]) for start in range(0, KEY_LENGTH, GROUP_LENGTH)):
        raise LocalProtocolError(f"{what} is not Z85")
    return data


def _is_group(group: bytes) -> bool:
    """True if these characters encode four bytes."""
    digits = [Z85_DIGITS.find(character) for character in group]
    return min(digits) >= 0 and reduce(lambda number, digit: number * len(Z85_DIGITS) + digit, digits) < 1 << 32
