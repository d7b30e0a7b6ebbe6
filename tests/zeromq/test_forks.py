"""A process forks that uses ZMQ, or a protocol of messages: the fork hangs nowhere, and leaves all that alone."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import select
import subprocess
import sys
import textwrap
import threading
import uuid
from concurrent.futures import Future
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager

import pytest
import zmq
from tests.connections.test_forks import held, in_a_fork, locks_of

from packetwire import AsyncPacketConnection, ConnectionEnded, PacketConnection, aserve, connect_to, serve
from packetwire.aio.blocking import Work
from packetwire.fbsp import (
    AgentDescriptor,
    AsyncService,
    AsyncServiceClient,
    ButlerInterface,
    Service,
    ServiceClient,
    operation,
)
from packetwire.hololinked import (
    AsyncEventConsumer,
    AsyncZMQClient,
    AsyncZMQServer,
    EventConsumer,
    EventPublisher,
    SyncZMQClient,
)
from packetwire.iccp import AsyncController, Controller
from packetwire.iccp.running import Control, Termination
from packetwire.messaging.zmq import DealerChannel
from packetwire.riaps import Group, GroupPubPort, PortError
from packetwire.riaps.aio import AsyncGroup
from packetwire.streams.zmq import open_dealer, open_pair
from packetwire.streams.zmqrouter import ZmqListener
from packetwire.testing import Faults, FaultyLink
from packetwire.zmqpackets import PacketClient, PacketWorker

pytestmark = [
    pytest.mark.timeout(110),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

WAIT = 20
TCP = "tcp://127.0.0.1:*"
AGENT = AgentDescriptor(uuid.UUID(int=1), "test", "1", uuid.UUID(int=2), "test")
COMPONENT = "from packetwire.iccp import run_component; run_component()"
ARGV = [sys.executable, "-c", COMPONENT]


class Calls(ButlerInterface):
    ECHO = 1

    @classmethod
    def get_uid(cls):
        return uuid.UUID(int=77)


class Echo(Service):
    agent = AGENT

    @operation(Calls.ECHO)
    def echo(self, request):
        return request.data


class AsyncEcho(AsyncService):
    agent = AGENT

    @operation(Calls.ECHO)
    async def echo(self, request):
        return request.data


def reverse(rq_type, flags, payload):
    return payload[::-1]


class Case:
    """What is open in the parent; how it is used and closed in a fork; and that it still works in the parent."""

    def __init__(self, opened, *, uses, closes, works):
        self.opened, self.uses, self.closes, self.works = opened, uses, closes, works


def dealing_with(server):
    return str(server.address).replace("router", "dealer")


@contextmanager
def connections():
    with (
        serve(
            "zmq+router:tcp://127.0.0.1:*", lambda stream: PacketConnection(stream, request_handler=reverse)
        ) as server,
        PacketConnection(connect_to(dealing_with(server))) as conn,
    ):

        def works():
            assert conn(1, b"ab")[2] == b"ba"
            with PacketConnection(connect_to(dealing_with(server))) as another:
                assert another(1, b"ab")[2] == b"ba"

        works()

        def stop():
            server.stop()
            assert server.wait(WAIT)
            server.__exit__(None, None, None)

        yield Case([server, conn], uses=[lambda: conn(1)], closes=[conn.close, stop], works=works)


@contextmanager
def streams(pair=False):
    listener = ZmqListener(TCP, pair=pair)
    stream = None
    try:
        stream = (open_pair if pair else open_dealer)(listener.endpoint)
        stream.try_write([b"hello"])
        readable(listener)
        peer, _ = listener.accept()

        def works():
            for one, other in ((stream, peer), (peer, stream)):
                one.try_write([b"ping"])
                heard = b""
                while not heard.endswith(b"ping"):
                    readable(other.reader)
                    heard += other.try_read(100) or b""

        works()
        yield Case(
            [listener, stream, peer],
            uses=[
                lambda: stream.try_read(10),
                lambda: stream.try_write([b"x"]),
                lambda: peer.try_read(10),
                lambda: peer.try_write([b"x"]),
                listener.accept,
            ],
            closes=[stream.end_write, stream.close, peer.end_write, peer.close, peer.hang_up, listener.close],
            works=works,
        )
        peer.close()
    finally:
        if stream is not None:
            stream.close()
        listener.close()


def pairs():
    return streams(pair=True)


def readable(polled):
    poller = select.poll()
    poller.register(polled.fileno(), select.POLLIN)
    assert poller.poll(WAIT * 1000)


@contextmanager
def packets():
    context = zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.bind(TCP)
    dealer.bind(TCP)
    front, back = (one.getsockopt_string(zmq.LAST_ENDPOINT) for one in (router, dealer))

    def run():
        with router, dealer:
            try:
                zmq.proxy(router, dealer)
            except zmq.ContextTerminated:
                pass

    proxy = threading.Thread(target=run)
    proxy.start()
    release = threading.Event()

    def handle(rq_type, flags, payload):
        if rq_type == 7:
            assert release.wait(WAIT)
        return payload[::-1]

    try:
        with PacketWorker(back, handle) as worker, PacketClient(front) as client:

            def works():
                assert client(1, b"ab", timeout=WAIT)[2] == b"ba"

            works()
            pending = client.submit(7, 0, b"ab", timeout=WAIT)

            def join():
                assert worker.join(WAIT)

            yield Case(
                [client, worker, pending],
                uses=[lambda: client(1), lambda: client.submit(1), pending.result],
                closes=[client.close, worker.close, join],
                works=works,
            )
            release.set()
            assert pending.result(WAIT)[2] == b"ba"
    finally:
        release.set()
        context.term()
        proxy.join()


@contextmanager
def services():
    with Echo() as service:
        address = service.serve(TCP).address
        with ServiceClient.connect(address, agent=AGENT, timeout=WAIT) as client:

            def works():
                assert client.call(Calls.ECHO, b"ab", timeout=WAIT) == [b"ab"]

            works()
            yield from a_client(service, client, works)


@contextmanager
def services_on_packets():
    with Echo() as service:

        def factory(stream):
            conn = PacketConnection(stream)
            service.serve_on(conn)
            return conn

        with (
            serve("tcp:127.0.0.1:0", factory) as server,
            ServiceClient.on(PacketConnection(connect_to(server.address)), agent=AGENT, timeout=WAIT) as client,
        ):

            def works():
                assert client.call(Calls.ECHO, b"ab", timeout=WAIT) == [b"ab"]

            works()
            yield from a_client(service, client, works)


def a_client(service, client, works):
    channel = client.channel
    session = channel.session
    call = client.start(Calls.ECHO, b"ab")
    assert call.result(WAIT) == [b"ab"]
    yield Case(
        [service, client, channel, *service._channels, *service._on_connections],
        uses=[
            lambda: client.call(Calls.ECHO),
            lambda: client.start(Calls.ECHO),
            client.ping,
            lambda: channel.wait_until(lambda: False),
            lambda: channel.send(client.protocol.create_message_for(1, bytes(8)), session),
            lambda: (
                service._channels[0].start() or service._channels[0].wait_until(lambda: False)
                if service._channels
                else client.ping()
            ),
        ],
        closes=[client.close, channel.close, service.close, *(one.close for one in service._channels)],
        works=works,
    )


@contextmanager
def bare_channels():
    """One that is not connected, and has no thread."""
    from packetwire.fbsp import FBSPClient

    with DealerChannel(FBSPClient()) as channel:
        yield Case(
            [channel],
            uses=[
                lambda: channel.receive(10),
                lambda: channel.connect("tcp://127.0.0.1:9"),
                lambda: channel.bind(TCP),
                lambda: channel.can_send(10),
            ],
            closes=[channel.close],
            works=lambda: channel.receive(0),
        )


@contextmanager
def controllers():
    with Controller() as controller:
        component = controller.start(ARGV)

        def works():
            component.configure({}, WAIT)

        works()
        answer = component._life.ended
        yield Case(
            [controller, component, answer],
            uses=[
                component.wait,
                component.stop,
                component.begin_stop,
                component.kill,
                lambda: component.configure({}),
                lambda: controller.launch(ARGV),
            ],
            closes=[controller.close, lambda: controller.__exit__(None, None, None)],
            works=works,
        )


@contextmanager
def component_side():
    control, termination = Control(), Termination()
    assert not control.stopping
    yield Case(
        [control, termination],
        uses=[],
        closes=[
            control.wait_stop,
            control.stop,
            termination.__exit__,
        ],
        works=lambda: control.wait_stop(0),
    )
    assert not control.stopping


@contextmanager
def groups():
    with (
        Group("g", {"message": "m", "timed": False}, recv_timeout=WAIT * 1000) as one,
        Group("g", {"message": "m", "timed": False}, recv_timeout=WAIT * 1000) as other,
        GroupPubPort("p", {"message": "m", "timed": False}) as port,
    ):
        port.setupSocket()
        one.set_members([other.address])
        other.set_members([one.address])
        other.lead()
        yield group_case([one, other, port], one, other, port)


def group_case(opened, one, other, port):
    def works():
        for _ in range(1000):
            one.publish(b"x")
            try:
                if other.receive(20).payload == b"x":
                    return
            except PortError:
                pass  # it did not get there yet
        raise AssertionError("nothing comes")

    works()
    return Case(
        opened,
        uses=[
            lambda: one.publish(b"x"),
            lambda: one.receive(10),
            lambda: one.wait_leader(10),
            lambda: one.ask(b"x", 10),
            one.heartbeat,
            lambda: one.add_member("127.0.0.1", 9),
            lambda: port.sendGroup(b"msg", b"x"),
            port.reset,
            port.setupSocket,
        ],
        closes=[one.close, other.close, port.closeSocket],
        works=works,
    )


@contextmanager
def brokers():
    with ExitStack() as opened:
        running = Running()
        opened.callback(running.end)
        client = opened.enter_context(SyncZMQClient("client", "server", access_point=running.address))
        publisher = opened.enter_context(EventPublisher("publisher", access_point="tcp://127.0.0.1:*"))
        publisher.register("thing/event")
        consumer = opened.enter_context(EventConsumer("consumer", "", publisher.socket_address))

        def works():
            assert client.execute("thing", "x", "op")

        works()
        request = client.send_request("thing", "x", "hold")
        yield Case(
            [client, publisher, consumer, running.server],
            uses=[
                lambda: client.execute("thing", "x", "op"),
                lambda: client.recv_response(request),
                client.handshake,
                lambda: publisher.publish("thing/event"),
                lambda: consumer.receive(10),
            ],
            closes=[client.exit, publisher.exit, consumer.exit, running.server.exit],
            works=works,
        )
        running.release()
        client.recv_response(request)


class Running:
    """A broker's server in a thread."""

    def __init__(self):
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(WAIT)

    async def _serve(self):
        self._loop = asyncio.get_running_loop()
        self._end, self._release = asyncio.Event(), asyncio.Event()
        async with AsyncZMQServer(id="server", access_point="tcp://127.0.0.1:*") as self.server:
            self.address = self.server.socket_address
            serving = asyncio.ensure_future(self.server.serve(self._answer))
            self._ready.set()
            await self._end.wait()
            serving.cancel()

    async def _answer(self, request):
        if request.operation == "hold":
            await asyncio.wait_for(self._release.wait(), WAIT)
        return b"ab"

    def release(self):
        self._loop.call_soon_threadsafe(self._release.set)

    def end(self):
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


