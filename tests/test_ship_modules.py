"""What is sent to a far end: which modules, their sources without what does not matter, and how much that is."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import packetwire
from packetwire import LocalProtocolError
from packetwire.ship.command import STUB
from packetwire.ship.modules import NOT_SENT, UserModules, own_modules
from packetwire.ship.shipment import FAR_END, LOADER, Ship
from packetwire.ship.stripping import stripped

PACKAGE = Path(packetwire.__file__).parent
SENT = own_modules([FAR_END])
BAR = 73_000
"""Bytes that are sent for a service of a few lines."""

IMPORTED = """
import sys
from packetwire.ship import farend
print(*sorted(name for name in sys.modules if name.partition(".")[0] == "packetwire"))
"""


def test_exactly_what_is_imported_is_sent() -> None:
    env = os.environ | {"PACKETWIRE_PURE": "1"}
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, check=True, text=True, env=env)
    names = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in SENT}
    assert names == set(done.stdout.split()) - NOT_SENT


def test_nothing_is_sent_that_a_far_end_does_not_need() -> None:
    for path, source in SENT.items():
        assert "import zmq" not in source, path
        if path != "packetwire/_sync/host.py":  # for a service with coroutines only
            assert "import asyncio" not in source, path
        assert not path.endswith((".so", ".pyx", ".pxd"))
    assert not any(path.startswith(("packetwire/aio", "packetwire/cli", "packetwire/fbsp")) for path in SENT)


def test_how_much_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small.py").write_text("def handle(rq_type, flags, payload):\n    return payload\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    ship = Ship("small:handle")
    found = ship.find()
    assert set(found.files) == {"small.py"}
    assert len(ship.packed(found, "0" * 16)) < BAR
    assert len(STUB) < 400


def test_the_loader_needs_nothing_of_packetwire() -> None:
    tree = ast.parse((PACKAGE / "ship" / "loader.py").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports
    for node in imports:
        module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        assert str(module).partition(".")[0] in sys.stdlib_module_names
    assert set(own_modules([LOADER])) >= {"packetwire/ship/loader.py"}


class WithoutHints(ast.NodeTransformer):
    """Leaves out what stripping leaves out."""

    def __init__(self) -> None:
        self.in_function = [False]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        self.in_function.append(True)
        self.generic_visit(node)
        self.in_function.pop()
        return node

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]  # noqa: N815

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.in_function.append(False)
        self.generic_visit(node)
        self.in_function.pop()
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        if self.in_function[-1] and node.value is not None:
            return ast.Assign(targets=[node.target], value=node.value, type_comment=None)
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Constant):
            return ast.Expr(ast.Constant(""))
        self.generic_visit(node)
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" and not node.orelse:
            return ast.Expr(ast.Constant(0))
        self.generic_visit(node)
        return node


@pytest.mark.parametrize("path", [PACKAGE.parent / path for path in SENT], ids=list(SENT))
def test_a_stripped_source_is_the_same_program(path: Path) -> None:
    source = path.read_text()
    less = stripped(source)
    assert len(less.splitlines()) == len(source.splitlines())
    assert ast.dump(ast.parse(less)) == ast.dump(WithoutHints().visit(ast.parse(source)))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = '# no'  # yes\n", "x = '# no'\n"),
        ("'''a\n# b\n'''\nx = 1", "''\n\n\nx = 1"),
        ("x = f'{1}#'  # c\n", "x = f'{1}#'\n"),
        ("x = '''\n# b''' # c\n", "x = '''\n# b'''\n"),
        (
            "def f(a: int = 1, *b: 'x', ä: dict[\n    str, int\n] = {}) -> int: ...\n",
            "def f(a = 1, *b, ä\n\n = {}): ''\n",
        ),
        ("class A:\n    a: int = 1\n    b: int\n", "class A:\n    a: int = 1\n    b: int\n"),
        ("def f():\n    a: int\n    a: int = 1\n", "def f():\n    a: int\n    a = 1\n"),
        ("def f() -> (\n    int\n): pass\n", "def f() -> (\n    int\n): pass\n"),
        (
            "if TYPE_CHECKING:\n    import a\nelse:\n    import b\n",
            "if TYPE_CHECKING:\n    import a\nelse:\n    import b\n",
        ),
    ],
)
def test_stripping(source: str, expected: str) -> None:
    assert stripped(source) == expected


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__init__.py").write_text("from .first import x\n")
    (tmp_path / "own" / "first.py").write_text(
        "from . import second\nfrom .second import absent\nimport random, other\n"
    )
    (tmp_path / "own" / "second.py").write_text("def f():\n    import other_too.part\n")
    (tmp_path / "own" / "unused.py").write_text("")
    (tmp_path / "other.py").write_text(
        "from packetwire import connect_to, BaseRequest\nimport pytest\nimport not_there\n"
    )
    (tmp_path / "other_too").mkdir()
    (tmp_path / "other_too" / "__init__.py").write_text("raise RuntimeError('must not be imported here')\n")
    (tmp_path / "other_too" / "part.py").write_text("import own.first\n")
    (tmp_path / "random.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_what_a_user_has_written_is_found(modules: Path) -> None:
    found = UserModules(["own"])
    assert sorted(found.files) == [
        *("other.py", "other_too/__init__.py", "other_too/part.py"),
        *("own/__init__.py", "own/first.py", "own/second.py"),
    ]
    assert {"packetwire.addresses", "packetwire.core.requests"} <= set(found.own)
    assert found.absent == {}
    assert not {"own", "other", "other_too"} & set(sys.modules)  # nothing of it was run


def test_a_source_with_a_null_byte_is_not_sent(modules: Path) -> None:
    """It would have been two parts at the far end, and all behind it other files."""
    (modules / "other.py").write_text("x = 1\0\n")
    found = UserModules(["own"])
    assert "other.py" not in found.files
    assert found.absent == {"other": "its source has a null byte"}
    with pytest.raises(LocalProtocolError, match="the module 'other' cannot be sent: its source has a null byte"):
        UserModules(["other"])


def test_a_module_of_an_installed_package_is_sent_if_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imports_pytest.py").write_text("import pytest")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list(UserModules(["imports_pytest"]).files) == ["imports_pytest.py"]
    assert "iniconfig/__init__.py" in UserModules(["iniconfig"]).files


def test_a_service_of_ours_can_be_sent() -> None:
    ship = Ship("packetwire.cli.benchmarks:REQUESTS")
    assert ship.find().own == ["packetwire.cli.benchmarks"]


@pytest.mark.parametrize("is_imported", [False, True])
def test_a_directory_without_init_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_imported: bool
) -> None:
    (tmp_path / "bare_directory").mkdir()
    (tmp_path / "bare_directory" / "part.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    if is_imported:
        monkeypatch.setitem(sys.modules, "bare_directory", importlib.import_module("bare_directory"))
    with pytest.raises(LocalProtocolError, match="it is a directory without __init__.py"):
        UserModules(["bare_directory.part"])
