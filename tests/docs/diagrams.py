"""The diagrams in docs/diagrams, made from the tables in the code.

`python -m tests.docs.diagrams`, in the root of the project, draws them anew; that needs the program `dot` of
Graphviz. Each one names the source that it was drawn from, so a test sees without `dot` whether it is the present
one.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from enum import Enum

from packetwire import Packet
from packetwire.core import state
from packetwire.core.packets import decode_varint
from packetwire.fbsp import lifecycle
from packetwire.iccp import protocol

from .layers import LAYERS, layers_used
from .pages import ROOT

DIRECTORY = ROOT / "docs" / "diagrams"
FONT = "Helvetica,Arial,sans-serif"
HEAD = f"""\
digraph {{
    graph [bgcolor=white, pad=0.2, ranksep=0.45, nodesep=0.35, fontname="{FONT}"]
    node [shape=box, style="rounded,filled", fillcolor="#eaf1fb", color="#3567a6", fontname="{FONT}", fontsize=13]
    edge [color="#596575", fontcolor="#2b333d", fontname="{FONT}", fontsize=11, arrowsize=0.7]
"""

Arrows = Mapping[tuple[Enum, Enum], Enum]


def of_states(first: Enum, table: Arrows, direction: str, ways_out: Sequence[Enum] = ()) -> str:
    """The states of a table. Where no arrow leads out, it is the end.

    `ways_out` are acts that lead from each of the other states to the same end: they have one arrow each.
    """
    left = {before for (before, _), after in table.items() if before is not after}
    on_the_way = [each.name for each in type(first) if each in left]
    states = [
        f'{each.name} [label="{each.value}"{"" if each in left else ", peripheries=2"}]' for each in type(first)
    ]
    lines = [f"rankdir={direction}", 'begin [label="", shape=circle, width=0.15, fillcolor="#3567a6"]']
    lines += [*states, f"begin -> {first.name}"]
    for (before, after), acts in _together(table).items():
        drawn = [act for act in acts if act not in ways_out]
        if drawn:
            lines.append(f'{before.name} -> {after.name} [label="{_label(drawn)}"]')
    if ways_out:
        lines += ["compound=true", "subgraph cluster_on_the_way {"]
        lines += ['style="rounded,dashed"; color="#8a97a8"; margin=14', *on_the_way, "}"]
    for act in ways_out:
        (end,) = {table[each, act] for each in left}
        lines.append(f'{on_the_way[-1]} -> {end.name} [ltail=cluster_on_the_way, label="{_label([act])}"]')
    return _digraph(lines)


def _together(arrows: Arrows) -> dict[tuple[Enum, Enum], list[Enum]]:
    """The acts of each pair of states."""
    found: dict[tuple[Enum, Enum], list[Enum]] = {}
    for (before, act), after in arrows.items():
        found.setdefault((before, after), []).append(act)
    return found


def _label(acts: list[Enum]) -> str:
    return "\\n".join(f" {act.name if isinstance(act.value, int) else act.value} " for act in acts)


def of_layers() -> str:
    """Which layer imports from which: the arrows that do not follow from others."""
    used = layers_used()
    below = {number: set[int]() for number in used}
    for number in sorted(used):
        below[number] = used[number].union(*(below[other] for other in used[number]))
    lines = ["rankdir=BT"]
    for number, (name, *_) in enumerate(LAYERS):
        lines.append(f'{number} [label="{name}"]')
        further = set[int]().union(*(below[other] for other in used[number]))
        lines += [f"{number} -> {other}" for other in sorted(used[number] - further)]
    return _digraph(lines)


EXAMPLES = {
    "a request": Packet(is_request=True, tag=300, channel=16, flags=5, rq_type=10, payload=b"hi"),
    "its response": Packet(is_request=False, tag=300, channel=16, flags=1, payload=b"HI"),
}


def of_packets() -> str:
    """Two packets, octet by octet, as the codec writes them."""
    rows = "".join(
        f'<tr><td align="left">{title}</td></tr><tr><td align="left">{_octets_table(packet)}</td></tr>'
        for title, packet in EXAMPLES.items()
    )
    table = f'<table border="0" cellspacing="6" cellpadding="0">{rows}</table>'
    return _digraph([f"packets [shape=plain, style=solid, label=<{table}>]"])


def _octets_table(packet: Packet) -> str:
    fields = _fields(packet)
    names = "".join(f'<td colspan="{len(octets)}" bgcolor="#eaf1fb">{name}</td>' for name, octets, _ in fields)
    octets = "".join(
        f'<td><font face="monospace">{octet:02x}</font></td>' for _, each, _ in fields for octet in each
    )
    values = "".join(f'<td colspan="{len(octets)}">{value}</td>' for _, octets, value in fields)
    return (
        '<table border="0" cellborder="1" cellspacing="0" cellpadding="7" color="#3567a6">'
        f"<tr>{names}</tr><tr>{octets}</tr><tr>{values}</tr></table>"
    )


def _fields(packet: Packet) -> list[tuple[str, bytes, str]]:
    """The name, the octets and the value of each field."""
    encoded, offset = bytes(packet), 0
    names = ["length", "tag", "flags", "channel", *(["rq_type"] if packet.is_request else [])]
    found = []
    for name in names:
        value, end = decode_varint(encoded, offset, len(encoded))
        found.append((name, encoded[offset:end], str(value)))
        offset = end
    return [*found, ("payload", encoded[offset:], encoded[offset:].decode())]


def _digraph(lines: list[str]) -> str:
    return HEAD + "".join(f"    {line}\n" for line in lines) + "}\n"


WAYS_OUT = (lifecycle.Act.ERROR, lifecycle.Act.CANCELLED)

DIAGRAMS: dict[str, Callable[[], str]] = {
    "connection": lambda: of_states(state.Half.OPEN, state.TRANSITIONS, "LR"),
    "fbsp-request": lambda: of_states(lifecycle.Phase.OPEN, lifecycle.TRANSITIONS, "TB", WAYS_OUT),
    "iccp-component": lambda: of_states(protocol.Phase.NEW, protocol.TRANSITIONS, "LR"),
    "layers": of_layers,
    "packets": of_packets,
}


def mark(source: str) -> str:
    """What a diagram says of its source, in the language of `dot`."""
    digest = hashlib.sha256(source.encode()).hexdigest()
    return f"<!-- drawn by tests/docs/diagrams.py; sha256 of the source: {digest} -->"


def draw(source: str) -> str:
    """The diagram as SVG, without what depends on the version of `dot`."""
    done = subprocess.run(["dot", "-Tsvg"], input=source, capture_output=True, text=True, check=True)
    drawn = re.sub(r"<!-- (Generated by|Title:|Pages:).*?-->\n?", "", done.stdout, flags=re.DOTALL)
    return drawn.replace("<svg ", f"{mark(source)}\n<svg ", 1)


if __name__ == "__main__":
    DIRECTORY.mkdir(exist_ok=True)
    for name, diagram in DIAGRAMS.items():
        (DIRECTORY / f"{name}.svg").write_text(draw(diagram()))
