"""The conversation that shows how the far end keeps the rules for all packets, when no other check has."""

from __future__ import annotations

from packetwire.conformance.steps import Steps
from packetwire.conformance.talk import Talk

MARK = b"\x80"
UNKNOWN_TYPE = 1_000_000


def ordinary(talk: Talk) -> Steps[None]:
    """A bit of all that happens, with our mark in front; what the far end asks then is answered."""
    yield from talk.send(MARK + talk.ask(2), talk.ask(300), talk.ask(2, 16))
    yield from talk.response(300)
    yield from talk.send(talk.ask(301, rq_type=UNKNOWN_TYPE, payload=b""), talk.ask(302))
    yield from talk.response(302)
    yield from talk.finish()
