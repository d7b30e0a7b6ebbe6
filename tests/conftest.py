"""What holds for all tests."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Ctrl-C is tested, also where whoever started the tests ignores it, as a shell does in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    workerinput = getattr(config, "workerinput", None)
    if workerinput is not None:
        _rewrite_share(config, int(workerinput["workerid"].removeprefix("gw")), workerinput["workercount"])
    elif sys.dont_write_bytecode:
        _keep_bytecode(config)


def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: half as many again as there are processors, and one, as many tests wait half of their time."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return processors + processors // 2 + 1


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A worker takes tests that stand together and share what a module sets up; at the end those of others."""
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def pytest_collection_finish() -> None:
    """What is there by now stays to the end: the tests that collect garbage need not look through it each time."""
    gc.collect()
    gc.freeze()


def _keep_bytecode(config: pytest.Config) -> None:
    """Where no bytecode is wanted in the checkout, it is kept in pytest's cache, or else until the tests are over.

    They start many interpreters, each of which would compile the package anew.
    """
    cache: pytest.Cache | None = getattr(config, "cache", None)
    if cache is not None:
        folder = str(cache.mkdir("bytecode"))
    else:
        temporary = tempfile.TemporaryDirectory(prefix="packetwire-bytecode-", ignore_cleanup_errors=True)
        config.add_cleanup(temporary.cleanup)
        folder = temporary.name
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = folder
    sys.dont_write_bytecode = False


@pytest.fixture
def plain_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections of this process have no capabilities unless they are told so: for tests that compare bytes."""
    from packetwire import AsyncPacketConnection, PacketConnection

    for kind in (PacketConnection, AsyncPacketConnection):
        monkeypatch.setitem(kind.__init__.__kwdefaults__, "capabilities", "off")


def _rewrite_share(config: pytest.Config, number: int, count: int) -> None:
    """In one of several workers: compile a share of the tests first, so that not each of them compiles all.

    Their assertions are rewritten by that, which takes longer than most tests. When it comes to import the others,
    they are mostly there. It is what pytest does at each import, but for the import; where pytest does that in
    another way than today, nothing is done here.
    """
    try:
        from _pytest.assertion.rewrite import (
            PYC_TAIL,
            _read_pyc,
            _rewrite_test,
            _write_pyc,
            assertstate_key,
            get_cache_dir,
            try_makedirs,
        )
    except ImportError:
        return
    state = config.stash[assertstate_key]
    for path in sorted(Path(__file__).parent.rglob("test_*.py"))[number::count]:
        folder = get_cache_dir(path)
        compiled = folder / f"{path.stem}{PYC_TAIL}"
        if try_makedirs(folder) and _read_pyc(path, compiled) is None:
            found, code = _rewrite_test(path, config)
            _write_pyc(state, code, found, compiled)
