"""The reasons to refuse an input, as the code has them: every `raise` of a module, or every text of its exceptions.

So a reason that is added is expected to be met without being written down anywhere else.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from types import ModuleType

from tests.sources import place_of, source_path

OF_THE_ENVIRONMENT = {"extra_missing"}
"""Exceptions for a package that is not installed."""

SCOPES = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _scoped(node: ast.AST, scope: str = "") -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        inside = f"{scope}.{child.name}".lstrip(".") if isinstance(child, SCOPES) else scope
        yield inside, child
        yield from _scoped(child, inside)


def _template(node: ast.AST) -> str:
    """The first text in an expression, with {} for what is filled in."""
    for each in ast.walk(node):
        if isinstance(each, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in each.values)
            return "".join(map(str, parts))
        if isinstance(each, ast.Constant) and isinstance(each.value, str | bytes):
            text = each.value if isinstance(each.value, str) else each.value.decode()
            return re.sub("%[ds]", "{}", text)
    return ""


class RaisedIn:
    """The statements of a module that raise something new; told apart by the line that is in the traceback.

    `without` are functions, or classes, that no input can make raise: by their names, and for a reason that stands
    beside.
    """

    def __init__(self, module: ModuleType, without: Collection[str] = ()) -> None:
        self._place = place_of(module)
        self._lines: dict[int, str] = {}
        found: Counter[str] = Counter()
        skipped = set()
        for scope, node in _scoped(ast.parse(source_path(module).read_text())):
            if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
                continue
            if _name_of(node.exc.func) in OF_THE_ENVIRONMENT:
                continue
            left_out = [name for name in without if scope == name or scope.startswith(f"{name}.")]
            skipped.update(left_out)
            if left_out:
                continue
            reason = f"{scope}: {_template(node.exc)}"
            found[reason] += 1
            if found[reason] > 1:
                reason += f" ({found[reason]})"
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                self._lines[line] = reason
        assert skipped == set(without), set(without) - skipped
        self.reasons = frozenset(self._lines.values())

    def of(self, error: BaseException | None) -> list[str]:
        """Which of these an exception is, and its causes are."""
        reasons = []
        while error is not None:
            line = 0
            step = error.__traceback__
            while step is not None:
                if step.tb_frame.f_code.co_filename.endswith(self._place):
                    line = step.tb_lineno
                step = step.tb_next
            reasons += [self._lines[line]] if line in self._lines else []
            error = error.__cause__
        return reasons


class TextsOf:
    """The texts that a module gives to calls of some names, told apart by what is not filled in.

    Where it gives what a function of its own returns, each of the texts that this one can return.
    """

    def __init__(self, module: ModuleType, names: Collection[str], position: int = 0) -> None:
        self._patterns: dict[str, re.Pattern[str]] = {}
        nodes = [node for _, node in _scoped(ast.parse(source_path(module).read_text()))]
        for node in nodes:
            if isinstance(node, ast.Call) and _name_of(node.func) in names and len(node.args) > position:
                text = node.args[position]
                for each in _returned(text, nodes) if isinstance(text, ast.Call) else [text]:
                    self._add(each, module)
        assert self._patterns
        self.reasons = frozenset(self._patterns)

    def _add(self, text: ast.expr, module: ModuleType) -> None:
        if isinstance(text, ast.Name):  # a constant of the module
            constant = vars(module).get(text.id)
            template = constant.decode() if isinstance(constant, bytes) else ""
        else:
            template = _template(text)
        if template:
            pattern = ".*".join(map(re.escape, template.split("{}")))
            self._patterns[template] = re.compile(pattern, re.DOTALL)

    def of(self, text: str) -> list[str]:
        """Which of these a text is: the one of which the most is literally there."""
        found = [template for template, pattern in self._patterns.items() if pattern.fullmatch(text)]
        return [max(found, key=len)] if found else []


def _returned(call: ast.Call, nodes: Iterable[ast.AST]) -> Iterator[ast.expr]:
    """What the functions that bear the name of the called one return."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef) and node.name == _name_of(call.func):
            yield from (each.value for each in ast.walk(node) if isinstance(each, ast.Return) and each.value)


def _name_of(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def prefixed(prefix: str, reasons: Iterable[str]) -> frozenset[str]:
    """Reasons of one of several things that are looked at."""
    return frozenset(f"{prefix}: {reason}" for reason in reasons)
