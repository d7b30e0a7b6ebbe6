"""The public surface of the package, as data: names, signatures, import paths.

`python -m tests.api.surface` prints it.

Public is all that a module lists in its `__all__`, a page of the reference describes, or an example or a page of
the documentation imports. The record of a release stands in fixtures/; later releases may only add to it.
"""

from __future__ import annotations

import ast
import enum
import inspect
import json
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from tests.docs.coming_from import PAGES as COMING_FROM
from tests.docs.coming_from import kept
from tests.docs.pages import ROOT, code_blocks
from tests.docs.public_names import REFERENCE, described, found_at, is_ours, public_modules

RECORDED = ROOT / "fixtures" / "public_api_0.1.0.json"
PLAIN = (int, float, str, bytes, bool, type(None), tuple)
"""Types whose values are part of what a user sees."""

Surface = dict[str, Any]


def parameters(function: Any) -> list[list[str]] | None:
    """Name, kind and default of each parameter; None for what has no signature."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    return [
        [name, parameter.kind.name, default_text(parameter.default)]
        for name, parameter in signature.parameters.items()
    ]


def default_text(default: object) -> str:
    """A default as it is recorded: its value if that is plain, else its type."""
    if default is inspect.Parameter.empty:
        return "required"
    if isinstance(default, PLAIN) and not isinstance(default, enum.Enum):
        return repr(default)
    return f"<{type(default).__name__}>"


def member_surface(owner: type, name: str) -> Surface:
    """A public method or attribute of a class."""
    member = inspect.getattr_static(owner, name)
    if isinstance(member, (classmethod, staticmethod)):
        return {"kind": type(member).__name__, "parameters": parameters(getattr(owner, name))}
    if inspect.isfunction(member):
        return {"kind": "method", "parameters": parameters(member)}
    return {"kind": "attribute"}


def public_members(cls: type) -> Iterator[str]:
    """The names of a class that begin without an underscore and are ours, its bases' included."""
    seen = set()
    for base in cls.__mro__:
        if not is_ours(base):
            continue
        for name in {**vars(base), **vars(base).get("__annotations__", {})}:
            if not name.startswith("_") and name not in seen:
                seen.add(name)
                yield name


def class_surface(cls: type) -> Surface:
    """A class: what it is a kind of, how it is made, what it has."""
    surface: Surface = {
        "kind": "class",
        "bases": sorted({base.__name__ for base in cls.__mro__[1:]} - {"object", "Generic", "Protocol"}),
        "parameters": None if is_ours(cls) and issubclass(cls, enum.Enum) else parameters(cls),
    }
    if issubclass(cls, enum.Enum):
        surface["members"] = {name: repr(member.value) for name, member in cls.__members__.items()}
    surface["has"] = {
        name: member_surface(cls, name) if hasattr(cls, name) else {"kind": "attribute"}
        for name in sorted(public_members(cls))
    }
    return surface


def surface_of(thing: Any) -> Surface:
    """Any public thing."""
    if inspect.isclass(thing):
        return class_surface(thing)
    if inspect.isroutine(thing):
        return {"kind": "function", "parameters": parameters(thing)}
    if isinstance(thing, PLAIN) and not isinstance(thing, enum.Enum):
        return {"kind": "value", "value": repr(thing)}
    return {"kind": "value"}


def imports_of(source: str) -> Iterator[str]:
    """The paths of ours that a program imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def documented_paths() -> set[str]:
    """What the pages, the examples and the reference import or name."""
    programs = [path.read_text() for path in sorted((ROOT / "docs" / "examples").rglob("*.py"))]
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        programs += [block for block in code_blocks(page, "python") if is_a_program(block)]
    paths = {path for program in programs for path in imports_of(program)}
    paths |= {path for page in REFERENCE for path in described(page)}
    for page in COMING_FROM:
        paths |= {f"{here}.{name}" for _, name, here in kept(page)}
    return {path for path in paths if path.partition(".")[0] == "packetwire"}


def is_a_program(block: str) -> bool:
    """Whether it can be parsed: some blocks are a part of one."""
    try:
        ast.parse(block)
    except SyntaxError:
        return False
    return True


def package_surface() -> Surface:
    """Everything."""
    return {
        "modules": {
            module: {name: surface_of(getattr(there, name)) for name in sorted(there.__all__)}
            for module, there in sorted(public_modules().items())
        },
        "paths": sorted(documented_paths()),
    }


def imported(path: str) -> Any:
    """The module or the thing in a module that a path names."""
    try:
        return import_module(path)
    except ModuleNotFoundError:
        return found_at(path)


def as_lines(surface: Surface) -> str:
    """A record, one line a name, so that a difference can be read."""
    modules = ",\n".join(
        f"{json.dumps(module)}: {{\n"
        + ",\n".join(f"  {json.dumps(name)}: {json.dumps(thing)}" for name, thing in names.items())
        + "\n}"
        for module, names in surface["modules"].items()
    )
    rest = {key: value for key, value in surface.items() if key != "modules"}
    return f'{{"modules": {{\n{modules}\n}},\n{json.dumps(rest, indent=0)[1:-1]}}}\n'


if __name__ == "__main__":
    sys.stdout.write(as_lines(package_surface()))
