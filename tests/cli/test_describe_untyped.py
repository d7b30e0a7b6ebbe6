"""A request map that is served describes itself: numbers, names and the first lines of documentation."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from packetwire.cli.main import main
from packetwire.typed.foreign import checked_schema

pytestmark = pytest.mark.timeout(60)

STORE = '''
from dataclasses import dataclass
from packetwire import BaseRequest

@dataclass
class Put(BaseRequest):
    data: bytes
    from_bytes = classmethod(lambda cls, bs: cls(bs))
    __bytes__ = lambda self: self.data

class Count(BaseRequest):
    """Counts what is there.

    More of it."""
    from_bytes = classmethod(lambda cls, bs: cls())
    __bytes__ = lambda self: b""

REQUESTS = {7: Count, 0: Put}
'''
SERVE = f"exec:{sys.executable} -m packetwire serve store:REQUESTS"


def test_a_request_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "store.py").write_text(STORE)
    monkeypatch.chdir(tmp_path)
    assert main(["describe", f"{SERVE} stdio:", "--json"]) == 0
    schema = json.loads(capfd.readouterr().out)
    assert schema["methods"] == {}
    assert schema["requests"] == {
        "0": {"name": "Put", "payload": "bytes"},
        "7": {"name": "Count", "payload": "bytes", "doc": "Counts what is there."},
    }
    assert main(["describe", f"{SERVE} stdio:"]) == 0
    shown = capfd.readouterr().out
    assert "Count: untyped, its payload is bytes\n    number 7\n    Counts what is there.\n" in shown
    assert main(["describe", f"{SERVE} --no-describe stdio:"]) == 1
    capfd.readouterr()
    assert main(["call", f"{SERVE} stdio:", "Put", "data=x"]) == 2
    assert "Put has a payload of plain bytes: give its number, 0, and those, or --module" in capfd.readouterr().err
    assert main(["call", f"{SERVE} stdio:", "Get"]) == 2
    assert "has no method 'Get', or any: see packetwire describe" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("requests", "problem"),
    [
        ([], r"\$\.requests: expected dict"),
        ({"x": {}}, "'x' is no request type"),
        ({"9" * 30: {}}, "is no request type"),
        ({"1": 5}, r"\$\.requests\.1: expected dict, got 5"),
        ({"1": {"name": "\x1b"}}, "is not printable"),
    ],
)
def test_requests_of_a_schema_from_elsewhere(requests: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        checked_schema(
            {"packetwire": 1, "name": "a", "version": "", "methods": {}, "types": {}, "requests": requests}
        )
