"""The diagram of a connection's two halves in docs/design.md, made from the table in core/state.py.

`python -m tests.docs.state_diagram`, in the root of the project, prints it.
"""

from __future__ import annotations

from packetwire.core.state import TRANSITIONS, Half

DIRECTIONS = {"ours": "our direction, what we send", "theirs": "the direction of the peer, what we receive"}


def mermaid() -> str:
    """The diagram, in mermaid's language."""
    lines = ["stateDiagram-v2"]
    for direction, title in DIRECTIONS.items():
        lines += [f"    {direction}: {title}", f"    state {direction} {{"]
        lines += [f"        {line}" for line in _half(direction)]
        lines.append("    }")
    return "\n".join(lines) + "\n"


def _half(direction: str) -> list[str]:
    names = {half: f"{direction}_{half.name.lower()}" for half in Half}
    arrows: dict[tuple[Half, Half], list[str]] = {}
    for (before, act), after in TRANSITIONS.items():
        arrows.setdefault((before, after), []).append(act.value)
    return [
        *(f"{names[half]}: {half.value}" for half in Half),
        f"[*] --> {names[Half.OPEN]}",
        *(f"{names[before]} --> {names[after]}: {', '.join(acts)}" for (before, after), acts in arrows.items()),
        f"{names[Half.ENDED]} --> [*]",
    ]


if __name__ == "__main__":
    print(mermaid(), end="")
