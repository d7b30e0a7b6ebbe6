"""docs/design.md against the sources: its layers, and the names in it."""

from __future__ import annotations

import re
import sys
from graphlib import TopologicalSorter

from .layers import (
    DESIGN,
    LAYER_OF,
    LAYERS,
    MODULES,
    PACKAGE,
    SOURCES,
    code_words,
    imported,
    modules_imported,
    part_named,
    part_of,
)
from .pages import tables

ELSEWHERE = {name: set(code_words(elsewhere)) for name, _, _, elsewhere in LAYERS}


def test_each_module_has_a_layer() -> None:
    assert {part_of(path) for path in SOURCES} == set(LAYER_OF)


def test_imports_go_one_way() -> None:
    for path in SOURCES:
        own = LAYER_OF[part_of(path)]
        for name in imported(path):
            package, _, rest = name.partition(".")
            if package == "packetwire":
                assert LAYER_OF[part_named(rest)] <= own, (path, name)


def test_no_module_is_imported_by_what_it_imports() -> None:
    """Not for types either, and over any number of others."""
    graph = {name: modules_imported(path) for name, path in MODULES.items()}
    assert "packetwire.core.varint" in graph["packetwire.core.packet"]
    assert "packetwire.streams.forking" in graph["packetwire.connection"]
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)  # a circle raises CycleError


def test_there_are_imports_to_find() -> None:
    found = set(imported(PACKAGE / "connection.py"))
    assert {"packetwire.core.engine", "packetwire.hosts.threads.driver", "packetwire.result"} <= found
    assert "packetwire.streams.process" in set(imported(PACKAGE / "connectionbase.py")), "also inside functions"
    assert "cs.buffer" in set(imported(PACKAGE / "core" / "packet.py"))


def test_what_comes_from_elsewhere() -> None:
    found: dict[str, set[str]] = {name: set() for name in ELSEWHERE}
    for path in SOURCES:
        packages = {name.partition(".")[0] for name in imported(path)}
        found[LAYERS[LAYER_OF[part_of(path)]][0]] |= packages - sys.stdlib_module_names - {"packetwire"}
    assert found == ELSEWHERE


def test_the_steps_of_a_request_are_in_layers() -> None:
    layers = {name for name, _, _, _ in LAYERS}
    for _, where in tables(DESIGN)["|step|where|"]:
        assert set(where.split(", ")) <= layers


def test_the_files_that_are_named_exist() -> None:
    named = set(re.findall(r"`((?:core|hosts/threads|streams|cli)/\w+\.py|addresses\.py)`", DESIGN.read_text()))
    assert named
    assert [name for name in named if not (PACKAGE / name).is_file()] == []


def test_the_modules_of_the_core_are_all_described() -> None:
    (paragraph,) = re.findall(r"In the core (.*?)\n\n", DESIGN.read_text(), re.DOTALL)
    modules = {path.stem for path in (PACKAGE / "core").glob("*.py")} - {"__init__"}
    assert set(re.findall(r"`(\w+)`", paragraph)) == modules
