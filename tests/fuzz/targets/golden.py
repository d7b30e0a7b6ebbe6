"""The recorded messages of all protocols, as lists of frames."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parents[3] / "fixtures"


def items_of(name: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads((FIXTURES / name).read_text())["items"]
    assert items
    return items


def frames_in(name: str) -> list[list[bytes]]:
    """The frames of each item of a file in fixtures/."""
    return [[bytes.fromhex(frame) for frame in item["frames"]] for item in items_of(name) if "frames" in item]


FBSP_FRAMES = frames_in("fbsp_messages.json")
ICCP_FRAMES = frames_in("iccp_messages.json")
RIAPS_FRAMES = frames_in("riaps_group.json")
HOLOLINKED_FRAMES = frames_in("hololinked_messages.json")
