"""What runs handlers, and cancels: a request begins, or is answered that it never began; and who runs is told."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from threading import Barrier, Thread
from typing import Any

import pytest

from packetwire import BodyEnded, DeadlineExceeded, LocalProtocolError, RequestCancelled, RequestReceived, Responder
from packetwire.core.cancelled import SWEEP_FROM
from packetwire.core.engine import ConnectionEngine
from packetwire.core.events import CancelReceived
from packetwire.core.frames import Meta
from packetwire.core.owed import OwedRequests, channel_and_tag
from packetwire.core.packetcodec import Fields, Key
from packetwire.core.requestcontext import RequestContext
from packetwire.core.requestids import Repeated
from packetwire.core.statuses import Status, StatusCode, status_of

from .agreed import agreed_pair, packets_of, sent

CANCELLED = Status(StatusCode.CANCELLED, False)
DEADLINE = Status(StatusCode.DEADLINE, False)


class Server:
    """A face in short: requests stand in a queue, and `running` has those that were begun."""

    def __init__(self) -> None:
        self.a, self.b = agreed_pair(max_outstanding=10_000)
        self.called: list[Callable[[], object]] = []
        self.owed = OwedRequests(self.b, self._call)
        self.queue: deque[Fields] = deque()
        self.running: dict[Key, Callable[[], object]] = {}
        self.interrupted: list[Key] = []

    def _call(self, function: Callable[[], object]) -> None:
        self.called.append(function)
        function()

    def ask(self, meta: Meta | None = None, channel: int = 0) -> Key:
        """A request of the peer that stands in the queue now."""
        if meta is None:
            tag = self.a.request(0, channel=channel)
        else:
            tag = self.a.ask_with(meta, 0, 0, b"", channel, None)
        (request,) = self.b.receive(sent(self.a))
        assert isinstance(request, RequestReceived)
        key: Key = (channel, tag) if channel else tag
        self.queue.append((key, 0, 1, b""))
        return key

    def cancelled(self, key: Key) -> None:
        """The engine has heard that the peer gives it up; the face does not know yet."""
        assert self.a.cancel(*channel_and_tag(key))
        (event,) = self.b.receive(sent(self.a))
        assert isinstance(event, CancelReceived)

    def cancel(self, key: Key, is_attached: bool = False) -> None:
        """The peer gives it up, and the face is told."""
        self.cancelled(key)
        self.owed.cancel(key, is_attached, self.running.get, (self.queue,))

    def begin(self, now: float = 0.0) -> Key | None:
        """The next of the queue, if it may begin."""
        key = self.queue.popleft()[0]
        self.running[key] = lambda: self.interrupted.append(key)
        if self.owed.may_begin(key, now):
            return key
        del self.running[key]
        return None

    def statuses(self) -> list[Status]:
        """Of the answers that were sent."""
        return [status_of(packet.flags >> 1) for packet in packets_of(self.b) if packet.channel != 1]


@pytest.fixture
def server() -> Server:
    return Server()


def test_a_request_of_which_nothing_was_said(server: Server) -> None:
    key = server.ask()
    assert server.owed.contexts == server.owed.cancelled == {}
    assert server.begin() == key
    assert server.statuses() == []


@pytest.mark.parametrize("channel", [0, 16])
def test_one_in_the_queue_is_answered_at_once_and_never_begins(server: Server, channel: int) -> None:
    key = server.ask(channel=channel)
    server.cancel(key)
    assert server.statuses() == [CANCELLED]
    assert list(server.owed.cancelled) == [key]
    assert server.b.owed == 0
    assert server.begin() is None
    assert server.statuses() == []
    assert server.owed.cancelled == server.owed.contexts == {}


def test_it_may_be_begun_before_the_face_knows_of_the_cancel(server: Server) -> None:
    """The engine's word counts, as it is in the order of the stream."""
    key = server.ask()
    server.cancelled(key)
    assert server.begin() is None
    assert server.statuses() == [CANCELLED]
    server.owed.cancel(key, False, server.running.get, (server.queue,))
    assert server.statuses() == []
    assert server.owed.cancelled == server.owed.contexts == {}


