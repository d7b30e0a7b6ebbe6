"""CURVE keys for ZMQ: who we are, and whom we talk to.

Keys are texts of 40 characters (Z85), as `zmq.curve_keypair` makes them. The connecting side knows the
server's public key, so it talks to nobody else; the listening side may know the public keys of its clients.
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
"""Characters that stand for four octets."""
Z85_DIGITS = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"

Key = str | bytes


@dataclass(frozen=True)
class CurveClient:
    """What the connecting side needs: the server's public key, and keys of its own.

    A key is 40 characters. Raises `LocalProtocolError`, without the key, for what is none.
    """

    server_key: Key
    public_key: Key
    secret_key: Key = field(repr=False)

    def __post_init__(self) -> None:
        for what in "server_key", "public_key", "secret_key":
            object.__setattr__(self, what, key_octets(getattr(self, what), what))


@dataclass(frozen=True)
class CurveServer:
    """What the listening side needs: its secret key, and whom it lets in.

    Without `clients`, the public keys, these are all who know the server's public key. A key is 40 characters.
    Raises `LocalProtocolError`, without the key, for what is none.
    """

    secret_key: Key = field(repr=False)
    clients: Collection[Key] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "secret_key", key_octets(self.secret_key, "secret_key"))
        if self.clients is not None:
            if isinstance(self.clients, str | bytes):
                raise LocalProtocolError("clients must be a collection of keys, not one")
            keys = frozenset(key_octets(key, "a key of clients") for key in self.clients)
            object.__setattr__(self, "clients", keys)


def curve_keys() -> tuple[bytes, bytes]:
    """A new pair of keys: (public, secret)."""
    try:
        import zmq
    except ModuleNotFoundError as error:
        raise extra_missing("zmq", error) from error
    return zmq.curve_keypair()


def key_octets(key: Key, what: str = "a key") -> bytes:
    """A key as ZMQ takes it. Raises `LocalProtocolError`, which names it by `what`, if it is none."""
    octets = key.encode("ascii", errors="replace") if isinstance(key, str) else bytes(key)
    if len(octets) != KEY_LENGTH:
        raise LocalProtocolError(f"{what} must have {KEY_LENGTH} characters (Z85), got {len(octets)}")
    if not all(_is_group(octets[start : start + GROUP_LENGTH]) for start in range(0, KEY_LENGTH, GROUP_LENGTH)):
        raise LocalProtocolError(f"{what} is not Z85")
    return octets


def _is_group(group: bytes) -> bool:
    """Whether these characters stand for four octets."""
    digits = [Z85_DIGITS.find(character) for character in group]
    return min(digits) >= 0 and reduce(lambda number, digit: number * len(Z85_DIGITS) + digit, digits) < 1 << 32
