"""What `submit` returns, as an object: a light one, and a `cs.result.Result` to whoever has that."""

from __future__ import annotations

import copy
import logging
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import singledispatch
from typing import Any

import pytest
from cs import result as cs_result
from cs.fsm import FSM, CancellationError
from cs.result import Result

import packetwire
from packetwire import ConnectionEnded, PacketwireError, RequestCancelled, RequestResult, RequestTimeout, Responder
from packetwire.csresult import ONLY_THERE
from packetwire.lightresult import LightResult
from packetwire.testing import connection_pair

pytestmark = pytest.mark.timeout(60)

WITHOUT = "cs.result", "cs.fsm", "cs.mappings"


@pytest.fixture
def held() -> Iterator[tuple[Any, Callable[[Any], None]]]:
    """A connection whose peer answers when told to: (connection, answer)."""
    arrived = threading.Semaphore(0)
    responders: list[Responder] = []

    def handler(rq_type: int, flags: int, payload: bytes) -> Responder:
        responders.append(Responder())
        arrived.release()
        return responders[-1]

    def answer(result: Any = None) -> None:
        assert arrived.acquire(timeout=20)
        responders.pop(0).respond(result)

    with connection_pair({"close_timeout": 0.1}, {"request_handler": handler, "close_timeout": 0.1}) as (a, _):
        yield a, answer


@pytest.fixture
def result(held: Any) -> Iterator[Any]:
    """One that is not done."""
    yield (result := held[0].submit(7, label="a label"))
    result.cancel()


# the object


def test_it_is_made_without_a_lock_or_anything_of_cs_result(result: Any) -> None:
    assert type(result) is LightResult
    assert set(vars(result)) <= {"_driver", "_label", "_channel", "_decode", "tag"}


def test_a_result_is_a_result(result: Any) -> None:
    assert isinstance(result, Result)
    assert isinstance(result, FSM)
    assert isinstance(result, RequestResult)
    assert issubclass(RequestResult, Result)
    assert not isinstance(result, cs_result.OnDemandResult)
    assert result.__class__ is RequestResult

    @singledispatch
    def kind(value: object) -> str:
        return "object"

    kind.register(Result, lambda value: "Result")
    assert kind(result) == "Result"


def test_what_it_has_of_its_own_and_what_is_there_only_are_all_that_a_result_has() -> None:
    public = {name for name in dir(Result) if not name.startswith("_")}
    events = {"complete", "dispatch"}  # made from the table of transitions
    assert public - set(dir(LightResult)) == ONLY_THERE - events
    assert events <= {event for events in Result.FSM_TRANSITIONS.values() for event in events}


@pytest.mark.filterwarnings("ignore:OBSOLETE:DeprecationWarning")
def test_all_that_a_result_has_can_be_asked_for(result: Any, caplog: pytest.LogCaptureFixture) -> None:
    result.cancel()
    plain = Result("plain")
    plain.cancel()
    caplog.set_level(logging.ERROR)  # some of these are obsolete, and say so
    # but fsm_svg, which runs Graphviz
    same = {"FSM_ANY_STATE", "FSM_TRANSITIONS", "fsm_events", "fsm_state", "dot_node_attrs_str", "is_done", "empty"}
    for name in sorted((ONLY_THERE - {"complete", "dispatch", "fsm_svg"}) | same):
        found, expected = getattr(result, name), getattr(plain, name)
        assert callable(found) == callable(expected), name
    assert result.FSM_ANY_STATE is Result.FSM_ANY_STATE
    assert result.fsm_events == plain.fsm_events == ["cancel"]
    assert result.fsm_event_is_allowed("cancel")
    assert not result.fsm_event_is_allowed("complete")
    assert result.fsm_state_diagram_as_dot(graph_name="x") == plain.fsm_state_diagram_as_dot(graph_name="x")


def test_events_are_methods_where_they_are_allowed(result: Any) -> None:
    assert result.dispatch() == "PENDING"
    assert tuple(getattr(Result("plain"), name) for name in ("PENDING", "RUNNING", "DONE", "CANCELLED")) == (
        result.PENDING,
        result.RUNNING,
        result.DONE,
        result.CANCELLED,
    )
    assert not result.is_running
    with pytest.raises(AttributeError):
        result.is_it  # noqa: B018
        result.nothing  # noqa: B018
    with pytest.raises(AttributeError, match="_hidden"):
        result._hidden  # noqa: B018


