"""The requests that each end of an interoperability test serves, whichever library it runs on.

Both ends import this module, one of them in an environment without packetwire, so it needs nothing but
the standard library.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

ECHO = 0
"""Answered with the request's flags and payload."""
RESULT = 1
"""Answered with what the handler makes of `RESULTS[payload]`."""
HOLD = 2
"""As ECHO, but only once the gate is open."""
RELEASE = 3
"""Opens the gate."""
CALL_BACK = 4
"""Answered with what an ECHO of flags and payload, back to the one who asked, came to."""
BOUNCE = 5
"""Answered with how often the request was passed to and fro; its flags say how often to pass it on."""
OTHERS = 6
"""From here on: answered with the request type in the flags, and the payload."""

RESULTS: dict[str, Any] = {
    "None": None,
    "zero": 0,
    "int": 1 << 40,
    "True": True,
    "bytes": b"\x00\xff octets",
    "empty bytes": b"",
    "str": "plain",
    "str beyond ASCII": "naïve 東京 😀",
    "str with a lone surrogate": "before \ud800 after",
    "(int, bytes)": ((1 << 40) + 1, b"with flags"),
    "(int, empty bytes)": (3, b""),
    # only ours answers these
    "bytearray": bytearray(b"bytearray"),
    "memoryview": memoryview(b"memoryview"),
    "(int, str)": (5, "naïve 東京"),
    "(int, bytearray)": (6, bytearray(b"more")),
    # these mean nothing
    "negative int": -1,
    "(negative int, bytes)": (-1, b""),
    "float": 1.5,
    "list": [1, b""],
    "triple": (1, b"", 2),
    "(str, bytes)": ("1", b""),
    "object": object(),
}
"""What a handler returns, by its name; a name that is not here makes the handler raise a KeyError."""

MEANINGLESS = ("negative int", "(negative int, bytes)", "float", "list", "triple", "(str, bytes)", "object")

ON_THE_WIRE = {
    "None": (0, b""),
    "zero": (0, b""),
    "int": (1 << 40, b""),
    "True": (1, b""),
    "bytes": (0, b"\x00\xff octets"),
    "empty bytes": (0, b""),
    "str": (0, b"plain"),
    "str beyond ASCII": (0, b"na\xc3\xafve \xe6\x9d\xb1\xe4\xba\xac \xf0\x9f\x98\x80"),
    "str with a lone surrogate": (0, b"before &#55296; after"),
    "(int, bytes)": ((1 << 40) + 1, b"with flags"),
    "(int, empty bytes)": (3, b""),
}
"""The flags and payload that either library makes of them."""

ON_THE_WIRE_BY_OURS = {
    "bytearray": (0, b"bytearray"),
    "memoryview": (0, b"memoryview"),
    "(int, str)": (5, b"na\xc3\xafve \xe6\x9d\xb1\xe4\xba\xac"),
    "(int, bytearray)": (6, b"more"),
}


class Exchange:
    """The request handler. `conn` is its connection, for calling back."""

    def __init__(self) -> None:
        self.conn: Any = None
        self.gate = threading.Event()
        self._served: dict[int, Callable[[int, bytes], Any]] = {
            ECHO: self._echo,
            RESULT: self._result,
            HOLD: self._hold,
            RELEASE: self._release,
            CALL_BACK: self._call_back,
            BOUNCE: self._bounce,
        }

    def __call__(self, rq_type: int, flags: int, payload: bytes) -> Any:
        serve = self._served.get(rq_type)
        return serve(flags, payload) if serve else (rq_type, payload)

    def _echo(self, flags: int, payload: bytes) -> Any:
        return flags, payload

    def _result(self, flags: int, payload: bytes) -> Any:
        return RESULTS[payload.decode()]

    def _hold(self, flags: int, payload: bytes) -> Any:
        if not self.gate.wait(timeout=30):
            raise TimeoutError("nobody opened the gate")
        return flags, payload

    def _release(self, flags: int, payload: bytes) -> Any:
        self.gate.set()

    def _call_back(self, flags: int, payload: bytes) -> Any:
        ok, echoed_flags, echoed = self.conn(ECHO, payload, flags)
        if not ok:
            raise RuntimeError(f"the call back was refused: {echoed!r}")
        return echoed_flags, echoed

    def _bounce(self, flags: int, payload: bytes) -> Any:
        if flags == 0:
            return b"0"
        ok, _, passed = self.conn(BOUNCE, payload, flags - 1)
        if not ok:
            raise RuntimeError(f"the request was not passed on: {passed!r}")
        return b"%d" % (int(passed) + 1)
