"""What of bodies stands in the plan of a call, in the options of a connection and in the results of handlers."""

from __future__ import annotations

import io
from typing import Any

import pytest

from packetwire.core.bodies import CallBodies
from packetwire.core.calloptions import plan_of, with_bodies
from packetwire.core.engine import ConnectionEngine
from packetwire.core.hello import Feature
from packetwire.core.requests import is_body
from packetwire.core.settings import Settings
from packetwire.errors import LocalProtocolError


@pytest.mark.parametrize("takes_body", [True, False])
def test_a_plan_with_bodies(takes_body: bool) -> None:
    bodies = CallBodies()
    plan = with_bodies(plan_of({}, None, 0.0), bodies, takes_body=takes_body)
    assert plan.bodies is bodies
    assert plan.needs == Feature.META | Feature.BODIES
    meta = plan.meta(0.0)
    assert meta.has_body
    assert (meta.response_credit is not None) is takes_body
    plain = plan_of({}, None, 0.0).meta(0.0)
    assert (plain.has_body, plain.response_credit) == (False, None)


def test_a_body_is_not_sent_twice() -> None:
    with pytest.raises(LocalProtocolError, match="once"):
        with_bodies(plan_of({"once": True}, None, 0.0), CallBodies(), takes_body=False)


@pytest.mark.parametrize("seconds", [0, -1.0])
def test_no_body_timeout(seconds: float) -> None:
    with pytest.raises(LocalProtocolError, match="body_timeout must be more than 0 seconds"):
        Settings(body_timeout=seconds)


def test_body_timeouts() -> None:
    assert [Settings(body_timeout=each).body_timeout for each in (None, 2.5)] == [None, 2.5]
    assert Settings().body_timeout == 60.0
    wrong: Any = "soon"
    with pytest.raises(TypeError):
        Settings(body_timeout=wrong)


def test_results_that_are_bodies() -> None:
    async def later() -> Any:
        yield b""  # pragma: no cover

    assert all(map(is_body, [(each for each in ()), later(), io.BytesIO()]))
    assert not any(map(is_body, [b"", "", 5, None, (1, b""), [b""]]))


def test_what_fits_into_a_packet() -> None:
    engine = ConnectionEngine(max_packet_size=1000)
    assert engine.max_payload == 1000 - 36
