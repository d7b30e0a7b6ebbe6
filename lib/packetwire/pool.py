"""`Pool`, `Reconnecting` and `Supervised`: calls over connections that are made again when they have ended."""

from packetwire._sync.pool import Pool, Reconnecting, Supervised
from packetwire.core.keeping import Backoff, MemberEnded, MemberGivenUp, MemberReady, MemberWaits

__all__ = [
    "Backoff",
    "MemberEnded",
    "MemberGivenUp",
    "MemberReady",
    "MemberWaits",
    "Pool",
    "Reconnecting",
    "Supervised",
]
