"""The rules that the peer can break, in one table: code -> what is said about it.

Every `RemoteProtocolError` of the core is made by `refuse`, so a test can walk this table and see each
refusal reached.
"""

from __future__ import annotations

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


def refuse(code: str, quoted: bytes = b"", **values: object) -> RemoteProtocolError:
    """The exception for one broken rule; `quoted` are the bytes to show, as far as they are known."""
    text = REFUSALS[code].format(**values)
    if quoted:
        shown = quoted[:QUOTED_BYTES]
        text += f"; the bytes there: {shown!r}" + ("…" if len(quoted) > len(shown) else "")
    return RemoteProtocolError(code, text)
