"""A channel without a carrier: messages go in by `deliver`, and what is said in answer stays in `outbox`."""

from __future__ import annotations

from typing import Any

from packetwire.messaging.channel import Channel
from packetwire.messaging.sentinels import TIMEOUT
from packetwire.messaging.session import Session


class Mailbox(Channel):
    """The sessions of a protocol, and what it wants sent. No input or output, no lock, no thread, no clock.

    It is for whoever brings messages, and takes them away, by means of his own.
    """

    def take(self) -> list[tuple[bytes, list[bytes]]]:
        """Messages to be sent, as (routing id, frames); they are no longer in `outbox` then."""
        taken = [(session.routing_id or b"", zmsg) for session, zmsg, _ in self.outbox]
        self.outbox.clear()
        return taken

    def flush(self) -> int:
        """Nothing leaves: who takes it away comes for it."""
        return 0

    def receive(self, timeout: int | None = None) -> Any:
        """Nothing arrives here by itself."""
        return TIMEOUT

    def _transmit(self, zmsg: list[bytes], session: Session) -> int:
        self.outbox.append((session, zmsg, True))
        return 0
