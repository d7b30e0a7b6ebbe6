"""A client of TLS 1.3 that asks for new keys as often as it likes, which Python's does not: by libssl itself."""

from __future__ import annotations

import ctypes
import ctypes.util
import socket
from ctypes import c_int, c_void_p
from typing import Any

import pytest

_READ_SIZE = 16384
_UPDATE_REQUESTED = 1


def _functions(library: str, signatures: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    """The functions of a library by their names, with the types of their results and arguments."""
    path = ctypes.util.find_library(library)
    loaded = ctypes.CDLL(path) if path else None
    found = {}
    for name, (result, *arguments) in signatures.items():
        function = getattr(loaded, name, None)
        if function is None:
            pytest.skip(f"there is no {name} in a lib{library}")
        function.restype, function.argtypes = result, arguments
        found[name] = function
    return found


class KeyUpdater:
    """A client over a socket, by which the handshake is done. It never reads after that."""

    def __init__(self, sock: socket.socket) -> None:
        self._crypto = _functions(
            "crypto",
            {
                "BIO_s_mem": (c_void_p,),
                "BIO_new": (c_void_p, c_void_p),
                "BIO_read": (c_int, c_void_p, c_void_p, c_int),
                "BIO_write": (c_int, c_void_p, c_void_p, c_int),
            },
        )
        self._ssl = _functions(
            "ssl",
            {
                "TLS_client_method": (c_void_p,),
                "SSL_CTX_new": (c_void_p, c_void_p),
                "SSL_CTX_free": (None, c_void_p),
                "SSL_new": (c_void_p, c_void_p),
                "SSL_free": (None, c_void_p),
                "SSL_set_bio": (None, c_void_p, c_void_p, c_void_p),
                "SSL_set_connect_state": (None, c_void_p),
                "SSL_do_handshake": (c_int, c_void_p),
                "SSL_key_update": (c_int, c_void_p, c_int),
                "SSL_write": (c_int, c_void_p, c_void_p, c_int),
            },
        )
        self._context = self._ssl["SSL_CTX_new"](self._ssl["TLS_client_method"]())
        self._connection = self._ssl["SSL_new"](self._context)
        memory = self._crypto["BIO_s_mem"]()
        self._from_peer, self._to_peer = self._crypto["BIO_new"](memory), self._crypto["BIO_new"](memory)
        self._ssl["SSL_set_bio"](self._connection, self._from_peer, self._to_peer)
        self._ssl["SSL_set_connect_state"](self._connection)
        while self._ssl["SSL_do_handshake"](self._connection) != 1:
            sock.sendall(self._taken())
            data = sock.recv(_READ_SIZE)
            self._crypto["BIO_write"](self._from_peer, data, len(data))
        sock.sendall(self._taken())

    def _taken(self) -> bytes:
        buffer = ctypes.create_string_buffer(_READ_SIZE)
        data = b""
        while (size := self._crypto["BIO_read"](self._to_peer, buffer, _READ_SIZE)) > 0:
            data += ctypes.string_at(buffer, size)
        return data

    def updates(self, count: int, data: bytes = b"") -> bytes:
        """The ciphertext of so many requests for new keys, each with `data` behind it."""
        sent = []
        for _ in range(count):
            assert self._ssl["SSL_key_update"](self._connection, _UPDATE_REQUESTED) == 1
            assert self._ssl["SSL_do_handshake"](self._connection) == 1
            if data:
                assert self._ssl["SSL_write"](self._connection, data, len(data)) == len(data)
            sent.append(self._taken())
        return b"".join(sent)

    def close(self) -> None:
        """Let go of what libssl holds; the socket stays open."""
        self._ssl["SSL_free"](self._connection)
        self._ssl["SSL_CTX_free"](self._context)