@pytest.mark.parametrize("error", [RequestCancelled("stopped"), BodyEnded("the request was given up")])
def test_one_that_runs_is_interrupted_and_told(server: Server, error: Exception) -> None:
    key = server.ask()
    assert server.begin() == key
    told: list[str] = []
    context = server.owed.context_of(key)
    context.on_cancel += [lambda: told.append("first"), lambda: told.append("second")]
    assert not server.owed.is_cancelled(key)
    server.cancel(key)
    assert server.interrupted == [key]
    assert sorted(told) == ["first", "second"]
    assert server.owed.is_cancelled(key)
    assert server.statuses() == []
    assert server.owed.answer_over(key, error, 0.0)
    assert server.statuses() == [Status(StatusCode.CANCELLED, True)]
    assert server.owed.contexts == server.owed.cancelled == {}


def test_a_second_cancel_says_nothing(server: Server) -> None:
    key = server.ask()
    server.begin()
    server.cancel(key)
    server.a.cancel(*channel_and_tag(key))
    assert server.b.receive(sent(server.a)) == []
    assert server.interrupted == [key]


def test_one_that_goes_on_is_told_nothing(server: Server) -> None:
    key = server.ask()
    server.begin()
    server.owed.context_of(key).is_detached = True
    server.cancel(key)
    assert server.interrupted == server.called == []
    assert not server.owed.is_cancelled(key)
    assert not server.owed.answer_over(key, RequestCancelled("stopped"), 0.0)
    assert server.b.respond(*channel_and_tag(key), True)
    assert server.owed.contexts == {}


def test_the_deferred_result_is_cancelled(server: Server) -> None:
    for result in (Future[None](), Responder()):
        key = server.ask()
        server.begin()
        del server.running[key]
        server.owed.deferred[key] = result
        server.owed.was_deferred(key)
        server.cancel(key)
        assert result.cancelled if isinstance(result, Responder) else result.cancelled()
    assert server.statuses() == []


@pytest.mark.parametrize("is_detached", [False, True])
def test_a_result_that_is_deferred_just_behind_the_cancel(server: Server, is_detached: bool) -> None:
    key = server.ask()
    server.begin()
    server.owed.context_of(key).is_detached = is_detached
    server.cancel(key)
    server.owed.deferred[key] = responder = Responder()
    server.owed.was_deferred(key)
    assert responder.cancelled is not is_detached


def test_a_result_of_a_request_that_was_answered(server: Server) -> None:
    key = server.ask()
    server.owed.deferred[key] = responder = Responder()
    server.b.respond(0, 2, True)
    server.owed.was_deferred(key)
    assert not responder.cancelled


def test_one_that_a_receiver_has(server: Server) -> None:
    """It is begun from the start, wherever it is kept."""
    key = server.ask()
    told: list[str] = []
    server.owed.context_of(key).on_cancel.append(lambda: told.append("it"))
    server.cancel(key, is_attached=True)
    assert told == ["it"]
    assert server.statuses() == []
    assert server.owed.cancelled == {}


def test_it_is_answered_just_before_the_face_cancels_it(server: Server) -> None:
    key = server.ask()
    server.begin()
    server.cancelled(key)
    server.b.respond(0, 2, True)
    server.owed.cancel(key, False, server.running.get, (server.queue,))
    assert server.interrupted == []
    assert server.owed.cancelled == {}


def test_its_handler_answers_while_it_is_looked_for(server: Server) -> None:
    """Nobody runs it any more, and it stands in no queue: nothing is left of it."""
    key = server.ask()
    server.begin()
    server.cancelled(key)

    def running(key: Key) -> None:
        server.b.respond(*channel_and_tag(key), True)

    server.owed.cancel(key, False, running, (server.queue,))
    assert server.statuses() == [Status(StatusCode.NONE, None)]
    assert server.owed.cancelled == server.owed.contexts == {}


