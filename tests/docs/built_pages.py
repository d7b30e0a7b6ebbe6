"""What Sphinx has built: it needs no network, has each public name, and no other.

`python -m tests.docs.built_pages build/docs`, in the root of the project, says what is wrong.
"""

from __future__ import annotations

import inspect
import re
import sys
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from .public_names import REFERENCE, described, found_at, is_ours, left_out, own_methods

LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
"""What a browser loads by itself."""


class Loaded(HTMLParser):
    """Finds what a page loads from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(LOADED.get(tag, "")) or ""
        if address.startswith(("http:", "https:", "//")):
            self.found.append(address)


def loaded_from_elsewhere(text: str) -> list[str]:
    """The addresses on the network that a page loads something from."""
    parser = Loaded()
    parser.feed(text)
    return parser.found


def inventory(octets: bytes) -> Iterator[str]:
    """The Python names in Sphinx's objects.inv: four lines, then compressed ones of name, role and place."""
    *_, packed = octets.split(b"\n", 4)
    for line in zlib.decompress(packed).decode().splitlines():
        name, role, *_ = line.split()
        if role.startswith("py:"):
            yield name


def is_private(name: str) -> bool:
    """Whether a part of it begins with an underscore, and is no `__call__` or its like."""
    return any(part.startswith("_") and not part.endswith("__") for part in name.split("."))


def expected() -> Iterator[str]:
    """The public names, and those of their methods that are not left out."""
    for page in REFERENCE:
        without = left_out(page)
        for path in described(page):
            yield path
            thing = found_at(path)
            if inspect.isclass(thing) and is_ours(thing):
                yield from (f"{path}.{name}" for name in {*own_methods(thing)} - without.get(path, set()))


def faults(built: Path) -> Iterator[str]:
    """All that is wrong with it."""
    pages = sorted(built.rglob("*.html"))
    if not pages:
        yield f"there are no pages in {built}"
    for page in pages:
        text = page.read_text()
        for address in loaded_from_elsewhere(text):
            yield f"{page}: loads {address}"
        if re.search(r"Bases:\s*</p>", text):
            yield f"{page}: a class shows that it has bases, and which ones are left out"
    names = set(inventory((built / "objects.inv").read_bytes()))
    for name in sorted(name for name in names if is_private(name)):
        yield f"{name}: is private"
    for name in sorted(set(expected()) - names):
        yield f"{name}: is missing"


if __name__ == "__main__":
    found = list(faults(Path(sys.argv[1])))
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(bool(found))
