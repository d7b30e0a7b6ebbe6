"""Messages, event sockets, sessions and the handling of messages, whatever the protocol."""

from __future__ import annotations

import gc
import logging
import pickle
import subprocess
import sys
from typing import Any

import pytest

from packetwire import PacketwireError, RemoteProtocolError
from packetwire.messaging import (
    ANY,
    INVALID,
    TIMEOUT,
    ChannelError,
    InvalidMessageError,
    Message,
    Protocol,
    Session,
    SimpleMessage,
    StopError,
    eventsocket,
    msg_bytes,
)

from .fake import ROUTE, FakeChannel


class Frame:
    """What a zmq.Frame looks like."""

    def __init__(self, octets: bytes) -> None:
        self.bytes = octets

    def __len__(self) -> int:
        return len(self.bytes)


class Noisy(Protocol):
    """Refuses messages without frames, and handles those that begin with b"go"."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Any] = []
        self.handlers = {b"go": self.go, b"fail": self.fail, b"stop": self.stop}

    def convert_msg(self, zmsg: Any) -> Message:
        if not zmsg:
            raise InvalidMessageError("nothing")
        return super().convert_msg(zmsg)

    def go(self, channel: Any, session: Session, msg: SimpleMessage) -> str:
        return f"went with {len(msg.data)}"

    def fail(self, channel: Any, session: Session, msg: SimpleMessage) -> None:
        raise ZeroDivisionError("oh")

    def stop(self, channel: Any, session: Session, msg: SimpleMessage) -> None:
        raise StopError("no more", code=7)

    def handle_session_lost(self, channel: Any, session: Session, exc: Exception | None) -> None:
        self.log.append(exc)

    def session_discarded(self, channel: Any, session: Session) -> None:
        self.log.append("discarded")


def test_frames_are_bytes() -> None:
    for frame in (b"abc", bytearray(b"abc"), memoryview(b"abc"), Frame(b"abc")):
        assert msg_bytes(frame) == b"abc"
        assert type(msg_bytes(frame)) is bytes
    for wrong in ("abc", 3, None):
        with pytest.raises(TypeError, match="a frame holds bytes"):
            msg_bytes(wrong)


def test_a_simple_message_is_its_frames() -> None:
    frames = [b"a", Frame(b"b"), bytearray(b"c")]
    msg = SimpleMessage()
    msg.from_zmsg(frames)
    assert msg.as_zmsg() == [b"a", b"b", b"c"]
    assert len(frames) == 3, "the caller's list is as it was"
    other = msg.copy()
    msg.as_zmsg().append(b"x")
    msg.clear()
    assert (msg.as_zmsg(), other.as_zmsg()) == ([], [b"a", b"b", b"c"])
    assert list(msg.get_keys()) == [None, ANY]
    assert list(other.get_keys()) == [b"a", ANY]
    assert repr(msg) == str(msg) == "SimpleMessage"


def test_sentinels() -> None:
    assert [repr(each) for each in (ANY, INVALID, TIMEOUT)] == ["ANY", "INVALID", "TIMEOUT"]


def test_errors_keep_their_attributes() -> None:
    error = StopError("no", code=4, other="x")
    assert (str(error), error.code, error.other) == ("no", 4, "x")  # type: ignore[attr-defined]
    assert StopError("no").code is None
    assert isinstance(error, PacketwireError)
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), copied.code) == ("no", 4)
    invalid = InvalidMessageError("why", "rule", token=b"1")
    assert isinstance(invalid, RemoteProtocolError)
    copied = pickle.loads(pickle.dumps(invalid))
    assert (str(copied), copied.code, copied.token) == ("why", "rule", b"1")


class Clock:
    @eventsocket
    def on_tick(self, number: int, unit: str = "s") -> None:
        """Called at each tick."""


def test_an_event_without_a_handler_does_nothing() -> None:
    clock = Clock()
    assert not clock.on_tick.is_set()
    assert clock.on_tick(1) is None
    assert Clock.on_tick.__doc__ == "Called at each tick."


def test_an_event_keeps_its_handler_and_returns_its_result() -> None:
    class Holder:
        def tick(self, number: int, unit: str = "s") -> str:
            return f"{number}{unit}"

    clock, other = Clock(), Clock()
    clock.on_tick = Holder().tick
    gc.collect()
    assert clock.on_tick(1) == "1s"
    assert clock.on_tick(1, "m") == "1m"
    assert clock.on_tick.is_set()
    assert not other.on_tick.is_set()
    clock.on_tick = None
    assert not clock.on_tick.is_set()
    clock.on_tick = None


@pytest.mark.parametrize("handler", [lambda: None, lambda number: None, lambda number, unit, more: None])
def test_a_handler_with_other_parameters_is_refused(handler: Any) -> None:
    clock = Clock()
    with pytest.raises(TypeError, match=r"on_tick is called with \(number, unit\)"):
        clock.on_tick = handler
    assert not clock.on_tick.is_set()


def test_a_handler_must_be_callable() -> None:
    with pytest.raises(ValueError, match="must be callable, not int"):
        Clock().on_tick = 3
    Clock().on_tick = print
    Clock().on_tick = lambda *args, **kwargs: None
    Clock().on_tick = lambda number, unit, more=1: None
    Clock().on_tick = lambda number, unit=None: None


def channel_of() -> tuple[FakeChannel, Noisy]:
    protocol = Noisy()
    return FakeChannel(protocol), protocol


def test_a_message_goes_to_its_handler_and_its_result_back() -> None:
    channel, _ = channel_of()
    assert channel.receive(timeout=1) is TIMEOUT
    channel.inbox.append((ROUTE, [b"go", b"on"]))
    assert channel.receive() == "went with 2"
    assert list(channel.sessions) == [ROUTE]


def test_a_catch_all_handler() -> None:
    channel, protocol = channel_of()
    protocol.handlers[ANY] = lambda channel, session, msg: "any"
    assert channel.deliver(ROUTE, [b"other"]) == "any"


def test_what_is_no_message_goes_to_its_event_and_makes_no_session() -> None:
    channel, protocol = channel_of()
    seen: list[Any] = []
    protocol.on_invalid_msg = lambda channel, session, exc: seen.append((session.routing_id, str(exc)))
    assert channel.deliver(ROUTE, []) is INVALID
    assert seen == [(ROUTE, "nothing")]
    assert channel.sessions == {}
    assert not protocol.is_valid([])
    assert protocol.is_valid([b"x"])


def test_the_exception_of_a_handler_goes_to_its_event_and_the_log(caplog: pytest.LogCaptureFixture) -> None:
    channel, protocol = channel_of()
    seen: list[Exception] = []
    protocol.on_exception = lambda channel, session, msg, exc: seen.append(exc)
    with caplog.at_level(logging.DEBUG):
        assert channel.deliver(ROUTE, [b"stop"]) is INVALID
        assert caplog.records == [], "a refusal is no fault"
        assert channel.deliver(ROUTE, [b"fail"]) is INVALID
        assert channel.deliver(ROUTE, [b"unknown"]) is INVALID
    assert [type(each) for each in seen] == [StopError, ZeroDivisionError, StopError]
    (record,) = caplog.records
    assert record.exc_info
    assert record.exc_info[0] is ZeroDivisionError


def test_a_failing_event_handler_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    channel, protocol = channel_of()
    protocol.on_exception = lambda channel, session, msg, exc: 1 / 0
    protocol.on_invalid_msg = lambda channel, session, exc: 1 / 0
    assert channel.deliver(ROUTE, [b"stop"]) is INVALID
    assert channel.deliver(ROUTE, []) is INVALID
    assert channel.deliver(ROUTE, [b"go"]) == "went with 1"
    assert [record.getMessage() for record in caplog.records] == [
        "the handler of exceptions failed",
        "the handler of an invalid message failed",
    ]


def test_sessions() -> None:
    channel, protocol = channel_of()
    assert channel.session is None
    first = channel.create_session(b"1")
    assert channel.session is first
    with pytest.raises(ChannelError, match="already"):
        channel.create_session(b"1")
    second = channel.create_session(b"2")
    with pytest.raises(ChannelError, match="2 sessions"):
        _ = channel.session
    channel.discard_session(first)
    channel.discard_session(first)
    replacement = channel.create_session(b"1")
    channel.discard_session(first)
    assert channel.sessions == {b"2": second, b"1": replacement}
    assert protocol.log == ["discarded"]
    channel.discard_session(Session())


def test_a_lost_session_is_told_and_discarded() -> None:
    channel, protocol = channel_of()
    cause = OSError("gone")
    channel.lose_session(channel.create_session(b"1"), cause)
    assert protocol.log == [cause, "discarded"]
    assert channel.sessions == {}


def test_a_protocol_decides_what_is_sent() -> None:
    channel, protocol = channel_of()
    session = channel.create_session(b"1")
    msg = SimpleMessage()
    msg.data = [b"x"]
    noted: list[str] = []
    protocol.after_sending = lambda *args: noted.append("sent")  # type: ignore[method-assign]
    assert channel.send(msg, session) == 0
    channel.error_number = 11
    assert channel.send(msg, session) == 11
    channel.error_number = 0
    protocol.before_sending = lambda *args: False  # type: ignore[method-assign]
    assert channel.send(msg, session) == 0
    assert (channel.sent, noted) == ([(b"1", [b"x"])], ["sent"])


def test_the_default_protocol() -> None:
    protocol = Protocol()
    assert protocol.session_type is Session
    assert (protocol.OID, protocol.UID.version, protocol.REVISION) == ("1.3.6.1.4.1.53446.1.5", 5, 1)
    channel = FakeChannel(protocol)
    assert protocol.accept_new_session(channel, b"", SimpleMessage())
    assert protocol.connect_with_session(channel)


@pytest.mark.timeout(60)
def test_neither_zmq_nor_protobuf_is_loaded_by_the_layer_below() -> None:
    code = (
        "import sys, packetwire, packetwire.messaging; "
        "print([m for m in sys.modules if m.split('.')[0] in ('zmq', 'google', 'threading', 'socket', 'asyncio')])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=50)
    assert "zmq" not in done.stdout
    assert "google" not in done.stdout


@pytest.mark.timeout(60)
def test_zmq_is_not_loaded_by_the_protocols() -> None:
    code = "import sys, packetwire.fbsp; print('zmq' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=50)
    assert done.stdout.strip() == "False"
