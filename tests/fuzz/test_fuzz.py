"""Every decoder, fed what no peer should send: a bounded number of inputs, the same each time.

`python -m tests.fuzz` does the same for as long as one likes.
"""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from random import Random

import pytest

from packetwire.errors import LocalProtocolError
from packetwire.hololinked import OperationFailed, PayloadError, ResponseMessage, SerializableData

from . import running
from .frames import pack, unpack
from .mutators import DEPTH, frames_mutator, json_mutator, octets_mutator, stream_mutator
from .reasons import RaisedIn, TextsOf
from .target import Target, chunks_of
from .targets import TARGETS

ROOT = Path(__file__).parents[2]
FINDINGS = sorted(path for path in (ROOT / "fixtures" / "fuzz").iterdir() if path.suffix != ".md")
RUNS = 500
RUNS_OF = {
    "addresses": 2000,
    "requests": 2000,
    "typed": 6000,
    "hello": 2000,
    "frames": 2000,
    "results": 2000,
    "protobuf": 2000,
    "riaps": 2000,
    "hololinked": 1500,
    "engine": 1500,
}
"""Where more take no time."""
LONG_RUNS = 1000

pytestmark = pytest.mark.timeout(110)


@pytest.fixture(autouse=True)
def silent(caplog: pytest.LogCaptureFixture) -> None:
    """What is refused is logged by some: a million lines help nobody."""
    caplog.set_level("CRITICAL", "packetwire")


@pytest.mark.parametrize("name", TARGETS)
def test_only_documented_refusals_and_each_of_them(name: str) -> None:
    report = running.run(TARGETS[name], runs=RUNS_OF.get(name, RUNS))
    assert [finding.told for finding in report.findings.values()] == []
    assert report.missing == []
    assert set(report.reasons) == report.target.reasons, "there is a reason of which nothing was known"
    assert report.refused < report.inputs or name == "hololinked", "nothing whole is left"


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: path.name)
def test_what_was_found_before(path: Path) -> None:
    names = [name for name in TARGETS if path.name.startswith(f"{name}-")]
    running.hear_once(TARGETS[max(names, key=len)], path.read_bytes())


