"""What services and clients are put on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tests.searching  # noqa: F401

from .carriers import SERVICES
from .fake import CARRIER


@pytest.fixture(params=["none", *SERVICES])
def carrier(request: pytest.FixtureRequest) -> Iterator[str]:
    """What all services and clients of a test are put on."""
    with CARRIER.named(request.param):
        yield request.param
