"""Charts as SVG that stretches to its place; their axes are words beside it, which do not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from packetwire.cli.reporting.latencies import Latencies
from packetwire.cli.reporting.markup import Markup, element
from packetwire.cli.reporting.words import duration

HEIGHT = 100
DECADES = range(15)
"""Of nanoseconds: each has a tick, from 1 ns to more than a day."""


class Scale(NamedTuple):
    """Latencies from left to right, each decade as wide as the others."""

    low: float
    high: float

    def place(self, nanoseconds: float) -> float:
        """From 0 at the left to 1 at the right."""
        spread = math.log(self.high) - math.log(self.low)
        return min(max((math.log(max(nanoseconds, 1)) - math.log(self.low)) / spread, 0), 1)

    def axis(self) -> Markup:
        """Its ticks, as words."""
        decades = [10**each for each in DECADES if self.low <= 10**each <= self.high]
        ticks = [(self.place(each), duration(each)) for each in decades]
        return element(
            "div",
            [element("span", words, style=f"left:{100 * place:.2f}%") for place, words in ticks],
            class_="axis",
            aria_hidden="true",
        )


def scale_of(all_latencies: Sequence[Latencies]) -> Scale:
    """From the decade of the least to that of the longest."""
    counted = [each for each in all_latencies if each.count]
    low = min((max(each.least, 1) for each in counted), default=1)
    high = max((max(each.most, 1) for each in counted), default=10)
    first = 10 ** math.floor(math.log10(low))
    return Scale(first, max(10 ** math.ceil(math.log10(high + 1)), first * 10))


def histogram(latencies: Latencies, scale: Scale, label: str, marks: Sequence[float] = ()) -> Markup:
    """The counts of latencies, with lines at some of their percentiles."""
    bars = latencies.bars()
    most = max((bar.height for bar in bars), default=1)
    path = []
    for bar in bars:
        left, right = 1000 * scale.place(bar.low), 1000 * scale.place(bar.high)
        height = HEIGHT * bar.height / most
        if bar.height and right > left:
            path.append(f"M{left:.1f} {HEIGHT}v-{max(height, 1):.1f}h{right - left:.1f}v{max(height, 1):.1f}z")
    lines = [
        element("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=0, y2=HEIGHT)
        for x in (1000 * scale.place(latencies.percentile(part) or 0) for part in marks)
    ]
    return _stretched(label, element("path", d="".join(path), class_="bars"), *lines)


class Area(NamedTuple):
    """Values over time, as an area that is drawn with its class."""

    class_name: str
    values: Sequence[float]
    hangs: bool = False
    """It goes down from the middle; the others then go up from there."""


def areas(label: str, *drawn: Area) -> Markup:
    """Values over time, all in the same scale."""
    width = max((len(area.values) for area in drawn), default=0) or 1
    most = max((max(area.values, default=0) for area in drawn), default=0) or 1
    is_mirrored = any(area.hangs for area in drawn)
    ground = HEIGHT / 2 if is_mirrored else HEIGHT
    shapes = []
    for area in drawn:
        per_unit = (ground if area.hangs else -ground) / most
        heights = [ground + per_unit * value for value in area.values]
        shapes.append(element("path", d=_steps(heights, ground), class_=area.class_name))
    base = element("line", x1=0, x2=width, y1=f"{ground:g}", y2=f"{ground:g}", class_="ground")
    return _stretched(label, *shapes, base, width=width)


def _steps(heights: Sequence[float], ground: float) -> str:
    """The outline of an area: a step for each value."""
    path, last = [f"M0 {ground:g}"], ground
    for number, height in enumerate(heights):
        y = round(height, 1)
        if y != last:
            path.append(f"H{number}V{y:g}")
            last = y
    return "".join([*path, f"H{len(heights)}V{ground:g}z"])


def _stretched(label: str, *shapes: Markup, width: float = 1000) -> Markup:
    return element(
        "svg",
        element("title", label),
        shapes,
        viewBox=f"0 0 {width:g} {HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )


def time_axis(nanoseconds: int, parts: int = 4) -> Markup:
    """Times from 0 to so many, as words."""
    ticks = [
        element("span", duration(nanoseconds * part // parts), style=f"left:{100 * part / parts:g}%")
        for part in range(parts + 1)
    ]
    return element("div", ticks, class_="axis", aria_hidden="true")
