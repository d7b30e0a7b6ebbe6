"""packetwire over DEALER and ROUTER as a contender of the peers benchmark, to be seen beside plain pyzmq.

`peers.py --extra tests/bench/zmq_contender.py --only "pyzmq DEALER|packetwire, zmq"`
"""

from bench_base import Contender, handle


class _OverZmq(Contender):
    requires = ("packetwire", "zmq")
    transports = ("path",)
    handlers = 4

    def serve(self, transport, ready):
        from packetwire import PacketConnection, serve

        with serve(
            f"zmq+router:ipc://{transport.path}",
            lambda recv_send: PacketConnection(
                recv_send,
                request_handler=lambda rq_type, flags, payload: handle(rq_type, payload),
                handlers=self.handlers,
            ),
        ) as server:
            ready()
            server.wait()

    def connect(self, transport):
        from packetwire import PacketConnection, connect_to

        self.conn = PacketConnection(connect_to(f"zmq+dealer:ipc://{transport.path}")).open()

    def call(self, kind, payload):
        return self.conn(kind, payload)[2]

    def submit(self, kind, payload):
        return self.conn.submit(kind, 0, payload)

    def wait(self, handle):
        return handle()[2]


class Default(_OverZmq):
    name = "packetwire, zmq"


class Inline(_OverZmq):
    name = "packetwire, zmq, handlers='inline'"
    handlers = "inline"
