"""Being a component: a process that a controller has started, configures, and stops."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from packetwire.connection import PacketConnection
from packetwire.core.timelimits import time_limit
from packetwire.errors import ConnectionEnded
from packetwire.iccp.component import ICCPComponent
from packetwire.iccp.config import Config
from packetwire.iccp.messages import Outcome
from packetwire.iccp.protocol import MAX_FRAMES
from packetwire.iccp.requests import ICCPPacketChannel
from packetwire.messaging.channel import Channel
from packetwire.messaging.descriptors import PeerDescriptor
from packetwire.messaging.protobuf import ProtoMessage
from packetwire.messaging.session import Session
from packetwire.streams import forking
from packetwire.streams.open import PacketConnectionRecvSend

logger = logging.getLogger("packetwire")

DEFAULT_ORPHAN_TIMEOUT = 10.0
"""Seconds for the main function to return when its controller is gone; then SIGTERM is raised."""

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_TERMINATED = 128 + signal.SIGTERM


class Terminated(SystemExit):
    """Raised in the main thread by SIGTERM, so that FINISHED is said then, too."""


class Control:
    """What the main function of a component knows of its controller."""

    def __init__(self) -> None:
        self.config: Config | None = None
        """The last configuration that was taken."""
        self.reason: Exception | None = None
        """Why to stop, if not because the controller asks for it."""
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._waiting: list[Callable[[], object]] = []
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the controller is the parent's. Here it is time to stop."""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._stop.set()
        self._waiting = []
        self.reason = self.reason or ConnectionEnded(forking.of_parent("the connection to the controller"))

    @property
    def stopping(self) -> bool:
        """Whether to stop."""
        return self._stop.is_set()

    def wait_stop(self, timeout: float | None = None) -> bool:
        """Wait until it is time to stop; false after `timeout` seconds."""
        return self._stop.wait(time_limit(timeout))

    async def stopped(self) -> None:
        """Wait until it is time to stop, in an event loop."""
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(stopped.set)
            except RuntimeError:
                pass  # the loop was closed: nobody waits any more

        with self._lock:
            if self.stopping:
                return
            self._waiting.append(wake)
        try:
            await stopped.wait()
        finally:
            with self._lock:
                if wake in self._waiting:
                    self._waiting.remove(wake)

    def stop(self, reason: Exception | None = None) -> bool:
        """It is time to stop; false if it was already."""
        with self._lock:
            if self.stopping:
                return False
            self.reason = reason
            self._stop.set()
            waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()
        return True


def run_component(
    main: Callable[[Control], Any] | None = None,
    *,
    endpoints: Mapping[str, Sequence[str]] | None = None,
    on_config_request: Callable[[ProtoMessage], object] | None = None,
    on_stop_component: Callable[[Exception | None], object] | None = None,
    with_traceback: bool = False,
    orphan_timeout: float | None = DEFAULT_ORPHAN_TIMEOUT,
    peer: PeerDescriptor | None = None,
    recv_send: PacketConnectionRecvSend | None = None,
) -> int:
    """Be a component, in the process that a controller has started: say READY, run `main`, say FINISHED.

    `main(control)` is the work, and may be a coroutine function; it returns when `control` says that it is time to
    stop, or has nothing more to do. What it returns is told: nothing, a text, or several. What it raises is told as
    an ERROR, with its traceback if `with_traceback`. Without `main` the component waits to be stopped.

    `on_config_request(config)` and `on_stop_component(exc)` are called by the thread that reads. Standard output
    belongs to the controller: what is printed goes to standard error. SIGTERM raises `Terminated` in `main`; it is
    raised too if that still runs `orphan_timeout` seconds after the controller is gone.

    Returns the exit status: 0, or 1 if it failed. SystemExit and KeyboardInterrupt are told, and raised again.
    """
    with Termination() as termination:
        run = _Run(on_config_request, on_stop_component, with_traceback, orphan_timeout, termination)
        run.open(recv_send)
        try:
            run.say_ready(peer or this_peer(), endpoints or {})
            return run.work(main)
        finally:
            run.close()


