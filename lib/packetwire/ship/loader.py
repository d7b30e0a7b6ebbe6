"""The program that runs first at the far end: it finds modules in what was sent.

Its source is sent, and nothing of packetwire is there yet when it runs: it imports only from the standard library.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import cast

ROOT = "<shipped>/"
"""The begin of the names of files, which exist nowhere, in tracebacks."""


class ShippedModules:
    """Finds and loads the modules with these sources.

    `files` are sources by path, such as `packetwire/core/__init__.py`; `absent` the modules that were not sent,
    with the reasons.
    """

    def __init__(self, files: Mapping[str, str], absent: Mapping[str, str]) -> None:
        self._absent = absent
        self._files: dict[str, tuple[str, bool, str]] = {}
        for path, source in files.items():
            name = path[:-3].replace("/", ".")
            is_package = name.endswith(".__init__")
            self._files[name.removesuffix(".__init__")] = path, is_package, source

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module that was sent. Raises ModuleNotFoundError for one that should have been."""
        if name in self._files:
            path_there, is_package, _ = self._files[name]
            loader = cast(Loader, self)
            spec = ModuleSpec(name, loader, origin=ROOT + path_there, is_package=is_package)
            spec.has_location = True
            return spec
        reason = self._absent.get(name)
        if reason is None and name.partition(".")[0] == "packetwire":
            reason = "it is a part of packetwire that is not needed by what was sent; name it in modules="
        if reason is not None:
            raise ModuleNotFoundError(f"{name!r} was not sent to this far end: {reason}", name=name)
        return None

    def create_module(self, spec: ModuleSpec) -> None:
        """The module is an ordinary one."""

    def exec_module(self, module: ModuleType) -> None:
        """Run its source."""
        exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, name: str) -> CodeType:
        """The code of a module that was sent."""
        path, _, source = self._files[name]
        code: CodeType = compile(source, ROOT + path, "exec", dont_inherit=True)
        return code

    def get_source(self, name: str) -> str:
        """The source of a module that was sent, for tracebacks."""
        return self._files[name][2]

    def is_package(self, name: str) -> bool:
        """True for a package."""
        return self._files[name][1]

    def hidden(self) -> list[str]:
        """The modules of the standard library here that would be hidden by what was sent."""
        return sorted({name.partition(".")[0] for name in self._files} & sys.stdlib_module_names)


def run(parts: Sequence[str], service: str, digits: str, absent: Mapping[str, str]) -> None:
    """Serve; `parts` are paths and sources by turns. The exit status is 1 if that cannot begin."""
    shipped = ShippedModules(dict(zip(parts[::2], parts[1::2], strict=True)), absent)
    if hidden := shipped.hidden():
        sys.exit(f"packetwire: {', '.join(hidden)}: this Python has a module with the name of one that was sent")
    sys.meta_path.insert(0, shipped)
    try:
        from packetwire.ship.farend import serve

        serve(service, digits)
    except Exception:
        import traceback

        traceback.print_exc()  # not left to Python, which shows sources of files only
        sys.exit(1)
