"""What ends a port from outside: the end of its ZMQ context, a socket that somebody else closes, signals."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import zmq

from packetwire.riaps import Group, GroupAnsPort, GroupKeys, GroupPubPort, GroupQryPort, GroupSubPort, PortError
from packetwire.riaps.aio import (
    AsyncGroup,
    AsyncGroupAnsPort,
    AsyncGroupPubPort,
    AsyncGroupQryPort,
    AsyncGroupSubPort,
)
from packetwire.riaps.waiting import Steps

from .peers import WAIT, Running, address_of, connect, publish_until_heard, received, wait_until_it_waits

Make = Callable[..., Any]

SPEC = {"message": "State", "timed": False}
PORTS = [GroupPubPort, GroupSubPort, GroupQryPort, GroupAnsPort]
RECEIVING = {
    GroupSubPort: (GroupSubPort.recvGroup, lambda port: AsyncGroupSubPort(port).recvGroup()),
    GroupQryPort: (GroupQryPort.recvFromLeader, lambda port: AsyncGroupQryPort(port).recvFromLeader()),
    GroupAnsPort: (GroupAnsPort.recvFromMember, lambda port: AsyncGroupAnsPort(port).recvFromMember()),
    Group: (Group.receive, lambda group: AsyncGroup(group).receive()),
}
ENDS = {"term": zmq.Context.term, "destroy": zmq.Context.destroy}


def in_loop(main: Any) -> Any:
    with asyncio.Runner() as runner:
        return runner.run(main)


def made(kind: Any, context: zmq.Context[Any]) -> Any:
    port = kind("here", SPEC, context=context)
    if kind is not Group:
        port.setupSocket()
    return port


def close(port: Any) -> None:
    (port.close if isinstance(port, Group) else port.closeSocket)()


def waits(port: Any) -> None:
    wait_until_it_waits(port.ans if isinstance(port, Group) else port)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("face", [0, 1], ids=["threads", "asyncio"])
@pytest.mark.parametrize("kind", RECEIVING)
def test_the_context_ends_while_somebody_waits(kind: Any, face: int, end: str) -> None:
    """Who waits is told, and closing lets go of what is left, so that the end of the context comes."""
    context = zmq.Context()
    port = made(kind, context)
    receive = RECEIVING[kind][face]
    waiting = Running((lambda: in_loop(receive(port))) if face else (lambda: receive(port)))
    waits(port)
    ending = Running(ENDS[end], context)
    with pytest.raises(PortError) as caught:
        waiting.result()
    assert caught.value.errno == (PortError.ETERM if end == "term" else errno.ENOTSOCK)
    for _ in range(2):
        close(port)
    ending.result()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", [*PORTS, Group])
def test_the_context_ends_while_nobody_waits(kind: Any, end: str) -> None:
    context = zmq.Context()
    port = made(kind, context)
    raw = (port.ans if kind is Group else port).getSocket()
    ending = Running(ENDS[end], context)
    if end == "destroy":
        ending.result()  # it does not wait for anybody
    with suppress(zmq.ZMQError):
        while True:
            raw.get(zmq.EVENTS)
    with pytest.raises(PortError):
        while True:  # a publisher sends until it hears of it
            send_or_receive(port)
    for _ in range(2):
        close(port)
    ending.result()


def send_or_receive(port: Any) -> None:
    if isinstance(port, GroupPubPort):
        port.sendGroup(b"msg", b"")
    elif isinstance(port, Group):
        port.publish(b"")
    else:
        receive: Steps[Any] = port.exchange.receiving(WAIT * 1000)
        next(receive)
        receive.close()


def test_the_context_ends_while_a_question_waits(make: Make) -> None:
    context = zmq.Context()
    leader, member = make(Group), Group("here", SPEC, context=context)
    member.update(*leader.answer_address)
    asking = Running(member.ask, b"question", -1)
    leader.receive(int(WAIT * 1000))
    ending = Running(context.term)
    with pytest.raises(PortError) as caught:
        asking.result()
    assert caught.value.errno == PortError.ETERM
    member.close()
    ending.result()


@pytest.mark.parametrize("kind", PORTS)
def test_a_socket_that_somebody_else_closes(make: Make, kind: Any) -> None:
    port = make(kind)
    port.getSocket().close()
    with pytest.raises(PortError, match="the program has closed its socket") as caught:
        send_or_receive(port)
    assert caught.value.errno == errno.ENOTSOCK
    port.setupSocket()
    if kind is not GroupPubPort:
        waiting = Running(RECEIVING[kind][0], port)
        wait_until_it_waits(port)
        port.closeSocket()
        with pytest.raises(PortError, match="has no socket"):
            waiting.result()


# signals


@contextmanager
def every_call_interrupted_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The first call of each of these functions is interrupted, and so is every second one then."""
    interrupted = []

    def interrupt(kind: Any, name: str) -> None:
        function = getattr(kind, name)
        counts = [0]

        def call(*args: Any, **kwargs: Any) -> Any:
            counts[0] += 1
            if counts[0] % 2:
                interrupted.append(name)
                raise zmq.error.InterruptedSystemCall(errno.EINTR)
            return function(*args, **kwargs)

        patch.setattr(kind, name, call)

    with monkeypatch.context() as patch:
        interrupt(zmq.Context, "socket")
        for name in ("bind", "connect", "disconnect", "monitor", "disable_monitor"):
            interrupt(zmq.Socket, name)
        yield interrupted


