"""The modules that may be compiled: built or not, used or not, and what is said about it.

Whatever goes wrong, the package is installed and works.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from packetwire import twins

from .archives import HAS_COMPILER, NOT_BUILT_FROM, ROOT, STEP_SECONDS, Archives, archives, quick_compiler

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="there is no compiler here")

WORKS = """
import socket
import packetwire
from packetwire import PacketConnection
from packetwire.core import engine
ours, theirs = socket.socketpair()
with ours, theirs:
    with PacketConnection(theirs, request_handler=lambda rq_type, flags, payload: payload[::-1]):
        with PacketConnection(ours) as connection:
            assert connection(1, b"ab") == (True, 0, b"ba")
assert engine.__file__.endswith(".py") == (packetwire.compiled is not True), engine.__file__
print(packetwire.compiled)
"""
"""Prints whether the compiled modules are used."""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    return archives(tmp_path_factory)


def run(argv: list[str], **environ: str) -> str:
    """The output of a command, which must succeed."""
    told = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", twins.PURE)
    env = {name: value for name, value in os.environ.items() if name not in told} | environ
    done = subprocess.run(
        argv, env=env, capture_output=True, text=True, check=False, timeout=STEP_SECONDS, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{' '.join(argv)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def said(place: Path, **environ: str) -> str:
    """What the package in the directory `place` says of itself, and that it works."""
    return run([sys.executable, "-c", WORKS], PYTHONPATH=str(place), **environ).strip()


def unpacked(wheel: Path, place: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    return place


def wheel_of(place: Path, *options: str, **environ: str) -> Path:
    """A wheel of the checkout, built in `place`."""
    source = place / "source"
    shutil.copytree(ROOT, source, ignore=NOT_BUILT_FROM)
    shutil.rmtree(source / "lib" / "packetwire" / twins.DIRECTORY, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--disable-pip-version-check"]
    run([*pip, *options, "--wheel-dir", str(place), str(source)], **environ)
    (wheel,) = place.glob("*.whl")
    return wheel


# what is built


@needs_compiler
def test_where_there_is_a_compiler_all_is_compiled(built: Archives, tmp_path: Path) -> None:
    assert built.wheel.name.endswith("any.whl") is False
    place = unpacked(built.wheel, tmp_path)
    assert said(place) == "True"
    assert run([sys.executable, "-m", "packetwire", "--version"], PYTHONPATH=str(place)).endswith(" (compiled)\n")


@needs_compiler
def test_a_wheel_that_is_not_made_from_an_sdist(tmp_path: Path) -> None:
    wheel = wheel_of(tmp_path, CC=quick_compiler(tmp_path))
    assert said(unpacked(wheel, tmp_path / "there")) == "True"


def test_nothing_is_built_on_demand(tmp_path: Path) -> None:
    wheel = wheel_of(tmp_path, **{twins.PURE: "1"})
    assert wheel.name.endswith("-py3-none-any.whl")
    assert said(unpacked(wheel, tmp_path / "there")) == f"{twins.PURE} was set when packetwire was installed"


def test_without_a_compiler(tmp_path: Path) -> None:
    wheel = wheel_of(tmp_path, CC="/nowhere/cc")
    assert wheel.name.endswith("-py3-none-any.whl")
    text = "there was no C compiler (/nowhere/cc) when packetwire was installed"
    assert said(unpacked(wheel, tmp_path / "there")) == text


@needs_compiler
def test_with_a_compiler_that_is_broken(tmp_path: Path) -> None:
    wheel = wheel_of(tmp_path, CC="false")
    assert wheel.name.endswith("-py3-none-any.whl")
    text = said(unpacked(wheel, tmp_path / "there"))
    assert re.match("compiling failed when packetwire was installed: .*'false'", text)


@needs_compiler
def test_with_a_compiler_that_fails_at_the_last_module(tmp_path: Path) -> None:
    last = twins.MODULES[-1].rpartition(".")[2]
    wheel = wheel_of(tmp_path, CC=quick_compiler(tmp_path, f'case "$*" in *{last}.c*) exit 1;; esac'))
    with zipfile.ZipFile(wheel) as archive:
        assert [name for name in archive.namelist() if name.endswith(".so")] == []
    assert said(unpacked(wheel, tmp_path / "there")).startswith("compiling failed when packetwire was installed")


@needs_compiler
def test_where_cython_cannot_be_had(built: Archives, tmp_path: Path) -> None:
    """The index has what every build needs, and no Cython."""
    index = tmp_path / "index"
    index.mkdir()
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    run([*pip, "--dest", str(index), "setuptools>=77"])
    wheel = wheel_of(tmp_path, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(index))
    assert wheel.name.endswith("-py3-none-any.whl")
    text = "compiling failed when packetwire was installed: there was no Cython"
    assert said(unpacked(wheel, tmp_path / "there")) == text


# what is used


@pytest.fixture
def compiled(built: Archives, tmp_path: Path) -> Path:
    """A directory with the compiled package."""
    if not HAS_COMPILER:
        pytest.skip("there is no compiler here")
    return unpacked(built.wheel, tmp_path / "there")


def modules_in(place: Path) -> list[Path]:
    return sorted((place / "packetwire" / twins.DIRECTORY).rglob("*.so"))


def test_it_can_be_used_in_python_all_the_same(compiled: Path) -> None:
    assert said(compiled, PACKETWIRE_PURE="1") == "PACKETWIRE_PURE is set"


@pytest.mark.parametrize("which", range(len(twins.MODULES)))
def test_one_module_is_missing(compiled: Path, which: int) -> None:
    modules_in(compiled)[which].unlink()
    assert re.fullmatch(
        "there is no compiled packetwire.* for cpython 3.*: install packetwire again", said(compiled)
    )


@pytest.mark.parametrize("which", range(len(twins.MODULES)))
def test_one_module_is_damaged(compiled: Path, which: int) -> None:
    module = modules_in(compiled)[which]
    module.write_bytes(b"\x7fELF" + module.read_bytes()[::-1])
    assert re.match("the compiled packetwire.* cannot be loaded: ", said(compiled))


@pytest.mark.parametrize("suffix", [".py", ".pxd"])
def test_a_source_has_changed_since(compiled: Path, suffix: str) -> None:
    source = compiled / "packetwire" / "core" / f"engine{suffix}"
    source.write_text(source.read_text() + "\n")
    assert said(compiled) == "the modules were compiled from other sources: install packetwire again"


def test_it_was_made_for_another_python(compiled: Path) -> None:
    for module in modules_in(compiled):
        module.rename(module.with_name(module.name.replace("cpython-3", "cpython-2")))
    assert "for cpython 3" in said(compiled)


def test_an_editable_installation_is_compiled_and_follows_the_sources(built: Archives, tmp_path: Path) -> None:
    source, home = tmp_path / "source", tmp_path / "environment"
    shutil.copytree(ROOT, source, ignore=NOT_BUILT_FROM)
    run([sys.executable, "-m", "venv", "--without-pip", str(home)])
    python = str(home / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    # its build gets its own Cython from the index; what packetwire needs comes from the directory
    run(
        [*pip, "--no-deps", "--editable", str(source)], **({"CC": quick_compiler(tmp_path)} if HAS_COMPILER else {})
    )
    run([*pip, "--no-index", "--find-links", str(built.wheels), "cs.result", "cs.binary", "cs.buffer"])
    told = run([python, "-c", WORKS]).strip()
    assert told == "True" if HAS_COMPILER else told.startswith("there was no C compiler")
    engine = source / "lib" / "packetwire" / "core" / "engine.py"
    engine.write_text(engine.read_text() + "\n# changed\n")
    assert run([python, "-c", WORKS]).strip() != "True"
