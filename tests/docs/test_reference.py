"""The reference has each public name, and each has a docstring. What it looks like Sphinx tells, in `.ci/run`."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from .pages import README, ROOT, code_blocks
from .public_names import (
    REFERENCE,
    described,
    docstring,
    found_at,
    members_without_docstring,
    public_modules,
    referred_to,
)

MODULES = public_modules()
DESCRIBED = {path: page for page in REFERENCE for path in described(page)}
EXAMPLES = sorted((ROOT / "docs" / "examples").rglob("*.py"))
WITHOUT_PAGE = {
    "packetwire.errors",
    "packetwire.hololinked.brokers",
    "packetwire.iccp.errors",
    "packetwire.messaging.errors",
}
"""Their names stand in the packages above them."""


def module_pages() -> dict[str, Path]:
    """Which page describes a module."""
    return {
        name: page
        for page in REFERENCE
        for name in re.findall(r"^\.\. automodule:: (\S+)$", page.read_text(), re.MULTILINE)
    }


def test_each_public_module_has_a_page() -> None:
    assert module_pages().keys() == MODULES.keys() - WITHOUT_PAGE


@pytest.mark.parametrize("module", sorted(MODULES.keys() - WITHOUT_PAGE))
def test_each_public_name_stands_on_the_page_of_its_module(module: str) -> None:
    page = module_pages()[module]
    on_it = {path.rpartition(".")[2]: found_at(path) for path in [*described(page), *referred_to(page)]}
    for name in MODULES[module].__all__:
        assert on_it.get(name) is getattr(MODULES[module], name), name


@pytest.mark.parametrize("module", sorted(WITHOUT_PAGE))
def test_the_names_of_other_modules_are_described_elsewhere(module: str) -> None:
    found = [found_at(path) for path in DESCRIBED]
    for name in MODULES[module].__all__:
        assert any(it is getattr(MODULES[module], name) for it in found), name


def test_what_is_referred_to_is_described() -> None:
    assert {path for page in REFERENCE for path in referred_to(page)} <= DESCRIBED.keys()


def test_nothing_is_described_twice_and_nothing_that_is_not_public() -> None:
    assert max(Counter(path for page in REFERENCE for path in described(page)).values()) == 1
    public = [getattr(module, name) for module in MODULES.values() for name in module.__all__]
    assert [path for path in DESCRIBED if not any(found_at(path) is it for it in public)] == []


@pytest.mark.parametrize("path", DESCRIBED)
def test_each_public_name_has_a_docstring(path: str) -> None:
    said = docstring(path)
    # what Python writes there itself is none
    assert said.strip()
    assert not said.startswith(f"{path.rpartition('.')[2]}(")
    thing = found_at(path)
    if inspect.isclass(thing):
        assert members_without_docstring(thing) == []


def test_a_missing_docstring_is_found() -> None:
    class Undocumented:
        def method(self) -> None: ...

        @property
        def attribute(self) -> None: ...

        def _private(self) -> None: ...

    assert members_without_docstring(Undocumented) == ["method", "attribute"]
    assert docstring("packetwire.fbsp.constants.HEADER_SIZE") == ""


def examples_in(said: str) -> list[str]:
    """The programs in a docstring: what is indented behind a blank line, and begins as a statement does."""
    blocks = re.findall(r"\n\n((?: {4}.*\n)+)", inspect.cleandoc(said) + "\n")
    return [block for block in blocks if re.match(r" +(async with|def|from|with) ", block)]


def test_the_examples_in_docstrings_are_python() -> None:
    said = [module.__doc__ or "" for module in MODULES.values()] + [docstring(path) for path in DESCRIBED]
    examples = [example for each in said for example in examples_in(each)]
    assert len(examples) > 10
    for example in examples:
        compile(textwrap.dedent(example), example, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize(
    "page", [README, *sorted((ROOT / "docs").rglob("*.md")), *EXAMPLES], ids=lambda page: page.name
)
def test_programs_use_public_names_only(page: Path) -> None:
    programs = [page.read_text()] if page.suffix == ".py" else code_blocks(page, "python")
    for program in programs:
        for module, names in re.findall(r"^ *from (packetwire[\w.]*) import ([\w, ]+)", program, re.MULTILINE):
            assert set(re.findall(r"\w+", names)) <= {*MODULES[module].__all__}, module
        assert re.findall(r"^ *import packetwire\.", program, re.MULTILINE) == []
