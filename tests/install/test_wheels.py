"""The archives hold what they must, and what they install works in an empty environment, with each extra alone."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

import packetwire
from docs.pages import code_blocks
from docs.programs import promises, write_programs

from .archives import EXTRAS, FOR_DEVELOPERS, PROJECT, ROOT, Archives, archives, install, run, run_any

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

README, DOCS = ROOT / "README.md", ROOT / "docs"
MANUAL = "docs/packetwire.1"
PACKAGE = ROOT / "lib" / "packetwire"
DATA = {
    *("packetwire/py.typed", "packetwire/wireshark/packetwire.lua"),
    *("packetwire/messaging/butler.proto", "packetwire/messaging/butler.binpb"),
    *(
        "packetwire/cli/reporting/page.css",
        "packetwire/cli/reporting/page.html",
        "packetwire/cli/reporting/page.js",
    ),
}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    return archives(tmp_path_factory)


# what is in them


def sources() -> set[str]:
    return {
        path.relative_to(PACKAGE.parent).as_posix()
        for suffix in ("py", "pxd", "pyx")
        for path in PACKAGE.rglob(f"*.{suffix}")
    }


def test_the_wheel_holds_the_package_and_nothing_else(built: Archives) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = set(wheel.namelist())
        (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
        metadata = HeaderParser().parsestr(wheel.read(f"{info}/METADATA").decode())
        assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        assert "packetwire = packetwire.cli.main:main" in wheel.read(f"{info}/entry_points.txt").decode()
    compiled = {name for name in names if name.startswith("packetwire/_compiled/")}
    manual = f"{info.removesuffix('.dist-info')}.data/data/share/man/man1/{Path(MANUAL).name}"
    assert {name for name in names if not name.startswith(info)} - compiled == sources() | DATA | {manual}
    assert metadata["License-Expression"] == PROJECT["license"]
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert set(metadata.get_all("Provides-Extra")) == set(EXTRAS)
    assert metadata.get_payload().strip() == README.read_text().strip()


def test_the_sdist_holds_what_a_wheel_is_built_from_and_no_part_of_the_tests(built: Archives) -> None:
    with tarfile.open(built.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames() if not sdist.getmember(name).isdir()}
    wanted = {f"lib/{name}" for name in sources() | DATA} | {"LICENSE", "README.md", "pyproject.toml"}
    wanted |= {"setup.py", "tools/build_backend.py", MANUAL}
    assert names >= wanted
    made = {name for name in names if name in ("PKG-INFO", "setup.cfg") or ".egg-info/" in name}
    assert names - wanted - made <= {"CHANGELOG.md", "MANIFEST.in", "SECURITY.md"}


# what they install

DISTRIBUTIONS = {"argcomplete", "msgspec", "opentelemetry-api", "protobuf", "pyzmq", "rich"}
"""What the extras bring, as distributions are called."""

INSTALLED = {
    "": set(),
    "cli": {"argcomplete", "rich"},
    "zmq": {"pyzmq"},
    "butler": {"protobuf", "pyzmq"},
    "hololinked": {"msgspec", "pyzmq"},
    "otel": {"opentelemetry-api"},
    "typed": {"msgspec"},
    "all": DISTRIBUTIONS,
}
"""Extra -> what is there with it alone."""

PARTS = {
    "packetwire.fbsp": ("butler", {"protobuf"}),
    "packetwire.iccp": ("butler", {"protobuf"}),
    "packetwire.hololinked": ("hololinked", {"msgspec", "pyzmq"}),
    "packetwire.messaging.zmq": ("butler", {"pyzmq"}),
    "packetwire.otel": ("otel", {"opentelemetry-api"}),
    "packetwire.riaps": ("zmq", {"pyzmq"}),
    "packetwire.streams.zmq": ("zmq", {"pyzmq"}),
    "packetwire.streams.zmqrouter": ("zmq", {"pyzmq"}),
    "packetwire.zmqpackets": ("zmq", {"pyzmq"}),
}
"""Module -> the extra that is for it, and what it imports of the distributions."""

PROGRAMS = {
    "cli": [],
    "zmq": [(DOCS / "riaps.md", "ports.py")],
    "butler": [(DOCS / "fbsp.md", "ask.py"), (DOCS / "iccp.md", "control.py")],
    "hololinked": [(DOCS / "hololinked.md", "use.py")],
    "otel": [],
    "typed": [(DOCS / "typed.md", "ask.py")],
}
"""Extra -> programs of the pages that must run with it."""

LOOK_AROUND = """
import importlib, importlib.metadata, sys
print(*(dist.metadata["Name"].lower() for dist in importlib.metadata.distributions()))
for module in sys.argv[1:]:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        print(f"{module}: {error}")
    else:
        print(f"{module}: imported")
