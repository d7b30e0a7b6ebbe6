"""ICCP on a packet stream: the response to REQUEST holds OK or ERROR, all others are empty."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from packetwire.core.events import RequestReceived
from packetwire.iccp.messages import TYPE_SIZE, MsgType
from packetwire.iccp.refusals import refuse
from packetwire.messaging.packets import PEER, MessageRequest, PacketChannel


class ICCPRequest(MessageRequest):
    """An ICCP message as a packet request."""

    def check(self) -> None:
        if self.frames and len(self.frames[0]) == TYPE_SIZE and type_of(self.frames) != self.rq_type:
            raise ValueError(f"a message of the type {type_of(self.frames)} came as rq_type {self.rq_type}")


class ReadyRequest(ICCPRequest):
    """READY."""

    rq_type = int(MsgType.READY)


class ConfigureRequest(ICCPRequest):
    """REQUEST; answered by OK or ERROR."""

    rq_type = int(MsgType.REQUEST)


class OkRequest(ICCPRequest):
    """OK, where it is no answer."""

    rq_type = int(MsgType.OK)


class ErrorRequest(ICCPRequest):
    """ERROR, where it is no answer."""

    rq_type = int(MsgType.ERROR)


class StopRequest(ICCPRequest):
    """STOP."""

    rq_type = int(MsgType.STOP)


class FinishedRequest(ICCPRequest):
    """FINISHED."""

    rq_type = int(MsgType.FINISHED)


REQUESTS: Final[dict[int, type[ICCPRequest]]] = {
    each.rq_type: each
    for each in (ReadyRequest, ConfigureRequest, OkRequest, ErrorRequest, StopRequest, FinishedRequest)
}


def type_of(zmsg: list[bytes]) -> int:
    """The number of the type of a message, whatever else is wrong with it."""
    return int.from_bytes(zmsg[0], "big") if zmsg and len(zmsg[0]) == TYPE_SIZE else 0


class ICCPPacketChannel(PacketChannel):
    """The component, or controller, at the other end of a packet connection."""

    requests = REQUESTS  # type: ignore[assignment]

    def _frames_of(self, event: RequestReceived) -> list[bytes]:
        """The message in a packet request; one that is none is an invalid message, as on any other carrier."""
        try:
            return super()._frames_of(event)
        except ValueError as error:
            self._refuse(self.sessions.get(PEER) or self._stranger(PEER), refuse("packet", reason=error))
            raise

    def request_of(self, zmsg: list[bytes]) -> tuple[int, int]:
        return type_of(zmsg), 0

    def key_of(self, zmsg: list[bytes]) -> Hashable:
        return MsgType.REQUEST if type_of(zmsg) == MsgType.REQUEST else None

    def concluded_by(self, zmsg: list[bytes]) -> Hashable:
        return MsgType.REQUEST if type_of(zmsg) in (MsgType.OK, MsgType.ERROR) else None

    def is_awaited(self, key: Hashable) -> bool:
        """A REQUEST is answered while it is handled."""
        return False
