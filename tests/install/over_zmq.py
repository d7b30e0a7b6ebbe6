"""Serves at a ROUTER and asks it, from one process: `python over_zmq.py`, in an empty directory."""

from packetwire import PacketConnection, connect_to, serve


def upper(rq_type: int, flags: int, payload: bytes) -> bytes:
    return payload.upper()


def factory(recv_send):
    return PacketConnection(recv_send, request_handler=upper)


with serve("zmq+router:ipc://packets.ipc", factory):
    with PacketConnection(connect_to("zmq+dealer:ipc://packets.ipc")) as connection:
        ok, flags, payload = connection(1, payload=b"over zmq")
        print(payload.decode())  # OVER ZMQ
