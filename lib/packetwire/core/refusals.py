"""The rules that the peer can break, in one table: code -> what is said about it.

Every `RemoteProtocolError` of the core is made by `refuse`, so a test can walk this table and see each
refusal reached.
"""

from __future__ import annotations

from packetwire.errors import RemoteProtocolError

REFUSALS = {
    "varint-too-long": "an integer of more than {limit} octets at octet {offset} of the stream",
    "packet-too-large": "a packet announces {size} octets at octet {offset} of the stream, the limit is {limit}",
    "field-overruns-packet": "the {field} of a packet whose fields begin at octet {offset} runs past its end",
    "reserved-rq-type": "a request with the reserved rq_type 0 that is neither EOF nor ERQ: {packet}",
    "response-never-asked": "a response to tag {tag} on channel {channel}, which was never used",
}
QUOTED_OCTETS = 200


def refuse(code: str, quoted: bytes = b"", **values: object) -> RemoteProtocolError:
    """The exception for one broken rule; `quoted` are the octets to show, as far as they are known."""
    text = REFUSALS[code].format(**values)
    if quoted:
        shown = quoted[:QUOTED_OCTETS]
        text += f"; the octets there: {shown!r}" + ("…" if len(quoted) > len(shown) else "")
    return RemoteProtocolError(code, text)
