"""The life of a component as a state machine: each way through it, with no process and no clock."""

from __future__ import annotations

from typing import Any

import pytest

from packetwire import (
    ChildExited,
    ConnectionEnded,
    LocalProtocolError,
    RemoteProtocolError,
    RequestTimeout,
    StreamTruncated,
)
from packetwire.iccp import (
    ComponentError,
    ConfigureRefused,
    Finished,
    ICCPMessage,
    MsgType,
    Outcome,
    State,
    StopError,
    TimeLimits,
)
from packetwire.iccp.lifecore import KILL_WAIT, LAST_WORDS_WAIT, LifeCore
from packetwire.iccp.lifeevents import Answered, BecameReady, Ended, Leaving, Signal, Step

from .children import OK, READY, finished
from .fake import make

READY_LIMIT, STOP_LIMIT, TERM_LIMIT, EXIT_LIMIT = 30.0, 10.0, 5.0, 4.0
NO = make(MsgType.ERROR, error="no such disk")
KILLED = ChildExited("child x was killed by signal 9 (SIGKILL)", ["x"], -9, b"")
EXITED = ChildExited("child x exited with status 3", ["x"], 3, b"oops")


class Life:
    """A core, and the time."""

    def __init__(self) -> None:
        limits = TimeLimits(ready=READY_LIMIT, stop=STOP_LIMIT, terminate=TERM_LIMIT, exit=EXIT_LIMIT)
        self.core = LifeCore("worker", limits)
        self.now = 100.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.core, name)

    def started(self) -> Life:
        self.core.started(7, self.now)
        self.core.opened(self.now)
        return self

    def ready(self) -> Life:
        self.started().hear(READY)
        assert self.events() == [BecameReady()]
        return self

    def stopping(self) -> Life:
        self.ready().core.stop(self.now)
        assert self.sent() == [MsgType.STOP]
        return self

    def hear(self, msg: ICCPMessage) -> None:
        self.core.receive(msg, self.now)

    def events(self) -> list[Any]:
        return self.core.take_events()

    def sent(self) -> list[MsgType | None]:
        sent = [msg.msg_type for msg in self.core.outbox]
        self.core.outbox.clear()
        return sent

    def wait(self, seconds: float) -> list[Any]:
        """What comes about when the next deadline has come, which is in `seconds`."""
        deadline = self.core.next_deadline()
        assert deadline is not None
        assert deadline == pytest.approx(self.now + seconds)
        self.core.expire(deadline - 0.001)
        assert self.events() == []
        self.now = deadline
        self.core.expire(self.now)
        return self.events()

    def end(self, returncode: int | None = 0, error: Exception | None = None) -> Finished | Exception:
        """How it has ended, once the connection is closed; nothing else is left to do."""
        assert self.core.next_deadline() is None
        self.core.closed(returncode, error)
        *_, ended = self.events()
        assert isinstance(ended, Ended)
        assert (self.core.state, self.core.next_deadline(), self.sent()) == (State.ENDED, None, [])
        self.core.closed(returncode)
        self.core.stop(self.now)
        self.core.kill(self.now)
        self.core.lost(KILLED, self.now)
        self.core.exited(KILLED, self.now)
        assert (self.events(), self.sent()) == ([], [])
        return ended.result


def test_a_whole_life() -> None:
    life = Life()
    assert (str(life.core), life.state) == ("component worker", State.STARTING)
    life.started()
    assert (str(life.core), life.state) == ("component worker (pid 7)", State.STARTING)
    life.hear(READY)
    assert (life.state, life.peer, life.endpoints) == (State.READY, READY.peer, READY.endpoints)
    assert (life.events(), life.next_deadline()) == ([BecameReady()], None)
    life.configure({"n": 1}, "first")
    life.configure({"n": 2}, "second")
    assert life.sent() == [MsgType.REQUEST] * 2
    life.hear(OK)
    life.hear(NO)
    first, second = life.events()
    assert first == Answered("first")
    assert second.waiter == "second"
    assert isinstance(second.error, ConfigureRefused)
    assert second.error.error == "no such disk"
    life.stop(life.now)
    life.stop(life.now)
    assert (life.state, life.sent()) == (State.STOPPING, [MsgType.STOP])
    life.hear(finished(Outcome.OK, "done"))
    assert (life.state, life.events()) == (State.STOPPING, [Leaving()])
    assert life.end(0) == Finished(Outcome.OK, ["done"], 0)
    with pytest.raises(ConnectionEnded, match="worker .* has finished"):
        life.configure({}, "late")


