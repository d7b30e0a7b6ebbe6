"""docs/porting.md against the reference: its programs, its names, and what it says of the reference."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

import packetwire

pytestmark = pytest.mark.timeout(120, func_only=True)

PAGE = Path(__file__).parents[2] / "docs" / "porting.md"
TEXT = PAGE.read_text()
PROGRAMS = {text.split()[1]: text for text in re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)}
BEFORE, AFTER = PROGRAMS
CLAIMS_PROGRAM = Path(__file__).with_name("reference_claims.py")
CLAIMS = re.findall(r'@claim\ndef .*?"""(.*?)"""', CLAIMS_PROGRAM.read_text(), re.DOTALL)
NAMES = re.findall(r"^\| `([\w.]+)` \|", TEXT, re.MULTILINE)

GONE = {
    "PacketConnection.open": {"caller_frame"},
    "PacketConnection.close": {"enforce_final_close", "caller_frame", "unopened_ok"},
}
"""Parameters that the page says are gone."""

VARIADIC = {"BaseRequest"}
"""What takes its parameters by position without naming them."""

LIST_PARAMETERS = """
import inspect, json, sys
import cs.packetstream
found = {}
for path in sys.argv[1:]:
    thing = cs.packetstream
    for name in path.split("."):
        thing = getattr(thing, name, None)
    if inspect.isclass(thing):
        thing = thing.__init__
    thing = inspect.getclosurevars(thing).nonlocals.get("func", thing) if inspect.isfunction(thing) else thing
    if inspect.isroutine(thing):
        found[path] = [
            (name, parameter.kind.name) for name, parameter in inspect.signature(thing).parameters.items()
        ]
json.dump(found, sys.stdout)
"""


def run(argv: list[str], directory: Path) -> str:
    """The standard output of a command, which must succeed."""
    done = subprocess.run(
        argv, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("client", "server"), list(product(PROGRAMS, repeat=2)))
def test_the_service_in_all_combinations(python: Path, tmp_path: Path, client: str, server: str) -> None:
    interpreters = {BEFORE: str(python), AFTER: sys.executable}
    for name, program in PROGRAMS.items():
        (tmp_path / name).write_text(program)
    printed = run([interpreters[client], client, interpreters[server], server, "serve"], tmp_path).splitlines()
    promised = re.findall(r"print\(.*\)  # (.*)", PROGRAMS[client])
    progress = [line for line in printed if line not in promised]
    assert [line for line in printed if line in promised] == promised
    assert promised
    assert bool(progress) == (client == BEFORE), "only the reference prints its progress to standard output"


@pytest.fixture(scope="module")
def outcomes(python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of each claim about the reference."""
    claims: dict[str, str] = json.loads(run([str(python), str(CLAIMS_PROGRAM)], tmp_path_factory.mktemp("claims")))
    return claims


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_the_page_says_of_the_reference(outcomes: dict[str, str], claim: str) -> None:
    assert f"\n| {claim} | " in TEXT
    assert outcomes[claim] == ""


def test_the_names_that_stay_take_what_they_took(python: Path, tmp_path: Path) -> None:
    before = json.loads(run([str(python), "-c", LIST_PARAMETERS, *NAMES], tmp_path))
    assert ["decode_response", "KEYWORD_ONLY"] in before["PacketConnection.submit"]
    assert {path for path in NAMES if path not in before} >= {"PacketConnection.closed", "DEFAULT_PACKET_GRACE"}
    for path, parameters in before.items():
        gone = GONE.get(path, set())
        assert {name for name, _ in parameters} >= gone
        name, _, attribute = path.partition(".")
        ours = list(inspect.signature(getattr(getattr(packetwire, name), attribute or "__init__")).parameters)
        kept = [(name, kind) for name, kind in parameters if name not in gone and not kind.startswith("VAR_")]
        assert [name for name in ours if name in dict(kept)] == [name for name, _ in kept], path
        positional = [name for name, kind in kept if kind == "POSITIONAL_OR_KEYWORD"]
        assert ours[: len(positional)] == positional or path in VARIADIC, path
