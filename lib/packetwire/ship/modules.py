"""Finding the modules that a far end needs, and their sources, without importing them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

from packetwire.errors import LocalProtocolError
from packetwire.ship.command import SEPARATOR
from packetwire.ship.stripping import stripped

PACKAGE = Path(__file__).parent.parent
NOT_SENT = frozenset({"packetwire.twins"})
"""Modules that packetwire does without: nothing compiled is at a far end."""
LAZY = frozenset({"packetwire", "packetwire.typed"})
"""Packages of packetwire that import a public name when it is asked for."""
SENT_WITH = {
    "packetwire.typed.service": ("packetwire._sync.typedcalls",),
    "packetwire._sync.typedcalls": (
        "packetwire._sync.items",
        "packetwire._sync.uploading",
        "packetwire.typed.answering",
    ),
    "packetwire._sync.items": ("packetwire._sync.bodies", "packetwire.hosts.threads.bodies"),
}
"""Modules of packetwire, and those that their functions import when they serve."""
INSTALLED = frozenset({"site-packages", "dist-packages"})
"""Directories of what a user has not written."""


def path_of(name: str, is_package: bool) -> str:
    """The path of a module as it is sent."""
    return name.replace(".", "/") + ("/__init__.py" if is_package else ".py")


# packetwire's own


def own_modules(roots: Iterable[str]) -> dict[str, str]:
    """The modules of packetwire that these need to be imported, with their sources, stripped, by path.

    Imports inside of functions are left out, as not all need them, but for those of `SENT_WITH`.
    """
    found: dict[str, str] = {}
    left = list(roots)
    while left:
        name = left.pop()
        path = _own_path(name)
        if path is None or name in NOT_SENT:
            continue
        key = path_of(name, path.name == "__init__.py")
        if key not in found:
            found[key] = _own_source(path)
            left += _imported_at_once(path, name)
            left += SENT_WITH.get(name, ())
            left.append(name.rpartition(".")[0])
    return dict(sorted(found.items()))


def _own_path(name: str) -> Path | None:
    """The file of a module of packetwire: always its source, whether there is a compiled one or not."""
    if name.partition(".")[0] != "packetwire":
        return None
    stem = PACKAGE.joinpath(*name.split(".")[1:])
    for path in stem / "__init__.py", stem.with_suffix(".py"):
        if path.is_file():
            return path
    return None


@cache
def _own_source(path: Path) -> str:
    source = path.read_text(encoding="utf-8")
    try:
        less = stripped(source)
        ast.parse(less)
    except SyntaxError:
        return source
    return less


@cache
def _imported_at_once(path: Path, name: str) -> tuple[str, ...]:
    """The modules that a module of packetwire imports when it is imported."""
    tree = ast.parse(_own_source(path))  # of which blocks for type checkers are no part
    return tuple(imported_names(_at_once(tree), name, path.name == "__init__.py"))


def _at_once(tree: ast.Module) -> Iterator[ast.AST]:
    left: list[ast.AST] = [tree]
    while left:
        node = left.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            left += ast.iter_child_nodes(node)


def imported_names(nodes: Iterable[ast.AST], name: str, is_package: bool) -> Iterator[str]:
    """The full names of all that these statements of a module may import: modules, and names that may be modules.

    A public name of packetwire's stands for the module that has it.
    """
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, name, is_package)
            yield base
            for alias in node.names:
                home = _homes(base).get(alias.name) if base in LAZY else None
                yield home or f"{base}.{alias.name}"


def _homes(package: str) -> Mapping[str, str]:
    """The modules that have the public names of one of the `LAZY` packages."""
    homes: Mapping[str, str] = vars(import_module(package))["_HOME_OF"]
    return homes


def _base(node: ast.ImportFrom, name: str, is_package: bool) -> str:
    """The module that names are imported from."""
    if not node.level:
        return node.module or ""
    parts = name.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


# the user's


class UserModules:
    """A user's modules that are sent: those that are named, and all that they import and the user has written.

    `files` are their sources by path; `absent` the modules that they import and that cannot be sent, with the
    reasons; `own` the modules of packetwire that they import. Raises `LocalProtocolError` if one that is named
    cannot be sent.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.files: dict[str, str] = {}
        self.absent: dict[str, str] = {}
        self.own: list[str] = []
        self._seen: set[str] = set()
        self._packages = {name.partition(".")[0] for name in names}
        for name in names:
            check_name(name)
            if name.partition(".")[0] == "packetwire":
                self.own.append(name)
                if _own_path(name) is None:
                    raise LocalProtocolError(f"{name!r} cannot be sent: there is no such module")
            elif problem := self._add(name):
                raise LocalProtocolError(f"the module {name!r} cannot be sent: {problem}")

    def _add(self, name: str) -> str:
        """Add a module, its packages, and all that it imports; returns the reason why it cannot be sent."""
        parent = name.rpartition(".")[0]
        if parent and parent not in self._seen and (problem := self._add(parent)):
            return problem
        self._seen.add(name)
        spec = _spec(name)
        source = _source(spec, name)
        if source is None:
            return _why_not(spec)
        if SEPARATOR in source:
            return "its source has a null byte"
        is_package = spec is not None and spec.submodule_search_locations is not None
        self.files[path_of(name, is_package)] = source
        try:
            tree = ast.parse(source)
        except SyntaxError as error:
            return f"{error.msg} ({error.filename or name}, line {error.lineno})"
        for imported in imported_names(ast.walk(tree), name, is_package):
            self._note(imported)
        return ""

    def _note(self, name: str) -> None:
        """Add a module that another one imports, if the user has written it."""
        top = name.partition(".")[0]
        if top == "packetwire":
            self.own.append(name)
        elif name not in self._seen and top and top not in sys.stdlib_module_names:
            spec = _spec(name)
            if spec is None or (top not in self._packages and _is_installed(spec)):
                return
            if problem := self._add(name):
                self.absent[name] = problem


def check_name(name: str) -> None:
    """Raise `LocalProtocolError` for the name of a module that would hide one of the standard library."""
    top = name.partition(".")[0]
    if not all(part.isidentifier() for part in name.split(".")):
        raise LocalProtocolError(f"{name!r} is not the name of a module")
    if top == "__main__":
        raise LocalProtocolError("the main module cannot be sent: put what is served into a module of its own")
    if top in sys.stdlib_module_names:
        raise LocalProtocolError(f"the module {name!r} cannot be sent: it would hide one of the standard library")


def _spec(name: str) -> ModuleSpec | None:
    """The spec of a module, found without importing its packages; None if there is no such module."""
    top, *rest = name.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):  # it is half imported, or has no spec
        return None
    for number in range(len(rest)):
        if spec is None or spec.submodule_search_locations is None:
            return None
        full_name = ".".join([top, *rest[: number + 1]])
        spec = PathFinder.find_spec(full_name, list(spec.submodule_search_locations))
    return spec


def _source(spec: ModuleSpec | None, name: str) -> str | None:
    if spec is None or spec.origin is None:  # a directory: one that was imported has a loader, too
        return None
    get_source = getattr(spec.loader, "get_source", None)
    try:
        source: str | None = None if get_source is None else get_source(name)
    except (ImportError, OSError):
        return None
    return source


def _why_not(spec: ModuleSpec | None) -> str:
    if spec is None:
        return "there is no such module here"
    if spec.loader is None or spec.origin is None:
        return "it is a directory without __init__.py"
    return f"there is no source, only {spec.origin}"


def _is_installed(spec: ModuleSpec) -> bool:
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    return any(not INSTALLED.isdisjoint(Path(place).parts) for place in places)