@pytest.mark.parametrize("call", ["stop", "kill"])
def test_what_is_asked_before_its_process_is_there_is_done_then(call: str) -> None:
    life = Life()
    getattr(life.core, call)(life.now)
    assert (life.state, life.sent(), life.events()) == (State.STOPPING, [], [])
    life.started()
    if call == "stop":
        assert (life.sent(), life.step) == ([MsgType.STOP], Step.STOPPING)
        life.hear(READY)
        assert (life.events(), life.step) == ([BecameReady()], Step.STOPPING)
    else:
        assert (life.sent(), life.step, life.events()) == ([], Step.KILLING, [Signal.KILL])


@pytest.mark.parametrize("stopped", [False, True])
def test_it_is_heard_before_anything_can_be_sent(stopped: bool) -> None:
    life = Life()
    life.core.started(7, life.now)
    if stopped:
        life.stop(life.now)
    life.hear(READY)
    assert (life.events(), life.sent(), life.next_deadline()) == ([BecameReady()], [], None)
    life.opened(life.now)
    assert life.sent() == [MsgType.STOP] * stopped
    life.hear(finished())
    assert isinstance(life.end(), Finished)


def test_it_cannot_be_started() -> None:
    life = Life()
    error = FileNotFoundError("no such command")
    life.closed(None, error)
    assert life.events() == [BecameReady(error), Ended(error)]


def test_an_early_end_fails_all_who_wait() -> None:
    life = Life().ready()
    life.configure({}, "one")
    life.configure({}, "two")
    life.lost(EXITED, life.now)
    assert life.events() == [Leaving()]
    life.closed(3)
    one, two, ended = life.events()
    assert (one.waiter, two.waiter) == ("one", "two")
    assert one.error is two.error is ended.result


def test_when_it_can_be_configured() -> None:
    life = Life()
    for step in (life.started, lambda: life.stop(life.now)):
        with pytest.raises(LocalProtocolError, match="is not ready"):
            life.configure({}, "early")
        step()
    life = Life().stopping()
    life.configure({}, "in time")
    with pytest.raises(ValueError, match="cannot be sent"):
        life.configure({"x": object()}, "wrong")
    assert life.sent() == [MsgType.REQUEST]
    life.hear(finished())
    with pytest.raises(ConnectionEnded, match="is ending"):
        life.configure({}, "late")


def test_a_configuration_is_withdrawn() -> None:
    life = Life().ready()
    life.configure({}, "sent")
    life.configure({}, "withdrawn")
    life.withdraw()
    assert life.sent() == [MsgType.REQUEST]
    life.hear(OK)
    life.hear(OK)
    assert life.events() == [Answered("sent")]


# by force


def by_force(life: Life, first: list[Any], *, gone_after: Signal = Signal.TERMINATE) -> None:
    """It is sent SIGTERM, and if it lives on SIGKILL; then it is gone."""
    assert first == [Signal.TERMINATE]
    if gone_after is Signal.KILL:
        assert life.wait(TERM_LIMIT) == [Signal.KILL]
    life.core.exited(KILLED, life.now)


@pytest.mark.parametrize("gone_after", Signal)
@pytest.mark.parametrize("limit", [READY_LIMIT, STOP_LIMIT])
def test_it_is_late(limit: float, gone_after: Signal) -> None:
    life = Life().started() if limit is READY_LIMIT else Life().stopping()
    by_force(life, life.wait(limit), gone_after=gone_after)
    assert (life.events(), life.step, life.state) == ([], Step.LISTENING, State.STOPPING)
    life.hear(READY)
    life.hear(finished())
    life.lost(KILLED, life.now)
    assert life.events() == [Leaving()]
    end = life.end(-9)
    assert isinstance(end, RequestTimeout if limit is READY_LIMIT else ChildExited)
    what = "READY within 30 s" if limit is READY_LIMIT else "FINISHED within 10 s of STOP"
    assert str(end) == f"component worker (pid 7) did not say {what}; {KILLED}"


def test_one_that_was_late_stays_so_if_it_is_stopped_then() -> None:
    life = Life().started()
    assert life.wait(READY_LIMIT) == [Signal.TERMINATE]
    life.stop(life.now)
    life.exited(EXITED, life.now)
    life.lost(EXITED, life.now)
    assert life.sent() == []
    assert isinstance(life.end(), RequestTimeout)


def test_last_words_are_not_waited_for_for_ever() -> None:
    life = Life().stopping()
    by_force(life, life.wait(STOP_LIMIT))
    assert life.wait(LAST_WORDS_WAIT) == [Leaving()]
    assert "killed by signal 9" in str(life.end(-9))


def test_last_words_are_quoted() -> None:
    life = Life().stopping()
    by_force(life, life.wait(STOP_LIMIT))
    ended = ChildExited(*KILLED.args, ["x"], -9, b"")
    ended.__cause__ = StreamTruncated("the stream ended inside a packet: b'hi'")
    life.lost(ended, life.now)
    assert str(life.end(-9)).endswith("; the stream ended inside a packet: b'hi'")


