"""The asyncio face as a contender of the peers benchmark: `peers.py --extra tests/bench/aio_contender.py`."""

from bench_base import AsyncContender, handle


def plain(rq_type, flags, payload):
    return handle(rq_type, payload)


async def coroutine(rq_type, flags, payload):
    return handle(rq_type, payload)


class _Packetwire(AsyncContender):
    requires = ("packetwire",)
    transports = ("unix", "pipe")
    handler = staticmethod(coroutine)
    handlers = 4

    async def aserve(self, transport, ready):
        from packetwire import AsyncPacketConnection

        ready()
        async with AsyncPacketConnection(
            (transport.rfd, transport.wfd), request_handler=self.handler, handlers=self.handlers
        ) as conn:
            await conn.join_recv()

    async def aconnect(self, transport):
        from packetwire import AsyncPacketConnection

        self.conn = await AsyncPacketConnection((transport.rfd, transport.wfd)).open()

    async def acall(self, kind, payload):
        return (await self.conn(kind, payload))[2]

    def asubmit(self, kind, payload):
        # a future of the whole response: what is awaited last is asked for its payload
        return _Payload(self.conn.submit(kind, 0, payload))


class _Payload:
    def __init__(self, response):
        self._response = response

    def __await__(self):
        return (yield from self._response)[2]


def uvloop_factory():
    import uvloop

    return uvloop.new_event_loop()


class Default(_Packetwire):
    name = "packetwire aio, async def"


class Inline(_Packetwire):
    name = "packetwire aio, handlers='inline'"
    handler = staticmethod(plain)
    handlers = "inline"


class Threads(_Packetwire):
    name = "packetwire aio, handlers=4"
    handler = staticmethod(plain)


class UvloopDefault(Default):
    name = "packetwire aio, async def (uvloop)"
    requires = ("packetwire", "uvloop")
    loop_factory = staticmethod(uvloop_factory)


class UvloopInline(Inline):
    name = "packetwire aio, handlers='inline' (uvloop)"
    requires = ("packetwire", "uvloop")
    loop_factory = staticmethod(uvloop_factory)


class UvloopThreads(Threads):
    name = "packetwire aio, handlers=4 (uvloop)"
    requires = ("packetwire", "uvloop")
    loop_factory = staticmethod(uvloop_factory)
