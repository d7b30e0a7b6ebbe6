"""The part that services for threads and for event loops share: a core, made of the class's operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from packetwire.fbsp.identity import this_peer
from packetwire.fbsp.operations import Operation, RequestState, operations_of
from packetwire.fbsp.servicecore import ServiceCore
from packetwire.fbsp.session import FBSPSession
from packetwire.messaging.descriptors import AgentDescriptor, ButlerInterface, PeerDescriptor, ServiceDescriptor

RequestT = TypeVar("RequestT", bound=RequestState)


class OperationBook(Generic[RequestT]):
    """A service as a class: a `ServiceCore` with the operations that the class has.

    `agent` says which program this is, `peer` which instance of it runs here: made up, if not given.
    `interfaces` are announced in that order; if there are none, in the order of the operations. Other arguments go
    to `ServiceCore`.
    """

    agent: ClassVar[AgentDescriptor]
    interfaces: ClassVar[Sequence[type[ButlerInterface]]] = ()

    def __init__(
        self,
        make_request: Callable[..., RequestT],
        *,
        agent: AgentDescriptor | None = None,
        peer: PeerDescriptor | None = None,
        **core: Any,
    ) -> None:
        operations = list(operations_of(type(self)))
        called = dict.fromkeys(type(each.declared.api_code) for each in operations)
        descriptor = ServiceDescriptor(agent or self.agent, list(self.interfaces) or list(called))
        self.core: ServiceCore[RequestT] = ServiceCore(
            descriptor,
            peer or this_peer(),
            operations,
            make_request=make_request,
            begin=self._begin,
            session_closed=self._tell_closed,
            **core,
        )
        """The requests under way."""
        self.protocol = self.core.protocol

    def session_closed(self, session: FBSPSession, exc: Exception | None) -> None:
        """Called when a session has ended, with the reason if that was no CLOSE; for subclasses."""

    def _tell_closed(self, session: FBSPSession, exc: Exception | None) -> None:
        self.session_closed(session, exc)  # which may be assigned

    def _begin(self, request: RequestT, operation: Operation) -> None:
        """Perform the operation of a request, here or elsewhere."""
        raise NotImplementedError
