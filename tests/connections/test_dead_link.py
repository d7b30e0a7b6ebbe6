"""A router that stops forwarding is noticed at both ends, whatever is under way: see `dead_link`."""

from __future__ import annotations

from pathlib import Path

import pytest

from .certificates import make_certificate
from .dead_link import CASES, NoNamespaces, dead_link

USER_TIMEOUT = 8.0
"""Seconds; the default of two minutes is tried by the command."""


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_dead_link_is_noticed_at_both_ends(tmp_path: Path) -> None:
    made = make_certificate(tmp_path, "server")
    try:
        found = dead_link(USER_TIMEOUT, [made.certfile, made.keyfile])
    except NoNamespaces as error:
        pytest.skip(str(error))
    assert sorted((end["end"], end["label"]) for end in found) == sorted(
        (end, ", ".join(case)) for end in ("client", "server") for case in CASES
    )
    assert [end for end in found if "PeerClosed" in end["cause"]] == []
