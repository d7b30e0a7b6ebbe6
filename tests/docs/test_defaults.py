"""The table of all defaults is that of the code, and the how-to pages name each error."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from typing import Any

import pytest
from tests.sources import source_path

import packetwire
from packetwire import errors
from packetwire.aio.server import AsyncServer
from packetwire.pool import Backoff
from packetwire.server import Server

from .howto import text
from .pages import ROOT, tables

PAGE = ROOT / "docs" / "reference" / "defaults.md"
DEFAULTS = {(where, name): default for where, name, default, _ in tables(PAGE)["|where|name|default|whatitis|"]}

CALLED = (
    "PacketConnection",
    *("PacketConnection." + name for name in ("spawn", "__call__", "submit", "map", "close", "join", "join_recv")),
    "HasPacketConnection",
    *("HasPacketConnection." + name for name in ("conn_do_remote", "conn_submit", "conn_map")),
    *("RequestResult." + name for name in ("__call__", "join", "wait", "cancel")),
    "Responder.respond",
    "PacketDecoder",
    "child",
    "connect_to",
    "Ship",
    "stdio",
    "serve",
    "Server.stop",
    "Server.wait",
    *("Pool", "Pool.__call__", "Pool.conn_do_remote", "Pool.connected", "Pool.close", "Supervised", "Backoff"),
    *(
        "AsyncPool",
        "AsyncPool.__call__",
        "AsyncPool.conn_do_remote",
        "AsyncPool.connected",
        "AsyncPool.close",
        "AsyncSupervised",
    ),
    "AsyncPacketConnection",
    *(
        "AsyncPacketConnection." + name
        for name in ("spawn", "__call__", "submit", "drain", "map", "close", "join", "join_recv")
    ),
    "AsyncHasPacketConnection",
    *("AsyncHasPacketConnection." + name for name in ("conn_do_remote", "conn_submit", "conn_map")),
    "aserve",
    "AsyncServer.stop",
    "AsyncServer.wait",
)
"""What people call, with all its defaults in the table."""

SERVERS = {"Server": Server, "AsyncServer": AsyncServer, "Backoff": Backoff}
"""What is not in the package itself."""

CLASS_ATTRIBUTES = ("BaseRequest",)

SAYS_HOW_LONG_OR_HOW_MUCH = re.compile(
    r"DEFAULT_\w+|BACKLOG|"
    r"[A-Z_]*(TIMEOUT|WAIT|GRACE|SECONDS|INTERVAL|IDLE|PROBES|TRIES|KEPT|LIMIT|NESTED|MODE)"
)
"""Constants with these names belong into the table."""

NO_ROWS = {
    ("packetwire.core.engine", "JOIN_LIMIT"),
    ("packetwire.addresses", "CONNECT_TIMEOUT"),
    ("packetwire.messaging.sentinels", "TIMEOUT"),
}
"""A number that no user sees anything of, one that stands in the table as a parameter's default, and no number."""


def public(path: str) -> Any:
    """What a path from a public name leads to."""
    name, _, rest = path.partition(".")
    thing = SERVERS.get(name) or getattr(packetwire, name)
    return getattr(thing, rest) if rest else thing


def defaults_of(called: Callable[..., Any]) -> dict[str, Any]:
    return {
        name: parameter.default
        for name, parameter in inspect.signature(called).parameters.items()
        if parameter.default is not parameter.empty
    }


def constants() -> dict[tuple[str, str], Any]:
    """The constants of the library, by module and name."""
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.walk_packages(packetwire.__path__, "packetwire.")
        if not module.name.startswith(("packetwire.cli", "packetwire.__main__"))
    ]
    return {
        (module.__name__, name): getattr(module, name)
        for module in modules
        for node in ast.parse(source_path(module).read_text()).body
        for name in assigned_names(node)
        if name.isupper() and not name.startswith("_")
    }


def assigned_names(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


@pytest.mark.parametrize("path", CALLED)
def test_the_defaults_of_what_is_called(path: str) -> None:
    documented = {name: ast.literal_eval(default) for (where, name), default in DEFAULTS.items() if where == path}
    actual = defaults_of(public(path))
    assert documented == actual
    assert {name: type(value) for name, value in documented.items()} == {
        name: type(value) for name, value in actual.items()
    }


def test_the_defaults_that_are_class_attributes() -> None:
    for path in CLASS_ATTRIBUTES:
        documented = {name: default for (where, name), default in DEFAULTS.items() if where == path}
        assert documented == {name: repr(getattr(public(path), name)) for name in documented}
        assert documented


def test_the_constants() -> None:
    documented = {key: ast.literal_eval(default) for key, default in DEFAULTS.items() if "packetwire." in key[0]}
    found = constants()
    assert documented == {key: found.get(key) for key in documented}


def test_no_constant_is_missing() -> None:
    """A bound or a time that is not the default of a parameter stands in the table under its own name."""
    of_parameters = [value for path in CALLED for value in defaults_of(public(path)).values() if value]
    missing = {
        (module, name): value
        for (module, name), value in constants().items()
        if SAYS_HOW_LONG_OR_HOW_MUCH.fullmatch(name)
        and not (name.startswith("DEFAULT_") and value in of_parameters)
    }
    assert missing.keys() - DEFAULTS.keys() == NO_ROWS


def test_the_table_names_nothing_else() -> None:
    assert {where for where, _ in DEFAULTS if "packetwire." not in where} == {*CALLED, *CLASS_ATTRIBUTES}


ENDINGS = (
    *("Error", "Ended", "Exited", "Closed", "Truncated", "Failed", "Timeout", "Exceeded", "Cancelled"),
    *("Missing", "Mismatch", "Unresponsive", "raining", "rained"),
)


def test_the_exceptions_exist() -> None:
    endings = "|".join(ENDINGS)
    named = set(re.findall(rf"`(\w+(?:{endings}))`", text() + PAGE.read_text()))
    others = {
        "FileNotFoundError",
        "OSError",
        "TypeError",
        "CancellationError",
        "StreamEnded",
        "MemberEnded",
        "ModuleNotFoundError",
        "FunctionFailed",  # of packetwire.executor
    }
    assert named - others == set(errors.__all__) - {"ProtocolError"}
