"""The words of sources and guides: "bytes", not "octets", and docstrings that say what a thing is or does."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from .layers import PACKAGE, SOURCES, part_of
from .pages import README, ROOT

FORMER_NAMES = frozenset(
    [
        *("leading_octets", "octets_decoded", "octets_wanted", "partial_octets", "trailing_octets"),
        *("max_inbound_octets", "DEFAULT_MAX_INBOUND_OCTETS"),
    ]
)
"""Public names that have "octets" in them, and stay; most are aliases."""
ENGINE_NAMES = frozenset({"unsent_octets"})
"""Attributes of the engine that its drivers read."""
FORMER_PARAMETERS = frozenset(
    [
        *("ByteStream.leading_octets", "CaptureDecoder.feed", "CaptureWriter.write", "FrameWriter.write"),
        *("PacketDecoder.feed", "PreserializedData.octets", "Record"),
    ]
)
"""Classes and functions with a public name `octets`, which tests/api holds; so has each `give_back`."""
MEDIA_TYPE = "application/octet-stream"

SAY_OCTETS = frozenset({"wire.md", "performance.md"})
GUIDES = [page for page in [README, *sorted((ROOT / "docs").rglob("*.md"))] if page.name not in SAY_OCTETS]
NAMES_IN_PAGES = FORMER_NAMES | {"test_no_octets_are_made_into_code"}

OCTET = re.compile(r"\w*octet\w*", re.IGNORECASE)
NOT_FIRST = re.compile(r"\W*(What|Whatever|When|Whenever|Where|Wherever|Whether|Who|Whoever|Whom|Whose)\b")
SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+")
PARAGRAPH_ENDS = re.compile(r"\n\s*\n|\n\s*- ")


def octets_in(words: str, allowed: Iterable[str]) -> list[str]:
    """The words with "octet" in them that are not allowed."""
    return [word for word in OCTET.findall(words.replace(MEDIA_TYPE, "")) if word not in allowed]


def lines_of_former_parameters(tree: ast.Module) -> set[int]:
    """The lines of the classes and functions that may have a name `octets`."""
    lines: set[int] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            inner = [each for each in node.body if isinstance(each, ast.FunctionDef)]
            named = [(node.name, node), *((f"{node.name}.{each.name}", each) for each in inner)]
            for name, part in named:
                if name in FORMER_PARAMETERS or name.endswith(".give_back"):
                    lines |= set(range(part.lineno, (part.end_lineno or part.lineno) + 1))
    return lines


def octets_in_source(path: Path) -> Iterator[str]:
    """Where a source says "octets" in a name, a string or a comment."""
    may_be_named_so = lines_of_former_parameters(ast.parse(path.read_text()))
    with path.open("rb") as source:
        for token in tokenize.tokenize(source.readline):
            line = token.start[0]
            is_parameter = token.type == tokenize.NAME and line in may_be_named_so
            allowed = FORMER_NAMES | ENGINE_NAMES | ({"octets"} if is_parameter else set())
            for word in octets_in(token.string, allowed):
                yield f"{path.relative_to(PACKAGE)}:{line}: {word}"


def docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Those of modules, classes and functions, and those behind attributes."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.value


def sentences(text: str) -> Iterator[str]:
    """The sentences of a docstring, each in one line."""
    for paragraph in PARAGRAPH_ENDS.split(text):
        yield from SENTENCE_ENDS.split(" ".join(paragraph.split()))


def badly_begun(path: Path) -> Iterator[str]:
    """The sentences of docstrings that begin with a question word."""
    for found in docstrings(ast.parse(path.read_text())):
        for sentence in sentences(str(found.value)):
            if NOT_FIRST.match(sentence):
                yield f"{path.relative_to(PACKAGE)}:{found.lineno}: {sentence}"


@pytest.mark.parametrize("part", sorted({part_of(path) for path in SOURCES}))
def test_bytes_are_called_bytes(part: str) -> None:
    assert [found for path in SOURCES if part_of(path) == part for found in octets_in_source(path)] == []


@pytest.mark.parametrize("part", sorted({part_of(path) for path in SOURCES}))
def test_docstrings_say_what_a_thing_is_or_does(part: str) -> None:
    assert [found for path in SOURCES if part_of(path) == part for found in badly_begun(path)] == []


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_guides_call_bytes_bytes(page: Path) -> None:
    assert octets_in(page.read_text(), NAMES_IN_PAGES) == []


SOURCE = '''
class Reader:
    """Whether it reads. Who closes it
    is left open: what it is.

    - Where it is read.
    """

    size = 1
    """Octets."""

    def give_back(self, octets): ...

    def read(self, octets, leading_octets):
        """A read. When it ends, it ends."""
        return "application/octet-stream", f"{octets}"  # octets
'''


def test_faults_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    path = tmp_path / "reader.py"
    path.write_text(SOURCE)
    assert list(octets_in_source(path)) == [
        *("reader.py:10: Octets", "reader.py:14: octets", "reader.py:16: octets", "reader.py:16: octets")
    ]
    assert [fault.split(": ", 1)[1] for fault in badly_begun(path)] == [
        *("Whether it reads.", "Who closes it is left open: what it is.", "- Where it is read."),
        "When it ends, it ends.",
    ]
