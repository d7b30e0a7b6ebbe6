"""The bodies of one connection: which there are, and what may come of each when.

Strategy: one class for whoever sends a body, one for whoever receives it, whichever end made the request. Here they
are found by their requests. None of them refers to the engine, which is an argument where it is needed, as in
`control`; they share the lane.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from packetwire.core.fields import FieldError, integer_of
from packetwire.core.frames import Frame, FrameType, Meta, decode_reason
from packetwire.core.lanes import Lane, Payload
from packetwire.core.packetcodec import Key
from packetwire.core.receivingbody import ReceivingBody as ReceivingBody
from packetwire.core.receivingbody import Windows
from packetwire.core.refusals import refuse
from packetwire.core.sendingbody import MOST_UNSENT as MOST_UNSENT
from packetwire.core.sendingbody import SendingBody as SendingBody
from packetwire.errors import BodyEnded, LocalProtocolError, PacketwireError

BodyT = TypeVar("BodyT")


class Engine(Protocol):
    """The rest of the engine: what frames are checked against."""

    waiters: dict[Key, Any]

    def owes(self, channel: int, tag: int) -> bool:
        """A request of the peer waits for its answer."""
        ...

    def was_used(self, key: Key) -> bool:
        """A request of ours has, or had, this key."""
        ...


class CallBodies:
    """The bodies of one request of ours; filled when it is sent."""

    def __init__(self) -> None:
        self.request: SendingBody | None = None
        self.response: ReceivingBody | None = None


class ServedBodies:
    """The bodies of one request of the peer."""

    def __init__(self, request: ReceivingBody | None, response: SendingBody | None) -> None:
        self.request = request
        self.response = response

    def end(self, reason: PacketwireError) -> None:
        """Nobody reads or writes them any more."""
        if self.request is not None:
            self.request.end(reason, keep=False)
        self.cannot_answer(reason)

    def cannot_answer(self, reason: PacketwireError) -> None:
        """Nothing can be sent."""
        if self.response is not None:
            self.response.end(reason)


class Bodies:
    """All bodies of one connection, by their requests.

    `credit` is what each may have sent to this end at its start, `max_open` how many may be open towards it.
    """

    def __init__(self, lane: Lane, credit: int, max_open: int) -> None:
        self.ours: dict[Key, CallBodies] = {}
        self.served: dict[Key, ServedBodies] = {}
        """Of requests that wait for their answer, or have not come yet."""
        self.trailing: dict[Key, SendingBody] = {}
        """Of requests that are answered, whose response stands behind bytes of the body."""
        self.windows = Windows(lane)
        self.credit = credit
        self._lane = lane
        self._max_open = max_open

    @property
    def held(self) -> int:
        """Bytes of all of them."""
        calls = [each.request for each in list(self.ours.values())]
        served = [each.response for each in list(self.served.values())]
        sending = [body for body in [*calls, *served, *list(self.trailing.values())] if body is not None]
        return self.windows.held + sum(body.unsent for body in sending)

    @property
    def is_full(self) -> bool:
        """No more may be open towards this end."""
        return len(self.windows.open) >= self._max_open

    def holds_back(self, limit: int) -> bool:
        """Bodies whose responses wait behind them, but for credit, have more than so many bytes."""
        bodies = list(self.trailing.values())
        return len(bodies) * MOST_UNSENT > limit and sum(body.unsent for body in bodies) > limit

    @property
    def exchanges(self) -> int:
        """Requests with bodies that have no answer yet."""
        return len(self.ours) + len(self.served)

    # requests of ours

    def begin(self, channel: int, tag: int, meta: Meta, credit: int, call: CallBodies) -> None:
        """A request of ours is to be sent, with what its metadata says; the peer takes `credit` bytes at once."""
        if meta.has_body:
            call.request = SendingBody(self._lane, channel, tag, credit, size=meta.body_size, of_receiver=False)
        if meta.response_credit is not None:
            if meta.response_credit < 1:
                raise LocalProtocolError(f"response_credit must be 1 or more, got {meta.response_credit}")
            call.response = self._receiving(channel, tag, meta.response_credit, None, of_receiver=True)
        self.ours[(channel, tag) if channel else tag] = call

    def give_up(self, key: Key) -> None:
        """Nobody wants the response to a request of ours any more."""
        call = self.ours.get(key)
        if call is not None:
            reason = BodyEnded("the request was given up")
            if call.request is not None:
                call.request.end(reason)
            if call.response is not None:
                call.response.end(reason, keep=False)

    def end_call(self, key: Key, ok: bool) -> None:
        """The response has come: a body of the response is whole, or will never be."""
        call = self.ours.pop(key, None)
        if call is None:
            return
        if call.request is not None:
            call.request.end(BodyEnded("the request is answered, so the peer takes no more of its body"))
        if call.response is not None:
            if ok:
                call.response.finish()
            else:
                call.response.end(BodyEnded("the request failed before the body was whole"), keep=True)

    # requests of the peer

    def announce(self, channel: int, tag: int, meta: Meta) -> ServedBodies | None:
        """A request of the peer is to come, with bodies; None if these are too many."""
        key: Key = (channel, tag) if channel else tag
        if key in self.trailing:
            raise refuse("bad-frame", problem="META with the tag of a request whose response is under way", tag=tag)
        if meta.has_body and self.is_full:
            return None
        request, response = None, None
        if meta.has_body:
            request = self._receiving(channel, tag, self.credit, meta.body_size, of_receiver=False)
        if meta.response_credit is not None:
            response = SendingBody(self._lane, channel, tag, meta.response_credit, of_receiver=True)
        served = self.served[key] = ServedBodies(request, response)
        return served

    def _receiving(
        self, channel: int, tag: int, window: int, size: int | None, *, of_receiver: bool
    ) -> ReceivingBody:
        body = ReceivingBody(self.windows, channel, tag, window, size=size, of_receiver=of_receiver)
        self.windows.open[body] = None
        return body

    def respond(self, key: Key, response: Payload, *, ok: bool) -> bool:
        """A request of the peer is answered. True if the response leaves by itself, behind its body."""
        served = self.served.pop(key, None)
        if served is None:
            return False
        if served.request is not None:
            served.request.end(BodyEnded("the request is answered"), keep=False)
        body = served.response
        if body is None:
            return False
        if not (ok and body.unsent):
            body.end(BodyEnded("the request is answered"))
            return False
        self.trailing[key] = body
        body.finish_with(response, partial(self.trailing.pop, key, None))
        return True

    def has_lost(self, key: Key) -> bool:
        """Some of the body of a response was dropped, so that the response cannot say that it is whole."""
        served = self.served.get(key)
        return served is not None and served.response is not None and served.response.lost

    def drop(self, key: Key, reason: PacketwireError) -> None:
        """A request of the peer is not to be answered by its handler, or is given up."""
        served = self.served.pop(key, None)
        if served is not None:
            served.end(reason)

    def cancel(self, key: Key, response: Payload) -> None:
        """The peer gave a request up: its bodies end; a response that stands behind one is replaced by this."""
        served = self.served.get(key)
        if served is not None:
            served.end(BodyEnded("the peer has given the request up"))
        body = self.trailing.get(key)
        if body is not None:
            body.refuse_with(response)

    # the end

    def end_all(self, reason: PacketwireError, refusal_of: Callable[[Key], Payload]) -> None:
        """Nothing more comes from the peer, no credit either."""
        for call in list(self.ours.values()):
            if call.request is not None:
                call.request.end(reason)
            if call.response is not None:
                call.response.end(reason, keep=True)
        self.ours.clear()
        for served in list(self.served.values()):
            if served.request is not None:
                served.request.end(reason, keep=True)
            if served.response is not None:
                served.response.end(reason)
        for key, body in list(self.trailing.items()):
            if body.unsent > body.credit:
                body.refuse_with(refusal_of(key))

    def end_sending(self, reason: PacketwireError) -> None:
        """Nothing more can be sent."""
        self.end_requests(reason)
        self.drop_all(reason)
        for body in list(self.trailing.values()):
            body.end(reason)
        self.trailing.clear()

    def end_requests(self, reason: PacketwireError) -> None:
        """No more of the bodies of our requests can be sent."""
        for call in list(self.ours.values()):
            if call.request is not None:
                call.request.end(reason)

    def drop_all(self, reason: PacketwireError) -> None:
        """No request of the peer is to be answered any more."""
        for key in list(self.served):
            self.drop(key, reason)

    # frames

    def receive(self, engine: Engine, key: Key, frame: Frame) -> None:
        """DATA, END, CREDIT or STOP. Raises `RemoteProtocolError` if it may not come."""
        if frame.kind is FrameType.DATA or frame.kind is FrameType.END:
            receiving = self._found(engine, key, frame, self._to_receive(key, frame))
            if receiving is None:
                return
            if frame.kind is FrameType.DATA:
                receiving.receive(frame.payload)
            elif frame.payload:
                raise refuse("bad-frame", problem="END with a payload", tag=frame.tag)
            else:
                receiving.finish()
            return
        # first what it says, so that what is malformed is refused whenever it comes
        said = decode_reason(frame) if frame.kind is FrameType.STOP else (_credit_of(frame), "")
        sending = self._found(engine, key, frame, self._to_send(key, frame))
        if sending is None:
            return
        if frame.kind is FrameType.STOP:
            sending.stop(*said)
        else:
            sending.grant(said[0])

    def _to_receive(self, key: Key, frame: Frame) -> ReceivingBody | None:
        if frame.of_receiver:
            call = self.ours.get(key)
            return None if call is None else call.response
        served = self.served.get(key)
        return None if served is None else served.request

    def _to_send(self, key: Key, frame: Frame) -> SendingBody | None:
        if frame.of_receiver:
            call = self.ours.get(key)
            return None if call is None else call.request
        served = self.served.get(key)
        return self.trailing.get(key) if served is None else served.response

    def _found(self, engine: Engine, key: Key, frame: Frame, body: BodyT | None) -> BodyT | None:
        """The body that a frame is about; None if that has ended, so that the frame is late."""
        if body is not None:
            return body
        if frame.of_receiver and not engine.was_used(key):
            raise refuse("response-never-asked", tag=frame.tag, channel=frame.channel)
        if key in engine.waiters if frame.of_receiver else engine.owes(frame.channel, frame.tag):
            problem = f"{frame.kind.name} of a body that was not announced"
            raise refuse("bad-frame", problem=problem, tag=frame.tag)
        return None


def _credit_of(frame: Frame) -> int:
    try:
        return integer_of(0, frame.payload, 1)
    except FieldError as error:
        raise refuse("bad-frame", problem=f"CREDIT: {error}", tag=frame.tag) from None
