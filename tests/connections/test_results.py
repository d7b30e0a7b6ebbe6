"""What `submit` returns is a `cs.result.Result`, for whoever relies on it."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import pytest
from cs.fsm import CancellationError, FSMTransitionEvent
from cs.result import Result, ResultSet

from packetwire import ConnectionEnded, PacketConnection, RequestState, RequestTimeout, Responder

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def held(fd_connect):
    """A connection whose peer answers when told to: (connection, responders)."""
    responders = []
    arrived = threading.Semaphore(0)

    def handler(rq_type, flags, payload):
        responder = Responder()
        responders.append(responder)
        arrived.release()
        return responder

    a, _ = fd_connect({"close_timeout": 0.2}, {"request_handler": handler, "close_timeout": 0.2})

    def answer(result=None):
        arrived.acquire(timeout=20)
        responders.pop(0).respond(result)

    return a, answer


def test_it_is_a_result_in_every_state(held):
    a, answer = held
    result = a.submit(1, label="a label")
    assert isinstance(result, Result)
    assert (result.fsm_state, result.ready, result.is_pending, result.is_done) == ("PENDING", False, True, False)
    assert result.empty()
    assert result.PENDING == "PENDING"
    with pytest.raises(AttributeError):
        result.result  # noqa: B018
    with pytest.raises(AttributeError):
        result.exc_info  # noqa: B018
    with pytest.raises(RequestTimeout):
        result(timeout=0.01)
    answer((5, b"x"))
    assert result() == (True, 5, b"x")
    assert result.result == (True, 5, b"x")
    assert result.exc_info is None
    assert result.join() == ((True, 5, b"x"), None)
    assert result.get() == (True, 5, b"x")
    assert (result.fsm_state, result.ready, result.is_done, result.is_cancelled) == ("DONE", True, True, False)
    assert "a label" in result.name
    assert "DONE" in str(result)
    result.extra.note = 1
    assert result.extra.note == 1
    assert result == result  # noqa: PLR0124
    assert {result: 1}[result] == 1


def test_fsm_callback_and_notify_before_and_after(held):
    a, answer = held
    calls = []
    result = a.submit(1)
    result.fsm_callback("DONE", lambda r, transition: calls.append(("fsm", r, transition)))
    result.fsm_callback("CANCELLED", lambda r, transition: calls.append("never"))
    result.fsm_callback(Result.FSM_ANY_STATE, lambda r, transition: 1 / 0)
    result.notify(lambda r: calls.append(("notify", r.result)))
    answer(b"x")
    result()
    while len(calls) < 2:
        pass
    assert calls[0][:2] == ("fsm", result)
    assert isinstance(calls[0][2], FSMTransitionEvent)
    assert calls[0][2].new_state == "DONE"
    assert calls[1] == ("notify", (True, 0, b"x"))
    result.fsm_callback("DONE", lambda r, transition: calls.append("at once"))
    result.notify(lambda r: calls.append("notified"))
    assert calls[2:] == ["at once", "notified"]
    with pytest.raises(ValueError, match="SLEEPING"):
        result.fsm_callback("SLEEPING", print)


def test_a_callback_that_blocks_on_its_connection_is_told_so(held, caplog):
    a, answer = held
    failed = threading.Event()

    def callback(result):
        try:
            a(1)
        finally:
            failed.set()

    result = a.submit(1)
    result.notify(callback)
    answer()
    assert failed.wait(20)
    assert result()[0]
    while "wait for itself" not in caplog.text:
        pass


def test_cancel_releases_who_waits_and_drops_the_response(held):
    a, answer = held
    result = a.submit(1)
    caught = []

    def wait():
        try:
            result()
        except CancellationError as error:
            caught.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    result.cancel("not needed")
    for thread in threads:
        thread.join(20)
    assert len(caught) == 3
    assert result.is_cancelled
    assert result.join() == (None, None)
    assert result.get("default") == "default"
    with pytest.raises(CancellationError):
        result.result  # noqa: B018
    assert a.outstanding == 0
    answer(b"late")
    other = a.submit(1)
    answer(b"on")
    assert other() == (True, 0, b"on")
    assert a.late_responses == 1
    result.cancel()  # again


def test_many_threads_may_wait_for_one_result(held):
    a, answer = held
    result = a.submit(1)
    got = []
    threads = [threading.Thread(target=lambda: got.append(result())) for _ in range(8)]
    for thread in threads:
        thread.start()
    answer(b"x")
    for thread in threads:
        thread.join(20)
    assert got == [(True, 0, b"x")] * 8


def test_completing_by_hand(held):
    a, _ = held
    for complete, outcome in (
        (lambda r: setattr(r, "result", "mine"), "mine"),
        (lambda r: r.put("mine"), "mine"),
        (lambda r: r.run_func(lambda: "mine"), "mine"),
        (lambda r: r(lambda: "mine"), "mine"),
    ):
        result = a.submit(1)
        complete(result)
        assert result() == outcome
        with pytest.raises(RuntimeError, match="already completed"):
            result.put("again")
    result = a.submit(1)
    result.raise_(KeyError("mine"))
    with pytest.raises(KeyError):
        result()
    assert a.outstanding == 0


def test_post_notify_and_result_sets(held):
    a, answer = held
    result = a.submit(1)
    later = result.post_notify(lambda response: response[2].decode())
    answer(b"text")
    assert later() == "text"
    results = ResultSet()
    results.add(a.submit(1))
    answer()
    results.wait()


def test_lost_with_the_connection(fd_ends):
    with PacketConnection(fd_ends.a, close_timeout=0.1) as a:
        result = a.submit(1)
        fd_ends.close_b()
        with pytest.raises(ConnectionEnded):
            result()
    # what was not done must not look so to a callback for DONE, as in the reference
    assert (result.is_done, result.is_cancelled, result.ready) == (False, True, True)
    calls = []
    result.fsm_callback("DONE", lambda *a: calls.append("done"))
    result.fsm_callback("CANCELLED", lambda *a: calls.append("cancelled"))
    assert calls == ["cancelled"]
    assert issubclass(result.exc_info[0], ConnectionEnded)
    assert result.join()[0] is None
    assert result.get("default") == "default"
    with pytest.raises(ConnectionEnded):
        result()


def test_request_state_as_the_reference_has_it():
    done = Result()
    RequestState(None, done).complete(3, b"x")
    assert done() == (True, 3, b"x")
    decoded = Result()
    RequestState(lambda flags, payload: payload.decode(), decoded).complete(3, b"x")
    assert decoded() == (True, 3, "x")
    failed = Result()
    RequestState(None, failed).fail(1, b"no")
    assert failed() == (False, 1, b"no")
    broken = Result()
    RequestState(lambda flags, payload: 1 / 0, broken).complete(0, b"")
    with pytest.raises(ZeroDivisionError):
        broken()
    cancelled = Result()
    RequestState(None, cancelled).cancel()
    assert cancelled.is_cancelled


def test_a_response_is_freed_with_its_result_and_not_by_the_garbage_collector(fd_connect):
    a, _ = fd_connect(b={"request_handler": lambda rq_type, flags, payload: payload})
    result = a.submit(1, payload=b"x")
    assert result() == (True, 0, b"x")
    freed = weakref.ref(result)
    gc.disable()
    try:
        del result
        a(2)  # whatever the reader had in its hands is gone now
        assert freed() is None
    finally:
        gc.enable()


def test_no_python_runs_when_a_result_goes(held):
    """An exception in there would get lost: a Ctrl-C, for instance."""
    a, answer = held
    result = a.submit(1)
    answer()
    result()
    called = []
    sys.setprofile(lambda frame, event, arg: called.append(frame.f_code.co_name) if event == "call" else None)
    del result
    sys.setprofile(None)
    assert called == []
