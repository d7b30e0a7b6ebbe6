"""An executor over far ends: those that have only Python, children, and servers."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.connections.sshd import running_sshd

from childprocesses import child_processes
from packetwire import ChildExited, LocalProtocolError, RequestFailed, RequestTimeout, child, serve
from packetwire.executor import FarTraceback, FunctionFailed, Functions, PoolExecutor
from packetwire.executor.plain import Plain
from packetwire.typed import BadValue

from . import far_work as work

pytestmark = pytest.mark.timeout(90)

LIMIT = 30
PYTHON = f"exec:{sys.executable}"
SERVER = f"""
from packetwire import stdio
from packetwire.executor import Functions
with Functions({work.__name__!r})(stdio()) as conn:
    conn.join_recv()
"""
TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_process_left(executor: PoolExecutor) -> Iterator[None]:
    executor.submit(work.pid).result(LIMIT)
    children = child_processes()
    yield
    executor.submit(work.pid).result(LIMIT)  # also if it had to be started again
    assert len(child_processes()) <= len(children)


@pytest.fixture(scope="module")
def executor() -> Iterator[PoolExecutor]:
    with PoolExecutor(PYTHON, work) as made:
        yield made


def test_arguments_and_results_have_the_kinds_of_the_annotations(executor: PoolExecutor) -> None:
    assert executor.submit(work.count, "Emma").result(LIMIT) == 4
    item = executor.submit(work.tagged, work.Item("a", ["b"]), "c", upper=True, more_of_it=1).result(LIMIT)
    assert item == work.Item("A", ["b", "c", "1"])
    assert executor.submit(work.later, 4).result(LIMIT) == 5
    assert executor.submit(work.remembered, 4).result(LIMIT) == 4


def test_values_without_annotation_are_plain(executor: PoolExecutor) -> None:
    result = executor.submit(work.plain, (1, b"x", None), c=True, more={"k": [1.5]}).result(LIMIT)
    assert result == [[1, b"x", None], 3, [], {"c": True, "more": {"k": [1.5]}}]
    assert executor.submit(work.plain, "a", 1, 2, 3).result(LIMIT) == ["a", 1, [2, 3], {}]


def test_map_keeps_the_order(executor: PoolExecutor) -> None:
    assert list(executor.map(work.count, ["a" * n for n in range(50)], timeout=LIMIT)) == list(range(50))


@pytest.mark.parametrize(
    ("submit", "kind", "text"),
    [
        (lambda ex: ex.submit(print, "x"), LocalProtocolError, "builtins.print is not at the far ends"),
        (lambda ex: ex.submit(lambda: 1), LocalProtocolError, "not a function at the top of its module"),
        (lambda ex: ex.submit("count"), LocalProtocolError, "expected a function of a module"),
        (lambda ex: ex.submit(work.Item), LocalProtocolError, "expected a function of a module"),
        (lambda ex: ex.submit(work._hidden), LocalProtocolError, "its name begins with _"),
        (lambda ex: ex.submit(work.numbers), LocalProtocolError, "yields, which a call cannot"),
        (lambda ex: ex.submit(work.odd_kind, 1j), LocalProtocolError, "complex is no dataclass, Enum or scalar"),
        (lambda ex: ex.submit(work.count), TypeError, "far_work.count: missing a required argument: 'text'"),
        (lambda ex: ex.submit(work.pid, 1), TypeError, "far_work.pid: too many positional arguments"),
        (lambda ex: ex.submit(work.count, 3), BadValue, r"\$.text: expected str, got int \(in a call of"),
        (
            lambda ex: ex.submit(work.plain, [{1}]),
            BadValue,
            r"\$.a\[0\]: a set cannot be sent without an annotation",
        ),
    ],
)
def test_what_cannot_be_called_is_refused_at_once(
    executor: PoolExecutor, submit: Callable[[PoolExecutor], object], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        submit(executor)


def failure(future: Future[Any]) -> BaseException:
    error = future.exception(LIMIT)
    assert error is not None
    return error


def test_an_exception_is_of_its_class_with_the_far_traceback(executor: PoolExecutor) -> None:
    error = failure(executor.submit(work.fail, "nothing"))
    assert type(error) is KeyError
    assert error.args == ("nothing",)
    assert isinstance(error.__cause__, FarTraceback)
    assert "return {}[kind]" in str(error.__cause__)
    assert "farside" not in str(error.__cause__)
    odd = failure(executor.submit(work.fail, "odd"))
    assert type(odd) is work.Odd
    assert odd.args == ("x", 1)
    sold_out = failure(executor.submit(work.fail, "sold-out"))
    assert isinstance(sold_out, work.SoldOut)
    assert (sold_out.title, str(sold_out)) == ("Emma", "Emma: sold out")


def test_an_exception_that_cannot_be_made_again(executor: PoolExecutor) -> None:
    error = failure(executor.submit(work.fail, "worse"))
    assert type(error) is FunctionFailed
    assert (error.name, error.text) == ("Worse", "1")
    assert "raised Worse at the far end: 1" in str(error)


def test_a_result_that_cannot_be_sent(executor: PoolExecutor) -> None:
    error = failure(executor.submit(work.fail, "set"))
    assert type(error) is TypeError
    assert f"the result of {work.__name__}.fail cannot be sent: $: a set cannot be sent" in str(error)


def test_a_call_that_waits_can_be_cancelled_and_one_under_way_cannot(tmp_path: Path) -> None:
    with PoolExecutor(PYTHON, work, max_workers=1) as executor:
        first = executor.submit(work.until, str(tmp_path / "go"), str(tmp_path / "began"))
        second = executor.submit(work.pid)
        assert second.cancel()
        work.until(str(tmp_path / "began"))
        assert not first.cancel()
        (tmp_path / "go").touch()
        assert first.result(LIMIT) > 0
        with pytest.raises(CancelledError):
            second.result(LIMIT)


def test_shutdown_without_waiting(tmp_path: Path) -> None:
    executor = PoolExecutor(PYTHON, work, max_workers=1)
    first = executor.submit(work.until, str(tmp_path / "go"), str(tmp_path / "began"))
    work.until(str(tmp_path / "began"))
    second = executor.submit(work.pid)
    executor.shutdown(wait=False, cancel_futures=True)
    assert second.cancelled()
    assert not first.done()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(work.pid)
    (tmp_path / "go").touch()
    assert first.result(LIMIT) > 0
    executor.shutdown()


def test_calls_go_where_the_fewest_are(tmp_path: Path) -> None:
    with PoolExecutor(PYTHON, work, size=3) as executor:
        deadline = time.monotonic() + LIMIT
        while any(member.conn is None for member in executor.pool.members):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        futures = [executor.submit(work.until, str(tmp_path / "go")) for _ in range(6)]
        while not all(each.running() for each in futures) or _outstanding(executor) < 6:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert [member.conn.outstanding for member in executor.pool.members if member.conn] == [2, 2, 2]
        (tmp_path / "go").touch()
        wait(futures, LIMIT)
        pids = [each.result(LIMIT) for each in futures]
        assert all(pids.count(each) == 2 for each in pids)


def _outstanding(executor: PoolExecutor) -> int:
    return sum(member.conn.outstanding for member in executor.pool.members if member.conn is not None)


def test_a_far_end_that_dies(executor: PoolExecutor, tmp_path: Path) -> None:
    error = failure(executor.submit(work.die_unless, str(tmp_path / "died")))
    assert isinstance(error, ChildExited)
    assert error.returncode == 7
    assert executor.submit(work.die_unless, str(tmp_path / "died")).result(LIMIT) == 1  # another one


def test_an_idempotent_call_is_made_again(tmp_path: Path) -> None:
    with PoolExecutor(PYTHON, work, idempotent=True) as executor:
        assert executor.submit(work.die_unless, str(tmp_path / "died")).result(LIMIT) == 1


def test_a_call_that_is_to_be_done_once_is_not_made_again_by_another_process(tmp_path: Path) -> None:
    with PoolExecutor(PYTHON, work, once=True) as executor:
        assert executor.submit(work.pid).result(LIMIT) > 0
        assert isinstance(failure(executor.submit(work.die_unless, str(tmp_path / "died"))), ChildExited)


def test_a_time_limit(tmp_path: Path) -> None:
    with PoolExecutor(PYTHON, work, timeout=0.01) as executor:
        assert isinstance(failure(executor.submit(work.until, str(tmp_path / "go"))), RequestTimeout)
        (tmp_path / "go").touch()


def test_servers_and_children_of_its_functions(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/work.sock"
    far = child([sys.executable, "-c", SERVER], cwd=TESTS)
    with serve(address, Functions(work)), PoolExecutor([address, far], work, size=2, once=True) as executor:
        assert list(executor.map(work.count, ["a"] * 20)) == [1] * 20
        error = failure(executor.submit(work.fail, "nothing"))
        assert type(error) is KeyError
        assert error.__cause__ is None  # a server tells no traceback, unless it is asked to


def test_a_command_that_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TESTS)
    with PoolExecutor("exec:" + shlex.join([sys.executable, "-c", SERVER]), work, ship=False) as executor:
        assert executor.submit(work.count, "Emma").result(LIMIT) == 4


def test_what_a_server_does_not_serve(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/work.sock"
    for served, text in (["packetwire.core.varint"], "no functions of the module"), ([work], "has no function"):
        with serve(address, Functions(*served)), PoolExecutor(address, work) as executor:
            error = failure(executor.submit(work.count if text.startswith("no") else _elsewhere(), "a"))
            assert isinstance(error, RequestFailed)
            assert text in error.text


def _elsewhere() -> Callable[[str], int]:
    """A function that its server has not: it is of another version."""

    def added(text: str) -> int:
        return 0

    added.__module__, added.__qualname__ = work.__name__, "added"
    return added


def test_a_traceback_of_a_server_that_tells_it(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/work.sock"
    with serve(address, Functions(work, traceback=True)), PoolExecutor(address, work) as executor:
        assert "return {}[kind]" in str(failure(executor.submit(work.fail, "nothing")).__cause__)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x01", b"\x81\xa1a\x01", b"\x82\xa8function\xa1a", b"\x82\xa8function\x01\xa9arguments\x80"],
)
def test_a_request_that_is_no_call_is_refused(payload: bytes, tmp_path: Path) -> None:
    functions = Functions(work)
    with pytest.raises(Exception, match=r".") as caught:
        functions.handle(1, 0, payload)
    assert type(caught.value).__name__ == "RequestError"
    with pytest.raises(Exception, match="no request type 2"):
        functions.handle(2, 0, payload)


def test_a_call_waits_for_a_module_that_another_thread_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, let_go = threading.Event(), threading.Event()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "importing", SimpleNamespace(begun=begun, let_go=let_go))
    source = "import importing\nimporting.begun.set()\nimporting.let_go.wait()\ndef one() -> int:\n    return 1\n"
    (tmp_path / "slow_work.py").write_text(source)
    functions = Functions.of_all()
    call = b"\x82\xa8function" + Plain().encode("slow_work:one") + b"\xa9arguments\x80"
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(functions.handle, 1, 0, call)
        assert begun.wait(LIMIT)
        second = threads.submit(functions.handle, 1, 0, call)
        wait([second], 0.1)  # time enough for one that would not wait
        let_go.set()
        assert first.result(LIMIT) == second.result(LIMIT) == b"\x01"
    del sys.modules["slow_work"]


@pytest.mark.parametrize(
    "name", ["os:system", f"{work.__name__}:_hidden", f"{work.__name__}:Item", f"{work.__name__}:time", "x", ":"]
)
def test_only_the_functions_of_the_module_can_be_called(name: str) -> None:
    call = b"\x82\xa8function" + Plain().encode(name) + b"\xa9arguments\x80"
    with pytest.raises(Exception, match=r".") as caught:
        Functions(work).handle(1, 0, call)
    assert type(caught.value).__name__ == "RequestError"


def test_modules_that_cannot_be_sent() -> None:
    with pytest.raises(LocalProtocolError, match="the main module cannot be sent"):
        PoolExecutor(PYTHON, "__main__")
    with pytest.raises(LocalProtocolError, match="there is no such module"):
        PoolExecutor(PYTHON, "nowhere_to_be_found")
    with pytest.raises(LocalProtocolError, match="there are no modules"):
        Functions()
    with pytest.raises(TypeError, match="expected a module"):
        PoolExecutor(PYTHON, 3)  # type: ignore[arg-type]


def test_in_an_event_loop(executor: PoolExecutor) -> None:
    async def run() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, work.count, "a" * n) for n in range(10)))

    assert asyncio.run(run()) == list(range(10))


def test_plain_values_have_bounds() -> None:
    nested: list[Any] = []
    nested.append(nested)
    with pytest.raises(BadValue, match="nested deeper than 64"):
        Plain().encode(nested)
    with pytest.raises(BadValue, match=r"\$\['k'\]: an int must be"):
        Plain().encode({"k": 1 << 64})


def test_over_ssh(tmp_path: Path) -> None:
    with running_sshd(tmp_path) as sshd:
        address = f"ssh:-F {shlex.quote(str(sshd.config))} here {sys.executable}"
        with PoolExecutor(address, work, size=2) as far:
            assert list(far.map(work.count, ["a", "bb"], timeout=LIMIT)) == [1, 2]


def test_what_is_never_shut_down_keeps_no_program_alive(tmp_path: Path) -> None:
    program = (
        f"import sys; from packetwire.executor import PoolExecutor; import {work.__name__} as work\n"
        "executor = PoolExecutor('exec:' + sys.executable, work)\n"
        "print(executor.submit(work.count, 'Emma').result())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=TESTS, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b"4\n"), done.stderr


def test_an_answer_that_is_no_exception_is_told_as_it_is(tmp_path: Path) -> None:
    from packetwire import PacketConnection, RequestError

    def refuse(rq_type: int, flags: int, payload: bytes) -> bytes:
        raise RequestError("not today")

    address = f"unix:{tmp_path}/work.sock"
    with serve(address, lambda stream: PacketConnection(stream, request_handler=refuse)):
        with PoolExecutor(address, work) as executor:
            error = failure(executor.submit(work.count, "a"))
            assert isinstance(error, RequestFailed)
            assert error.text == "not today"
