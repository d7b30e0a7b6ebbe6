"""The sources of modules, also of those that are compiled."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import packetwire

HOME = Path(packetwire.__file__).parents[1]


def source_path(module: ModuleType) -> Path:
    """The file with the source of a module."""
    if Path(str(module.__file__)).suffix == ".py":
        return Path(str(module.__file__))
    return HOME.joinpath(*module.__name__.split(".")).with_suffix(".py")


def place_of(module: ModuleType) -> str:
    """The end of the file's name that a traceback has for it, compiled or not."""
    return "/".join(source_path(module).parts[-2:])


def plain(name: str) -> ModuleType:
    """A module of packetwire as it is in Python, beside the one that is in use."""
    path = HOME.joinpath("packetwire", *name.split(".")).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(f"plain_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
