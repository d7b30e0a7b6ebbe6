"""The rules that the peer can break, in one table: code -> what is said about it.

Every `RemoteProtocolError` of the core is made by `refuse`, so a test can walk this table and see each
refusal reached.
"""

from __future__ import annotations

import re

from packetwire.errors import RemoteProtocolError

REFUSALS = {
    "varint-too-long": "an integer of more than {limit} bytes at byte {offset} of the stream",
    "packet-too-large": "a packet announces {size} bytes at byte {offset} of the stream, the limit is {limit}",
    "field-overruns-packet": "the {field} of a packet whose fields begin at byte {offset} runs past its end",
    "reserved-rq-type": "a request with the reserved rq_type 0 that is neither EOF nor ERQ: {packet}",
    "response-never-asked": "a response to tag {tag} on channel {channel}, which was never used",
    "frame-before-hello": "a frame about tag {tag} from a peer that has not said HELLO",
    "bad-frame": "a malformed frame about tag {tag}: {problem}",
    "too-many-unfinished": "a {kind} frame about tag {tag}: {limit} requests that were announced have not come",
    "credit-exceeded": "DATA about tag {tag}: {size} bytes of a body for which only {limit} were granted",
    "frame-not-agreed": "a {kind} frame about tag {tag}, which both ends do not understand",
}
QUOTED_BYTES = 200


FOREIGN = {
    rb"HTTP/[12]|[A-Z]{3,7} [!-~]+ HTTP/": "this looks like HTTP, not packets",
    rb"[\x14-\x17]\x03[\x00-\x04]": "this looks like TLS: both ends need a tls: address",
    rb"SSH-[12]": "this looks like an SSH server: an ssh: address runs a command there",
    rb"\xff.{8}\x7f": "this looks like a ZMQ socket: both ends need a zmq+ address",
    rb"Content-Length:|\{\s*\"": "this looks like JSON-RPC, not packets",
}
"""How other protocols begin, as regular expressions -> what is said about it."""
PRINTED = (
    "this looks like printed text: a service on standard output calls stdio() before anything prints, "
    "or prints to standard error"
)
LEAST_TEXT = 4
"""Bytes; fewer may be text by chance."""


def explained(quoted: bytes, shown: str) -> str:
    """The bytes as `shown`, and what they are if they are another protocol's or printed text."""
    for beginning, what in FOREIGN.items():
        if re.match(beginning, quoted, re.DOTALL):
            return f"{shown} ({what})"
    text = quoted.decode("latin-1").translate({9: " ", 10: " ", 13: " ", 27: " "})
    printed = len(text) >= LEAST_TEXT and text.isascii() and text.isprintable() and not text.isspace()
    return f"{shown} ({PRINTED})" if printed else shown


def refuse(code: str, quoted: bytes = b"", **values: object) -> RemoteProtocolError:
    """The exception for one broken rule; `quoted` are the bytes to show, as far as they are known."""
    text = REFUSALS[code].format(**values)
    if quoted:
        shown = quoted[:QUOTED_BYTES]
        text += "; the bytes there: " + explained(quoted, f"{shown!r}" + ("…" if len(quoted) > len(shown) else ""))
    return RemoteProtocolError(code, text)
