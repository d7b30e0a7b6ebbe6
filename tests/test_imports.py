"""What importing the package does, and that all of it can be imported."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.forkserver import ForkServer

import packetwire

HEAVY = [
    "asyncio",
    "cs.binary",
    "cs.buffer",
    "cs.result",
    "zmq",
    "google.protobuf",
    "opentelemetry",
    "subprocess",
    "rich",
]

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(packetwire.__path__, "packetwire.")
    if not module.name.endswith(".__main__")
)


CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}


def run(code: str, *arguments: str) -> str:
    """The output of `code` in an interpreter of its own, with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=CLEAN,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


LIST_LOADED = """
import sys
before = set(sys.modules)
exec(sys.argv[1])
print(*sorted(set(sys.modules) - before))
"""


@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    ("statement", "home"),
    [
        ("import packetwire", "packetwire"),
        ("from packetwire import *", "packetwire.streams.process"),
        ("from packetwire import BaseRequest, HasPacketConnection, stdio", "packetwire.hosts.threads.driver"),
    ],
)
def test_importing_the_package_loads_nothing_heavy(statement: str, home: str) -> None:
    loaded = run(LIST_LOADED, statement).split()
    assert home in loaded
    if statement.endswith("*"):
        return  # RequestResult and child are among the names, and what they need is loaded
    assert [name for name in loaded if any(name == heavy or name.startswith(heavy + ".") for heavy in HEAVY)] == []


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", packetwire.__all__)
def test_public_names(name: str) -> None:
    assert getattr(packetwire, name) is not None


def test_the_list_of_public_names() -> None:
    assert len(set(packetwire.__all__)) == len(packetwire.__all__)
    assert set(packetwire.__all__) >= {"PacketConnection", "HasPacketConnection", "BaseRequest", "Packet", "stdio"}
    namespace: dict[str, object] = {}
    exec("from packetwire import *", namespace)
    assert set(packetwire.__all__) <= set(namespace)


def test_a_name_that_there_is_not() -> None:
    with pytest.raises(AttributeError, match="module 'packetwire' has no attribute 'nothing'"):
        packetwire.nothing  # noqa: B018


def test_there_are_modules() -> None:
    assert {"packetwire.core.engine", "packetwire.streams.open", "packetwire.connection"} <= set(MODULES)


OTHERS = (
    "asyncio, cs.binary, cs.buffer, cs.result, google.protobuf, msgspec, opentelemetry.metrics, "
    "opentelemetry.trace, rich, ssl, subprocess, zmq"
)
"""What modules here import from elsewhere."""


@pytest.fixture(scope="module")
def without_package() -> Iterator[ForkServer]:
    """Forks of an interpreter that has imported nothing of the package."""
    server = ForkServer(f"import {OTHERS}", "-W", "error", env=CLEAN)
    yield server
    server.close()


@pytest.mark.timeout(90)
@pytest.mark.parametrize("module", MODULES)
def test_every_module_can_be_imported_first(without_package: ForkServer, module: str) -> None:
    """In a process of its own, so that no cycle of imports hides behind another import."""
    done = without_package.run(LIST_LOADED, [f"import {module}"])
    assert (done.returncode, done.stderr) == (0, b"")
    loaded = done.stdout.decode().split()
    assert module in loaded
    assert "packetwire" in loaded, "nothing of it was there before"
