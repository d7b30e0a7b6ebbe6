"""Where `aserve` does not serve."""

from __future__ import annotations

import asyncio

import pytest

from packetwire import AsyncPacketConnection, LocalProtocolError, aserve


def test_zmq_is_refused_with_what_to_use_instead() -> None:
    with pytest.raises(LocalProtocolError, match=r"serve\(\) serves there"):
        asyncio.run(aserve("zmq+router:tcp://127.0.0.1:1", AsyncPacketConnection))
