"""The run of a component: the shell around `ComponentCore` that threads and event loops share.

The two subclasses have a connection, a way to keep calls to the core apart, and a watch for its deadline.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import uuid
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from packetwire.core.timelimits import time_limit
from packetwire.errors import LocalProtocolError
from packetwire.iccp.componentcore import ComponentCore, ConfigureAsked, StopAsked
from packetwire.iccp.config import Config
from packetwire.iccp.control import Control, Terminated
from packetwire.iccp.messages import ICCPMessage, Outcome
from packetwire.iccp.packets import PacketEnd, packet_of
from packetwire.messaging.descriptors import PeerDescriptor
from packetwire.messaging.errors import StopError, is_for_program
from packetwire.messaging.protobuf import ProtoMessage
from packetwire.streams.bytestream import ByteStream

logger = logging.getLogger("packetwire")

DEFAULT_ORPHAN_TIMEOUT = 10.0
"""Seconds for the main function to return when its controller is gone; then SIGTERM is raised."""

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_TERMINATED = 128 + signal.SIGTERM

ConfigHandler = Callable[[ProtoMessage], object]
StopHandler = Callable[[Exception | None], object]
Details = str | Sequence[str] | None
"""The result of a main function: lines of text about how the work ended."""


class Ending:
    """How a main function has ended."""

    def __init__(self) -> None:
        self.details: list[str] = []
        self.status = EXIT_OK


class Run(PacketEnd):
    """A component, in the process that a controller has started, from READY to FINISHED."""

    def __init__(
        self,
        on_config_request: ConfigHandler | None,
        on_stop_component: StopHandler | None,
        with_traceback: bool,
        orphan_timeout: float | None,
    ) -> None:
        limit = time_limit(orphan_timeout, "orphan_timeout")
        self.core = ComponentCore(with_traceback=with_traceback, orphan_timeout=limit)
        self.control = Control()
        self._on_config_request = on_config_request
        self._on_stop_component = on_stop_component

    @abstractmethod
    def _apart(self) -> AbstractContextManager[object]:
        """Keeps calls to the core apart from others."""

    @property
    @abstractmethod
    def _now(self) -> float:
        """The time."""

    @abstractmethod
    def _submit(self, rq_type: int, payload: bytes) -> None:
        """Send a packet request, as far as that goes."""

    @abstractmethod
    def _watch(self, deadline: float) -> None:
        """Have `core.expire` called when that time has come."""

    # what the component says

    def say_ready(self, peer: PeerDescriptor | None, endpoints: Mapping[str, Sequence[str]] | None) -> None:
        """Say READY."""
        with self._apart():
            self.core.ready(peer or this_peer(), endpoints or {})
        self._send()

    def _say_finished(self, outcome: Outcome, details: BaseException | Sequence[str] | None) -> None:
        with self._apart():
            self.core.finish(outcome, details)
        self._send()

    def _send(self) -> None:
        while True:
            with self._apart():
                msg = self.core.outbox.popleft() if self.core.outbox else None
            if msg is None:
                return
            self._submit(*packet_of(msg))

    @contextmanager
    def ending(self) -> Iterator[Ending]:
        """Say FINISHED about how the main function, which runs inside of this, has ended."""
        ending = Ending()
        try:
            yield ending
            if self.control.reason is not None:
                raise self.control.reason
        except Exception as error:
            if error is not self.control.reason:
                logger.error("the component failed", exc_info=error)
            self._say_finished(Outcome.ERROR, error)
            ending.status = EXIT_FAILED
        except SystemExit as leaving:
            self._say_finished(*outcome_of_exit(leaving))
            raise
        except BaseException as error:
            self._say_finished(Outcome.ERROR, error)
            raise
        else:
            self._say_finished(Outcome.OK, ending.details)

    # what its controller says

    def take_message(self, msg: ICCPMessage) -> object:
        with self._apart():
            try:
                asked = self.core.receive(msg, self._now)
            except StopError as error:
                asked = self.core.refuse(error)
        if isinstance(asked, ConfigureAsked):
            return self._configure(asked.config)
        self._stop(asked)
        return b""

    def take_violation(self, exc: Exception) -> None:
        with self._apart():
            asked = self.core.refuse(exc)
        self._stop(asked)

    def take_loss(self, exc: Exception) -> None:
        with self._apart():
            asked, deadline = self.core.lose(exc, self._now), self.core.next_deadline()
        if deadline is not None:
            self._watch(deadline)
        self._stop(asked)

    def _configure(self, config: ProtoMessage) -> object:
        """Have the program take a configuration; the payload of the response."""
        try:
            if self._on_config_request is not None:
                self._on_config_request(config)
        except BaseException as error:
            if is_for_program(error):
                raise
            return self._refused(error)
        return self._taken(config)

    def _taken(self, config: ProtoMessage) -> bytes:
        self.control.config = Config.from_proto(config)
        return self._answer(None)

    def _refused(self, error: BaseException) -> bytes:
        if not isinstance(error, StopError):
            logger.error("the configuration was refused", exc_info=error)
        return self._answer(error)

    def _answer(self, error: BaseException | None) -> bytes:
        """OK or ERROR, as the payload of a response; nothing after FINISHED."""
        with self._apart():
            try:
                self.core.answer(error)
            except LocalProtocolError as too_early:
                asked = self.core.refuse(too_early)
            else:
                return packet_of(self.core.outbox.pop())[1] if self.core.outbox else b""
        self._stop(asked)
        return b""

    def _stop(self, asked: StopAsked | None) -> None:
        if asked is None or not self.control.stop(asked.reason) or self._on_stop_component is None:
            return
        try:
            self._on_stop_component(asked.reason)
        except Exception:
            logger.exception("on_stop_component failed")


def standard() -> ByteStream:
    """Standard input and output, as the stream to the controller."""
    from packetwire.streams.stdio import stdio

    return stdio()


def details_of(result: Details) -> list[str]:
    """The result of a main function, as lines; raises TypeError for anything but strings."""
    if result is None:
        return []
    lines = [result] if isinstance(result, str) else list(result)
    if not all(isinstance(line, str) for line in lines):
        raise TypeError(f"a component's main function returns None, a string or several, not {result!r:.100}")
    return lines


def outcome_of_exit(leaving: SystemExit) -> tuple[Outcome, list[str]]:
    """The outcome and details of a SystemExit."""
    if isinstance(leaving, Terminated):
        return Outcome.ERROR, ["terminated by SIGTERM"]
    if leaving.code is None or leaving.code == EXIT_OK:
        return Outcome.OK, []
    return Outcome.ERROR, [leaving.code if isinstance(leaving.code, str) else f"exit status {leaving.code}"]


def this_peer() -> PeerDescriptor:
    """This process, with a new identity."""
    return PeerDescriptor(uuid.uuid4(), os.getpid(), socket.gethostname() or "localhost")
