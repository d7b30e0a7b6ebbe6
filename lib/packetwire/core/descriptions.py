"""The description of a request map: its classes by their numbers; nothing explains their payloads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from packetwire.core.requests import BaseRequest


def description_of(name: str, requests: Mapping[int, type[BaseRequest[Any]]]) -> bytes:
    """A schema without methods, as JSON: number, name and the first line of documentation of each request class."""
    described = {str(number): _described(cls) for number, cls in sorted(requests.items())}
    schema = {"packetwire": 1, "name": name, "version": "", "methods": {}, "types": {}, "requests": described}
    return json.dumps(schema, separators=(",", ":"), ensure_ascii=False).encode()


def _described(cls: type[BaseRequest[Any]]) -> dict[str, str]:
    doc = cls.__dict__.get("__doc__") or ""
    if doc.startswith(f"{cls.__name__}("):  # which a dataclass has made
        doc = ""
    first = doc.strip().partition("\n")[0].strip()
    return {"name": cls.__name__, "payload": "bytes"} | ({"doc": first} if first else {})
