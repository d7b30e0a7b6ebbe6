"""HTML that is escaped by default: whatever is not markup already is text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


class Markup(str):
    """A string that is HTML, as it stands."""

    __slots__ = ()


Child = str | int | Iterable["Child"] | None
"""Markup, or text to be escaped, or several of these; None for nothing."""

VOID = frozenset({"br", "col", "input", "meta"})


def element(tag: str, *children: Child, **attributes: str | int | bool | None) -> Markup:
    """An element. In the names of attributes "_" is "-", and nothing at the end; None leaves one out."""
    words = [tag]
    for keyword, value in attributes.items():
        if value is None or value is False:
            continue
        name = keyword.rstrip("_").replace("_", "-")
        words.append(name if value is True else f'{name}="{escape(str(value))}"')
    begin = f"<{' '.join(words)}>"
    return Markup(begin if tag in VOID else f"{begin}{markup(children)}</{tag}>")


def markup(child: Child) -> Markup:
    """The markup of a child."""
    if child is None:
        return Markup()
    if isinstance(child, Markup):
        return child
    if isinstance(child, str | int):
        return Markup(escape(str(child)))
    return Markup("".join(map(markup, child)))


def table(name: str, head: Sequence[str], rows: Iterable[Sequence[Child]], *, texts: int = 1) -> Markup:
    """A table with a name, that scrolls by itself; the first `texts` columns are text, the others figures."""
    kinds = ["text" if number < texts else "figure" for number in range(len(head))]
    heads = [element("th", each, scope="col", class_=kind) for each, kind in zip(head, kinds, strict=True)]
    body = []
    for row in rows:
        first, *others = row
        cells = [element("th", first, scope="row", class_="text")]
        cells += [element("td", each, class_=kind) for each, kind in zip(others, kinds[1:], strict=True)]
        body.append(element("tr", cells))
    inside = element("table", element("thead", element("tr", heads)), element("tbody", body))
    return element("div", inside, class_="scrolls", role="region", aria_label=name, tabindex=0)
