"""Builds packetwire: setuptools, and Cython for the modules that may be compiled, where that is possible.

An installation never fails because something could not be compiled: then the package is installed in Python alone,
and says why (`packetwire.compiled`). All modules are compiled, or none. PACKETWIRE_PURE=1 asks for none.

Cython is required only if there is a compiler and Cython can be had: in a build of its own (as pip makes it) pip is
asked, in any other build (`--no-build-isolation`) it has to be there.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from setuptools import Extension
from setuptools import build_meta as setuptools_backend
from setuptools.build_meta import build_sdist, get_requires_for_build_sdist, prepare_metadata_for_build_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

build_wheel = setuptools_backend.build_wheel
build_editable = setuptools_backend.build_editable
prepare_metadata_for_build_editable = setuptools_backend.prepare_metadata_for_build_editable

CYTHON = "cython>=3.3"
DIRECTIVES = {"language_level": 3, "annotation_typing": False, "auto_pickle": False}
FLAGS = ["-O1", "-g0"]  # -O2 takes a third longer, and gains nothing that can be measured
SOURCE = Path("lib/packetwire")
GENERATED = Path("build/cython")
PIP_SECONDS = 60
MAX_REASON = 200
"""Characters of an error that are kept; a compiler's command is long."""

twins = runpy.run_path(str(SOURCE / "twins.py"))
MODULES: tuple[str, ...] = twins["MODULES"]


def why_not() -> str:
    """Why nothing can be compiled here; empty if nothing speaks against it."""
    if os.environ.get(twins["PURE"]):
        return f"{twins['PURE']} was set when packetwire was installed"
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"there was no C compiler ({compiler}) when packetwire was installed"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return "there was no Python.h, which compiling needs, when packetwire was installed"
    return ""


# what the build needs


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    return [*setuptools_backend.get_requires_for_build_wheel(config_settings), *_cython()]


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    return [*setuptools_backend.get_requires_for_build_editable(config_settings), *_cython()]


def _cython() -> list[str]:
    return [] if why_not() or not _can_be_had() else [CYTHON]


def _can_be_had() -> bool:
    """Whether pip, as it is configured, finds Cython. True if there is no pip: then something else installs it."""
    with tempfile.TemporaryDirectory() as place:
        # -I: in the environment that pip makes for a build there is none, but in that it runs in
        pip = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--retries", "0", "--no-input"]
        try:
            if subprocess.run(
                [*pip, "--version"], check=False, capture_output=True, timeout=PIP_SECONDS
            ).returncode:
                return True
            found = subprocess.run(
                [*pip, "download", "--quiet", "--no-deps", "--dest", place, CYTHON],
                check=False, capture_output=True, timeout=PIP_SECONDS,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return False
        return found.returncode == 0


# the modules


def extensions() -> list[Extension]:
    """What is to be compiled: C files that Cython will make, see `CompileAll`."""
    if why_not():
        return []
    place = f"packetwire.{twins['DIRECTORY']}.{twins['checksum'](str(SOURCE))}"
    return [
        Extension(f"{place}.{name}", [str(_generated(name, ".c"))], extra_compile_args=FLAGS) for name in MODULES
    ]


def commands() -> dict[str, Any]:
    """The commands of setuptools that are not its own."""
    return {"build_ext": CompileAll, "build_py": NoteWhyNot, "editable_wheel": Editable}


def _source(name: str) -> Path:
    """The copy of a module's source that is compiled."""
    return next(path for suffix in (".pyx", ".py") if (path := _generated(name, suffix)).exists())


def _generated(name: str, suffix: str) -> Path:
    return GENERATED / "packetwire" / Path(*name.split(".")).with_suffix(suffix)


class CompileAll(build_ext):
    """Compiles all modules; if one cannot be, none is kept, and the reason is written down."""

    def run(self) -> None:
        try:
            self._translate()
            self.parallel = self.parallel or os.cpu_count()
            for extension in self.extensions if self.inplace else ():
                Path(self.get_ext_fullpath(extension.name)).parent.mkdir(parents=True, exist_ok=True)
            super().run()
        except Exception as error:  # whatever it is, the package works without
            self._give_up(error)

    def _translate(self) -> None:
        """Have Cython make C of copies of the sources."""
        shutil.rmtree(GENERATED, ignore_errors=True)
        for name in MODULES:
            suffixes = [".py", ".pyx", ".pxd"]
            if (SOURCE / Path(*name.split(".")).with_suffix(".pyx")).exists():
                suffixes.remove(".py")
            for suffix in suffixes:
                source = SOURCE / Path(*name.split(".")).with_suffix(suffix)
                if source.exists():
                    copy = _generated(name, suffix)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, copy)
                    for folder in copy.relative_to(GENERATED).parents[:-1]:
                        (GENERATED / folder / "__init__.py").touch()
        if importlib.util.find_spec("Cython") is None:
            raise _CythonFailed("there was no Cython")
        from Cython.Build import cythonize
        from Cython.Compiler.Errors import CompileError

        try:
            cythonize(
                [Extension(f"packetwire.{name}", [str(_source(name))]) for name in MODULES],
                include_path=[str(GENERATED)], compiler_directives=DIRECTIVES, force=True, quiet=True,
            )  # fmt: skip
        except CompileError as error:
            raise _CythonFailed(f"Cython failed: {error}") from error

    def _give_up(self, error: Exception) -> None:
        self.warn(f"packetwire is installed without compiled modules: {error}")
        for extension in self.extensions:
            Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
        self.extensions = []
        self.distribution.ext_modules = None
        if not self.editable_mode:
            self.distribution.get_command_obj("bdist_wheel").root_is_pure = True  # it is one for every Python
        place = SOURCE if self.editable_mode else Path(self.build_lib, "packetwire")
        _note(place, f"compiling failed when packetwire was installed: {str(error)[:MAX_REASON]}")

    def get_source_files(self) -> list[str]:
        return []  # they are made while it is built


class NoteWhyNot(build_py):
    """Also says in the package why nothing is compiled, if that is so."""

    def run(self) -> None:
        super().run()
        if reason := why_not():
            _note(SOURCE if self.editable_mode else Path(self.build_lib, "packetwire"), reason)


class Editable(editable_wheel):
    """What was compiled before must not stay if it cannot be made again."""

    def run(self) -> None:
        shutil.rmtree(SOURCE / twins["DIRECTORY"], ignore_errors=True)
        super().run()


def _note(package: Path, reason: str) -> None:
    note = package / twins["DIRECTORY"] / twins["WHY_NOT"]
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(f"{reason}\n", encoding="utf-8")


class _CythonFailed(Exception):
    """There is no C to compile."""
