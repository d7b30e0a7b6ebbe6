"""Every reason to refuse what a peer sends, in two tables: key -> the text about it.

`INVALID` is about frames that are invalid whatever came before, `VIOLATIONS` about messages at the wrong point. All
refusals are made by `refuse` and `violation`, so a test can walk the tables and see each of them reached.
"""

from __future__ import annotations

from packetwire.messaging.errors import InvalidMessageError, StopError

INVALID = {
    "packet": "a packet that holds no message: {reason}",
    "no-frames": "a message without frames",
    "type-size": "the first frame has {size} bytes, not 2",
    "type": "there is no message type {number}",
    "frames": "a {name} message of {count} frames, not {expected}",
    "peer": "the description of the component is broken: {reason}",
    "endpoints": "the endpoints are broken: {reason}",
    "request": "there is no request {request!r}",
    "config": "the configuration is broken: {reason}",
    "error-text": "the text of an ERROR message is not UTF-8: {reason}",
    "outcome": "there is no outcome {outcome!r}",
    "too-large": "a message of {size} bytes, the limit is {limit}",
    "too-many-frames": "a message of {count} frames, the limit is {limit}",
}

VIOLATIONS = {
    "wrong-side": "Wrong message received from {peer}: {name}",
    "out-of-order": "Unexpected {name} message from component, which is {phase}",
}


def refuse(code: str, **values: object) -> InvalidMessageError:
    """The exception for frames that are not a valid message."""
    return InvalidMessageError(INVALID[code].format(**values), code)


def violation(rule: str, **values: object) -> StopError:
    """The exception for a message that breaks a rule at this point; `rule` is kept in it."""
    return StopError(VIOLATIONS[rule].format(**values), rule=rule)
