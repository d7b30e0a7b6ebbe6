"""The component's side of the conversation with its controller. No channel, no thread, no clock.

Messages go in by `receive`, the loss of the controller by `lose`; what the program is to do about it is returned.
Messages to send stand in `outbox`. `expire` has to be called when `next_deadline` has come.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from packetwire.error_text import ERROR_TEXT_LIMIT
from packetwire.errors import LocalProtocolError
from packetwire.iccp.messages import DEFAULT_MAX_MESSAGE_SIZE, MAX_FRAMES, ICCPMessage, MsgType, Outcome, message
from packetwire.iccp.phases import TRANSITIONS, Phase
from packetwire.iccp.refusals import violation
from packetwire.messaging.descriptors import PeerDescriptor
from packetwire.messaging.errors import StopError
from packetwire.messaging.protobuf import ProtoMessage

TOO_LONG = "the details of the end are too long to be sent"


@dataclass(frozen=True)
class ConfigureAsked:
    """The controller configures the component: `answer` is owed."""

    config: ProtoMessage


@dataclass(frozen=True)
class StopAsked:
    """The component has to stop."""

    reason: Exception | None
    """Why, if the controller did not ask for it."""


@dataclass(frozen=True)
class Orphaned:
    """The controller is gone, and the time that the component had to end is over."""


class ComponentMessages:
    """The messages of a component."""

    with_traceback: bool = False

    def _create(self, msg_type: MsgType) -> ICCPMessage:
        return message(msg_type)

    def ready_msg(self, peer: PeerDescriptor, endpoints: Mapping[str, Sequence[str]]) -> ICCPMessage:
        """READY: who the component is, and the addresses of its endpoints."""
        msg = self._create(MsgType.READY)
        msg.peer = peer
        msg.endpoints = {name: list(addresses) for name, addresses in endpoints.items()}
        return msg

    def ok_msg(self) -> ICCPMessage:
        """OK: the request was carried out."""
        return self._create(MsgType.OK)

    def error_msg(self, exc: BaseException) -> ICCPMessage:
        """ERROR: the request has failed."""
        msg = self._create(MsgType.ERROR)
        msg.error = (
            "".join(traceback_of(exc)) if self.with_traceback else text_of(exc, lambda: str(exc) or repr(exc))
        )
        return msg

    def finished_msg(self, outcome: Outcome, details: BaseException | Sequence[str] | None = None) -> ICCPMessage:
        """FINISHED: the component has ended; an exception is sent as one line, or as its traceback."""
        msg = self._create(MsgType.FINISHED)
        msg.outcome = outcome
        if isinstance(details, BaseException):
            msg.details = (
                traceback_of(details) if self.with_traceback else [text_of(details, lambda: repr(details))]
            )
        elif isinstance(details, str):
            msg.details = [details]
        else:
            msg.details = list(details or ())
        return msg


class ComponentCore(ComponentMessages):
    """One component, in its conversation with its controller.

    After FINISHED nothing that arrives has any effect. `orphan_timeout` are the seconds to end in once the
    controller is gone.
    """

    def __init__(self, *, with_traceback: bool = False, orphan_timeout: float | None = None) -> None:
        self.with_traceback = with_traceback
        self.outbox: deque[ICCPMessage] = deque()
        self.phase = Phase.NEW
        self.stopping = False
        """True once the component was asked to stop."""
        self.lost = False
        """True once the controller is gone."""
        self._orphan_timeout = orphan_timeout
        self._deadline: float | None = None

    # messages and events in

    def receive(self, msg: ICCPMessage, now: float) -> ConfigureAsked | StopAsked | None:
        """A message has come. Raises `StopError` for one that controllers do not send: see `refuse`."""
        if self.phase is Phase.FINISHED:
            return None
        if msg.msg_type is MsgType.REQUEST:
            return ConfigureAsked(msg.config)
        if msg.msg_type is not MsgType.STOP:
            raise violation("wrong-side", peer="controller", name=msg)
        return None if self.stopping else self._stop(None)

    def refuse(self, exc: Exception) -> StopAsked | None:
        """A message broke the rules, or could not be handled: the component stops, each time."""
        return None if self.phase is Phase.FINISHED else self._stop(exc)

    def lose(self, exc: Exception | None, now: float) -> StopAsked | None:
        """The controller is gone: the component stops, unless it does so already."""
        self.lost = True
        if self.phase is Phase.FINISHED:
            return None
        if self._orphan_timeout is not None:
            self._deadline = now + self._orphan_timeout
        return None if self.stopping else self._stop(exc or StopError("the controller is gone"))

    def _stop(self, reason: Exception | None) -> StopAsked:
        self.stopping = True
        return StopAsked(reason)

    # calls in

    def ready(self, peer: PeerDescriptor, endpoints: Mapping[str, Sequence[str]]) -> None:
        """Send READY."""
        self._send(self.ready_msg(peer, endpoints))

    def answer(self, error: BaseException | None = None) -> None:
        """Send OK, or ERROR; nothing after FINISHED. Raises `LocalProtocolError` before READY."""
        if self.phase is not Phase.FINISHED:
            self._send(self.ok_msg() if error is None else self.error_msg(error))

    def finish(self, outcome: Outcome, details: BaseException | Sequence[str] | None = None) -> None:
        """Send FINISHED, if there is a controller; details that are too long are left out."""
        msg = self.finished_msg(outcome, details)
        frames = msg.as_zmsg()
        if len(frames) > MAX_FRAMES or sum(map(len, frames)) > DEFAULT_MAX_MESSAGE_SIZE:
            msg.details = [TOO_LONG]
        self._deadline = None
        self._send(msg)
        if self.lost:
            self.outbox.pop()

    def check_sending(self, msg: ICCPMessage) -> None:
        """Raise `LocalProtocolError` for a message that must not be sent now."""
        if msg.msg_type is None or (self.phase, msg.msg_type) not in TRANSITIONS:
            raise LocalProtocolError(f"a component that is {self.phase.value} does not send {msg}")

    def sent(self, msg: ICCPMessage) -> None:
        """Note that a message is on its way."""
        assert msg.msg_type is not None
        self.phase = TRANSITIONS[self.phase, msg.msg_type]

    def _send(self, msg: ICCPMessage) -> None:
        self.check_sending(msg)
        self.sent(msg)
        self.outbox.append(msg)

    # time

    def next_deadline(self) -> float | None:
        """The time to call `expire`; None for never."""
        return self._deadline

    def expire(self, now: float) -> Orphaned | None:
        """`Orphaned` if the time of a component without a controller is over."""
        if self._deadline is None or now < self._deadline:
            return None
        self._deadline = None
        return Orphaned()


def text_of(exc: BaseException, describe: Callable[[], str]) -> str:
    """The text of an exception, even of one that cannot describe itself."""
    try:
        return describe()[:ERROR_TEXT_LIMIT]
    except Exception:
        return type(exc).__name__


def traceback_of(exc: BaseException) -> list[str]:
    """The last lines of an exception's traceback, which say what it is."""
    lines: list[str] = []
    left = ERROR_TEXT_LIMIT
    for line in reversed(traceback.format_exception(exc)):
        lines.append(line[:left])
        left -= len(line)
        if left <= 0:
            break
    return lines[::-1]
