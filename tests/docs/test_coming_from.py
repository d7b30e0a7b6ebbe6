"""What the pages say to those who come from Saturnin, hololinked and RIAPS: our side of it.

`tests/interop` holds it against those libraries.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import resolve_name

import pytest

from packetwire import riaps

from .coming_from import PAGES, kept, own_names, replaced

RIAPS_PORT_METHODS = (
    *("getInfo", "getSocket", "inSocket", "recv", "recv_pyobj", "reset"),
    *("send", "send_pyobj", "setup", "setupSocket", "update"),
)
"""What riaps.run.dcPorts says that its ports have."""


@pytest.mark.parametrize("page", PAGES)
def test_what_is_here_is_public(page: str) -> None:
    assert kept(page)
    for _, name, here in kept(page):
        assert name in import_module(here).__all__, name


@pytest.mark.parametrize("page", PAGES)
def test_what_is_instead_is_there(page: str) -> None:
    paths = [path for _, instead in replaced(page) for path in own_names(instead)]
    assert paths
    for path in paths:
        resolve_name(path)


@pytest.mark.parametrize("name", ["GroupPubPort", "GroupSubPort", "GroupQryPort", "GroupAnsPort"])
def test_the_ports_of_riaps_have_its_methods(name: str) -> None:
    for method in RIAPS_PORT_METHODS:
        assert callable(getattr(getattr(riaps, name), method))
