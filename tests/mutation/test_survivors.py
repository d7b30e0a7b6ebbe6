"""The list of survivors is about the sources as they are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import packetwire.core

from .survivors import Change, explained, function_of

CORE = Path(packetwire.core.__file__).parent


def functions(path: Path) -> Iterator[tuple[str, str]]:
    """The name of each function, with that of its class, and its source in one line."""
    text = path.read_text()
    tree = ast.parse(text)
    scopes = [(path.stem, tree), *((f"{path.stem}.{c.name}", c) for c in tree.body if isinstance(c, ast.ClassDef))]
    for scope, node in scopes:
        for function in node.body:
            if isinstance(function, ast.FunctionDef):
                lines = text.splitlines()[function.lineno - 1 : function.end_lineno]
                yield f"{scope}.{function.name}", " ".join(line.strip() for line in lines)


SOURCES = dict(source for path in CORE.glob("*.py") for source in functions(path))


def test_each_line_that_is_listed_stands_in_its_function() -> None:
    listed = explained()
    assert listed
    for change, reason in listed.items():
        assert change.before in SOURCES[change.function], change
        assert change.before != change.after
        assert reason.strip()


def test_the_names_that_mutmut_gives() -> None:
    assert (
        function_of("packetwire.core.engine.xǁConnectionEngineǁ_break__mutmut_7")
        == "engine.ConnectionEngine._break"
    )
    assert function_of("packetwire.core.requests.x__completed__mutmut_1") == "requests._completed"
    assert function_of("packetwire.core.packet.x_check_uint__mutmut_11") == "packet.check_uint"
    assert str(Change("a.b", "x", "y")) == "a.b\n    - x\n    + y"