@pytest.mark.parametrize("name", ["result", "exc_info"])
def test_what_is_not_there_yet_says_so(result: Any, name: str) -> None:
    with pytest.raises(AttributeError, match=f"[.]{name}: RequestResult.*PENDING.* not ready"):
        getattr(result, name)
    assert not hasattr(result, name)


def test_it_can_be_put_to_work_by_a_thread_of_cs_result(held: Any) -> None:
    a, _ = held
    result = a.submit(7)
    result.bg(lambda: "mine").join()
    assert result() == "mine"
    assert a.submit(7).run_func_in_thread(lambda: "mine") == "mine"
    after = cs_result.after([result], a.submit(7), lambda: "after")
    assert after() == "after"


def test_subclasses(held: Any) -> None:
    class Mine(RequestResult):
        kind = "mine"

        def __call__(self, *a: Any, **kw: Any) -> Any:
            return self.kind, super().__call__(*a, **kw)

    a, answer = held
    result = Mine(a._driver, "a label", 0, None)
    a._driver.submit(result, 7, 0, b"", 0, None)
    result.note = 1
    answer(b"x")
    assert result() == ("mine", (True, 0, b"x"))
    assert isinstance(result, Mine)
    assert isinstance(result, Result)
    assert result.__class__ is Mine
    assert str(result).startswith("Mine[")
    assert result.fsm_events == ["cancel"]
    assert result.post_notify(lambda response: response[0])() == "mine"
    assert weakref.ref(result)() is result


def test_a_subclass_of_its_own_class_goes_without_a_word(held: Any, capfd: Any) -> None:
    result = RequestResult(held[0]._driver, None, 0, None)
    called = []
    sys.setprofile(lambda frame, event, arg: called.append(frame.f_code.co_name) if event == "call" else None)
    del result
    sys.setprofile(None)
    assert called == []


def test_weak_references_attributes_and_its_text(result: Any) -> None:
    assert weakref.ref(result)() is result
    assert weakref.proxy(result).ready is False
    result.note = "mine"
    assert vars(result)["note"] == "mine"
    assert {result: 1}[result] == 1
    assert str(result) == repr(result) == f"RequestResult['{result.name}':PENDING]"
    assert result.name.endswith(f":{result.tag}:a label")
    assert {"result", "note", "post_notify"} <= set(dir(result))


@pytest.mark.parametrize("do", [copy.copy, copy.deepcopy, pickle.dumps], ids=lambda do: do.__name__)
@pytest.mark.parametrize("done", [False, True], ids=["pending", "done"])
def test_it_is_neither_copied_nor_pickled(held: Any, do: Callable[[Any], Any], done: bool) -> None:
    a, answer = held
    result = a.submit(7)
    if done:
        answer(b"x")
        result()
    with pytest.raises(TypeError, match="RequestResult.* can be neither pickled nor copied: .*; pickle or copy"):
        do(result)
    result.cancel()


# its ends


def test_a_cancellation_is_one_of_ours_and_of_cs_result(result: Any) -> None:
    result.cancel("not needed")
    with pytest.raises(CancellationError, match="^not needed$") as caught:
        result()
    assert isinstance(caught.value, RequestCancelled)
    assert isinstance(caught.value, PacketwireError)
    assert caught.value.fsm is result
    assert caught.value.message == "not needed"
    assert type(caught.value).__name__ == "RequestCancelled"
    copied = pickle.loads(pickle.dumps(caught.value))
    assert type(copied) is RequestCancelled
    assert str(copied) == "not needed"


def test_a_cancellation_without_a_text_names_the_request(result: Any) -> None:
    result.cancel()
    with pytest.raises(RequestCancelled, match="cancelled: RequestResult.*:a label':CANCELLED"):
        result()


def test_waiting(held: Any) -> None:
    a, answer = held
    result = a.submit(7)
    assert not result.wait(0.001)
    answer(b"x")
    assert result.wait()
    assert result.wait(0)
    assert result.result == (True, 0, b"x")
    cancelled = a.submit(7)
    cancelled.cancel()
    assert cancelled.wait()


