"""A member of a group: the four ports, for use by a program.

    all members    publish, receive            who leads    update, or what a leader publishes (`ldr`)
    member         ask, tell_leader            leader       lead, answer

Strategy: nothing happens in the background, there is no thread here. Control messages are read with the others,
when the program receives, asks or waits. There is no election: something outside decides which program leads, and
that program calls `lead`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from ipaddress import IPv4Address
from typing import Self, SupportsIndex

import zmq

from packetwire.riaps.attachments import Address, address_of
from packetwire.riaps.errors import OperationError, PortError
from packetwire.riaps.info import GroupSpec
from packetwire.riaps.keys import GroupKeys
from packetwire.riaps.messages import (
    LDR,
    MFL,
    MLT,
    MSG,
    MTL,
    TIC,
    Authority,
    BytesLike,
    GroupMessage,
    Heartbeat,
    MemberLeft,
    parse_control,
)
from packetwire.riaps.ports import (
    DEFAULT_HOST,
    DEFAULT_RECV_TIMEOUT,
    DEFAULT_SEND_TIMEOUT,
    GroupAnsPort,
    GroupPort,
    GroupPubPort,
    GroupQryPort,
    GroupSubPort,
    checked_limit,
    new_id,
)
from packetwire.riaps.sockets import DEFAULT_MAX_FRAME, ZmqContext
from packetwire.riaps.waiting import Steps, finish, until
from packetwire.streams import forking

logger = logging.getLogger("packetwire")

DEFAULT_ANSWER_TIMEOUT = 5000
"""Milliseconds for the leader to answer."""
DEFAULT_PEER_TIMEOUT = 10_000
"""Milliseconds without a heartbeat after which a member counts as gone."""
PENDING_LIMIT = 1000
"""Messages that are kept if they come while the program waits for something else."""
PEERS_LIMIT = 1024
"""Members whose heartbeats are remembered."""
BATCH = 64
"""Malformed messages that are skipped in one go."""
CATCH_UP_BATCH = 256
"""Messages that are kept in one go, before others have their turn."""
CATCH_UP_LIMIT = 100
"""Milliseconds that reading what was published so far may delay a question, however much comes."""
MOST_TERM = (1 << 32) - 1


class Group:
    """A member. It listens at once; others connect to it if its `address` is among their members.

    `group_spec`, `host`, `keys` and the time limits, in milliseconds, are those of the ports. `members` are the
    (host, port) pairs at which members publish; its own address may be among them. `port` and `answer_port` are
    the numbers to listen at, 0 for free ones.

    Methods that send or wait raise `PortError` if there is nobody to send to, or when their time is over. A
    `timeout` is in milliseconds; None stands for the member's own limit.
    """

    def __init__(
        self,
        name: str,
        group_spec: GroupSpec | Mapping[str, object],
        host: str = DEFAULT_HOST,
        context: ZmqContext | None = None,
        send_timeout: int = DEFAULT_SEND_TIMEOUT,
        keys: GroupKeys | None = None,
        *,
        members: Iterable[Address] = (),
        port: int = 0,
        answer_port: int = 0,
        recv_timeout: int = DEFAULT_RECV_TIMEOUT,
        peer_timeout: int = DEFAULT_PEER_TIMEOUT,
        max_frame: int = DEFAULT_MAX_FRAME,
    ) -> None:
        common = (name, group_spec, host, context, send_timeout, keys)
        self.name = name
        self.id = new_id()
        """The id by which the other members know this one."""
        self.pub = GroupPubPort(*common, port=port, max_frame=max_frame)
        self.sub = GroupSubPort(*common, recv_timeout=recv_timeout, max_frame=max_frame)
        self.qry = GroupQryPort(*common, recv_timeout=recv_timeout, max_frame=max_frame)
        self.ans = GroupAnsPort(*common, port=answer_port, recv_timeout=recv_timeout, max_frame=max_frame)
        self.leads = False
        """True if this member is the leader."""
        self.leader_id: bytes | None = None
        """The id of the leader, as published."""
        self.term = 0
        """The term of the last known leader."""
        self.dropped = 0
        """Messages that were dropped because the program did not receive earlier ones."""
        self._recv_timeout = recv_timeout
        self._peer_timeout = checked_limit(peer_timeout)
        self._heard: dict[bytes, float] = {}
        self._pending: deque[GroupMessage] = deque()
        self._asked_first = False  # what was sent to the leader was looked for first the last time
        self.after_fork()
        forking.register(self)
        with ExitStack() as undo:
            for each in self._ports:
                undo.callback(each.closeSocket)
                each.setupSocket()
            self.set_members(members)
            undo.pop_all()

    def after_fork(self) -> None:
        """In the child of a fork: replace the locks, which other threads may have held."""
        self._reading = threading.RLock()
        self._asking = threading.Lock()
        self._pending.clear()

    @property
    def _ports(self) -> tuple[GroupPort, ...]:
        return self.pub, self.sub, self.qry, self.ans

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Tell the others that this member leaves, and close the ports. A second call does nothing."""
        if self.pub.getSocket() is not None:
            with suppress(PortError):  # the context was terminated
                self.pub.sendGroup(MLT, MemberLeft(self.id).encode())
        for port in self._ports:
            port.closeSocket()

    # who is there

    @property
    def address(self) -> Address:
        """The address at which it publishes, which the other members need."""
        return _listens_at(self.pub)

    @property
    def answer_address(self) -> Address:
        """The address at which it answers as the leader; `lead` publishes it."""
        return _listens_at(self.ans)

    @property
    def members(self) -> tuple[Address, ...]:
        """The addresses at which the others publish."""
        return self.sub.servers

    def set_members(self, members: Iterable[Address]) -> None:
        """Set all members: connect to new ones, disconnect from those that are missing."""
        wanted = {address_of(*member) for member in members} - {self.address}
        for gone in set(self.sub.servers) - wanted:
            self.sub.remove(*gone)
        for member in wanted:
            self.sub.update(*member)

    def add_member(self, host: str, port: SupportsIndex | str) -> None:
        """Add a member, unless it is known."""
        if address_of(host, port) != self.address:
            self.sub.update(host, port)

    def remove_member(self, host: str, port: SupportsIndex | str) -> None:
        """Remove a member, if it is known."""
        self.sub.remove(host, port)

    @property
    def peers(self) -> frozenset[bytes]:
        """The ids of the members whose heartbeats came lately."""
        with self._reading:
            if self._peer_timeout >= 0:
                oldest = time.monotonic() - self._peer_timeout / 1000
                self._heard = {member: heard for member, heard in self._heard.items() if heard >= oldest}
            return frozenset(self._heard)

    @property
    def malformed(self) -> int:
        """The number of malformed messages that came."""
        return sum(port.malformed for port in self._ports)

    # who leads

    @property
    def leader(self) -> Address | None:
        """The answer port of the leader; None if there is none, or if this member leads."""
        return self.qry.leader

    def update(self, host: str | None, port: SupportsIndex | str | None) -> None:
        """Set the address of the leader's answer port; None for both if there is no leader."""
        self.qry.update(host, port)
        self.leads = False

    def lead(self, term: int | None = None) -> None:
        """Lead: tell the others, which connect to this member's answer port.

        Call it again now and then, for members that join later. `term` is by default the next one, or the same if
        this member leads already; 1 follows the largest one.
        """
        if term is None:
            term = self.term if self.leads else self.term % MOST_TERM + 1
        host, port = self.answer_address
        authority = Authority(term, self.id, host, port)
        if IPv4Address(host).is_unspecified:
            raise OperationError(
                "a leader has to tell where it is: give the group a host that others can connect to"
            )
        self.qry.update(None, None)
        self.leads, self.leader_id, self.term = True, self.id, term
        self.pub.sendGroup(LDR, authority.encode())

    def resign(self) -> None:
        """Stop leading: tell the others that there is no leader."""
        if not self.leads:
            raise OperationError("this member does not lead")
        self.leads, self.leader_id = False, None
        host, _ = self.answer_address
        self.pub.sendGroup(LDR, Authority(self.term, self.id, host, 0).encode())

    def heartbeat(self) -> None:
        """Tell the others that this member is alive. RIAPS members do so each second."""
        self.pub.sendGroup(TIC, Heartbeat(self.id).encode())

    # messages

    def publish(self, payload: BytesLike) -> None:
        """Send to all members that are connected."""
        finish(self.publishing(payload))

    def receive(self, timeout: int | None = None) -> GroupMessage:
        """The next message that a member published, or sent to this one as the leader: that one has an `identity`.

        Control messages take effect, and are returned as well. Malformed messages are counted.
        """
        return finish(self.receiving(timeout))

    def wait_leader(self, timeout: int | None = None) -> Address:
        """Wait until a leader is known; return its answer address. Messages that come meanwhile are kept."""
        return finish(self.waiting_leader(timeout))

    def ask(self, payload: BytesLike, timeout: int = DEFAULT_ANSWER_TIMEOUT) -> GroupMessage:
        """Send to the leader, and return the next message that it sends to this member.

        Answers do not name their question, so there is one question at a time; after one without an answer the
        connection to the leader is re-established, so that a late answer goes nowhere.
        """
        return finish(self.asking(payload, timeout))

    def tell_leader(self, payload: BytesLike, command: bytes = MTL) -> None:
        """Send to the leader. An answer can be received by `receive_from_leader`."""
        finish(self.telling_leader(payload, command))

    def receive_from_leader(self, timeout: int | None = None) -> GroupMessage:
        """The next message that the leader sent to this member."""
        return finish(self.qry.exchange.receiving(timeout))

    def answer(self, question: GroupMessage | bytes, payload: BytesLike) -> None:
        """As the leader, answer the member that sent `question`, or that has that identity."""
        finish(self.answering(question, payload))

    # the same, as steps

    def publishing(self, payload: BytesLike) -> Steps[bool]:
        """The steps of `publish`."""
        return self.pub.exchange.sending(MSG, payload)

    def receiving(self, timeout: int | None = None) -> Steps[GroupMessage]:
        """The steps of `receive`."""
        limit = self._recv_timeout if timeout is None else checked_limit(timeout)
        sockets = [self.sub.shared_socket, self.ans.shared_socket]
        message = yield from until(self._next, sockets, limit, zmq.POLLIN)
        if message is None:
            raise PortError(f"group {self.name!r}: nothing came within {limit} ms", PortError.EAGAIN)
        return message

    def waiting_leader(self, timeout: int | None = None) -> Steps[Address]:
        """The steps of `wait_leader`."""
        limit = self._recv_timeout if timeout is None else checked_limit(timeout)
        leader = yield from until(self._known_leader, [self.sub.shared_socket], limit, zmq.POLLIN)
        if leader is None:
            raise PortError(f"group {self.name!r}: no leader was heard of within {limit} ms", PortError.EAGAIN)
        return leader

    def asking(self, payload: BytesLike, timeout: int = DEFAULT_ANSWER_TIMEOUT) -> Steps[GroupMessage]:
        """The steps of `ask`."""
        if not self._asking.acquire(blocking=False):
            raise OperationError("a question is waiting for its answer already")
        try:
            yield from self.telling_leader(payload)
            try:
                return (yield from self.qry.exchange.receiving(checked_limit(timeout)))
            except BaseException:
                with suppress(OperationError, PortError):  # closed meanwhile
                    self.qry.reset()
                raise
        finally:
            self._asking.release()

    def telling_leader(self, payload: BytesLike, command: bytes = MTL) -> Steps[bool]:
        """The steps of `tell_leader`."""
        # as long as that takes a moment: somebody may publish faster than it is read
        yield from until(self._catch_up, [self.sub.shared_socket], CATCH_UP_LIMIT, zmq.POLLIN)
        return (yield from self.qry.exchange.sending(command, payload))

    def answering(self, question: GroupMessage | bytes, payload: BytesLike) -> Steps[bool]:
        """The steps of `answer`."""
        identity = question.identity if isinstance(question, GroupMessage) else question
        if identity is None:
            raise OperationError("that message was published, so it has no identity to answer")
        return self.ans.exchange.sending(MFL, payload, identity)

    # receiving

    def _next(self) -> GroupMessage | None:
        with self._reading:
            if self._pending:
                return self._pending.popleft()
            self._asked_first = not self._asked_first  # so that a flood of the one does not hold up the other
            if self._asked_first:
                return self._read(self.ans) or self._read_published()
            return self._read_published() or self._read(self.ans)

    def _known_leader(self) -> Address | None:
        self._catch_up()
        return self.leader

    def _catch_up(self) -> bool | None:
        """Process some messages that were published, and keep them for `receive`; None if there may be more."""
        is_done = None
        with self._reading:
            for _ in range(CATCH_UP_BATCH):
                message = self._read_published()
                if message is None:
                    is_done = True
                    break
                self._pending.append(message)
                if len(self._pending) > PENDING_LIMIT:
                    self._pending.popleft()
                    self.dropped += 1
            if self._pending:
                self.sub.shared_socket.wake()
        return is_done

    def _read_published(self) -> GroupMessage | None:
        for _ in range(BATCH):
            message = self._read(self.sub)
            if message is None:
                return None
            try:
                self._heed(message)
            except PortError as error:
                self.sub.exchange.count_malformed()
                logger.debug("group %r: %s", self.name, error)
            else:
                return message
        return None

    def _read(self, port: GroupPort) -> GroupMessage | None:
        for _ in range(BATCH):
            try:
                return port.exchange.try_receive()
            except PortError as error:
                if error.errno != PortError.EFAULT:
                    raise
                logger.debug("group %r: %s", self.name, error)
        return None

    def _heed(self, message: GroupMessage) -> None:
        """Note what a control message says. Raises `PortError` if it is malformed."""
        match parse_control(message):
            case Authority() as authority:
                self._follow(authority)
            case Heartbeat(member):
                self._heard.pop(member, None)
                self._heard[member] = time.monotonic()
                if len(self._heard) > PEERS_LIMIT:
                    del self._heard[next(iter(self._heard))]
            case MemberLeft(member):
                self._heard.pop(member, None)

    def _follow(self, authority: Authority) -> None:
        if authority.leader == self.id:
            return
        # a message from an earlier term may have been under way while the leader moved; but a group
        # that begins anew counts from the start, and then the leader of before is gone
        if authority.term < self.term and (self.leads or self.qry.is_linked()):
            return
        self.leads = False
        self.term = authority.term
        self.leader_id = authority.leader if authority.has_leader else None
        if authority.has_leader:
            self.qry.update(authority.host, authority.port)
        else:
            self.qry.update(None, None)


def _listens_at(port: GroupPort) -> Address:
    info = port.getInfo()
    assert info is not None, "a group's ports are set up"
    return info.portHost, info.portNum
