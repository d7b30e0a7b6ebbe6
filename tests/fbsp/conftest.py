"""What services and clients are put on, and how thoroughly hypothesis searches (HYPOTHESIS_PROFILE=thorough)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, settings

from .carriers import SERVICES
from .fake import CARRIER

settings.register_profile(
    "default",
    max_examples=300,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(params=["none", *SERVICES])
def carrier(request: pytest.FixtureRequest) -> Iterator[str]:
    """What all services and clients of a test are put on."""
    with ExitStack() as CARRIER.opened:
        CARRIER.name = request.param
        yield request.param
    CARRIER.name = "none"
