"""How docstrings are shown: as the reference of the public names, and of nothing else.

What is public is what stands in the `__all__` of the modules that the pages in docs/reference describe.
"""

from __future__ import annotations

import abc
import builtins
import inspect
import re
import typing
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

MODULES = [
    import_module(name)
    for page in sorted((Path(__file__).parents[1] / "reference").glob("*.rst"))
    for name in re.findall(r"^\.\. automodule:: (\S+)", page.read_text(), re.MULTILINE)
]
CLASSES = {
    value for module in MODULES for name in module.__all__ if inspect.isclass(value := getattr(module, name))
}
"""What the reference describes."""
PLAIN = {object, abc.ABC, typing.Generic, typing.Protocol}
"""Bases of which readers need not know."""
GIVEN = {
    "packetwire.RequestResult",
    "packetwire.aio.server.AsyncServer",
    "packetwire.fbsp.AsyncCall",
    "packetwire.fbsp.AsyncRequest",
    "packetwire.fbsp.Call",
    "packetwire.fbsp.Request",
    "packetwire.iccp.AsyncStartedComponent",
    "packetwire.iccp.Control",
    "packetwire.iccp.StartedComponent",
    "packetwire.server.Server",
    "packetwire.streams.tls.TlsStream",
    "packetwire.testing.Direction",
}
"""Classes of which callers are given objects, by a call that makes them."""


def is_ours(cls: type) -> bool:
    return str(cls.__module__).partition(".")[0] == "packetwire"


WITHOUT_INHERITED = sorted(
    {base.__name__ for cls in CLASSES for base in cls.__mro__ if base in CLASSES or not is_ours(base)}
)
"""What a class has from one of these does not stand with it: it is described there, or elsewhere."""


def described_bases(cls: Any) -> list[Any]:
    """Itself, if it is described or from elsewhere, else the first of its bases that are."""
    if not inspect.isclass(cls) or cls in CLASSES or not is_ours(cls):
        return [cls]
    return [each for base in cls.__bases__ for each in described_bases(base)]


def leave_out_bases(app: Sphinx, name: str, cls: type, options: Any, bases: list[Any]) -> None:
    """Of the classes that a class stands on show those that say something to readers."""
    found = dict.fromkeys(each for base in bases for each in described_bases(base))
    bases[:] = [base for base in found if typing.get_origin(base) is None and base not in PLAIN]


def edit_docstring(app: Sphinx, what: str, name: str, it: object, options: Any, lines: list[str]) -> None:
    """Show what is indented as it stands. Leave out what is for readers of the code, or comes from Python."""
    text = re.sub(r"(?m)^(\S.*)\n\n(?=    )(?<!::\n\n)", r"\1\n\n::\n\n", "\n".join(lines))
    if what == "module":
        text = re.sub(r"(?ms)^Strategy.*", "", text)
    if text.startswith("Alias for field number"):
        text = ""
    lines[:] = text.split("\n")


def edit_signature(
    app: Sphinx, what: str, name: str, it: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """What callers are given they do not make, nor an object of a protocol. Defaults are shown as in Python."""
    if what == "class" and (name in GIVEN or getattr(it, "_is_protocol", False)):
        return "", None
    if signature is None:
        return None
    return re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", signature.replace("<factory>", "...")), returns


def leave_out_members(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """What all enumerations have."""
    return True if getattr(member, "__module__", None) == "enum" else None


def leave_builtins(app: Sphinx, page: nodes.document) -> None:
    """The `type` of an annotation is no attribute with that name."""
    for node in list(page.findall(pending_xref)):
        if node["refdomain"] == "py" and node["reftype"] == "class" and hasattr(builtins, node["reftarget"]):
            node.replace_self(node.children)


def find_by_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Element) -> nodes.Node | None:
    """Docstrings say `Packet` of what is `packetwire.Packet` here, from wherever they say it."""
    name = node["reftarget"].removeprefix("packetwire.")
    if node["refdomain"] != "py" or not name[:1].isupper():
        return None
    described = env.get_domain("py").objects
    homes = [full_name for full_name in described if full_name.endswith(f".{name}")]
    if not homes:
        return None
    home = described[
        min(homes, key=lambda full_name: (not full_name.startswith(node["py:module"] or " "), full_name))
    ]
    return make_refnode(app.builder, node["refdoc"], home.docname, home.node_id, text, name)


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-bases", leave_out_bases)
    app.connect("autodoc-process-docstring", edit_docstring)
    app.connect("autodoc-process-signature", edit_signature)
    app.connect("autodoc-skip-member", leave_out_members)
    app.connect("doctree-read", leave_builtins)
    app.connect("missing-reference", find_by_name)
