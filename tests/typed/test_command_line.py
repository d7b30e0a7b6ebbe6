"""Typed services at the command line: served, and called by the names of methods and fields."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from packetwire.cli.main import main

SHOP = Path(__file__).parent / "shop.py"
WHERE = f"exec:{sys.executable} -m packetwire serve shop:Shop stdio:"

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kept_process: None
) -> Any:
    (tmp_path / "shop.py").write_text(SHOP.read_text())
    (tmp_path / "file").write_bytes(b"Emma")

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shop", raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        try:
            status = main(["call", WHERE, "--module", "shop:Shop", *words])
        except SystemExit as error:  # by argparse
            status = int(str(error.code))
        return (status, *capfd.readouterr())

    return run


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["1", "title=5", 'tags=["a", "b"]'], "1\n"),
        (["put", "title:file=file"], "1\n"),
        (["find", "limit=null"], "[]\n"),
        (["load", "title=Emma"], ""),
        (["put", "--hex", "81a57469746c65a178"], "1\n"),
    ],
)
def test_a_method_is_called(call: Any, words: list[str], printed: str) -> None:
    assert call(*words) == (0, printed, "")


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["put"], 2, "Shop.put needs title=…"),
        (["put", "titel=Emma"], 2, "Shop.put has no field 'titel'; it has title, tags"),
        (["put", "title=a", "title=b"], 2, "the field 'title' is given twice"),
        (["put", "title=a", "tags=5"], 2, "Shop.put: $.tags: expected a list, got int"),
        (["put", "title=a", "tags=a,b"], 2, "Shop.put: $.tags: expected a list, got str"),
        (["get"], 2, "there is no request 'get' in shop:Shop; there are Shop.put (1), "),
        (["find", "prefix=E", "limit=3"], 1, "packetwire: E: only 0 left"),
        (["lie"], 1, "TypeError: the result of Shop.lie is not what its annotation says"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(call: Any, words: list[str], status: int, text: str) -> None:
    found, out, err = call(*words)
    assert (found, out) == (status, "")
    assert text in err.splitlines()[-1]


@pytest.fixture
def plain_call(call: Any, capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs a command about the shop without its module."""
    module = Path("shop.py")
    Path("elsewhere").mkdir()
    module.rename("elsewhere/shop.py")
    where = f'exec:{sys.executable} -c \'import os, sys; os.chdir("elsewhere"); sys.path.insert(0, ""); '
    where += 'from packetwire.cli.main import main; main(["serve", "shop:Shop", *sys.argv[1:]])\''

    def run(command: str, *words: str, options: str = "stdio:") -> tuple[int, str, str]:
        try:
            status = main([command, f"{where} {options}", *words])
        except SystemExit as error:  # by argparse
            status = int(str(error.code))
        return (status, *capfd.readouterr())

    return run


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["put", "title=5", 'tags=["a", "b"]'], "1\n"),
        (["put", "title:file=file"], "1\n"),
        (["find", "limit=null"], "[]\n"),
        (["load", "title=Emma"], ""),
        (["put", "--hex", "81a57469746c65a178"], "1\n"),
    ],
)
def test_a_method_is_called_without_its_module(plain_call: Any, words: list[str], printed: str) -> None:
    assert plain_call("call", *words) == (0, printed, "")


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["put"], 2, "put needs title=…"),
        (["put", "titel=Emma"], 2, "put has no field 'titel'; it has title, tags"),
        (["put", "title=a", "tags=5"], 1, "$.tags: expected a list, got int"),
        (["get"], 2, "argument TYPE: Shop has no method 'get'; it has "),
        (["find", "prefix=E", "limit=3"], 1, "E: only 0 left"),
    ],
)
def test_what_is_wrong_without_its_module(plain_call: Any, words: list[str], status: int, text: str) -> None:
    found, out, err = plain_call("call", *words)
    assert (found, out) == (status, "")
    assert text in err.splitlines()[-1]


def test_a_service_describes_itself(plain_call: Any) -> None:
    status, out, err = plain_call("describe")
    assert (status, err) == (0, "")
    assert out.startswith("Shop 1.4  (schema ")
    Path("shop.json").write_text(plain_call("describe", "--json")[1])
    assert plain_call("describe", "--diff", "shop.json") == (0, "", "")


def test_a_service_that_does_not(plain_call: Any) -> None:
    for words in (["describe"], ["call", "put", "title=Emma"]):
        status, out, err = plain_call(words[0], *words[1:], options="--no-describe stdio:")
        assert (status, out) == (1, "")
        assert "does not describe itself, so " in err
        assert "this end does not describe itself" in err
    status, out, err = plain_call("describe", "--timeout", "5", options="tcp:127.0.0.1:x")
    assert (status, out) == (1, "")


@pytest.mark.parametrize(
    ("address", "text"),
    [("tcp:127.0.0.1:0", "port 0 is for listening"), ("unix:none", "No such file"), ("stdio:", "is for serving")],
)
def test_an_address_that_cannot_be_asked(call: Any, capfd: Any, address: str, text: str) -> None:
    assert main(["describe", address]) in (1, 2)
    assert text in capfd.readouterr().err


def test_a_service_that_cannot_be_served(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from packetwire.typed import Service\nclass Shop(Service):\n    def __init__(self, name): ...\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "packetwire", "serve", "shop:Shop", "unix:x"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "shop:Shop cannot be made without arguments: TypeError: Shop.__init__() missing 1" in done.stderr
