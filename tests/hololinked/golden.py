"""Recorded messages of hololinked 0.3.3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from packetwire.hololinked import EventMessage, RequestMessage, ResponseMessage

FIXTURE = Path(__file__).parents[2] / "fixtures" / "hololinked_messages.json"
ITEMS: list[dict[str, Any]] = json.loads(FIXTURE.read_text())["items"]
KINDS = {"request": RequestMessage, "response": ResponseMessage, "event": EventMessage}


def frames_of(item: dict[str, Any]) -> list[bytes]:
    return [bytes.fromhex(frame) for frame in item["frames"]]


def kind_of(item: dict[str, Any]) -> Any:
    return KINDS[item["id"].partition("-")[0]]


def by_id(name: str) -> list[bytes]:
    (found,) = [frames_of(item) for item in ITEMS if item["id"] == name]
    return found
