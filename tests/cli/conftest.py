"""What holds for all tests of the commands."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from . import forked


@pytest.fixture(autouse=True)
def what_ctrl_c_does() -> Iterator[None]:
    """As it was before: a command that has ended ignores Ctrl-C, and some tests run one in this process."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True, scope="session")
def _forks_end() -> Iterator[None]:
    """The interpreter behind those that ran commands ends with the tests. It is not told how wide a terminal is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        yield
    if forked.server.cache_info().currsize:
        forked.server().close()
