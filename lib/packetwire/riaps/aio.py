"""The ports and the group for asyncio: the same steps, without blocking the event loop.

Each class here wraps the object of the same name without "Async", and has its methods that wait; everything else is
called on the wrapped object.
"""
# ruff: noqa: N802 - these are the reference's names

from __future__ import annotations

import asyncio
from typing import TypeVar

from packetwire.aio.loops import guard_loop
from packetwire.riaps.attachments import Address
from packetwire.riaps.group import DEFAULT_ANSWER_TIMEOUT, Group
from packetwire.riaps.messages import MTL, BytesLike, GroupMessage
from packetwire.riaps.ports import GroupAnsPort, GroupPubPort, GroupQryPort, GroupSubPort
from packetwire.riaps.waiting import Steps

__all__ = ["AsyncGroup", "AsyncGroupAnsPort", "AsyncGroupPubPort", "AsyncGroupQryPort", "AsyncGroupSubPort"]

T = TypeVar("T")


async def finish_in_loop(steps: Steps[T]) -> T:
    """Take all steps, in the running event loop."""
    try:
        while True:
            waiting = next(steps)
            loop = asyncio.get_running_loop()
            guard_loop(loop)
            ready = asyncio.Event()
            fd = waiting.fileno()
            loop.add_reader(fd, ready.set)
            try:
                async with asyncio.timeout(waiting.seconds()):
                    await ready.wait()
            except TimeoutError:
                pass  # the steps themselves check their deadline
            finally:
                loop.remove_reader(fd)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        steps.close()


class AsyncGroupPubPort:
    """A publish port whose sending is awaited."""

    def __init__(self, port: GroupPubPort) -> None:
        self.port = port

    async def sendGroup(self, command: bytes, payload: BytesLike) -> bool:
        """Send to all members that are connected."""
        return await finish_in_loop(self.port.exchange.sending(command, payload))


class AsyncGroupSubPort:
    """A subscribe port whose receiving is awaited."""

    def __init__(self, port: GroupSubPort) -> None:
        self.port = port

    async def recvGroup(self) -> GroupMessage:
        """The next message of the group."""
        return await finish_in_loop(self.port.exchange.receiving())


class AsyncGroupQryPort:
    """A query port whose sending and receiving are awaited."""

    def __init__(self, port: GroupQryPort) -> None:
        self.port = port

    async def sendToLeader(self, command: bytes, payload: BytesLike) -> bool:
        """Send to the leader."""
        return await finish_in_loop(self.port.exchange.sending(command, payload))

    async def recvFromLeader(self) -> GroupMessage:
        """The next message that the leader sent to this member."""
        return await finish_in_loop(self.port.exchange.receiving())


class AsyncGroupAnsPort:
    """An answer port whose sending and receiving are awaited. The recipient is always given."""

    def __init__(self, port: GroupAnsPort) -> None:
        self.port = port

    async def sendToMember(self, command: bytes, payload: BytesLike, identity: bytes) -> bool:
        """Send to the member with that identity."""
        return await finish_in_loop(self.port.exchange.sending(command, payload, identity))

    async def recvFromMember(self) -> GroupMessage:
        """The next message from a member; its `identity` says which."""
        return await finish_in_loop(self.port.exchange.receiving())


class AsyncGroup:
    """A member whose messages are awaited. Leaving the `async with` closes the group."""

    def __init__(self, group: Group) -> None:
        self.group = group

    async def __aenter__(self) -> AsyncGroup:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.group.close()

    async def publish(self, payload: BytesLike) -> None:
        """See `Group.publish`."""
        await finish_in_loop(self.group.publishing(payload))

    async def receive(self, timeout: int | None = None) -> GroupMessage:
        """See `Group.receive`."""
        return await finish_in_loop(self.group.receiving(timeout))

    async def wait_leader(self, timeout: int | None = None) -> Address:
        """See `Group.wait_leader`."""
        return await finish_in_loop(self.group.waiting_leader(timeout))

    async def ask(self, payload: BytesLike, timeout: int = DEFAULT_ANSWER_TIMEOUT) -> GroupMessage:
        """See `Group.ask`."""
        return await finish_in_loop(self.group.asking(payload, timeout))

    async def tell_leader(self, payload: BytesLike, command: bytes = MTL) -> None:
        """See `Group.tell_leader`."""
        await finish_in_loop(self.group.telling_leader(payload, command))

    async def receive_from_leader(self, timeout: int | None = None) -> GroupMessage:
        """See `Group.receive_from_leader`."""
        return await finish_in_loop(self.group.qry.exchange.receiving(timeout))

    async def answer(self, question: GroupMessage | bytes, payload: BytesLike) -> None:
        """See `Group.answer`."""
        await finish_in_loop(self.group.answering(question, payload))
