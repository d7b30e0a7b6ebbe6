"""What was recorded of the reference: single messages, and a conversation of a service with its clients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parents[2] / "fixtures"


def load_items(name: str) -> list[dict[str, Any]]:
    """The items of a file in fixtures/, checked to be there and to be different."""
    items = json.loads((FIXTURES / name).read_text())["items"]
    assert items
    assert len({item["id"] for item in items}) == len(items)
    return items


def frames_of(item: dict[str, Any]) -> list[bytes]:
    return [bytes.fromhex(frame) for frame in item["frames"]]


MESSAGES = load_items("fbsp_messages.json")
CONVERSATION = [
    (message["dir"], frames_of(message))
    for item in load_items("fbsp_transcript.json")
    for message in item["messages"]
]
"""(direction as the service sees it, frames) for each message of the conversation."""
