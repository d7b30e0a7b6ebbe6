"""What holds for all tests."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Ctrl-C is tested, also where whoever started the tests ignores it, as a shell does in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.dont_write_bytecode and not hasattr(config, "workerinput"):
        _keep_bytecode(config)


def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: some tests wait for most of their time, so one more than there are processors."""
    return len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)) + 1


def pytest_collection_finish() -> None:
    """What is there by now stays to the end: the tests that collect garbage need not look through it each time."""
    gc.collect()
    gc.freeze()


def _keep_bytecode(config: pytest.Config) -> None:
    """Where no bytecode is wanted in the checkout, it is kept elsewhere until the tests are over.

    They start some thousand interpreters, each of which would compile the package anew.
    """
    folder = tempfile.TemporaryDirectory(prefix="packetwire-bytecode-", ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = folder.name
    sys.dont_write_bytecode = False
