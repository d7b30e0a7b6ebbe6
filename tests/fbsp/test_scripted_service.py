"""A client of a service that answers as no good one does: late, never, with refusals, or not any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from packetwire import ConnectionEnded, LocalProtocolError, RequestTimeout
from packetwire.fbsp import ErrorCode, FBSPMessage, MsgFlag, MsgType, ServiceClient, ServiceError, State

from .fake import CLIENT, CODEC, EchoAPI, make, welcome

pytestmark = pytest.mark.timeout(60)

WAIT = 20

Script = Callable[[FBSPMessage], list[FBSPMessage]]


class ScriptedService:
    """Answers HELLO, and what else comes as `script` says: a list of messages for each one."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.script: Script = lambda msg: []
        self.received = threading.Semaphore(0)
        """Released for each message but HELLO."""
        self.error: Exception | None = None
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.bind(address)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._socket:
            try:
                while True:
                    self._answer(*self._socket.recv_multipart())
            except zmq.ContextTerminated:
                pass
            except Exception as error:
                self.error = error

    def _answer(self, route: bytes, *frames: bytes) -> None:
        msg: Any = CODEC.convert_msg(list(frames))
        is_hello = msg.msg_type is MsgType.HELLO
        for answer in [welcome(msg.token)] if is_hello else self.script(msg):
            self._socket.send_multipart([route, *answer.as_zmsg()])
        if not is_hello:
            self.received.release()

    def close(self) -> None:
        self._context.term()
        self._thread.join()
        assert self.error is None


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ScriptedService]:
    running = ScriptedService(f"ipc://{tmp_path}/service")
    yield running
    running.close()


@pytest.fixture
def client(service: ScriptedService) -> Iterator[ServiceClient]:
    with ServiceClient.connect(service.address, agent=CLIENT, timeout=WAIT, channel={"linger": 0}) as client:
        yield client


def refusing(code: ErrorCode) -> Script:
    """A service that answers CANCEL with this error, and nothing else."""

    def script(msg: Any) -> list[FBSPMessage]:
        if msg.msg_type is not MsgType.CANCEL:
            return []
        refusal = make(MsgType.ERROR, msg.token)
        refusal.error_code, refusal.relates_to = code, MsgType.CANCEL
        refusal.add_error().description = "on purpose"
        return [refusal]

    return script


def test_a_cancel_of_what_the_service_does_not_know(service: ScriptedService, client: ServiceClient) -> None:
    service.script = refusing(ErrorCode.NOT_FOUND)
    call = client.start(EchoAPI.ECHO)
    assert call.cancel(WAIT) is False
    assert not call.over


def test_a_cancel_that_the_service_refuses(service: ScriptedService, client: ServiceClient) -> None:
    """The request goes on."""
    service.script = refusing(ErrorCode.CONFLICT)
    call = client.start(EchoAPI.ECHO)
    with pytest.raises(ServiceError, match="on purpose") as caught:
        call.cancel(WAIT)
    assert caught.value.code is ErrorCode.CONFLICT
    assert not call.over


def test_a_cancel_that_is_not_answered(service: ScriptedService, client: ServiceClient) -> None:
    call = client.start(EchoAPI.ECHO)
    with pytest.raises(RequestTimeout, match=r"nothing within 0\.01 s"):
        call.cancel(0.01)
    assert client.core.cancels == {}


def test_a_ping_that_is_not_answered(service: ScriptedService, client: ServiceClient) -> None:
    with pytest.raises(RequestTimeout, match=r"NOOP was not acknowledged within 0\.01 s"):
        client.ping(0.01)


def test_a_ping_when_the_service_closes(service: ScriptedService, client: ServiceClient) -> None:
    service.script = lambda msg: [make(MsgType.CLOSE)]
    with pytest.raises(ConnectionEnded):
        client.ping(WAIT)
    with pytest.raises(ConnectionEnded):
        client.ping(WAIT)


def test_nothing_is_left_of_a_call_when_the_service_closes(service: ScriptedService, client: ServiceClient) -> None:
    service.script = lambda msg: [make(MsgType.CLOSE)]
    with pytest.raises(ConnectionEnded):
        client.call(EchoAPI.ECHO, timeout=WAIT)
    with pytest.raises(ConnectionEnded):
        client.start(EchoAPI.ECHO)
    assert client.core.calls == {}


def test_what_must_not_be_sent_is_not_and_nothing_is_left_of_it(
    service: ScriptedService, client: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(client.core, "new_token", lambda: b"too short")
        for ask in (client.call, client.start):
            with pytest.raises(LocalProtocolError, match="a token has 8 bytes, not 9"):
                ask(EchoAPI.ECHO)  # type: ignore[operator]
    assert client.core.calls == {}
    assert not client.start(EchoAPI.ECHO).over
    assert service.received.acquire(timeout=WAIT)


def test_acknowledgements_that_the_service_asks_for(service: ScriptedService, client: ServiceClient) -> None:
    """Of a STATE as of DATA; the client sends them from the thread that reads."""
    acknowledged = threading.Event()

    def script(msg: Any) -> list[FBSPMessage]:
        if msg.msg_type is MsgType.REQUEST:
            state = make(MsgType.STATE, msg.token, msg.type_data, MsgFlag.ACK_REQ)
            state.state = State.RUNNING
            return [state]
        if msg.msg_type is MsgType.STATE and msg.has_ack_reply():
            acknowledged.set()
        return []

    service.script = script
    states: list[State] = []
    call = client.start(EchoAPI.ECHO, on_state=states.append)
    assert acknowledged.wait(WAIT)
    assert call.state is State.RUNNING
    assert states == [State.RUNNING]
