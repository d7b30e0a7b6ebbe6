"""Sessions: what a channel and its protocol know of one peer."""

from __future__ import annotations

from packetwire.messaging.message import RoutingID


class Session:
    """All that is known of one peer: a protocol keeps more in a subclass."""

    def __init__(self) -> None:
        self.routing_id: RoutingID | None = None
        self.endpoint: str | None = None
        """The address that was connected to, if any."""
        self.send_pending = False
        """True while something waits to be sent."""
