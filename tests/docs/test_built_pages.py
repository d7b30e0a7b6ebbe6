"""What looks through the built pages finds what it looks for."""

from __future__ import annotations

import zlib
from pathlib import Path

from .built_pages import expected, faults

NAMES = list(expected())


def build(directory: Path, html: str, names: list[str]) -> list[str]:
    """What is wrong with pages that are this one."""
    (directory / "index.html").write_text(html)
    lines = "".join(f"{name} py:class 1 page.html#$ -\n" for name in names)
    head = b"# Sphinx inventory version 2\n# Project: x\n# Version: 1\n# zlib\n"
    (directory / "objects.inv").write_bytes(head + zlib.compress(lines.encode()))
    return list(faults(directory))


def test_nothing_is_wrong(tmp_path: Path) -> None:
    html = '<script src="_static/a.js"></script><a href="https://example.org/">a link</a><img src="a.svg">'
    assert build(tmp_path, html, [*NAMES, "packetwire.PacketConnection.__call__"]) == []


def test_what_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    html = '<link rel="stylesheet" href="https://cdn.example/a.css"><script src="//cdn.example/a.js"></script>'
    found = build(tmp_path, html, NAMES)
    assert [fault.rpartition(" ")[2] for fault in found] == ["https://cdn.example/a.css", "//cdn.example/a.js"]


def test_a_name_is_missing(tmp_path: Path) -> None:
    assert build(tmp_path, "", NAMES[1:]) == [f"{NAMES[0]}: is missing"]


def test_a_private_name(tmp_path: Path) -> None:
    assert build(tmp_path, "", [*NAMES, "packetwire.x._Y.z"]) == ["packetwire.x._Y.z: is private"]


def test_bases_that_are_left_out(tmp_path: Path) -> None:
    (fault,) = build(tmp_path, "<p>Bases: </p>", NAMES)
    assert fault.endswith("which ones are left out")
