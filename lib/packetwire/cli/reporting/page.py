"""The page of a report: one HTML file that needs nothing else.

Strategy: figures, tables and charts are plain HTML and SVG, and can be read without scripts. The exchanges are
data, as JSON, of which the page's script draws the diagram and the list. All that comes from a capture is escaped,
as text or in the JSON, and the script makes text of it, never markup; beside that the page forbids all scripts but
its own, and all network.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from functools import cache
from importlib import resources
from string import Template

import packetwire
from packetwire.cli.conversation import shown
from packetwire.cli.reporting.data import data_of
from packetwire.cli.reporting.markup import Markup, element
from packetwire.cli.reporting.model import Report
from packetwire.cli.reporting.sections import facts, sections

MAX_PAGE = 5_000_000
"""Bytes of a page, at most: of more exchanges than fit into it some are left out."""
RESERVE = 20_000
"""Bytes for all but the large parts."""


def page_of(report: Report, name: str, payload_limit: int) -> str:
    """The HTML about a report on the capture `name`, with at most so many bytes of each payload."""
    script, style = _part("page.js"), _part("page.css")
    inside = sections(report, payload_limit)
    room = MAX_PAGE - RESERVE - len(script.encode()) - len(style.encode()) - len(inside.encode())
    return Template(_part("page.html")).substitute(
        title=element("title", f"{shown(name)} - packetwire report"),
        policy=_policy(script),
        style=style,
        heading=element("h1", shown(name)),
        facts=facts(report),
        sections=inside,
        data=data_of(report, payload_limit, room),
        script=script,
        version=packetwire.__version__,
    )


@cache
def _part(name: str) -> str:
    """A file beside this one."""
    return resources.files("packetwire").joinpath("cli", "reporting", name).read_text(encoding="utf-8")


def _policy(script: str) -> Markup:
    """Nothing from elsewhere, and no other script. Styles are allowed, since they place the ticks of axes."""
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'"
    return element(
        "meta", http_equiv="Content-Security-Policy", content=f"{allowed}; base-uri 'none'; form-action 'none'"
    )
