"""`AsyncPool`: calls to any of many far ends, over connections that are made again when they have ended."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from packetwire._async.keeping import Change
from packetwire._async.member import Member
from packetwire.addresses import CONNECT_TIMEOUT, connect_to, takes_ship
from packetwire.aio.connection import AsyncPacketConnection
from packetwire.connectionbase import ABANDON_TIMEOUT
from packetwire.core.bounds import bound_of
from packetwire.core.calloptions import CallOptions
from packetwire.core.hello import CLIENT_ID_SIZE
from packetwire.core.keeping import DEFAULT_RESTART_LIMIT, Backoff, MemberEvent, Repeats, Rules, choose, lost
from packetwire.core.requestids import RequestIds
from packetwire.core.requests import BaseRequest, HasRequestMap
from packetwire.core.responses import DecodeResponse, Response
from packetwire.core.settings import DEFAULT_CLOSE_TIMEOUT
from packetwire.core.timelimits import seconds_of, time_limit
from packetwire.core.varint import BytesLike
from packetwire.errors import ConnectionEnded, PacketwireError, RequestFailed, RequestTimeout, ended_by

if TYPE_CHECKING:
    from packetwire.ship.shipment import Ship

ResponseT = TypeVar("ResponseT")

logger = logging.getLogger("packetwire")

DEFAULT_WAIT = 30.0
"""Seconds that a call without a time limit waits for a connection."""
DEFAULT_ATTEMPTS = 3
DEFAULT_READY_TIMEOUT = 30.0


class AsyncPool(HasRequestMap):
    """Connections to many far ends, of which each call takes one; those that end are made again.

    `addresses` are addresses, or anything else that makes a stream at each opening, such as `child(argv)`; or one
    of these. `size` is the number of connections to each. Further arguments go to each `AsyncPacketConnection`.

    The connections are made in the background as soon as the pool is open, and again after `backoff`. A call takes,
    of two drawn at random, the one with fewer requests under way. While there is none, it waits: within its
    `timeout`, or 30 seconds if it has none. A call whose connection ends is made again, on another one if there is
    one, if no handler can have begun with it. With `idempotent=True` that is done also if it is not known, with
    `attempts` attempts in all, and while such repeats are less than a tenth of the calls. Else it raises
    `ConnectionEnded`.

    - `on_connect(conn)` is called with each new connection before it is used, for instance to log in. If it raises,
      the connection is closed, and made again later.
    - `ready(conn)` is asked again and again, until it is true, at most `ready_timeout` seconds.
    - `ship` is a service that is sent to the addresses `exec:PYTHON` and `ssh:HOST`, as by `connect_to`.
    - `rq_type_map` are request classes, for `conn_do_remote`.
    - `on_event(event)` is told what happens: `MemberReady`, `MemberEnded`, `MemberWaits`, `MemberGivenUp`.
    """

    __module__ = "packetwire.aio.pool"  # where it is public

    def __init__(
        self,
        addresses: Any,
        *,
        size: int = 1,
        name: str | None = None,
        backoff: Backoff | None = None,
        attempts: int = DEFAULT_ATTEMPTS,
        connect_timeout: float = CONNECT_TIMEOUT,
        ship: str | Ship | None = None,
        on_connect: Callable[[AsyncPacketConnection], Any] | None = None,
        ready: Callable[[AsyncPacketConnection], Any] | None = None,
        ready_timeout: float = DEFAULT_READY_TIMEOUT,
        on_event: Callable[[MemberEvent], object] | None = None,
        rq_type_map: Mapping[int, type[BaseRequest[Any]]] | None = None,
        **connection: Any,
    ) -> None:
        self._keep_request_map({} if rq_type_map is None else rq_type_map)
        targets = _targets(addresses)
        bound_of(size, "size")
        bound_of(attempts, "attempts")
        self.name = name if name is not None else _name_of(targets[0])
        self.members: list[Member] = []
        self._attempts = attempts
        self._close_timeout = seconds_of(connection.get("close_timeout", DEFAULT_CLOSE_TIMEOUT))
        self._on_event = on_event
        self._repeats = Repeats()
        self._request_ids = RequestIds(os.urandom(CLIENT_ID_SIZE))
        self._changed = Change()
        self._open = self._closed = False
        rules = self._rules(Backoff() if backoff is None else backoff)
        seconds = seconds_of(ready_timeout, "ready_timeout")
        for target in targets:
            shipped = ship if takes_ship(target) else None
            recv_send = connect_to(target, timeout=connect_timeout, ship=shipped) if _is_address(target) else target
            for number in range(size):
                member = Member(
                    recv_send,
                    _name_of(target) + (f"#{number}" if size > 1 else ""),
                    rules,
                    on_connect=on_connect,
                    ready=ready,
                    ready_timeout=seconds,
                    tell=self._tell,
                    changed=self._changed,
                    request_ids=self._request_ids,
                    options=connection,
                )
                self.members.append(member)

    def _rules(self, backoff: Backoff) -> Rules:
        return Rules(backoff)

    def __str__(self) -> str:
        return f"{type(self).__name__}[{self.name}]"

    # opening and closing

    async def open(self) -> Self:
        """Begin to connect. It can be opened once."""
        if self._open or self._closed:
            raise ConnectionEnded(f"{self} was opened before")
        self._open = True
        for member in self.members:
            member.start()
        return self

    async def close(self, timeout: float | None = None) -> None:
        """Close all connections, one after the other, within `timeout` seconds each. A second call does nothing."""
        seconds = self._close_timeout if timeout is None else seconds_of(timeout)
        was_open, self._open, self._closed = self._open, False, True
        self._changed.tell()
        if was_open:
            for member in self.members:
                member.halt()
            for member in self.members:
                await member.stop(seconds)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, exc_type: type[BaseException] | None, *exc: object) -> None:
        await self.close(None if exc_type is None else min(ABANDON_TIMEOUT, self._close_timeout))

    # calls

    async def __call__(
        self,
        rq_type: int,
        payload: BytesLike = b"",
        flags: int = 0,
        *,
        decode_response: DecodeResponse | None = None,
        channel: int = 0,
        label: str | None = None,
        timeout: float | None = None,
        idempotent: bool = False,
        **options: Unpack[CallOptions],
    ) -> Response:
        """Ask any far end, and wait for its response: `(ok, flags, payload)`.

        `idempotent` says that it does no harm if the far end does it twice. With `once=True` it is not done twice,
        and repeated as well: by a service with a `Dedup`, as long as that lives. Raises `RequestTimeout` after
        `timeout` seconds, `ConnectionEnded` if the connection ended and the call was not repeated, or if every far
        end was given up; and as `AsyncPacketConnection` does.
        """
        limit = time_limit(timeout)
        deadline = None if limit is None else monotonic() + limit
        avoided: Member | None = None
        made = 0
        once = self._request_ids.next() if options.get("once") else None
        failure: PacketwireError | None = None
        epoch: bytes | None = None  # of the service that may have begun with it
        while True:
            member, conn = await self._take(deadline, timeout, avoided, epoch)
            left = None if deadline is None else max(0.0, deadline - monotonic())
            made += 1
            if once is not None:
                options["once"] = once._replace(attempt=made)
            try:
                if failure is not None and not await _is_of(epoch, conn, left):
                    raise failure
                response = await conn(
                    rq_type,
                    payload,
                    flags,
                    decode_response=decode_response,
                    channel=channel,
                    label=label,
                    timeout=left,
                    **options,
                )
            except PacketwireError as error:
                if error is failure or not lost(error):
                    raise
                member.leave(conn)
                begun: bool | None = getattr(error, "begun", None)
                # a refusal costs no attempt, as long as there may be another member
                attempts = self._attempts if begun is None else self._attempts + len(self.members)
                if made >= attempts or not self._repeats.may_repeat(begun, idempotent or once is not None):
                    raise
                avoided = member
                if begun is None and once is not None:
                    failure, epoch = error, _epoch_of(conn)
            else:
                self._repeats.succeeded()
                return response

    async def conn_do_remote(
        self,
        rq: BaseRequest[ResponseT],
        *,
        channel: int = 0,
        label: str | None = None,
        timeout: float | None = None,
        idempotent: bool = False,
        **options: Unpack[CallOptions],
    ) -> ResponseT:
        """Run a request of the `rq_type_map` at any far end, return its decoded response.

        Raises `RequestFailed` (a ValueError) if the response is "not ok", and as a call does.
        """
        what = type(rq).__name__
        ok, flags, payload = await self(
            self._rq_type_of(rq),
            bytes(rq),
            rq.flags,
            channel=channel,
            label=what if label is None else label,
            timeout=timeout,
            idempotent=idempotent,
            **options,
        )
        if not ok:
            raise RequestFailed(flags, payload, what)
        return rq.decode_response_payload(flags, payload)

    async def connected(self, timeout: float | None = None) -> AsyncPacketConnection:
        """A connection that can be used, for what is more than a call. Waits and raises as a call does."""
        limit = time_limit(timeout)
        deadline = None if limit is None else monotonic() + limit
        return (await self._take(deadline, timeout, None))[1]

    async def _take(
        self, deadline: float | None, timeout: float | None, avoided: Member | None, epoch: bytes | None = None
    ) -> tuple[Member, AsyncPacketConnection]:
        """A member with its connection: to the service with this `epoch`, not the one to be `avoided`, else any."""
        if not self._open:
            raise ConnectionEnded(f"{self} is not open; use it inside its `with` block")
        until = monotonic() + DEFAULT_WAIT if deadline is None else deadline
        while True:
            seen = self._changed.count
            found = [(each, conn) for each in self.members if (conn := each.conn) and conn.ended is None]
            found = (
                [(each, conn) for each, conn in found if epoch is not None and _epoch_of(conn) == epoch]
                or [(each, conn) for each, conn in found if each is not avoided]
                or found
            )
            if found:
                return self._choose(found)
            self._check(until, DEFAULT_WAIT if timeout is None else timeout)
            await self._changed.wait(seen, until - monotonic())

    def _choose(
        self, found: Sequence[tuple[Member, AsyncPacketConnection]]
    ) -> tuple[Member, AsyncPacketConnection]:
        loads = [conn.outstanding for _, conn in found]
        return found[choose(loads, random.random(), random.random())]

    def _check(self, until: float, timeout: float) -> None:
        """Raise if there is no use in waiting for a connection."""
        cause = next((each.cause for each in self.members if each.cause is not None), None)
        because = f": {cause}" if cause is not None else ""
        if self._closed:
            raise ConnectionEnded(f"{self} is closed")
        if all(each.given_up for each in self.members):
            text = f"{self} was given up{because}"
            raise ConnectionEnded(text) if cause is None else ended_by(cause, text)
        if monotonic() >= until:
            raise RequestTimeout(f"{self}: no connection within {timeout:g} s{because}") from cause

    def _tell(self, event: MemberEvent) -> None:
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:
                logger.exception("%s: on_event failed", self)


class AsyncReconnecting(AsyncPool):
    """One connection to `address`, which is made again when it has ended. It is called as a connection is.

    All else is as for an `AsyncPool` with one member.
    """

    __module__ = "packetwire.aio.pool"  # where it is public

    def __init__(self, address: Any, **options: Any) -> None:
        super().__init__([address], **options)


class AsyncSupervised(AsyncPool):
    """A child, such as `child(argv)`, that is started again when it has ended. It is called as a connection is.

    `restart` is "on-failure", that is unless it has ended the connection or left with exit status 0; "always"; or
    "never". After more than `limit` restarts, (number, seconds), it is given up. `ready(conn)` tells if it can be
    used. All else is as for an `AsyncPool` with one member.
    """

    __module__ = "packetwire.aio.pool"  # where it is public

    def __init__(
        self,
        start: Any,
        *,
        restart: str = "on-failure",
        limit: tuple[int, float] | None = DEFAULT_RESTART_LIMIT,
        **options: Any,
    ) -> None:
        self._restart, self._limit = restart, limit
        super().__init__([start], **options)

    def _rules(self, backoff: Backoff) -> Rules:
        return Rules(backoff, self._restart, self._limit)

    @property
    def given_up(self) -> bool:
        """True if it is not started again any more."""
        return self.members[0].given_up


async def _is_of(epoch: bytes | None, conn: AsyncPacketConnection, timeout: float | None) -> bool:
    """True if the service there is the one that remembers what was done in this epoch."""
    try:
        await conn.ping(timeout)  # from then on it is known who that is
    except PacketwireError:
        return False
    return epoch is not None and _epoch_of(conn) == epoch


def _epoch_of(conn: AsyncPacketConnection) -> bytes | None:
    """The epoch of the service there, once it is known."""
    return None if conn.peer is None else conn.peer.epoch


def _targets(addresses: Any) -> Sequence[Any]:
    """The addresses, or what makes streams, as a sequence."""
    targets = addresses if isinstance(addresses, list | tuple) else [addresses]
    if not targets:
        raise ValueError("there are no addresses")
    for target in targets:
        if not _is_address(target) and not callable(target):
            raise TypeError(f"expected an address, or what makes a stream at each opening, got {target!r:.100}")
    return targets


def _name_of(target: Any) -> str:
    return str(target) if _is_address(target) else getattr(target, "__qualname__", "child").partition(".")[0]


def _is_address(target: Any) -> bool:
    return isinstance(target, str) or hasattr(type(target), "form")