def test_it_is_begun_while_it_is_looked_for(server: Server) -> None:
    """Its handler's thread has seen that it is cancelled, so it is not interrupted."""
    key = server.ask()
    server.cancelled(key)

    def running(key: Key) -> Callable[[], object]:
        assert server.begin() is None
        return lambda: server.interrupted.append(key)

    server.owed.cancel(key, False, running, (server.queue,))
    assert server.interrupted == []
    assert server.statuses() == [CANCELLED]
    assert server.owed.cancelled == server.owed.contexts == {}


def test_it_is_deferred_while_it_is_looked_for(server: Server) -> None:
    key = server.ask()
    server.begin()
    responder = Responder()
    server.cancelled(key)

    def running(key: Key) -> None:
        server.owed.deferred[key] = responder

    server.owed.cancel(key, False, running, (server.queue,))
    assert responder.cancelled
    assert server.statuses() == []


def test_callbacks_that_another_thread_calls(server: Server) -> None:
    class Taken(list[Any]):
        def pop(self, index: Any = -1) -> Any:
            self.clear()
            return super().pop(index)

    key = server.ask()
    server.begin()
    server.owed.context_of(key).on_cancel = Taken([lambda: None])
    server.cancel(key)
    assert server.called == []


# deadlines


@pytest.mark.parametrize(("now", "begins"), [(0.0, True), (1.4, True), (1.5, False), (99.0, False)])
def test_one_whose_deadline_has_passed_never_begins(server: Server, now: float, begins: bool) -> None:
    key = server.ask(Meta(milliseconds_left=1500))
    assert (server.begin(now) == key) is begins
    assert server.statuses() == [DEADLINE] * (not begins)
    assert server.owed.contexts.keys() == ({key} if begins else set())


def test_a_handler_that_stops_at_its_deadline(server: Server) -> None:
    key = server.ask(Meta(milliseconds_left=1500))
    server.begin()
    assert not server.owed.answer_over(key, DeadlineExceeded("too late"), 1.0), "it is not so late"
    assert not server.owed.answer_over(key, ValueError("too late"), 2.0), "it has failed by itself"
    assert server.owed.answer_over(key, DeadlineExceeded("too late"), 2.0)
    (packet,) = packets_of(server.b)
    assert status_of(packet.flags >> 1) == Status(StatusCode.DEADLINE, True)
    assert packet.payload == b"too late"


def test_an_error_without_text(server: Server) -> None:
    for error in (CancelledError(), RequestCancelled()):
        key = server.ask()
        server.begin()
        server.cancel(key)
        assert server.owed.answer_over(key, error, 0.0)
        (packet,) = packets_of(server.b)
        assert packet.payload == b"cancelled"


def test_an_error_of_a_request_of_which_nothing_was_said(server: Server) -> None:
    assert not server.owed.answer_over(server.ask(), RequestCancelled(), 0.0)


@pytest.mark.parametrize(
    "error",
    [BodyEnded("the request is answered"), CancelledError(), RequestCancelled(), LocalProtocolError("late")],
)
def test_a_handler_that_ends_as_its_end_was_closed(server: Server, error: BaseException) -> None:
    key = server.ask()
    server.begin()
    assert not server.owed.answer_over(key, error, 0.0), "it has failed by itself"
    server.b.abandon("closed")
    assert server.owed.answer_over(key, error, 0.0)
    assert not server.owed.answer_over(key, ValueError("a fault"), 0.0)
    (packet,) = packets_of(server.b)
    assert packet.payload == b"closed"


# contexts


def test_a_context_is_made_where_it_is_needed(server: Server) -> None:
    key = server.ask()
    context = server.owed.context_of(key)
    assert server.owed.context_of(key) is context
    assert server.owed.contexts == {key: context}
    server.b.respond(0, 2, True)
    assert server.owed.contexts == {}
    assert server.owed.context_of(key) is not context
    assert server.owed.contexts == {}, "nothing is kept for one that was answered"


