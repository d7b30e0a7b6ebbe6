"""Builds the compiled modules, see tools/build_backend.py; all else is in pyproject.toml."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "tools"))

from build_backend import commands, extensions
from setuptools import setup

setup(ext_modules=extensions(), cmdclass=commands())