def test_an_explanation_that_is_nested_too_deep_for_a_text() -> None:
    """It was decoded before, where the stack had more room. Found by reading; no input does that alone."""
    for depth in range(DEPTH, 0, -1):
        told = SerializableData(b"[" * depth + b"]" * depth)
        message = ResponseMessage.craft_from_arguments("cli", "srv", "EXCEPTION", "1", told)
        try:
            message.payload.deserialize()
        except PayloadError:
            continue
        break

    def deeper(left: int) -> None:
        if left:
            deeper(left - 1)
        else:
            message.result()

    with pytest.raises(OperationFailed):
        deeper(50)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_command() -> None:
    """With atheris, where it is installed."""
    command = [sys.executable, "-m", "tests.fuzz", "--runs", str(LONG_RUNS), "--seed", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in TARGETS:
        assert f"{name}: {LONG_RUNS} inputs" in done.stdout


def test_an_unknown_target() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--plain", "engine", "motor"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no target motor; there are packets, engine," in done.stderr


# the tools


def made(hear: object, reasons: frozenset[str] = frozenset()) -> Target:
    return Target("made", [b"seed"], octets_mutator(), hear, reasons)  # type: ignore[arg-type]


def test_what_is_raised_is_a_finding() -> None:
    def hear(octets: bytes) -> list[str]:
        assert b"\x80" not in octets
        return [str({}[0])] if b"\x7f" in octets else []

    report = running.run(made(hear), runs=500)
    assert {finding.kind.split()[0] for finding in report.findings.values()} == {"AssertionError", "KeyError"}
    for finding in report.findings.values():
        assert b"\x80" in finding.octets or b"\x7f" in finding.octets
        with pytest.raises((AssertionError, KeyError)):
            running.hear_once(made(hear), finding.octets)
    assert "Traceback" in next(iter(report.findings.values())).told


def test_memory_is_bounded() -> None:
    def hear(octets: bytes) -> list[str]:
        taken = bytes(running.ALLOWANCE // 2 + 300 * len(octets))
        return [str(len(taken))]

    assert not running.run(made(hear), runs=100).findings
    report = running.run(made(lambda octets: hear(octets + bytes(3000))), runs=100)
    (finding,) = report.findings.values()
    assert finding.kind.startswith("TooMuch")


def test_processor_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    def hear(octets: bytes) -> list[str]:
        while True:
            pass

    monkeypatch.setattr(running, "CPU_SECONDS", 0.01)
    with pytest.raises(running.TooLong):
        running.hear_once(made(hear), b"")


def test_reasons_that_are_not_met_are_missing() -> None:
    report = running.run(made(lambda octets: ["b"], frozenset("abc")), runs=10)
    assert report.missing == ["a", "c"]
    other = running.run(made(lambda octets: ["a"], frozenset("abc")), runs=10)
    report.add(other)
    assert report.missing == ["c"]
    assert (report.inputs, report.refused) == (20, 20)


def test_the_same_seed_gives_the_same_inputs() -> None:
    heard: list[list[bytes]] = []
    for seed in (1, 1, 2):
        heard.append([])
        running.run(made(lambda octets: heard[-1].append(octets) or []), runs=50, seed=seed)
    assert heard[0] == heard[1] != heard[2]


@pytest.mark.parametrize("items", [[], [b""], [b"", b"x" * 70000, b"y"]], ids=len)
def test_lists_as_inputs(items: list[bytes]) -> None:
    assert unpack(pack(items)) == items


@pytest.mark.parametrize("octets", [b"\0", b"\0\0\5abc", b"\xff\xff\xff", b"\0\0\0\0\0\1x"])
def test_any_input_is_a_list(octets: bytes) -> None:
    assert len(pack(unpack(octets))) >= len(octets)


def test_chunks_are_the_whole() -> None:
    random = Random(3)
    for size in (0, 1, 5, 150, 5000):
        octets = random.randbytes(size)
        assert b"".join(chunks_of(octets)) == octets
        assert chunks_of(octets) == chunks_of(octets)


@pytest.mark.parametrize(
    "mutate",
    [
        octets_mutator([b"word"], [b"other"]),
        frames_mutator(octets_mutator(), [pack([b"a", b"b"])], lambda random: b"fresh"),
        stream_mutator([b"\3\0\2\0"]),
        json_mutator(["word"]),
    ],
    ids=["octets", "frames", "stream", "json"],
)
@pytest.mark.parametrize("octets", [b"", b'{"a":[1,{"b":null}]}', pack([b"x"]), bytes(50)], ids=len)
def test_mutators_take_anything(mutate: running.Mutate, octets: bytes) -> None:
    random = Random(7)
    assert len({mutate(octets, random) for _ in range(300)}) > 50
    for _ in range(200):
        octets = mutate(octets, random)[:2000]


def test_json_is_nested_deeper_than_python_goes() -> None:
    assert sys.getrecursionlimit() < DEPTH


REFUSING = """
from packetwire.errors import LocalProtocolError
from packetwire.hololinked import OperationFailed, PayloadError, ResponseMessage, SerializableData

def first(n):
    if n == 1:
        raise ValueError(f"{n} is one")
    try:
        second(n)
    except LocalProtocolError as error:
        raise ValueError("second") from error

def second(n):
    raise LocalProtocolError("a number: %d" % n)

class Third:
    def never(self):
        raise ValueError("never")
"""


@pytest.fixture
def refusing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    (tmp_path / "refusing.py").write_text(REFUSING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "refusing", raising=False)
    import refusing

    return refusing


def test_reasons_are_found_in_the_code(refusing: types.ModuleType) -> None:
    raised = RaisedIn(refusing, without=["Third"])
    assert raised.reasons == {"first: {} is one", "first: second", "second: a number: {}"}
    for n, expected in ((1, ["first: {} is one"]), (2, ["first: second", "second: a number: {}"])):
        with pytest.raises(ValueError) as caught:
            refusing.first(n)
        assert raised.of(caught.value) == expected
    assert raised.of(LocalProtocolError("of elsewhere")) == []
    assert len(RaisedIn(refusing).reasons) == 4
    with pytest.raises(AssertionError, match="Fourth"):
        RaisedIn(refusing, without=["Fourth"])


def test_texts_are_found_in_the_code(refusing: types.ModuleType) -> None:
    texts = TextsOf(refusing, ["ValueError", "LocalProtocolError"])
    assert texts.reasons == {"{} is one", "second", "a number: {}", "never"}
    assert texts.of("1 is one") == ["{} is one"]
    assert texts.of("a number: 5 is one") == ["a number: {}"]
    assert texts.of("else") == []
