"""What the command line leaves as it ends the process, put back."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import pytest
import tests.searching  # noqa: F401


@pytest.fixture
def kept_process() -> Iterator[None]:
    """The handler of Ctrl-C and those of the log are afterwards what they were."""
    logger = logging.getLogger("packetwire")
    handler, of_log = signal.getsignal(signal.SIGINT), logger.handlers[:]
    yield
    signal.signal(signal.SIGINT, handler)
    logger.handlers[:] = of_log
