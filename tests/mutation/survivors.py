"""The changes of the core that no test can notice, and why: what `survivors.toml` says."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import NamedTuple

LIST = Path(__file__).with_name("survivors.toml")


class Change(NamedTuple):
    """Lines of a function and what they were changed into, without the spaces around them."""

    function: str
    """Such as `engine.ConnectionEngine.respond`."""
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.function}\n    - {self.before}\n    + {self.after}"


def explained() -> dict[Change, str]:
    """Each listed change and the reason why it cannot be noticed."""
    return {
        Change(entry["function"], entry["before"], after): entry["reason"]
        for entry in tomllib.loads(LIST.read_text())["equivalent"]
        for after in entry["after"]
    }


def function_of(mutant: str) -> str:
    """The function that a mutant is of, such as `packetwire.core.engine.xǁConnectionEngineǁend__mutmut_4`."""
    module, _, name = mutant.removeprefix("packetwire.core.").partition(".")
    name = name.partition("__mutmut_")[0]
    return ".".join([module, *name.split("ǁ")[1:]]) if "ǁ" in name else f"{module}.{name.removeprefix('x_')}"