"""

RUN_AND_LIST = """
import runpy, sys
runpy.run_path("upper.py", run_name="__main__")
print(*sorted({"asyncio", "google", "msgspec", "opentelemetry", "rich", "zmq"} & set(sys.modules)))
"""


def test_every_extra_is_installed_alone() -> None:
    assert set(INSTALLED) == {"", *EXTRAS} - FOR_DEVELOPERS
    assert set(PROGRAMS) == set(EXTRAS) - {"all"} - FOR_DEVELOPERS


@pytest.mark.parametrize("extra", INSTALLED, ids=lambda extra: extra or "base")
def test_it_works_in_an_empty_environment(extra: str, built: Archives, tmp_path: Path) -> None:
    python = str(install(built, extra, tmp_path / "environment"))
    command = str(tmp_path / "environment" / "bin" / "packetwire")
    there = INSTALLED[extra]
    check_parts(python, there)
    check_round_trip_through_a_child(python, there, tmp_path)
    check_command(command, python, there)
    page = tmp_path / "environment" / "share" / "man" / "man1" / "packetwire.1"
    assert page.read_text().startswith('.\\" made by tools/manpage.py\n.TH PACKETWIRE 1 ')
    check_display(command, "rich" in there)
    for kind in PROGRAMS if extra == "all" else [extra] if extra else []:
        for page, name in PROGRAMS[kind]:
            check_program(python, page, name, tmp_path / f"{page.stem}-{name}")
    if "pyzmq" in there:
        check_round_trip_over_zmq(python, tmp_path)


def check_parts(python: str, there: set[str]) -> None:
    """What is installed is what the extra brings; what cannot be imported says which extra is for it."""
    installed, *parts = run([python, "-W", "error", "-c", LOOK_AROUND, *PARTS]).stdout.splitlines()
    assert set(installed.split()) & DISTRIBUTIONS == there
    assert "packetwire" in installed.split()
    assert not {"pip", "setuptools", "pytest"} & set(installed.split())
    for part, (module, (extra, needs)) in zip(parts, PARTS.items(), strict=True):
        if needs <= there:
            assert part == f"{module}: imported"
        else:
            assert part.startswith(f"{module}: No module named '")
            assert part.endswith(f"': pip install 'packetwire[{extra}]'")


def check_round_trip_through_a_child(python: str, there: set[str], directory: Path) -> None:
    """The README's program, which imports nothing of any extra but msgspec, where that is installed."""
    (program,) = code_blocks(README, "python")
    (directory / "upper.py").write_text(program)
    done = run([python, "-W", "error", "-c", RUN_AND_LIST], cwd=directory)
    assert done.stdout.splitlines() == [*promises(program), "msgspec" if "msgspec" in there else ""]
    assert done.stderr == ""


def check_command(command: str, python: str, there: set[str]) -> None:
    version = run([command, "--version"]).stdout
    assert re.fullmatch(
        rf"packetwire {re.escape(packetwire.__version__)} \((not compiled: .*|compiled)\)\n", version
    )
    assert run([python, "-m", "packetwire", "--version"]).stdout == version
    assert run([command, "--help"]).stdout.startswith("usage: packetwire ")
    if "protobuf" not in there:
        for argv in (["fbsp", "hello", "tcp:127.0.0.1:9"], ["iccp", "run", "true"]):
            check_refused([command, *argv], "butler")
    if "pyzmq" not in there:
        check_refused([command, "call", "zmq+dealer:tcp://127.0.0.1:9", "1"], "zmq")


def check_refused(argv: list[str], extra: str) -> None:
    done = run_any(argv)
    assert done.returncode != 0
    assert done.stdout == ""
    assert f"pip install 'packetwire[{extra}]'" in done.stderr
    assert done.stderr.count("\n") == 1


def check_display(command: str, with_rich: bool) -> None:
    """On a terminal the demonstration is in colours if rich is there, and it goes well in any case."""
    ours, theirs = pty.openpty()
    try:
        argv = [command, "demo", "--size", "1MB"]
        environ = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80"}
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environ) as demo:
            os.close(theirs)
            shown = read_to_end(ours)
        assert demo.returncode == 0, shown
    finally:
        os.close(ours)
    assert b"SHA-256" in shown
    assert (b"\x1b[" in shown) == with_rich


def read_to_end(terminal: int) -> bytes:
    pieces = []
    try:
        while piece := os.read(terminal, 65536):
            pieces.append(piece)
    except OSError:
        pass  # so it is told on Linux that nobody has the other side open any more
    return b"".join(pieces)


def check_program(python: str, page: Path, name: str, directory: Path) -> None:
    directory.mkdir()
    write_programs(page, directory)
    done = run([python, name], cwd=directory)
    assert done.stdout.splitlines() == promises((directory / name).read_text())
    assert done.stdout


def check_round_trip_over_zmq(python: str, directory: Path) -> None:
    program = Path(__file__).with_name("over_zmq.py")
    assert run([python, "-W", "error", str(program)], cwd=directory).stdout.splitlines() == promises(
        program.read_text()
    )
