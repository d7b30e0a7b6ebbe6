"""`server.stats()`: the counters of each client that is connected."""

from __future__ import annotations

import pytest

from packetwire import PacketConnection, connect_to

from .serving import FACES, serving


@pytest.mark.parametrize("face", FACES)
def test_each_client_is_counted_for_itself(face: str) -> None:
    with serving(face, "tcp:127.0.0.1:0", lambda rq_type, flags, payload: payload, {}) as served:
        assert served.server.stats() == []
        with (
            PacketConnection(connect_to(served.address)) as one,
            PacketConnection(connect_to(served.address)) as two,
        ):
            for conn in one, two, two:
                assert conn(1, b"abc")[0]
            found = served.server.stats()
            assert sorted(stats.requests_received for _, stats in found) == [1, 2]
            assert all(name.startswith("client 127.0.0.1:") for name, _ in found)
            assert len({name for name, _ in found}) == 2
