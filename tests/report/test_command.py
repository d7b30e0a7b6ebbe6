"""`packetwire report` as a user runs it, and the page in a browser, where there is one."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from tests.captures import capture_of, request, response, write_capture

from cli.forked import packetwire_text
from packetwire import ChildExited, PacketConnection, child
from packetwire.capture import CaptureWriter

HOME = Path(__file__).parents[2]
REPORTING = HOME / "lib" / "packetwire" / "cli" / "reporting"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A capture."""
    write_capture(tmp_path / "shop.cap", 600)
    return tmp_path / "shop.cap"


def run(*words: object, stdin: bytes = b"", cwd: Path | None = None) -> tuple[int, str, str]:
    done = packetwire_text("report", *map(str, words), stdin=stdin, cwd=cwd or ".")
    return done.returncode, done.stdout, done.stderr


def test_the_page_stands_beside_the_capture_for_its_owner_alone(path: Path) -> None:
    page = path.with_name("shop.cap.html")
    assert run(path) == (0, f"{page}\n", "")
    assert page.read_text().startswith("<!doctype html>")
    assert "<h1>shop.cap</h1>" in page.read_text()
    assert stat.S_IMODE(page.stat().st_mode) == 0o600


def test_the_page_goes_where_it_is_said(path: Path) -> None:
    other = path.with_name("other.html")
    assert run(path, "-o", other) == (0, f"{other}\n", "")
    status, stdout, stderr = run(path, "-o", "-")
    assert (status, stdout, stderr) == (0, other.read_text(), "")
    status, stdout, stderr = run("-", stdin=path.read_bytes())
    assert (status, stderr) == (0, "")
    assert "<h1>standard input</h1>" in stdout


def test_only_one_connection(path: Path) -> None:
    _, stdout, _ = run(path, "-o", "-", "--connection", 2)
    assert "1 connection ·" in stdout
    assert "tcp:192.0.2.2:4711" in stdout
    assert "tcp:192.0.2.1:4711" not in stdout


def test_a_file_that_is_cut_off_is_shown_to_its_last_whole_record(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])
    status, stdout, stderr = run(path, "-o", "-")
    words = "the file ends inside a record, after"
    assert status == 0
    assert words in stdout
    assert stderr.startswith(f"packetwire: {words}")


KILLED_PEER = """
import os, signal
os.read(0, 100)
os.write(1, bytes((100, 2)) + bytes(20))  # of a packet of 101 bytes
os.kill(os.getpid(), signal.SIGKILL)
"""

KILLED_RECORDER = """
import os, signal, sys
from packetwire import PacketConnection
from packetwire.capture import CaptureWriter
from packetwire.testing import stream_pair

def handler(rq_type, flags, payload):
    if rq_type == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return payload

with stream_pair() as (ours, theirs), CaptureWriter(sys.argv[1]) as capture:
    with PacketConnection(theirs, request_handler=handler), PacketConnection(ours, capture=capture) as conn:
        conn(5, bytes(1000))
        conn(9)
"""


def test_a_far_end_that_was_killed_amid_a_packet(tmp_path: Path) -> None:
    path = tmp_path / "killed.cap"
    far_end = child([sys.executable, "-I", "-S", "-c", KILLED_PEER])
    with CaptureWriter(str(path)) as capture, PacketConnection(far_end, capture=capture) as conn:
        with pytest.raises(ChildExited):
            conn(5, b"x", timeout=30)
    status, stdout, stderr = run(path, "-o", "-")
    assert (status, stderr) == (0, "")
    assert "the stream ended inside a packet, after 22 of 101 bytes of it" in stdout
    assert "type 5" in stdout


def test_a_recorder_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "killed.cap"
    done = subprocess.run([sys.executable, "-c", KILLED_RECORDER, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    for cut in 0, 1:  # it may be killed amid a record, too
        path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])
        status, stdout, stderr = run(path, "-o", "-")
        assert status == 0
        assert "type 5" in stdout
        assert ("the file ends inside a record" in stderr) is bool(cut)


def test_a_damaged_file_is_shown_up_to_there(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x" * 50)
    status, stdout, stderr = run(path, "-o", "-")
    assert status == 1
    assert "get (type 1)" in stdout
    assert "a damaged record at offset" in stdout
    assert stderr.startswith("packetwire: a damaged record at offset")


def test_malformed_packets_are_shown_and_told(path: Path) -> None:
    path.write_bytes(capture_of((">", 1, 1, b"\xff" * 99)))
    status, stdout, stderr = run(path, "-o", "-")
    assert (status, stderr) == (1, "")
    assert "1 violation of the protocol" in stdout


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["nothing.cap"], 2, "argument FILE: cannot read 'nothing.cap': No such file or directory"),
        (["raw"], 1, "FILE is not a capture; packetwire dump shows it, if it is a raw packet stream"),
        (["shop.cap", "-o", "shop.cap"], 2, "'shop.cap' is the capture itself"),
        (["shop.cap", "-o", "no/where.html"], 1, "cannot write 'no/where.html': No such file or directory"),
    ],
)
def test_mistakes_are_told_in_a_line(path: Path, words: list[str], status: int, message: str) -> None:
    path.with_name("raw").write_bytes(request(2, 7) + response(2))
    before = path.read_bytes()
    assert run(*words, cwd=path.parent) == (status, "", f"packetwire: {message}\n")
    assert path.read_bytes() == before


def test_its_parts_are_in_the_wheel() -> None:
    patterns = tomllib.loads((HOME / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "packetwire"
    ]
    parts = {each.name for each in REPORTING.iterdir() if each.suffix not in (".py", "")}
    assert parts == {"page.css", "page.html", "page.js"}
    for part in parts:
        assert any(fnmatch(f"cli/reporting/{part}", pattern) for pattern in patterns)


# in a browser


def shown(page: Path) -> str:
    """The page once its script has run, as a browser has it."""
    assert BROWSER is not None
    done = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}"),
            *("--virtual-time-budget=5000", "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env=os.environ | {"HOME": str(page.parent)},
    )
    return done.stdout


needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")


@pytest.mark.long
@pytest.mark.timeout(120)
@needs_browser
def test_the_script_draws_the_diagram_and_the_list(path: Path) -> None:
    run(path)
    page = shown(path.with_name("shop.cap.html"))
    status = re.search(r'<p class="status" role="status">([^<]*)</p>', page)
    assert status is not None
    assert re.fullmatch(r"\d+ requests", status[1])
    assert page.count("<tr data-at=") == 50
    assert '<button type="button" data-search="type:1 channel:0">' in page, "buttons are enabled"


@pytest.mark.long
@pytest.mark.timeout(120)
@needs_browser
def test_the_peer_s_words_do_nothing_in_a_browser(path: Path) -> None:
    words = b"</script><script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"
    schema = b'{"methods": {"<img src=x onerror=document.title=1>": {"number": 7}}}'
    events = [
        ("+", 1, 0.0, words),
        (">", 1, 1.0, request(2, 3, channel=1)),
        ("<", 1, 1.0, response(2, schema, channel=1)),
        (">", 1, 1.0, request(4, 7, words)),
        ("<", 1, 2.0, response(4, words, ok=False)),
    ]
    path.write_bytes(capture_of(*events))
    run(path)
    page = shown(path.with_name("shop.cap.html"))
    assert "<title>shop.cap - packetwire report</title>" in page
    assert "<img" not in page
    assert page.count("<tr data-at=") == 2