def test_signals_do_not_disturb_it(make: Make, monkeypatch: pytest.MonkeyPatch, context: Any) -> None:
    with every_call_interrupted_once(monkeypatch) as interrupted:
        leader, member = make(Group), make(Group)
        member.add_member(*leader.address)
        member.update(*leader.answer_address)
        member.tell_leader(b"question")
        assert leader.receive(int(WAIT * 1000)).payload == b"question"
        member.update(None, None)
        member.remove_member(*leader.address)
        for port in (member.pub, member.sub, member.qry, member.ans):
            port.reset()
        for group in (leader, member):
            group.close()
    assert set(interrupted) == {"socket", "bind", "connect", "disconnect", "monitor", "disable_monitor"}


def test_an_address_is_free_though_signals_come(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for ZMQ to let go of it is not cut short by a signal, after which pyzmq's poll returns too early."""
    poll, early = zmq.Socket.poll, []

    def interrupted(self: Any, timeout: int | None = None, flags: int = zmq.POLLIN) -> int:
        if len(early) % 3:
            return int(poll(self, timeout, flags))
        early.append(timeout)
        return 0

    monkeypatch.setattr(zmq.Socket, "poll", interrupted)
    for kind in (GroupPubPort, GroupAnsPort):
        port = make(kind)
        address = address_of(port)
        for _ in range(20):
            early.clear()
            port.reset()
            assert address_of(port) == address
            assert early


# who can connect


@pytest.mark.parametrize("kind", [GroupPubPort, GroupAnsPort, Group])
@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_a_port_that_strangers_can_reach_is_warned_about(
    make: Make, kind: Any, host: str, keys: GroupKeys | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    make(kind, host=host, keys=keys)
    warned = [record for record in caplog.records if record.name == "packetwire"]
    told = host == "0.0.0.0" and keys is None
    assert len(warned) == told * (2 if kind is Group else 1)
    for record in warned:
        assert record.levelno == logging.WARNING
        assert "tcp://0.0.0.0:*: whoever reaches this address" in record.getMessage()


# many frames, long times


@pytest.mark.parametrize("face", ["threads", "asyncio"])
def test_messages_of_many_frames(make: Make, face: str) -> None:
    """Each is refused as soon as it is seen to be too long; its frames are never all there at once."""
    ans, dealer, other = make(GroupAnsPort), make(zmq.DEALER), make(zmq.DEALER)
    for peer in (dealer, other):
        connect(peer, address_of(ans))
    for _ in range(3):
        dealer.send_multipart([b""] * 100_000)
    dealer.send_multipart([b"mtl", b"behind"])
    other.send_multipart([b"mtl", b"of another"])

    async def receive() -> Any:
        return await AsyncGroupAnsPort(ans).recvFromMember()

    got, refused = [], []
    while len(got) < 2:
        try:
            got.append((in_loop(receive()) if face == "asyncio" else ans.recvFromMember()).payload)
        except PortError as error:
            refused.append(str(error))
    assert sorted(got) == [b"behind", b"of another"]
    assert refused == ["a message has 2 frames, or 3 with a time, but this has 4"] * ans.malformed
    assert ans.malformed == 3


def test_other_tasks_have_their_turn_beside_many_frames(make: Make) -> None:
    ans, dealer = make(GroupAnsPort), make(zmq.DEALER)
    connect(dealer, address_of(ans))
    dealer.send_multipart([b""] * 100_000)
    dealer.send_multipart([b"mtl", b"behind"])
    assert ans.getSocket().poll(WAIT * 1000)

    async def main() -> int:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        with pytest.raises(PortError, match="but this has 4"):
            await AsyncGroupAnsPort(ans).recvFromMember()
        await AsyncGroupAnsPort(ans).recvFromMember()
        counting.cancel()
        return turns

    assert in_loop(main()) > 50


def test_times_of_any_length(make: Make) -> None:
    pub, sub = make(GroupPubPort), make(GroupSubPort, recv_timeout=1 << 62)
    sub.update(*address_of(pub))
    waiting = Running(sub.recvGroup)
    wait_until_it_waits(sub)
    publish = AsyncGroupPubPort(pub).sendGroup

    class Heard:
        def poll(self, _: int) -> bool:
            return not waiting._thread.is_alive()

    publish_until_heard(lambda: in_loop(publish(b"msg", b"at last")), Heard())  # type: ignore[arg-type]
    assert waiting.result().payload == b"at last"


def test_publishing_takes_no_long_frames_in(make: Make) -> None:
    """A publish port gets nothing but subscriptions: who sends it something long is disconnected."""
    pub, xsub, sub = make(GroupPubPort), make(zmq.XSUB), make(zmq.SUB)
    monitor = pub.getSocket().get_monitor_socket(zmq.EVENT_DISCONNECTED)
    try:
        xsub.connect("tcp://{}:{}".format(*address_of(pub)))
        xsub.send(b"\1" + bytes(10_000))
        assert monitor.poll(WAIT * 1000)
    finally:
        pub.getSocket().disable_monitor()
        monitor.close(0)
    connect(sub, address_of(pub))
    publish_until_heard(lambda: pub.sendGroup(b"msg", b"data"), sub)
    assert received(sub) == [b"msg", b"data"]


@contextmanager
def few_descriptors(left: int) -> Iterator[None]:
    """With so many to open, and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 50, hard))
    try:
        with suppress(OSError):
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(left):
            os.close(opened.pop())
        yield
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("kind", PORTS)
@pytest.mark.parametrize("left", [0, 1, 5, 10])
def test_no_descriptors_are_left(make: Make, kind: Any, left: int) -> None:
    """ZMQ's own threads would end the process."""
    port = make(kind)
    with few_descriptors(left):
        with pytest.raises(PortError, match="Too many open files") as caught:
            port.reset()
        assert caught.value.errno == errno.EMFILE
        with pytest.raises(PortError, match="Too many open files"):
            GroupSubPort("another", SPEC).setupSocket()
    port.setupSocket()


@pytest.mark.parametrize("kind", [GroupPubPort, GroupAnsPort])
def test_a_stranger_gets_no_frame_in_where_there_are_keys(make: Make, kind: Any) -> None:
    """One that sends frames right behind its greeting has its link dropped."""
    port = make(kind, keys=GroupKeys.shared(*zmq.curve_keypair()))
    with socket.create_connection(address_of(port), WAIT) as stranger, suppress(ConnectionError):
        stranger.sendall(b"\xff" + bytes(8) + b"\x7f\3\1NULL" + bytes(48))
        stranger.sendall(b"\4\x1a\5READY\x0bSocket-Type\0\0\0\6DEALER" + b"\1\0" * 10_000)
        while stranger.recv(1000):
            pass  # its greeting, and then the end
    assert not port.getSocket().poll(0)