@contextmanager
def links_with_faults():
    with FaultyLink(a_to_b=Faults(cut_at=1000)) as link:
        direction = link.a_to_b

        def look():
            assert not direction.is_cut
            assert not direction.reached.wait(0)

        yield Case([direction], uses=[], closes=[look], works=look)


THREADS = [
    connections,
    streams,
    pairs,
    packets,
    services,
    services_on_packets,
    bare_channels,
    controllers,
    component_side,
    groups,
    brokers,
    links_with_faults,
]


def all_locks_of(opened):
    """Those of futures, too."""
    futures = [one for one in opened if isinstance(one, Future)]
    return locks_of([*opened, *(future._condition for future in futures)])


def check_in_a_fork(case):
    for use in case.uses:
        try:
            at_once(use)
        except Exception as error:
            if "this is a fork" not in str(error):
                raise
        else:
            raise AssertionError(f"no error: {inspect.getsource(use)}")
    for close in case.closes:
        at_once(close)
        at_once(close)
    case.opened.clear()
    gc.collect()
    return "let go"


@pytest.mark.parametrize("open_case", THREADS)
def test_no_lock_is_waited_for_in_a_fork(open_case):
    """Another thread holds every lock at the moment of the fork."""
    with open_case() as case:
        locks = all_locks_of(case.opened)
        assert locks
        with held(locks):
            assert in_a_fork(lambda: check_in_a_fork(case)) == "'let go'"
        case.works()
        assert in_a_fork(lambda: check_in_a_fork(case)) == "'let go'"
        case.works()


