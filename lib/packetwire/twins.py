"""The modules that may be compiled, and the choice between compiled ones and Python.

Strategy: all or none. Compiled modules are in `_compiled/`, in a directory named by the checksum of all sources, so
those of other sources, or another version, are never loaded. It is laid out like the package; if all modules are
there, and can be loaded, the packages look for their modules there first (`__path__`). So a compiled module is
imported under the name of its source, and the two never exist side by side in a process.

This module imports nothing of packetwire, as the build of the package uses it, too.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from zlib import crc32

MODULES = (
    "core.packing",
    "core.payloads",
    "core.packetcodec",
    "core.engine",
    "streams.systemcalls",
    "streams.bytestream",
    "streams.ownership",
    "streams.fds",
    "streams.sockets",
    "hosts.threads.role",
    "hosts.threads.waiter",
    "hosts.threads.answering",
    "hosts.threads.delivery",
    "hosts.threads.writing",
    "hosts.threads.clock",
    "hosts.threads.workers",
    "hosts.threads.inline",
    "hosts.threads.readerrole",
    "hosts.threads.reading",
    "hosts.threads.waiting",
    "hosts.threads.calls",
    "hosts.threads.loops",
    "aio.request",
    "aio.workers",
    "aio.writing",
    "aio.calls",
    "aio.coroutines",
    "aio.answering",
    "aio.delivery",
    "aio.polled",
)
"""In such an order that none needs a later one."""
PURE = "PACKETWIRE_PURE"
"""The environment variable that asks for Python, when packetwire is built and when it is imported."""
DIRECTORY = "_compiled"
WHY_NOT = "why_not.txt"
"""In that directory: the reason why nothing was compiled."""

_HOME = os.path.dirname(os.path.abspath(__file__))


def stem(home: str, name: str) -> str:
    """The path of a module without its suffix, in the directory `home`."""
    return os.path.join(home, *name.split("."))


def checksum(home: str = _HOME) -> str:
    """The checksum of the sources in `home`, as a name for the directory of the compiled modules."""
    total = 0
    for name in MODULES:
        for suffix in (".py", ".pyx", ".pxd"):
            path = stem(home, name) + suffix
            if os.path.exists(path):
                with open(path, "rb") as file:
                    total = crc32(file.read(), crc32((name + suffix).encode(), total))
    return f"c{total:08x}"


def choose() -> bool | str:
    """Use the compiled modules, and return True; or return the reason why they cannot be used."""
    if os.environ.get(PURE):
        return f"{PURE} is set"
    home = os.path.join(_HOME, DIRECTORY)
    try:
        place = os.path.join(home, checksum())
        built = os.listdir(home) if os.path.isdir(home) else []
        if WHY_NOT in built:
            with open(os.path.join(home, WHY_NOT), encoding="utf-8") as file:
                return file.read().strip()
    except OSError as error:
        return f"the compiled modules cannot be looked for: {error}"
    if os.path.basename(place) not in built:
        if built:
            return "the modules were compiled from other sources: install packetwire again"
        return "packetwire was installed without compiled modules"
    for name in MODULES:
        if problem := _problem_of(name, place):
            return problem
    for package in sorted({name.rpartition(".")[0] for name in MODULES}):
        import_module(f"packetwire.{package}").__path__.insert(0, stem(place, package))
    return True


def _problem_of(name: str, place: str) -> str:
    """The reason why a compiled module cannot be loaded; empty if it can."""
    full_name = f"packetwire.{name}"
    paths = [stem(place, name) + suffix for suffix in EXTENSION_SUFFIXES]
    path = next(filter(os.path.exists, paths), None)
    if path is None:
        python = f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}"
        return f"there is no compiled {full_name} for {python}: install packetwire again"
    loader = ExtensionFileLoader(full_name, path)
    try:
        loader.create_module(ModuleSpec(full_name, loader, origin=path))  # loads the file, and runs nothing yet
    except ImportError as error:
        return f"the compiled {full_name} cannot be loaded: {error}"
    return ""
