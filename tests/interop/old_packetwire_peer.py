"""One end of a connection on packetwire 0.1.0, run by an interpreter that imports that from its wheel.

old_packetwire_peer.py serve            answers on its standard input and output
old_packetwire_peer.py ask              asks there, and says on standard error what came
"""

from __future__ import annotations

import sys

import packetwire


def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
    print(f"handled {rq_type} {flags} {payload!r}", file=sys.stderr, flush=True)
    return payload[::-1]


def main(how: str) -> None:
    assert packetwire.__file__.startswith(sys.path[1]), packetwire.__file__
    with packetwire.PacketConnection(packetwire.stdio(), request_handler=handler) as conn:
        if how == "ask":
            for rq_type in range(3):
                print(conn(rq_type, b"abc", 5), file=sys.stderr, flush=True)
        conn.join_recv()


if __name__ == "__main__":
    main(sys.argv[1])