def test_a_cancel_and_an_answer_at_the_same_time() -> None:
    """The answer takes the context away before it is made: it would stay for ever."""
    a, b = agreed_pair()
    assert b.control is not None

    class Contexts(dict[Key, RequestContext]):
        def setdefault(self, key: Key, default: Any = None) -> Any:
            b.respond(*channel_and_tag(key), True)
            return super().setdefault(key, default)

    b.control.contexts = Contexts()
    a.request(0)
    a.cancel(0, 2)
    (request,) = b.receive(sent(a))
    assert isinstance(request, RequestReceived)
    assert b.control.contexts == {}


def test_nothing_is_cancelled_behind_the_end(server: Server) -> None:
    server.owed.deferred[2] = Responder()
    server.owed.clear()
    assert server.owed.deferred == {}


def test_a_refusal_of_what_was_answered(server: Server) -> None:
    key = server.ask()
    assert server.owed.refuse(key, b"no", StatusCode.BUSY)
    assert not server.owed.refuse(key, b"no", StatusCode.BUSY)
    server.b.send_failed(BrokenPipeError())
    with pytest.raises(LocalProtocolError):
        ConnectionEngine().refuse(0, 2, b"no", StatusCode.BUSY, begun=False)


def test_a_peer_that_asks_and_cancels_in_a_loop(server: Server) -> None:
    """Nobody begins anything: neither the queue nor the table grows."""
    longest = 0
    for _ in range(2000):
        key = server.ask()
        server.cancel(key)
        longest = max(longest, len(server.queue), len(server.owed.cancelled))
        server.a.receive(sent(server.b))
    assert longest <= SWEEP_FROM
    assert server.b.owed == 0
    assert server.owed.contexts == {}


def test_threads_begin_what_another_cancels() -> None:
    """4,000 requests and as many cancels, while three threads begin them: one answer each, and nothing is left."""
    server = Server()
    start = Barrier(4)
    over: list[bool] = []
    begun: list[list[Key]] = [[], [], []]
    interrupted: list[Key] = []

    def work(number: int) -> None:
        start.wait()
        while True:
            is_over = bool(over)
            try:
                key = server.queue.popleft()[0]
            except IndexError:
                if is_over:
                    return
                continue
            server.running[key] = lambda: interrupted.append(key)  # noqa: B023 - it is called before the next
            if server.owed.may_begin(key, 0.0):
                begun[number].append(key)
                server.b.respond(*channel_and_tag(key), True, 0, b"done")
            del server.running[key]

    threads = [Thread(target=work, args=(number,), daemon=True) for number in range(3)]
    for thread in threads:
        thread.start()
    start.wait()
    answers: dict[int, int] = {}
    for number in range(4000):
        tag = server.a.request(0, waiter=number)
        data = sent(server.a)
        (request,) = server.b.receive(data)
        server.queue.append((request[1], 0, 1, b""))
        server.a.cancel(0, tag)
        if server.b.receive(sent(server.a)):
            server.owed.cancel(tag, False, server.running.get, (server.queue,))
        _take(server, answers)
    over.append(True)
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    _take(server, answers)
    assert len(answers) == 4000
    assert sum(not flags for flags in answers.values()) == sum(map(len, begun))
    assert server.owed.contexts == {}
    assert server.owed.cancelled == {}
    assert server.b.is_settled


def _take(server: Server, answers: dict[int, int]) -> None:
    batch = server.b.data_to_send()
    server.b.data_sent()
    for event in server.a.receive(b"".join(batch)):
        tag, flags = event[1], event[3]
        assert tag not in answers
        answers[tag] = flags


def test_a_request_that_was_done_before(server: Server) -> None:
    key = server.ask()
    assert server.owed.answer_over(key, Repeated("was done"), 0.0)
    (packet,) = packets_of(server.b)
    assert status_of(packet.flags >> 1) == Status(StatusCode.REPEATED, True)
    assert packet.payload == b"was done"
