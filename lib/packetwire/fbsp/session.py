"""Sessions of FBSP: they keep who the peer is, and the requests under way."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from dataclasses import dataclass

from packetwire.fbsp.lifecycle import LIVE, Phase
from packetwire.fbsp.messages import FBSPMessage, HandshakeMessage
from packetwire.messaging.message import Token
from packetwire.messaging.session import Session

ENDED_KEPT = 1024
"""Requests that are remembered after their end, by the side that must tell a late message from a wrong one."""


@dataclass(slots=True, eq=False)
class PendingRequest:
    """A request from the time that it was sent; `acknowledgement` is what is owed for it, if anything."""

    token: Token
    request_code: int
    acknowledgement: FBSPMessage | None = None
    phase: Phase = Phase.OPEN
    next: tuple[FBSPMessage | None, Phase] = (None, Phase.OPEN)
    """A message of the service that is about to be sent, and the phase behind it."""


class FBSPSession(Session):
    """A session with one peer."""

    def __init__(self) -> None:
        super().__init__()
        self.greeting: HandshakeMessage | None = None
        """The HELLO of the client, at a service; the WELCOME of the service, at a client."""
        self.partner_uid: uuid.UUID | None = None
        """The peer's uid of the client, at a service; the agent's uid of the service, at a client."""
        self.hello_token: Token | None = None
        """The token of messages that belong to no request."""
        self.apis: dict[uuid.UUID, int] = {}
        """Interface -> its number, as the service has announced them; at a client."""
        self.numbers: dict[type, int] = {}
        """The same by the classes of the interfaces, of those that were asked for."""
        self.closed = False
        """Nothing is sent any more."""
        self.requests: dict[Token, PendingRequest] = {}
        """The requests under way, by their tokens."""
        self.cancels: dict[Token, Token] = {}
        """Token of a CANCEL without an answer -> token of its request; at a client."""
        self._ended: OrderedDict[Token, PendingRequest] = OrderedDict()

    def begin(self, request: PendingRequest) -> None:
        """A request is under way."""
        self._ended.pop(request.token, None)
        self.requests[request.token] = request

    def forget(self, token: Token) -> None:
        """An ended request is no longer meant by its token, which has been used again."""
        self._ended.pop(token, None)

    def find(self, token: Token) -> PendingRequest | None:
        """The request with this token, also shortly after its end."""
        return self.requests.get(token) or self._ended.get(token)

    def advance(self, request: PendingRequest, phase: Phase) -> None:
        """The request has entered a phase."""
        request.phase = phase
        if phase in LIVE or self.requests.get(request.token) is not request:
            return
        del self.requests[request.token]
        self._ended[request.token] = request
        if len(self._ended) > ENDED_KEPT:
            self._ended.popitem(last=False)

    def close(self) -> None:
        """Nothing more is sent or awaited."""
        self.closed = True
        self.requests.clear()
        self.cancels.clear()
        self._ended.clear()
