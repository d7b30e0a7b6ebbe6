"""The layers in docs/design.md, and what the sources import."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from .pages import ROOT, tables

DESIGN = ROOT / "docs" / "design.md"
PACKAGE = ROOT / "lib" / "packetwire"
SOURCES = sorted(PACKAGE.rglob("*.py"))

LAYERS = tables(DESIGN)["|layer|modules|whatitis|fromelsewhere|"]
THE_PACKAGE = "the package itself"


def code_words(cell: str) -> list[str]:
    """What a cell of the table lists, in code marks or as one piece of code without them."""
    return re.findall(r"[\w.]+", cell)


LAYER_OF = {
    module: number
    for number, (_, modules, _, _) in enumerate(LAYERS)
    for module in ([""] if modules == THE_PACKAGE else code_words(modules))
}
"""The number of a layer, by the beginning of its modules' names behind that of the package."""


def part_of(path: Path) -> str:
    """Which part of the package a source is in."""
    return part_named(
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
    )


def part_named(module: str) -> str:
    """The longest of the beginnings in the table that a module's name has; else its first part."""
    while module not in LAYER_OF and "." in module:
        module = module.rpartition(".")[0]
    return module


def imported(path: Path) -> Iterator[str]:
    """The modules that a source imports anywhere, also for its types only."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            assert node.module
            if node.module == "packetwire":
                # a submodule, or a public name
                yield from (
                    f"packetwire.{alias.name}" if alias.name in LAYER_OF else "packetwire" for alias in node.names
                )
            else:
                yield node.module


MODULES = {
    ".".join(("packetwire", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in SOURCES
}


def modules_imported(path: Path) -> set[str]:
    """Our modules that a source imports anywhere, also for its types only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= submodules or {str(node.module)}
    return found & MODULES.keys()


def layers_used() -> dict[int, set[int]]:
    """The layers above it from which each layer imports, by their numbers."""
    used: dict[int, set[int]] = {number: set() for number in range(len(LAYERS))}
    for path in SOURCES:
        own = LAYER_OF[part_of(path)]
        for name in imported(path):
            package, _, rest = name.partition(".")
            if package == "packetwire":
                used[own].add(LAYER_OF[part_named(rest)])
    return {number: others - {number} for number, others in used.items()}
