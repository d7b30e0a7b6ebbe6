"""Sources without what does not matter when they run, with every line where it was: tracebacks show the lines.

Docstrings, comments, blocks for type checkers and the annotations of functions are left out. The annotations of
classes stay, as dataclasses need them.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator

Place = tuple[int, int]
"""A line, and a byte in it."""
Span = tuple[Place, Place, bytes]
"""The begin and the end of a piece, and what takes its place."""


def stripped(source: str) -> str:
    """The source without all that."""
    tree = ast.parse(source)
    lines = source.encode().splitlines(keepends=True)
    _cut_comments(tree, lines)
    last: Place = (0, 0)
    outermost = []
    for span in sorted(set(_spans(tree, lines)), key=lambda span: (span[0], -span[1][0], -span[1][1])):
        if span[0] >= last:
            outermost.append(span)
            last = span[1]
    for span in reversed(outermost):
        _cut(lines, span)
    return b"".join(lines).decode()


def _cut_comments(tree: ast.Module, lines: list[bytes]) -> None:
    in_strings: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr):
            (first, start), (last, end) = _ends(node)
            for number in range(first, last + 1):
                part = (start if number == first else 0, end if number == last else len(lines[number - 1]))
                in_strings[number].append(part)
    for number, line in enumerate(lines, 1):
        at = line.find(b"#")
        while at >= 0 and any(start <= at < end for start, end in in_strings[number]):
            at = line.find(b"#", at + 1)
        if at >= 0:
            lines[number - 1] = line[:at].rstrip() + b"\n"


def _spans(tree: ast.Module, lines: list[bytes]) -> Iterator[Span]:
    left: list[tuple[ast.AST, bool]] = [(tree, False)]
    while left:
        node, in_function = left.pop()
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        inside = is_function or (in_function and not isinstance(node, ast.ClassDef))
        left += [(child, inside) for child in ast.iter_child_nodes(node)]
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield *_ends(node), b"''"  # a docstring; not nothing, as it may be all that there is
        elif isinstance(node, ast.If) and _is_for_checkers(node):
            yield *_ends(node), b"0"
        elif isinstance(node, ast.arg) and node.annotation is not None:
            yield (node.lineno, node.col_offset + len(node.arg.encode())), _ends(node.annotation)[1], b""
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            (line, start), end = _ends(node.returns)
            before = lines[line - 1][:start].rstrip()
            if before.endswith(b"->"):
                yield (line, len(before[:-2].rstrip())), end, b""
        elif isinstance(node, ast.AnnAssign) and in_function and node.value is not None:
            yield _ends(node.target)[1], _ends(node.annotation)[1], b""


def _is_for_checkers(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" and not node.orelse


def _ends(node: ast.stmt | ast.expr) -> tuple[Place, Place]:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _cut(lines: list[bytes], span: Span) -> None:
    (line, start), (end_line, end), instead = span
    rest = lines[end_line - 1][end:]
    lines[line - 1] = lines[line - 1][:start] + instead + (rest if end_line == line else b"\n")
    for number in range(line + 1, end_line + 1):
        lines[number - 1] = b"\n"
    if end_line != line:
        lines[end_line - 1] = rest
