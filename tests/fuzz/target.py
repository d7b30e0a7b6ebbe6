"""What is fuzzed: a decoder, what it is fed, and what must hold whatever that is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from zlib import crc32

Mutate = Callable[[bytes, Random], bytes]


@dataclass(frozen=True)
class Target:
    """One decoder, or several that belong together."""

    name: str
    seeds: Sequence[bytes]
    """Inputs to begin with: recorded ones, and some that lie close to a refusal that is seldom met."""
    mutate: Mutate
    """An input that is somewhat different."""
    hear: Callable[[bytes], Iterable[str]]
    """Feeds an input to the decoder and returns why it was refused, a reason for each refusal.

    Whatever it raises is a finding: what is documented is caught, what must hold is asserted.
    """
    reasons: frozenset[str]
    """Every reason to refuse an input that there is, as the decoder's code has them."""
    growth: int = 400
    """Octets of memory that an octet of the input may take while it is decoded."""
    besides: int = 0
    """Octets that any input may take, beside what any of any target may."""


def choices_of(octets: bytes) -> Random:
    """What is left to chance, such as where chunks end: the same for the same input."""
    return Random(crc32(octets))


def chunks_of(octets: bytes) -> list[bytes]:
    """The input in pieces: one by one if it is short, else some."""
    random = choices_of(octets)
    if len(octets) < 200 and random.randrange(2):
        return [octets[position : position + 1] for position in range(len(octets))]
    cuts = sorted(random.randrange(len(octets) + 1) for _ in range(random.randrange(1, 8)))
    return [octets[start:end] for start, end in zip([0, *cuts], [*cuts, len(octets)], strict=True)]
