"""The shop in Node.js, docs/examples/shop.mjs: called by ours, and calling ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs.programs import write_programs
from packetwire import RequestFailed
from packetwire.typed import Client, Service, method

from .shop import Item, OutOfStock

DOCS = Path(__file__).parents[2] / "docs"
PROGRAM = DOCS / "examples" / "shop.mjs"
NODE = shutil.which("node")

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(NODE is None, reason="node is not installed"),
]


class Shop(Service):
    @method(1)
    def put(self, title: str, tags: list[str] = []) -> int:
        raise NotImplementedError

    @method(2, errors=[OutOfStock])
    def find(self, prefix: str = "", *, least: int = 0) -> list[Item]:
        raise NotImplementedError

    @method(3)
    def other(self) -> None: ...


def test_it_is_called_by_ours() -> None:
    with Shop.at(f"exec:{NODE} {PROGRAM}") as shop:
        assert shop.put("Emma", ["ü" * 20_000]) == 1
        assert shop.put("Persuasion") == 2
        assert shop.find() == [Item("Emma", ["ü" * 20_000]), Item("Persuasion", [])]
        with pytest.raises(OutOfStock) as caught:
            shop.find("x", least=1)
        assert (caught.value.title, caught.value.left, str(caught.value)) == ("x", 0, "x: only 0 left")
        with pytest.raises(RequestFailed, match="unknown request type 3"):
            shop.other()
    with Client(f"exec:{NODE} {PROGRAM}") as client:
        assert list(client.map(Shop.put(str(n)) for n in range(300))) == list(range(1, 301))


def test_it_calls_ours(tmp_path: Path) -> None:
    write_programs(DOCS / "typed.md", tmp_path)
    command = [str(NODE), str(PROGRAM), sys.executable, str(tmp_path / "shop.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "ok 1",
        'ok [{"title":"Emma","tags":["novel"]}]',
        'not ok {"$":"out-of-stock","text":"E: only 1 left","title":"E","left":1}',
    ]
