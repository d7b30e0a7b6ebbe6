"""Packets over ZMQ, one per message, in an event loop: requests that any of many workers may answer.

    async with AsyncPacketClient("tcp://broker:5570") as client:      # a ROUTER there, such as that of a zmq.proxy
        ok, flags, payload = await client(SUM, b"1 2 3", timeout=5)

    async with AsyncPacketWorker("tcp://broker:5571", handle) as worker:   # a DEALER there, the other side of it
        await worker.join()

As `packetwire.zmqpackets`, and it speaks with what is there. Strategy: the loop polls the socket. In a turn all
that waits is sent and all that came is received; what others leave is seen to in the next turn.
"""

from packetwire.aio.zmqclient import AsyncPacketClient
from packetwire.aio.zmqworker import AsyncPacketWorker

__all__ = ["AsyncPacketClient", "AsyncPacketWorker"]
