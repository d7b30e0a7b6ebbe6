"""What whoever asks is told of a request map."""

from __future__ import annotations

import json
from dataclasses import dataclass

from packetwire import BaseRequest
from packetwire.core.descriptions import description_of


class Put(BaseRequest[bytes]):
    """Keep a title.

    And more.
    """


@dataclass
class Take(BaseRequest[bytes]):
    number: int


class Count(BaseRequest[bytes]):
    pass


def test_a_request_map() -> None:
    assert json.loads(description_of("Shop", {7: Take, 3: Put, 1: Count})) == {
        "packetwire": 1,
        "name": "Shop",
        "version": "",
        "methods": {},
        "types": {},
        "requests": {
            "1": {"name": "Count", "payload": "bytes"},
            "3": {"name": "Put", "payload": "bytes", "doc": "Keep a title."},
            "7": {"name": "Take", "payload": "bytes"},
        },
    }
