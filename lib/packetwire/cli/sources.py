"""What the demo stores: files as they are on the disk, and octets generated from a seed.

A source is read anew each time, so that what comes back is compared with the disk, not with a copy of
what was sent.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import packetwire

PACKAGE = Path(packetwire.__file__).parent


class Source(Protocol):
    """A named sequence of octets."""

    @property
    def name(self) -> str:
        """What a person calls it."""
        ...

    @property
    def size(self) -> int:
        """Its octets."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """`size` octets from `offset` on."""
        ...


@dataclass(frozen=True)
class FileSource:
    """A file."""

    name: str
    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def read(self, offset: int, size: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


@dataclass(frozen=True)
class GeneratedSource:
    """`size` octets that depend on `seed`, and on the offsets at which they are read."""

    seed: int
    size: int

    @property
    def name(self) -> str:
        return f"generated octets (seed {self.seed})"

    def read(self, offset: int, size: int) -> bytes:
        return random.Random(f"{self.seed}:{offset}").randbytes(size)


@dataclass(frozen=True, slots=True)
class Chunk:
    """`size` octets of a source, from `offset` on."""

    source: Source
    offset: int
    size: int

    def read(self) -> bytes:
        """The octets, as they are now."""
        return self.source.read(self.offset, self.size)

    def __str__(self) -> str:
        return f"{self.source.name}, octets {self.offset:,} to {self.offset + self.size - 1:,}"


def find_files() -> list[FileSource]:
    """The package's own sources and, in a checkout, its fixtures."""
    files = _files_in(PACKAGE, "*.py")
    fixtures = _fixtures()
    if fixtures is not None:
        files += _files_in(fixtures, "*")
    return files


def _files_in(folder: Path, pattern: str) -> list[FileSource]:
    return [
        FileSource(path.relative_to(folder.parent).as_posix(), path)
        for path in sorted(folder.rglob(pattern))
        if path.is_file()
    ]


def _fixtures() -> Path | None:
    """The fixtures of the checkout that we are run in, or that the package is installed from in place."""
    for root in Path.cwd(), PACKAGE.parent.parent:
        if (root / "lib" / "packetwire").is_dir() and (root / "fixtures").is_dir():
            return root / "fixtures"
    return None


def cut(sources: Iterable[Source], size: int) -> Iterator[Chunk]:
    """All sources, in chunks of `size`; the last chunk of each may be smaller."""
    for source in sources:
        end = source.size
        for offset in range(0, end, size):
            yield Chunk(source, offset, min(size, end - offset))