def test_waiting_in_vain_leaves_nothing(held: Any) -> None:
    """However often it is asked; it kept a lock for each time."""
    a, answer = held
    result = a.submit(7)
    keeper = threading.Thread(target=a.submit(7))  # so that there is somebody else who reads
    keeper.start()
    for _ in range(50):
        with pytest.raises(RequestTimeout):
            result(timeout=0.0001)
        assert not result.sleep(0.0001)
    assert not result.locks
    answer(b"x")
    answer(b"y")
    keeper.join(20)
    assert result() == (True, 0, b"x")


def test_sixteen_threads_wait_for_one(held: Any) -> None:
    """Of a decoder that gives each of them another object all get the same."""
    a, answer = held
    result = a.submit(7, decode_response=lambda flags, payload: object())
    got: list[Any] = []
    started = threading.Barrier(17)

    def collect(number: int) -> None:
        started.wait(20)
        got.append((result, result.join, result.get)[number % 3]())

    threads = [threading.Thread(target=collect, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    started.wait(20)
    answer(b"x")
    for thread in threads:
        thread.join(20)
    assert len(got) == 16
    assert len({id(outcome[0][2] if isinstance(outcome[0], tuple) else outcome[2]) for outcome in got}) == 1


def test_threads_that_decode_at_a_time_get_the_same(held: Any) -> None:
    a, answer = held
    both = threading.Barrier(2)

    def decode(flags: int, payload: bytes) -> object:
        both.wait(20)
        return object()

    result = a.submit(7, decode_response=decode)
    answer(b"x")
    got: list[Any] = []
    threads = [threading.Thread(target=lambda: got.append(result()[2])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert got[0] is got[1]


@pytest.mark.usefixtures("plain_streams")
@pytest.mark.parametrize("how", ["cancel", "put"])
def test_ends_that_race(held: Any, how: str) -> None:
    """A response, and threads that end it by hand: one of them wins, and is what all see."""
    a, answer = held

    for number in range(200):
        result = a.submit(7)
        told: list[Any] = []
        called = threading.Semaphore(0)
        result.notify(told.append)
        result.notify(lambda result, called=called: called.release())
        refused: list[Exception] = []
        start = threading.Barrier(4)

        def end(result: Any = result, start: threading.Barrier = start, refused: list[Exception] = refused) -> None:
            start.wait(20)
            try:
                result.cancel() if how == "cancel" else result.put("mine")
            except RuntimeError as error:
                refused.append(error)

        def respond(start: threading.Barrier = start) -> None:
            start.wait(20)
            answer(b"x")

        threads = [threading.Thread(target=end), threading.Thread(target=end), threading.Thread(target=respond)]
        for thread in threads:
            thread.start()
        start.wait(20)
        if number % 2:
            assert result.wait(20)
        for thread in threads:
            thread.join(20)
        assert result.wait(20)
        try:
            outcome: Any = result()
        except RequestCancelled:
            outcome = "cancelled"
        assert outcome in ((True, 0, b"x"), "cancelled" if how == "cancel" else "mine")
        if how == "put":
            assert len(refused) == (1 if outcome == "mine" else 2)
        assert called.acquire(timeout=20)  # by the thread that completed it
        assert told == [result]
        assert a.outstanding == 0


# callbacks


def test_callbacks_before_and_after(held: Any) -> None:
    a, answer = held
    result = a.submit(7)
    told: list[Any] = []
    called = threading.Semaphore(0)
    for number in range(3):
        result.notify(lambda result, number=number: (told.append((number, result())), called.release()))
    answer(b"x")
    for _ in range(3):
        assert called.acquire(timeout=20)
    assert told == [(number, (True, 0, b"x")) for number in range(3)]
    result.notify(told.append)
    assert told[3:] == [result]


def test_callbacks_added_by_many_threads_at_the_moment_of_the_end_run_once(held: Any) -> None:
    a, answer = held
    for _ in range(50):
        result = a.submit(7)
        told: list[int] = []
        called = threading.Semaphore(0)
        start = threading.Barrier(5)

        def add(
            number: int,
            result: Any = result,
            told: list[int] = told,
            called: threading.Semaphore = called,
            start: threading.Barrier = start,
        ) -> None:
            def callback(result: Any) -> None:
                told.append(number)
                called.release()

            start.wait(20)
            result.notify(callback)

        threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        start.wait(20)
        answer()
        for thread in threads:
            thread.join(20)
        for _ in range(4):
            assert called.acquire(timeout=20)
        assert sorted(told) == [0, 1, 2, 3]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="a trace function may see no opcodes there")
@pytest.mark.skipif(packetwire.compiled is True, reason="no thread comes between there, and nothing can be traced")
def test_two_threads_add_the_first_callback(result: Any) -> None:
    """One comes while the other is amid that; it lost its callback."""
    told: list[str] = []
    frame_of: list[Any] = []

    def interfere(frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code.co_name in {"_add_callback", "_own_list"} and not frame_of:
            frame.f_trace_opcodes = True
            if event == "opcode" and not frame_of:
                steps.append(frame.f_lasti)
                if len(steps) == at:
                    frame_of.append(frame)
                    other = threading.Thread(target=result.notify, args=(lambda result: told.append("other"),))
                    other.start()
                    other.join(20)
        return interfere

    at, reached = 1, True
    while reached:
        steps: list[int] = []
        frame_of.clear()
        told.clear()
        result.__dict__.pop("_callbacks", None)
        sys.settrace(interfere)
        try:
            result.notify(lambda result: told.append("one"))
        finally:
            sys.settrace(None)
        reached = bool(frame_of)
        if reached:
            assert len(result._callbacks) == 2, at
            at += 1
    assert at > 5


def test_callbacks_run_under_no_lock(held: Any) -> None:
    """Another thread can do everything with the result meanwhile."""
    a, answer = held
    result = a.submit(7)
    outcomes: list[Any] = []
    finished = threading.Event()

    def everything() -> None:
        result.notify(lambda result: outcomes.append("notified"))
        result.fsm_callback("DONE", lambda result, transition: None)
        result.fsm_callback_discard("DONE", print)
        result.cancel()
        outcomes.extend((result(), result.join(), result.wait(), result.get(), result.fsm_state, a.outstanding))
        other = a.submit(8)
        other.cancel()

    def callback(result: Any) -> None:
        thread = threading.Thread(target=everything)
        thread.start()
        thread.join(20)
        outcomes.append(thread.is_alive())
        finished.set()

    result.notify(callback)
    answer(b"x")
    assert finished.wait(30)
    response = (True, 0, b"x")
    assert outcomes[-1] is False
    assert outcomes[:-1] == ["notified", response, (response, None), True, response, "DONE", 0]


def test_callbacks_that_are_discarded_while_others_run(held: Any) -> None:
    a, _ = held
    result = a.submit(7)
    told: list[str] = []

    def discarded(result: Any, transition: Any) -> None:
        told.append("discarded")

    def discards(result: Any, transition: Any) -> None:
        told.append("discards")
        result.fsm_callback_discard("DONE", discarded)

    result.fsm_callback("DONE", discards)
    result.fsm_callback("DONE", discarded)
    result.notify(lambda result: told.append("kept"))
    result.fsm_callback("DONE", discarded)
    result.put("mine")
    assert told == ["discards", "kept"]


def test_a_lost_request_raises_why(held: Any) -> None:
    a, _ = held
    result = a.submit(7)
    a._driver.abort(ConnectionEnded("enough"))
    with pytest.raises(ConnectionEnded, match="enough"):
        result()
    assert result.is_cancelled


# without cs.result

PROGRAM = """
import sys

class Blocked:
    "Finds these nowhere."
    def find_spec(self, name, path=None, target=None):
        if name in BLOCKED or name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

BLOCKED = sys.argv[1:]
sys.meta_path.insert(0, Blocked())

import copy, threading, weakref
from packetwire import *  # all names
from packetwire import RequestCancelled, RequestResult
from packetwire.testing import connection_pair

def raises(kind, function, *a, **kw):
    try:
        function(*a, **kw)
    except kind as error:
        return str(error)
    raise AssertionError(f"{function} raised nothing")

held = []
def handler(rq_type, flags, payload):
    if rq_type == 1:
        held.append(Responder())
        return held[-1]
    return flags, payload[::-1]

with connection_pair(b={"request_handler": handler, "handlers": "inline"}) as (a, b):
    assert a(2, b"abc", 3) == (True, 3, b"cba")
    assert [payload for _, _, payload in a.map([(2, b"ab"), (2, b"cd")])] == [b"ba", b"dc"]
    result = a.submit(2, 3, b"abc", decode_response=lambda flags, payload: payload.decode())
    told = []
    result.notify(told.append)
    assert isinstance(result, RequestResult)
    assert weakref.ref(result)() is result
    assert result.wait(20) and result.ready and result.is_done and not result.is_cancelled and not result.empty()
    assert result() == result.result == result.get() == result.join()[0] == (True, 3, "cba"), result()
    assert result.exc_info is None
    result.note = 1
    a(2)
    assert told == [result], told
    result.notify(told.append)
    assert told == [result, result]
    assert "DONE" in repr(result)
    raises(TypeError, copy.copy, result)

    result = a.submit(1)
    result.notify(told.append)
    waiting = threading.Thread(target=lambda: told.append(raises(RequestCancelled, result)))
    waiting.start()
    result.cancel("not needed")
    waiting.join(20)
    assert sorted(map(str, told[2:])) == sorted([str(result), "not needed"]), told
    assert result.fsm_state == result.CANCELLED == "CANCELLED"
    assert result.get("default") == "default"
    raises(RequestCancelled, lambda: result.result)
    for complete in (lambda: result.put(1), lambda: result.run_func(int), lambda: result.raise_(KeyError)):
        raises(RuntimeError, complete)
        result = a.submit(1)
        complete()
        assert result.ready
    raises(KeyError, result)

    result = a.submit(1)
    for use in (
        lambda: result.post_notify(print),
        lambda: result.bg(print),
        lambda: result.fsm_callback("DONE", print),
        lambda: result.extra,
        lambda: result.FSM_TRANSITIONS,
    ):
        print(raises(ModuleNotFoundError, use))
    raises(AttributeError, lambda: result.nothing)
    assert not hasattr(result, "add_done_callback")
    result.fsm_callback_discard("DONE", print)
    result.fsm_event("cancel")

    passed_on = a.submit(1)
    with connection_pair(b={"request_handler": lambda *request: passed_on}) as (c, d):
        answer = c.submit(9)
        passed_on.put(b"passed on")
        assert answer() == (True, 0, b"passed on")
    a(2)
    for responder in held:
        responder.respond()
assert not [name for name in sys.modules if name in BLOCKED or name.split(".")[0] in BLOCKED]
assert not [name for name in sys.modules if name.startswith("cs.result")]
print("served")
"""


@pytest.mark.parametrize("blocked", [WITHOUT, ("cs",)], ids=["without-cs.result", "without-any-cs"])
def test_it_serves_and_calls_without_cs_result(blocked: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, *blocked],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    *refusals, served = done.stdout.splitlines()
    assert served == "served"
    assert len(refusals) == 5
    for refusal in refusals:
        assert "needs the package cs.result" in refusal
        assert "pip install cs.result" in refusal


IMPORTED = """
import sys
from packetwire import PacketConnection
from packetwire.testing import connection_pair
with connection_pair(b={"request_handler": lambda rq_type, flags, payload: payload}) as (a, b):
    results = [a.submit(2, 0, b"x") for _ in range(3)]
    results[0].notify(lambda result: None)
    results[1].cancel()
    assert results[2]() == (True, 0, b"x")
    assert not hasattr(results[2], "add_done_callback")
    assert isinstance(results[0], object) and not isinstance(results[0], int)
    assert not [name for name in sys.modules if name.partition(".")[0] == "cs"]
    from cs.result import Result
    assert all(isinstance(result, Result) for result in results)
    from packetwire import RequestResult
    assert all(isinstance(result, RequestResult) for result in results)
    assert results[2].post_notify(lambda response: response[2])() == b"x"
"""


def test_asking_and_collecting_import_nothing_of_cs() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORTED], check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