def test_one_that_survives_sigkill_is_left_behind() -> None:
    life = Life().stopping()
    assert life.wait(STOP_LIMIT) == [Signal.TERMINATE]
    assert life.wait(TERM_LIMIT) == [Signal.KILL]
    assert life.wait(EXIT_LIMIT + KILL_WAIT) == []
    assert life.wait(LAST_WORDS_WAIT) == [Leaving()]
    assert str(life.end(None)).endswith("of STOP; its process does not end")


@pytest.mark.parametrize("step", [Step.STARTING, Step.RUNNING, Step.STOPPING, Step.TERMINATING])
def test_it_is_killed_by_us(step: Step) -> None:
    life = {Step.STARTING: Life().started, Step.RUNNING: Life().ready}.get(step, Life().stopping)()
    if step is Step.TERMINATING:
        assert life.wait(STOP_LIMIT) == [Signal.TERMINATE]
    life.kill(life.now)
    assert (life.events(), life.step) == ([Signal.KILL], Step.KILLING)
    life.kill(life.now)
    assert life.events() == [Signal.KILL]
    life.exited(KILLED, life.now)
    life.lost(KILLED, life.now)
    assert life.events() == [Leaving()]
    end = life.end(-9)
    assert isinstance(end, ChildExited)
    assert ("was killed; child x" in str(end)) is (step is not Step.TERMINATING)


# it breaks the rules, or falls silent


@pytest.mark.parametrize("msg", [READY, make(MsgType.STOP)], ids=str)
def test_it_breaks_a_rule(msg: ICCPMessage) -> None:
    life = Life().ready()
    life.hear(msg)
    by_force(life, life.events())
    assert life.events() == [Leaving()]
    end = life.end(-15)
    assert isinstance(end, ComponentError)
    assert "broke the protocol" in str(end)
    assert isinstance(end.__cause__, StopError)


def test_only_its_first_fault_counts() -> None:
    life = Life().started()
    life.refuse(ValueError("first"), life.now)
    life.refuse(ValueError("second"), life.now)
    by_force(life, life.events())
    assert str(life.end(-15)) == "component worker (pid 7) broke the protocol: first"


def test_it_prints_what_is_no_packet() -> None:
    life = Life().started()
    ended = ConnectionEnded("b'Welcome' is no packet")
    ended.__cause__ = RemoteProtocolError("length", "a packet of 87 bytes")
    life.lost(ended, life.now)
    by_force(life, life.events())
    end = life.end(-15)
    assert isinstance(end, ComponentError)
    assert str(end).endswith("b'Welcome' is no packet (does it print on its standard output?)")
    assert end.__cause__ is ended


@pytest.mark.parametrize("order", ["exit, stream", "stream with exit", "stream, exit"])
@pytest.mark.parametrize("is_ready", [False, True])
def test_it_ends_without_a_word(order: str, is_ready: bool) -> None:
    life = Life().ready() if is_ready else Life().started()
    closed = ConnectionEnded("the stream has ended")
    if order == "exit, stream":
        life.exited(EXITED, life.now)
        assert life.events() == [], "its last words may still come"
        life.lost(closed, life.now)
    elif order == "stream with exit":
        life.lost(EXITED, life.now)
    else:
        life.lost(closed, life.now)
        assert (life.events(), life.step) == ([], Step.EXITING)
        life.exited(EXITED, life.now)
    assert life.events() == [Leaving()]
    end = life.end(3)
    assert isinstance(end, ChildExited)
    assert (end.returncode, end.stderr) == (3, b"oops")
    when = "without FINISHED" if is_ready else "before READY"
    assert str(end) == f"component worker (pid 7) ended {when}: {EXITED}"


def test_it_has_exited_and_its_last_words_are_finished() -> None:
    life = Life().ready()
    life.exited(EXITED, life.now)
    life.hear(finished(Outcome.ERROR, "bye"))
    assert life.events() == [Leaving()]
    assert life.end(3) == Finished(Outcome.ERROR, ["bye"], 3)


def test_it_closes_its_output_and_lives_on() -> None:
    life = Life().ready()
    closed = ConnectionEnded("it closed its standard output and still runs")
    life.lost(closed, life.now)
    life.kill(life.now)
    assert life.events() == [Signal.KILL]
    assert life.wait(EXIT_LIMIT) == [Signal.KILL]
    life.exited(KILLED, life.now)
    end = life.end(-9)
    assert isinstance(end, ComponentError)
    assert end.__cause__ is closed


def test_what_fails_while_the_connection_is_closed_is_its_end() -> None:
    life = Life().ready()
    life.hear(finished())
    error = OSError("no more descriptors")
    assert life.end(None, error) is error


def test_answers_unasked_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    life = Life().started()
    life.hear(NO)
    assert "says ICCPMessage[ERROR] unasked: no such disk" in caplog.text
    assert life.events() == []
