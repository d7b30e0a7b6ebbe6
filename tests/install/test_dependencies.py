"""The oldest versions that are tried are the oldest that are allowed."""

from __future__ import annotations

import re

from packaging.requirements import Requirement
from packaging.version import Version

from .archives import EXTRAS, FOR_DEVELOPERS, PROJECT, ROOT


def lower_bounds() -> dict[str, Version]:
    """Distribution -> the version from which on it is allowed, of all that the package itself can use."""
    needs = [need for extra, needs in EXTRAS.items() if extra not in FOR_DEVELOPERS for need in needs]
    bounds: dict[str, Version] = {}
    for requirement in map(Requirement, [*PROJECT["dependencies"], *needs]):
        if requirement.name == "packetwire":
            continue
        (bound,) = requirement.specifier
        assert bound.operator == ">=", requirement
        version = Version(bound.version)
        assert bounds.setdefault(requirement.name, version) == version, f"two bounds for {requirement.name}"
    return bounds


def tried() -> dict[str, Version]:
    """Distribution -> the version that `.ci/run` runs the tests with."""
    (pins,) = re.findall(r"^oldest=\((.*?)\)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE | re.DOTALL)
    return {name: Version(version) for name, version in (pin.split("==") for pin in pins.split())}


def test_the_oldest_versions_that_are_tried_are_the_lower_bounds() -> None:
    assert tried() == lower_bounds()
    assert tried()
