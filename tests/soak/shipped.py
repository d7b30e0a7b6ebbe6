"""What is shipped to a far end, or runs as a child that is started again: it answers some of the behaviours.

It imports its neighbour as a far end has it, beside it and in no package.
"""

from __future__ import annotations

from behaviours import MAX_SIZE, Behaviour, contents, digest


def handle(rq_type: int, flags: int, payload: bytes) -> tuple[int, bytes]:
    """The handler of all requests."""
    if rq_type == Behaviour.DIGEST:
        return flags, digest(payload)
    if rq_type == Behaviour.PRODUCE:
        return flags, contents(flags >> 4, min(int.from_bytes(payload[:4], "big"), MAX_SIZE))
    return flags, payload


if __name__ == "__main__":
    from packetwire import PacketConnection, stdio

    with PacketConnection(stdio(), request_handler=handle) as conn:
        conn.join_recv()
