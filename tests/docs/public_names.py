"""The public names: what the modules that have an `__all__` list there, and what the reference says of it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.sources import source_path

import packetwire

from .pages import ROOT

REFERENCE = sorted((ROOT / "docs" / "reference").glob("*.rst"))
PACKAGE = Path(packetwire.__file__).parent


@cache
def public_modules() -> dict[str, ModuleType]:
    """The modules that have an `__all__`, by their names."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if re.search(r"^__all__ = ", path.read_text(), re.MULTILINE):
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = import_module(name)
    return found


def described(page: Path) -> list[str]:
    """The names that a page of the reference describes: each where the page says that it is."""
    return re.findall(r"^\.\. auto(?:class|data|exception|function):: (\S+)$", page.read_text(), re.MULTILINE)


def referred_to(page: Path) -> list[str]:
    """The names that a page refers to."""
    return re.findall(r":py:obj:`~?([\w.]+)`", page.read_text())


def found_at(path: str) -> Any:
    """What stands at a path from a module."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


@cache
def statements(module: str) -> list[ast.stmt]:
    """Those of a module."""
    return ast.parse(source_path(import_module(module)).read_text()).body


def docstring(path: str) -> str:
    """What is said of the thing at a path: of a value, the text behind its assignment in the sources."""
    module, _, name = path.rpartition(".")
    for node, behind in pairwise(statements(module)):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            if isinstance(behind, ast.Expr) and isinstance(behind.value, ast.Constant):
                return str(behind.value.value)
            return ""
    return found_at(path).__doc__ or ""


def is_ours(cls: type) -> bool:
    """Whether it is from this package, and not from elsewhere under another name."""
    return str(cls.__module__).partition(".")[0] == "packetwire"


def own_methods(cls: type) -> Iterator[str]:
    """The public methods and properties that a class has of its own, or of bases that are not public."""
    public = [getattr(module, name) for module in public_modules().values() for name in module.__all__]
    for base in cls.__mro__:
        if base is not cls and (any(base is it for it in public) or not is_ours(base)):
            return  # what is behind it is described there
        for name, member in vars(base).items():
            is_method = isinstance(member, (property, classmethod, staticmethod)) or inspect.isroutine(member)
            if is_method and not name.startswith("_"):
                yield name


def members_without_docstring(cls: type) -> list[str]:
    """Of these the ones of which nothing is said."""
    return [name for name in own_methods(cls) if not inspect.getdoc(getattr(cls, name))]


def left_out(page: Path) -> dict[str, set[str]]:
    """The members that a page leaves out: those that are public for other parts of the package only."""
    found = re.findall(
        r"^\.\. auto\w+:: (\S+)\n(?:   :.*\n)*?   :exclude-members: (.*)$", page.read_text(), re.MULTILINE
    )
    return {path: set(names.split(", ")) for path, names in found}
