"""The part that clients for threads and for event loops share: a core, and a channel that carries what it says."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from packetwire.core.timelimits import seconds_of
from packetwire.errors import ConnectionEnded, RequestTimeout
from packetwire.fbsp.callstate import CallState, request_flags
from packetwire.fbsp.client import FBSPClient
from packetwire.fbsp.clientcore import AnswerKey, ClientCore
from packetwire.fbsp.constants import State
from packetwire.fbsp.frames import Frame
from packetwire.fbsp.identity import this_peer
from packetwire.fbsp.messages import APIMessage, FBSPMessage
from packetwire.fbsp.session import FBSPSession
from packetwire.messaging.descriptors import AgentDescriptor, ButlerInterface, PeerDescriptor
from packetwire.messaging.shared import SharedChannel
from packetwire.streams import forking

DEFAULT_CONNECT_TIMEOUT: Final = 10.0
"""Seconds for the link to the service, and its WELCOME."""

CallT = TypeVar("CallT", bound=CallState)
ChannelT = TypeVar("ChannelT", bound=SharedChannel)


class CallBook(Generic[CallT, ChannelT]):
    """A client of one service: a `ClientCore`, and the channel that carries what it says."""

    channel: ChannelT

    def __init__(
        self,
        channel: Callable[[FBSPClient], ChannelT],
        make_call: Callable[..., CallT],
        *,
        agent: AgentDescriptor,
        peer: PeerDescriptor | None = None,
        timeout: float = DEFAULT_CONNECT_TIMEOUT,
        **core: Any,
    ) -> None:
        self._connect_timeout = seconds_of(timeout)
        self.core = ClientCore(channel, make_call, agent=agent, peer=peer or this_peer(), **core)
        """The session, and its calls."""
        carrier: Any = self.core.channel
        self.channel = carrier
        self.protocol = self.core.protocol

    def after_fork(self) -> None:
        """In the child of a fork: the client is the parent's."""
        self.core.leave(ConnectionEnded(forking.of_parent(f"this {type(self).__name__}")))

    @property
    def agent(self) -> AgentDescriptor:
        """Which program this is."""
        return self.core.agent

    @property
    def peer(self) -> PeerDescriptor:
        """Which running instance of it."""
        return self.core.peer

    @property
    def session(self) -> FBSPSession | None:
        """The session, while there is one."""
        return self.core.session

    @property
    def ended(self) -> Exception | None:
        """Why the session has ended, if it has."""
        return self.core.ended

    @property
    def service(self) -> AgentDescriptor:
        """Which program the service is."""
        return self.core.service

    @property
    def service_peer(self) -> PeerDescriptor:
        """Which running instance of it."""
        return self.core.service_peer

    @property
    def interfaces(self) -> dict[uuid.UUID, int]:
        """The interfaces of the service: their uids, and their numbers."""
        return self.core.interfaces

    # the single steps, which 0.1.0 had here

    def say_hello(self) -> AnswerKey:
        """Send HELLO in the session that is open now."""
        with self.channel.lock:
            answer_to = self.core.say_hello()
        self._carry()
        return answer_to

    def is_greeted(self) -> bool:
        """True once HELLO has been answered in any way."""
        return self.core.is_greeted()

    def check_greeted(self, answered: bool) -> None:
        """Raise if the answer to HELLO is no WELCOME."""
        self.core.check_greeted()
        if not answered:
            raise RequestTimeout(f"the service did not answer HELLO within {self._connect_timeout} s")

    def say_close(self) -> bool:
        """Send CLOSE and end all calls, if that was not done before; whether there was a session to end."""
        with self.channel.lock:
            return self.core.close()

    def end(self, cause: Exception) -> None:
        """The session has ended: so have all calls."""
        with self.channel.lock:
            self.core.end(cause)

    def live_session(self) -> FBSPSession:
        """The session; raises if there is none any more, or yet."""
        return self.core.live_session()

    def new_token(self) -> bytes:
        """A token that was not used before in this session."""
        return self.core.new_token()

    def new_call(
        self,
        api_code: ButlerInterface,
        frames: tuple[Frame, ...],
        on_state: Callable[[State], object] | None = None,
        streams: bool = False,
        single: bool = False,
    ) -> tuple[CallT, APIMessage]:
        """A call, and its REQUEST to be sent."""
        return self.core.new_call(api_code, frames, on_state, streams, single)

    def transmit(self, msg: FBSPMessage) -> None:
        """Send a message; raises `ConnectionEnded` if there is no way to the service."""
        with self.channel.lock:
            self.core.say(msg)
        self._carry()

    def transmit_request(self, call: CallT, msg: APIMessage, acknowledge: bool, more: bool) -> None:
        """Send the REQUEST of a call, which is forgotten if that fails."""
        msg.flags = request_flags(more, acknowledge)
        try:
            self.transmit(msg)
        except BaseException:
            self.core.forget(call)
            raise

    def unreachable(self, error_number: int) -> Exception:
        """Why nothing can be sent."""
        return self.core.unreachable(error_number)

    def acknowledge(self, msg: FBSPMessage) -> None:
        """Send an acknowledgement, if one is asked for."""
        with self.channel.lock:
            self.core.acknowledge(msg)
        self._carry()

    def send_cancel(self, call: CallT) -> bytes:
        """Send CANCEL; its token."""
        with self.channel.lock:
            token = self.core.cancel(call)
        self._carry()
        return token

    def forget_cancel(self, token: bytes) -> None:
        """Nobody waits for the answer to a CANCEL any more."""
        self.core.forget_cancel(token)

    def say_noop(self) -> AnswerKey:
        """Send a NOOP that is to be acknowledged."""
        with self.channel.lock:
            answer_to = self.core.ping()
        self._carry()
        return answer_to

    def is_ponged(self, token: bytes) -> bool:
        """True once a NOOP was acknowledged, or will never be."""
        return self.core.is_ponged(token)

    def check_ponged(self, token: bytes, timeout: float | None) -> None:
        """Raise if a NOOP was not acknowledged."""
        self.core.check_ponged(token, timeout)

    def take(self, session: FBSPSession, msg: FBSPMessage) -> None:
        """A message has come that may belong to a call."""
        with self.channel.lock:
            self.core.take(session, msg)

    def carry(self) -> None:
        """Have the channel send what is in the outbox; raises `ConnectionEnded` if nothing can be sent."""
        session = self.core.live_session()
        self._carry(session)

    def _carry(self, session: FBSPSession | None = None) -> None:
        session = session or self.core.session
        error_number = self.channel.carry(session) if session is not None and self.channel.outbox else 0
        if error_number:
            raise self.core.unreachable(error_number)