# asyncio


@asynccontextmanager
async def async_connections():
    def factory(stream):
        return AsyncPacketConnection(stream, request_handler=reverse, handlers="inline")

    async with (
        await aserve(f"zmq+router:{TCP}", factory) as server,
        AsyncPacketConnection(connect_to(dealing_with(server))) as conn,
    ):

        async def works():
            assert (await conn(1, b"ab"))[2] == b"ba"
            async with AsyncPacketConnection(connect_to(dealing_with(server))) as another:
                assert (await another(1, b"ab"))[2] == b"ba"

        await works()
        yield Case(
            [server, conn], uses=[lambda: conn(1)], closes=[conn.close, server.stop, server.wait], works=works
        )


@asynccontextmanager
async def async_services():
    async with AsyncEcho() as service:
        address = service.serve(TCP).address
        async with AsyncServiceClient.connect(address, agent=AGENT, timeout=WAIT) as client:

            async def works():
                assert await client.call(Calls.ECHO, b"ab", timeout=WAIT) == [b"ab"]

            await works()
            yield Case(
                [service, client, *service._channels],
                uses=[
                    lambda: client.call(Calls.ECHO),
                    lambda: client.start(Calls.ECHO),
                    client.ping,
                    lambda: service._channels[0].bind(TCP),
                ],
                closes=[client.close, client.channel.close, service.close, service._channels[0].close],
                works=works,
            )


