"""The how-to pages: their programs and commands run as they stand."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .commands import FAILURE, check_command, commands, start, write_bin
from .howto import HOWTO, PAGE_OF, PAGES, PROGRAMS, PROGRAMS_OF, text, uses, write_programs
from .pages import code_blocks, links, tables
from .programs import needs_ssh, promises, run_program
from .test_defaults import DEFAULTS

FAR = [name for name, program in PROGRAMS.items() if needs_ssh(program)]
SERVING = [name for name, program in PROGRAMS.items() if "(stdio()" in program]
ASKING = [name for name in PROGRAMS if name not in FAR + SERVING]
COMMANDING = [page for page in PAGES if code_blocks(page, "sh")]


def test_each_name_is_that_of_one_program() -> None:
    assert len(PROGRAMS) == sum(map(len, PROGRAMS_OF.values()))


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", ASKING)
def test_a_program_prints_what_its_comments_say(name: str, tmp_path: Path) -> None:
    write_programs(tmp_path)
    done = run_program(tmp_path, name)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == promises(PROGRAMS[name])
    assert done.stdout


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", SERVING)
def test_a_program_that_serves_ends_with_its_input(name: str, tmp_path: Path) -> None:
    write_programs(tmp_path)
    done = run_program(tmp_path, name)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


@pytest.mark.parametrize("name", SERVING)
def test_a_program_that_serves_is_asked_by_another(name: str) -> None:
    assert any(f'"{name}"' in PROGRAMS[asking] for asking in ASKING)


@pytest.mark.parametrize("name", FAR)
def test_a_program_that_needs_ssh_is_a_program(name: str) -> None:
    compile(PROGRAMS[name], name, "exec")


def test_a_program_that_needs_ssh_is_announced() -> None:
    for name, program in PROGRAMS.items():
        before, _, _ = PAGE_OF[name].read_text().partition(f"```python\n# {name}")
        announced = before.rstrip().endswith("the tests check its syntax, and do not run it.*")
        assert announced == needs_ssh(program), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_links_to_the_programs_that_it_uses(page: Path) -> None:
    used = {PAGE_OF[name] for block in code_blocks(page, "(?:python|sh)") for name in uses(block)}
    assert used - {page} <= {HOWTO / link.partition("#")[0] for link in links(page)}


@pytest.mark.timeout(90)
@pytest.mark.parametrize("page", COMMANDING, ids=lambda page: page.stem)
def test_the_commands_print_what_their_comments_say(page: Path, tmp_path: Path) -> None:
    write_programs(tmp_path)
    shell = write_bin(tmp_path)
    serving = [command for command in commands(page) if command.startswith("packetwire serve ")]
    servers = [start(command, shell) for command in serving]
    try:
        for server in servers:
            assert server.stderr
            assert server.stderr.readline().startswith("serving ")
        for command in commands(page):
            if command not in serving:
                check_command(command, shell)
    finally:
        for server in servers:
            server.terminate()
            server.communicate(timeout=30)
    assert [server.returncode for server in servers] == [0] * len(servers)


def test_commands_that_serve_and_that_fail_are_among_them() -> None:
    found = [command for page in COMMANDING for command in commands(page)]
    assert any(command.startswith("packetwire serve ") for command in found)
    assert any(f"  # {FAILURE}" in command for command in found)


def test_the_settings_in_the_table_of_bounds_exist() -> None:
    rows = tables(HOWTO / "limits.md")["|bound|setting|beyondit|"]
    settings = [setting for _, setting, _ in rows if setting != "fixed"]
    assert settings
    for setting in settings:
        assert ("PacketConnection", setting) in DEFAULTS


def test_numbers_in_the_text() -> None:
    for setting, written in (
        ("handlers", "Up to `handlers={}` handlers"),
        ("close_timeout", "all in all `close_timeout={:.0f}` seconds"),
    ):
        assert written.format(ast.literal_eval(DEFAULTS["PacketConnection", setting])) in text()
    assert DEFAULTS["packetwire.streams.childerrors", "STDERR_KEPT"] == f"{64 << 10}"
    assert "keeps its last 64 KiB" in text()
