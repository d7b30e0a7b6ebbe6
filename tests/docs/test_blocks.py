"""Every example in a page is run by a test; what is not is listed here, with the reason."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from packetwire.cli.main import parser_for

from . import howto
from .commands import commands
from .pages import CHANGELOG, CONTRIBUTING, README, ROOT, code_blocks
from .programs import programs

DOCS = ROOT / "docs"
PAGES = {
    str(page.relative_to(ROOT)): page for page in [README, CHANGELOG, CONTRIBUTING, *sorted(DOCS.rglob("*.md"))]
}

OTHERS = ("execnet", "grpc", "jsonrpc", "multiprocessing", "pyro5", "rpyc")
"""The libraries that have a page for those who come from them."""

RUN_BY = {
    ("README.md", "python"): "docs/test_readme.py",
    **{
        (str(page.relative_to(ROOT)), language): "docs/test_howto.py"
        for page in howto.PAGES
        for language in ("python", "sh")
        if code_blocks(page, language)
    },
    ("docs/tutorial.md", "python"): "docs/test_tutorial.py",
    ("docs/tutorial.md", "sh"): "docs/test_tutorial.py",
    ("docs/tutorial.md", "text"): "docs/test_tutorial.py",
    ("docs/porting.md", "python"): "docs/test_porting.py",
    **{(f"docs/comingfrom/{name}.md", "python"): "docs/test_comingfrom.py" for name in OTHERS},
    ("docs/typed.md", "python"): "typed/test_page.py",
    ("docs/typed.md", "sh"): "typed/test_page.py",
    ("docs/fbsp.md", "python"): "fbsp/test_page.py",
    ("docs/fbsp.md", "sh"): "fbsp/test_page.py",
    ("docs/scaling.md", "python"): "docs/test_scaling.py",
    ("docs/iccp.md", "python"): "iccp/test_page.py",
    ("docs/iccp.md", "sh"): "iccp/test_page.py",
    ("docs/riaps.md", "python"): "riaps/test_page.py",
    ("docs/hololinked.md", "python"): "hololinked/test_page.py",
}
"""The tests that run the blocks in one language of a page."""

THEIRS = "they need the other library, and were tried with it"
NOT_RUN = {
    **{
        (f"docs/comingfrom/{name}.md", "py"): "they need the other library, and were tried with it"
        for name in OTHERS
    },
    ("docs/comingfrom/grpc.md", "proto"): "it needs the compiler of gRPC, and was tried with it",
    ("README.md", "sh"): "they install: .ci/run runs the same lines, as docs/test_readme.py sees to",
    ("CONTRIBUTING.md", "sh"): "they install and check everything: .ci/run does",
    (
        "docs/howto/replace.md",
        "ini",
    ): "for systemd: cli/test_serve.py serves at sockets that are passed as by it",
    ("docs/conformance.md", "sh"): "they need an implementation: here they are only parsed",
    ("docs/conformance.md", "text"): "it is what tests/cli/test_conformance.py looks for, of an end with faults",
    ("docs/performance.md", "sh"): "they measure for minutes: here they are only parsed",
    ("docs/reliability.md", "sh"): "they run for a minute to hours: here it is seen that there are such options",
}
"""What no test runs, and why."""

RUN_WHOLE = {
    "docs/test_comingfrom.py",
    "docs/test_scaling.py",
    "docs/test_readme.py",
    "docs/test_howto.py",
    "docs/test_tutorial.py",
    "docs/test_porting.py",
    "riaps/test_page.py",
    "typed/test_page.py",
}
"""The tests that find the programs of their page by themselves."""

FENCE = re.compile(r"^( *)(`{3,}|~{3,})(\S*)", re.MULTILINE)


def languages(page: Path) -> list[str]:
    """The language of each fenced block."""
    fences = FENCE.findall(page.read_text())
    return [language for _, _, language in fences[::2]]


@pytest.mark.parametrize("name", PAGES)
def test_each_block_is_run_or_listed(name: str) -> None:
    for language in set(languages(PAGES[name])) - {"{toctree}"}:
        assert ((name, language) in RUN_BY) != ((name, language) in NOT_RUN), language


def test_what_is_listed_is_there() -> None:
    assert {(name, language) for name, page in PAGES.items() for language in languages(page)} >= RUN_BY.keys()
    assert {(name, language) for name, page in PAGES.items() for language in languages(page)} >= NOT_RUN.keys()


@pytest.mark.parametrize("name", PAGES)
def test_each_block_is_found(name: str) -> None:
    """A block that is indented, or has other marks, would be left out by the tests."""
    page = PAGES[name]
    fences = FENCE.findall(page.read_text())
    assert {(indent, marks) for indent, marks, _ in fences} <= {("", "```")}
    assert [language for _, _, language in fences[1::2]] == [""] * (len(fences) // 2)
    for language in set(languages(page)) - {"{toctree}"}:
        assert len(code_blocks(page, language)) == languages(page).count(language)
    outside = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"\n\n(?:    |\t).*", outside) == [], "a block that is only indented"


@pytest.mark.parametrize(("name", "language"), RUN_BY)
def test_the_test_reads_the_page(name: str, language: str) -> None:
    test = ROOT / "tests" / RUN_BY[name, language]
    called = {
        "python": r"\b(run_program|PROGRAM|STEPS)\b",
        "sh": r"\b(check_command|STEPS|code_blocks\(PAGE, \"sh\"\))",
        "text": r"\bSTEPS\b",
    }
    names = "from .howto import" if Path(name).parent.name == "howto" else Path(name).name
    assert names in test.read_text() or "README" in test.read_text()
    assert re.search(called[language], test.read_text())


@pytest.mark.parametrize(
    "name", [name for name, language in RUN_BY if language == "python" and name != "README.md"]
)
def test_each_program_is_run_or_used_by_one_that_is(name: str) -> None:
    test = RUN_BY[name, "python"]
    texts = programs(PAGES[name])
    run = {each for each in texts if test in RUN_WHOLE or f'"{each}"' in (ROOT / "tests" / test).read_text()}
    assert run
    for each in texts.keys() - run:
        module = each.removesuffix(".py")
        assert any(f'"{each}"' in texts[other] or f"from {module} import" in texts[other] for other in run), each


def parse(arguments: list[str]) -> None:
    """What `packetwire` does before it runs a command; ends the program for what it does not understand."""
    parser_for(arguments).parse_args(arguments)


def test_what_is_only_parsed_has_no_mistake() -> None:
    for command in [*commands(DOCS / "conformance.md"), *commands(DOCS / "performance.md")]:
        name, *arguments = shlex.split(command, comments=True)
        assert name == "packetwire"
        parse(arguments)
    with pytest.raises(SystemExit):
        parse([*arguments, "--no-such-option"])


def _source_of(module: str) -> str:
    """That of a command, which is a package or a module."""
    path = ROOT.joinpath(*module.split("."))
    return (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text()


def test_what_is_said_of_the_tests_own_commands() -> None:
    checked = 0
    for command in commands(DOCS / "reliability.md"):
        words = shlex.split(command, comments=True)
        while re.fullmatch(r"[A-Z_]+=.*", words[0]):  # set for this command
            del words[0]
        python, option, module, *arguments = words
        assert (python, option) == ("python", "-m")
        if module in ("coverage", "pip", "pytest"):
            continue
        source = _source_of(module)
        for argument in arguments:
            assert not argument.startswith("--") or f'"{argument}"' in source, command
            checked += 1
    assert checked