@asynccontextmanager
async def async_controllers():
    async with AsyncController() as controller:
        component = await controller.start(ARGV)

        async def works():
            await component.configure({}, WAIT)

        await works()
        yield Case(
            [controller, component, component._life.ended],
            uses=[
                component.wait,
                component.stop,
                component.begin_stop,
                lambda: component.configure({}),
                lambda: controller.start(ARGV),
            ],
            closes=[controller.close],
            works=works,
        )


@asynccontextmanager
async def async_groups():
    spec = {"message": "m", "timed": False}
    with Group("g", spec) as one, Group("g", spec) as other:
        async with AsyncGroup(one) as group, AsyncGroup(other) as other_group:
            other.set_members([one.address])

            async def works():
                for _ in range(1000):
                    await group.publish(b"x")
                    try:
                        if (await other_group.receive(20)).payload == b"x":
                            return
                    except PortError:
                        pass  # it did not get there yet
                raise AssertionError("nothing comes")

            await works()
            yield Case(
                [one, other, group],
                uses=[
                    lambda: group.publish(b"x"),
                    lambda: group.receive(10),
                    lambda: group.wait_leader(10),
                    lambda: group.ask(b"x", 10),
                ],
                closes=[lambda: group.__aexit__(None, None, None), one.close],
                works=works,
            )


@asynccontextmanager
async def async_brokers():
    async with AsyncExitStack() as opened:
        server = await opened.enter_async_context(AsyncZMQServer(id="server", access_point="tcp://127.0.0.1:*"))
        serving = asyncio.ensure_future(server.serve(lambda request: b"ab"))
        opened.callback(serving.cancel)
        address = server.socket_address
        client = await opened.enter_async_context(AsyncZMQClient("client", "server", access_point=address))
        publisher = opened.enter_context(EventPublisher("publisher", access_point="tcp://127.0.0.1:*"))
        consumer = AsyncEventConsumer("consumer", "", publisher.socket_address)
        await opened.enter_async_context(consumer)

        async def works():
            assert await client.async_execute("thing", "x", "op")

        await works()
        yield Case(
            [client, server, publisher, consumer],
            uses=[
                lambda: client.async_execute("thing", "x", "op"),
                client.handshake,
                lambda: consumer.receive(10),
                server.poll_requests,
            ],
            closes=[client.exit, server.exit, publisher.exit, consumer.exit],
            works=works,
        )


def at_once(call):
    """The result of a call, which may be a coroutine, but one that waits for nothing."""
    result = call()
    if not inspect.iscoroutine(result):
        return result
    try:
        result.send(None)
    except StopIteration as done:
        return done.value
    result.close()
    raise AssertionError(f"it waits: {inspect.getsource(call)}")


@pytest.mark.parametrize(
    "open_case", [async_connections, async_services, async_controllers, async_groups, async_brokers]
)
def test_no_lock_is_waited_for_in_a_fork_of_an_event_loop(open_case):
    async def main():
        async with open_case() as case:
            locks = all_locks_of(case.opened)
            assert locks
            with held(locks):
                assert in_a_fork(lambda: check_in_a_fork(case)) == "'let go'"
            await case.works()
            assert in_a_fork(lambda: check_in_a_fork(case)) == "'let go'"
            await case.works()

    asyncio.run(main())


