"""packetwire as a contender of the peers benchmark: `peers.py --extra tests/bench/contender.py`."""

from bench_base import Contender, handle


class _Packetwire(Contender):
    requires = ("packetwire",)
    transports = ("unix", "pipe")
    handlers = 4

    def serve(self, transport, ready):
        from packetwire import PacketConnection

        with PacketConnection(
            (transport.rfd, transport.wfd),
            request_handler=lambda rq_type, flags, payload: handle(rq_type, payload),
            handlers=self.handlers,
        ) as conn:
            ready()
            conn.join_recv()

    def connect(self, transport):
        from packetwire import PacketConnection

        self.conn = PacketConnection((transport.rfd, transport.wfd)).open()

    def call(self, kind, payload):
        return self.conn(kind, payload)[2]

    def submit(self, kind, payload):
        return self.conn.submit(kind, 0, payload)

    def wait(self, handle):
        return handle()[2]


class Default(_Packetwire):
    name = "packetwire"


class Inline(_Packetwire):
    name = "packetwire, handlers='inline'"
    handlers = "inline"
