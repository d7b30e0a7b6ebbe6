"""What the pages say to those who come from Saturnin and hololinked, against these libraries."""

from __future__ import annotations

import inspect
import json
import subprocess
from pathlib import Path
from pkgutil import resolve_name

import pytest

from docs.coming_from import PAGES, kept, replaced

pytestmark = pytest.mark.timeout(120)

LIST_ATTRIBUTES = """
import inspect, json, sys
from pkgutil import resolve_name
found = {}
for path in sys.argv[1:]:
    thing = resolve_name(path)
    found[path] = [name for name in dir(thing) if not name.startswith("_")] if inspect.isclass(thing) else []
json.dump(found, sys.stdout)
"""


def attributes(python: Path, paths: list[str]) -> dict[str, list[str]]:
    """What the classes at these paths have, in the interpreter of the library. Each path must lead to something."""
    argv = [str(python), "-W", "ignore", "-c", LIST_ATTRIBUTES, *paths]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_all_names_are_there(page: str, request: pytest.FixtureRequest) -> None:
    paths = [f"{there}:{name}" for there, name, _ in kept(page)]
    attributes(request.getfixturevalue(PAGES[page]), paths + [path for path, _ in replaced(page)])


@pytest.mark.parametrize("page", ["fbsp.md", "iccp.md"])
def test_classes_of_saturnin_have_here_what_they_have_there(page: str, saturnin: Path) -> None:
    theirs = attributes(saturnin, [f"{there}:{name}" for there, name, _ in kept(page)])
    for there, name, here in kept(page):
        ours = resolve_name(f"{here}:{name}")
        if inspect.isclass(ours):
            assert set(theirs[f"{there}:{name}"]) <= set(dir(ours)), name