def test_work_in_a_thread_is_the_parents():
    """A connection that is being opened in a thread, beside the loop."""

    async def main():
        release = threading.Event()
        work = Work(lambda: release.wait(WAIT), "the work")

        def check():
            with pytest.raises(ConnectionEnded, match="this is a fork"):
                work.result()
            work.abandon(lambda result: None)
            work.join()

        with held(locks_of([work])):
            assert in_a_fork(check) == "None"
        release.set()
        await work.finished
        assert work.result() is True

    asyncio.run(main())


# the ways out

WAYS_OUT = """
import asyncio, os, signal, sys, threading, uuid
import zmq
from packetwire import PacketConnection, connect_to, serve
from packetwire.fbsp import AgentDescriptor, ButlerInterface, Service, ServiceClient, operation
from packetwire.hololinked import AsyncZMQServer, EventConsumer, EventPublisher, SyncZMQClient
from packetwire.riaps import Group
from packetwire.zmqpackets import PacketClient, PacketWorker

class Calls(ButlerInterface):
    ECHO = 1
    @classmethod
    def get_uid(cls):
        return uuid.UUID(int=77)

AGENT = AgentDescriptor(uuid.UUID(int=1), "test", "1", uuid.UUID(int=2), "test")

class Echo(Service):
    agent = AGENT
    @operation(Calls.ECHO)
    def echo(self, request):
        return request.data

class Fork(Exception): pass

def serving(stream):
    return PacketConnection(stream, request_handler=reverse)

def reverse(rq_type, flags, payload):
    return payload[::-1]

def finish(pid):
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 7, status

spec = {"message": "m", "timed": False}
try:
    with (
        zmq.Context() as context,
        serve("zmq+router:tcp://127.0.0.1:*", serving) as server,
        PacketConnection(connect_to(str(server.address).replace("router", "dealer"))) as conn,
        Echo() as service,
        ServiceClient.connect(service.serve("tcp://127.0.0.1:*", context=context).address, agent=AGENT) as client,
        PacketClient("tcp://127.0.0.1:9") as packets,
        PacketWorker("tcp://127.0.0.1:9", reverse) as worker,
        Group("g", spec) as group,
        EventPublisher("publisher", access_point="tcp://127.0.0.1:*") as publisher,
        EventConsumer("consumer", "", publisher.socket_address) as consumer,
        SyncZMQClient("client", "server", access_point="tcp://127.0.0.1:9", handshake=False) as broker,
    ):
        def works():
            assert conn(1, b"ab")[2] == b"ba"
            assert client.call(Calls.ECHO, b"ab", timeout=20) == [b"ab"]
        works()
        for leave in (lambda: sys.exit(7), lambda: os._exit(7), None):
            pid = os.fork()
            if not pid:
                signal.alarm(20)
                if leave is None:
                    raise Fork  # leaves all these blocks
                leave()
            finish(pid)
            works()
except Fork:
    with Echo() as mine:  # and the fork can have its own
        with ServiceClient.connect(mine.serve("tcp://127.0.0.1:*").address, agent=AGENT) as client:
            assert client.call(Calls.ECHO, b"ab", timeout=15) == [b"ab"]
    sys.exit(7)
print("unharmed", flush=True)
"""


ASYNC_WAYS_OUT = """
import asyncio, os, signal, sys
from packetwire.hololinked import AsyncZMQClient, AsyncZMQServer

async def main():
    async with AsyncZMQServer(id="server", access_point="tcp://127.0.0.1:*") as server:
        serving = asyncio.ensure_future(server.serve(lambda request: b"ab"))
        async with AsyncZMQClient("client", "server", access_point=server.socket_address) as client:
            assert await client.async_execute("thing", "x", "op")
            for leave in (os._exit, sys.exit):
                pid = os.fork()
                if not pid:
                    signal.alarm(20)
                    serving.cancel()
                    leave(7)
                while not (done := os.waitpid(pid, os.WNOHANG))[0]:
                    await asyncio.sleep(0.01)
                assert os.waitstatus_to_exitcode(done[1]) == 7, done
                assert await client.async_execute("thing", "x", "op")
                assert await asyncio.to_thread(lambda: 3) == 3
        serving.cancel()
asyncio.run(main())
print("unharmed", flush=True)
"""


@pytest.mark.parametrize("code", [WAYS_OUT, ASYNC_WAYS_OUT], ids=["threads", "asyncio"])
def test_a_fork_leaves_the_parent_alone_whichever_way_it_ends(code):
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code)],
        check=False,
        capture_output=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, b"unharmed\n"), done.stderr.decode()