class _Run:
    """The run of a component: its protocol, and the connection to its controller."""

    def __init__(
        self,
        on_config_request: Callable[[ProtoMessage], object] | None,
        on_stop_component: Callable[[Exception | None], object] | None,
        with_traceback: bool,
        orphan_timeout: float | None,
        termination: Termination,
    ) -> None:
        self._orphan_timeout = time_limit(orphan_timeout, "orphan_timeout")
        self._termination = termination
        self._on_config_request = on_config_request
        self._on_stop_component = on_stop_component
        self._control = Control()
        self._protocol = _ComponentOf(self, with_traceback=with_traceback)
        self._protocol.on_config_request = self._configure
        self._protocol.on_stop_component = self._stop

    def open(self, recv_send: PacketConnectionRecvSend | None) -> None:
        if recv_send is None:
            from packetwire.streams.stdio import stdio

            recv_send = stdio()
        self._connection = PacketConnection(recv_send, "controller")
        self._channel = ICCPPacketChannel(self._protocol, self._connection)
        self._session = self._channel.connect()
        self._connection.open()

    def say_ready(self, peer: PeerDescriptor, endpoints: Mapping[str, Sequence[str]]) -> None:
        self._channel.send(self._protocol.ready_msg(peer, endpoints), self._session)

    def work(self, main: Callable[[Control], Any] | None) -> int:
        """Run the main function and tell how it ended; the exit status."""
        try:
            with self._termination.raised():
                details = details_of(self._call(main))
            if self._control.reason is not None:
                raise self._control.reason
        except Exception as error:
            if error is not self._control.reason:
                logger.error("the component failed", exc_info=error)
            self._say_finished(Outcome.ERROR, error)
            return EXIT_FAILED
        except SystemExit as leaving:
            self._say_finished(*outcome_of_exit(leaving))
            raise
        except BaseException as error:
            self._say_finished(Outcome.ERROR, error)
            raise
        self._say_finished(Outcome.OK, details)
        return EXIT_OK

    def close(self) -> None:
        self._connection.close()

    def _call(self, main: Callable[[Control], Any] | None) -> Any:
        if main is None:
            self._control.wait_stop()
            return None
        result = main(self._control)
        return asyncio.run(result) if inspect.iscoroutine(result) else result

    def _say_finished(self, outcome: Outcome, details: BaseException | Sequence[str] | None) -> None:
        self._on_stop_component = None  # what it would be told from now on, it has done
        if self._channel.forked:
            return  # that is the parent's to say
        msg = self._protocol.finished_msg(outcome, details)
        frames = msg.as_zmsg()
        if len(frames) > MAX_FRAMES or sum(map(len, frames)) > self._protocol.max_message_size:
            msg.details = ["what is to be told of the end is too long to be sent"]
        with self._channel.lock:
            if self._channel.session is not None:  # else there is nobody to tell
                self._channel.send(msg, self._session)

    def _configure(self, config: ProtoMessage) -> None:
        if self._on_config_request is not None:
            self._on_config_request(config)
        self._control.config = Config.from_proto(config)

    def _stop(self, exc: Exception | None) -> None:
        first, handler = self._control.stop(exc), self._on_stop_component
        if first and handler is not None:
            try:
                handler(exc)
            except Exception:
                logger.exception("on_stop_component failed")

    def take_loss(self) -> None:
        """The controller is gone."""
        if self._orphan_timeout is not None:
            self._termination.come_within(self._orphan_timeout)


class _ComponentOf(ICCPComponent):
    """The component's side of the protocol, for one run."""

    def __init__(self, run: _Run, *, with_traceback: bool) -> None:
        super().__init__(with_traceback=with_traceback)
        self._run = run

    def handle_session_lost(self, channel: Channel, session: Session, exc: Exception | None) -> None:
        super().handle_session_lost(channel, session, exc)
        self._run.take_loss()


class Termination:
    """SIGTERM raises `Terminated` in the main function, if that runs in the main thread and nobody else handles it.

    One that comes before is raised when the main function begins, one that comes after does nothing.
    """

    def __init__(self) -> None:
        self._has_come = self._raises = self._is_over = self._is_ours = False
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the timer is the parent's."""
        self._lock = threading.Lock()
        self._timer = None

    def __enter__(self) -> Self:
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._is_ours = in_main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        if self._is_ours:
            signal.signal(signal.SIGTERM, self._take)
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()
        if self._is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Raise it inside of this."""
        self._raises = True
        try:
            if self._has_come:
                raise Terminated(EXIT_TERMINATED)
            yield
        finally:
            self._raises = False
            self._end()

    def come_within(self, seconds: float) -> None:
        """Send it to this process after that time, if the main function is not over by then."""
        with self._lock:
            if self._is_ours and not self._is_over:
                self._timer = threading.Timer(seconds, self._come)
                self._timer.daemon = True
                self._timer.start()

    def _end(self) -> None:
        with self._lock:
            self._is_over = True
            if self._timer is not None:
                self._timer.cancel()

    def _come(self) -> None:
        with self._lock:
            if not self._is_over:
                os.kill(os.getpid(), signal.SIGTERM)

    def _take(self, signum: int, frame: object) -> None:
        self._has_come = True
        if self._raises:
            self._raises = False  # once: what it interrupts needs time to clean up
            raise Terminated(EXIT_TERMINATED)


def details_of(result: Any) -> list[str]:
    """What a main function returned, as lines; raises TypeError for what is none."""
    if result is None:
        return []
    lines = [result] if isinstance(result, str) else list(result)
    if not all(isinstance(line, str) for line in lines):
        raise TypeError(f"a component's main function returns None, a text or several, not {result!r:.100}")
    return lines


def outcome_of_exit(leaving: SystemExit) -> tuple[Outcome, list[str]]:
    """What is told of a SystemExit."""
    if isinstance(leaving, Terminated):
        return Outcome.ERROR, ["terminated by SIGTERM"]
    if leaving.code is None or leaving.code == EXIT_OK:
        return Outcome.OK, []
    return Outcome.ERROR, [leaving.code if isinstance(leaving.code, str) else f"exit status {leaving.code}"]


def this_peer() -> PeerDescriptor:
    """This process, with a new identity."""
    return PeerDescriptor(uuid.uuid4(), os.getpid(), socket.gethostname() or "localhost")
