"""The controller's side of the conversation with one component. No channel, no thread, no clock.

Messages go in by `receive`, calls by `configure` and `stop`; what is to be sent stands in `outbox`. `LifeCore` adds
the component's process and its time limits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable

from packetwire.errors import LocalProtocolError
from packetwire.iccp.config import Configuration, config_proto
from packetwire.iccp.messages import ICCPMessage, MsgType, Request, message
from packetwire.iccp.phases import CONTROLLER_SENDS, TRANSITIONS, Phase
from packetwire.iccp.refusals import violation
from packetwire.messaging.descriptors import PeerDescriptor


class ControllerMessages:
    """The messages of a controller."""

    def _create(self, msg_type: MsgType) -> ICCPMessage:
        return message(msg_type)

    def request_config_msg(self, config: Configuration = None) -> ICCPMessage:
        """REQUEST CONFIGURE, with a mapping, a `Config`, a ConfigProto, or an object with `save_proto`."""
        msg = self._create(MsgType.REQUEST)
        msg.request = Request.CONFIGURE
        msg.config = config_proto(config)
        return msg

    def stop_msg(self) -> ICCPMessage:
        """STOP: the component should end."""
        return self._create(MsgType.STOP)


class ControllerCore(ControllerMessages):
    """One component, in its conversation with its controller.

    Answers come in the order of their requests, because nothing in them says which one they answer. Subclasses do
    more about what has come.
    """

    def __init__(self) -> None:
        self.outbox: deque[ICCPMessage] = deque()
        self.phase = Phase.NEW
        self.peer: PeerDescriptor | None = None
        self.endpoints: dict[str, list[str]] = {}
        self.finished: ICCPMessage | None = None
        """FINISHED, once it has come."""
        self._unanswered: deque[Hashable] = deque()
        self._take: dict[MsgType, Callable[[ICCPMessage, float], None]] = {
            MsgType.READY: self._take_ready,
            MsgType.OK: self._take_answer,
            MsgType.ERROR: self._take_answer,
            MsgType.FINISHED: self._take_finished,
        }

    def receive(self, msg: ICCPMessage, now: float) -> None:
        """A message has come. Raises `StopError` for one that breaks the rules."""
        assert msg.msg_type is not None
        if msg.msg_type in CONTROLLER_SENDS:
            raise violation("wrong-side", peer="component", name=msg)
        after = TRANSITIONS.get((self.phase, msg.msg_type))
        if after is None:
            raise violation("out-of-order", name=msg.msg_type.name, phase=self.phase.value)
        self.phase = after
        self._take[msg.msg_type](msg, now)

    def configure(self, config: Configuration, waiter: Hashable) -> None:
        """Send REQUEST CONFIGURE; its answer is for `waiter`."""
        msg = self.request_config_msg(config)
        if self.phase is not Phase.READY:
            raise LocalProtocolError(f"{self} is not ready to be configured")
        self.outbox.append(msg)
        self._unanswered.append(waiter)

    def withdraw(self) -> None:
        """Take the last `configure` back, if its message is still in the outbox."""
        if self.outbox:
            self.outbox.pop()
            self._unanswered.pop()

    def stop(self, now: float) -> None:
        """Send STOP."""
        self.outbox.append(self.stop_msg())

    def check_sending(self, msg: ICCPMessage) -> None:
        """Raise `LocalProtocolError` for a message that controllers do not send."""
        if msg.msg_type not in CONTROLLER_SENDS:
            raise LocalProtocolError(f"a controller does not send {msg}")

    def _take_ready(self, msg: ICCPMessage, now: float) -> None:
        self.peer, self.endpoints = msg.peer, msg.endpoints

    def _take_answer(self, msg: ICCPMessage, now: float) -> None:
        if self._unanswered:
            self._unanswered.popleft()

    def _take_finished(self, msg: ICCPMessage, now: float) -> None:
        self.finished = msg
