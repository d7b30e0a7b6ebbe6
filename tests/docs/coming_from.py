"""What the pages on other libraries say of their names: which of them are here, and what is instead of others."""

from __future__ import annotations

import re

from .pages import ROOT, tables

DOCS = ROOT / "docs"
PAGES = {"fbsp.md": "saturnin", "iccp.md": "saturnin", "hololinked.md": "hololinked"}
"""The pages, and the library that each is about."""


def kept(page: str) -> list[tuple[str, str, str]]:
    """The names that are here: their module there, the name, the module here."""
    rows = tables(DOCS / page)["|there|names|here|"]
    return [(there, name, here) for there, names, here in rows for name in re.findall(r"\w+", names)]


def replaced(page: str) -> list[tuple[str, str]]:
    """The names that are not here, and what is instead."""
    rows = tables(DOCS / page)["|nothere|instead|"]
    return [(path, instead) for paths, instead in rows for path in re.findall(r"[\w.]+", paths)]


def own_names(instead: str) -> list[str]:
    """The names of ours in a text, by their full paths."""
    return re.findall(r"`(packetwire(?:\.\w+)+)`", instead)
