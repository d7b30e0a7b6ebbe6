"""The programs in docs/examples: what they do, and how they end if a child dies, nobody is there, or by Ctrl-C."""

from __future__ import annotations

import filecmp
import hashlib
import os
import re
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
import zmq

from connections.sshd import running_sshd

from .pages import ROOT, tables

EXAMPLES = ROOT / "docs" / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("*.py"))
LIMIT = 50
"""Seconds for what does not take any."""
PIPE_SIZE = 64 << 10
"""What a pipe holds."""

pytestmark = pytest.mark.timeout(2 * LIMIT)


class Example:
    """An example that runs, as at a terminal: with its children in a session of its own."""

    def __init__(self, directory: Path, name: str, *arguments: object, **options: Any) -> None:
        defaults = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "env": os.environ | {"PYTHONWARNINGS": "error"},
        }
        self.process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
            cwd=directory,
            text=True,
            start_new_session=True,
            **defaults | options,
        )

    def children(self) -> list[int]:
        """The pids of its children."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(pid) for children in tasks for pid in children.read_text().split()]

    def kill_child(self) -> None:
        (pid,) = self.children()
        os.kill(pid, signal.SIGKILL)

    def interrupt(self) -> None:
        """Ctrl-C at its terminal: all processes in the foreground get it."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> tuple[int, str, str]:
        """Its exit status and what it printed, when it has ended."""
        stdout, stderr = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, stdout, stderr


@contextmanager
def running(directory: Path, name: str, *arguments: object, **options: Any) -> Iterator[Example]:
    example = Example(directory, name, *arguments, **options)
    with example.process:
        try:
            yield example
        finally:
            example.process.kill()


def run(directory: Path, name: str, *arguments: object, **options: Any) -> tuple[int, str, str]:
    with running(directory, name, *arguments, **options) as example:
        return example.end()


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A file that is not there yet: whoever opens it for writing waits until an example reads it."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.fixture
def nobody() -> Iterator[int]:
    """The number of a port where nobody listens."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # an example can listen there, others do not
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_the_list_has_all_of_them() -> None:
    ((_, rows),) = ((head, rows) for head, rows in tables(EXAMPLES / "README.md").items() if "program" in head)
    listed = [re.findall(r"\[(.*)\]", program)[0] for program, _, _ in rows]
    assert sorted(listed) == NAMES
    for name, (_, _, command) in zip(listed, rows, strict=True):
        assert command.split()[:2] == ["python3", name]


@pytest.mark.parametrize("name", NAMES)
def test_help_begins_with_what_it_is_for(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert left.value.code == 0
    first_line = (EXAMPLES / name).read_text().splitlines()[0].removeprefix('"""')
    assert first_line in capsys.readouterr().out


# chunk_store.py


def put(directory: Path, *arguments: object) -> dict[str, str]:
    """Put files into the store: the address of each."""
    status, stdout, stderr = run(directory, "chunk_store.py", *arguments)
    assert (status, stderr) == (0, "")
    return {path: address for address, path in (line.split("  ") for line in stdout.splitlines())}


def test_files_come_back_from_the_chunk_store(tmp_path: Path) -> None:
    files = {"empty": b"", "small": b"abc", "large": os.urandom(300_000)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    addresses = put(tmp_path, "put", *files)
    assert list(addresses) == list(files)
    chunk = tmp_path / "chunks" / hashlib.sha256(b"abc").hexdigest()
    assert chunk.read_bytes() == b"abc"
    assert run(tmp_path, "chunk_store.py", "get", addresses["large"], "back") == (0, "", "")
    assert (tmp_path / "back").read_bytes() == files["large"]

    chunk.write_bytes(b"abd")
    (tmp_path / "back").unlink()
    status, stdout, stderr = run(tmp_path, "chunk_store.py", "get", addresses["small"], "back")
    assert (status, stdout) == (1, "")
    assert stderr == f"chunk_store: the chunk {chunk.name} is damaged\n"
    assert not list(tmp_path.glob("back*"))


@pytest.mark.long
def test_a_chunk_store_that_dies_is_told(tmp_path: Path, fifo: Path) -> None:
    with running(tmp_path, "chunk_store.py", "put", fifo) as example:
        with fifo.open("wb"):
            example.kill_child()
        status, stdout, stderr = example.end()
    assert (status, stdout) == (1, "")
    assert re.fullmatch(r"chunk_store: child .* was killed by signal 9 \(SIGKILL\)\n", stderr)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("chunk_store.py", ["put"]),
        ("tree_digest.py", ["--children", "1"]),
        pytest.param("fbsp_grep.py", ["pattern"], marks=pytest.mark.long),
    ],
)
def test_ctrl_c_ends_it_and_its_child(name: str, arguments: list[str], tmp_path: Path, fifo: Path) -> None:
    with running(tmp_path, name, *arguments, fifo) as example, fifo.open("wb", buffering=0) as file:
        file.write(bytes(3 * PIPE_SIZE))  # returns when all but one of these were read: it is in the middle
        (child,) = example.children()
        example.interrupt()
        assert example.end() == (130, "", "")
    assert not Path(f"/proc/{child}").exists()


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "arguments", "status"), [("chunk_store.py", ["put"], 1), ("fbsp_grep.py", ["pattern"], 2)]
)
def test_nobody_is_there(name: str, arguments: list[str], status: int, tmp_path: Path, nobody: int) -> None:
    address = f"tcp:127.0.0.1:{nobody}"
    failure = f"{Path(name).stem}: {address}: Connection refused\n"
    assert run(tmp_path, name, "--at", address, *arguments, "file") == (status, "", failure)


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--at", "nowhere", "put", "file"], 1, "invalid address 'nowhere': expected exec:CMD"),
        (["put", "absent"], 1, "No such file or directory: 'absent'"),
        (["get", "00" * 32, "file"], 1, f"there is no chunk {'00' * 32}"),
        (["get", "00", "file"], 2, "an address has 64 hexadecimal digits, got '00'"),
    ],
)
def test_what_a_chunk_store_cannot_do(arguments: list[str], status: int, text: str, tmp_path: Path) -> None:
    done = run(tmp_path, "chunk_store.py", *arguments)
    assert done[:2] == (status, "")
    assert text in done[2]
    assert "Traceback" not in done[2]


@pytest.mark.long
def test_a_chunk_store_over_ssh(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(200_000))
    serve = [sys.executable, str(EXAMPLES / "chunk_store.py"), "serve", str(tmp_path / "far")]
    with running_sshd(tmp_path) as sshd:
        addresses = put(tmp_path, "--at", sshd.address(serve), "put", "file")
        assert len(list((tmp_path / "far").iterdir())) == 5
        got = run(tmp_path, "chunk_store.py", "--at", sshd.address(serve), "get", addresses["file"], "back")
        assert got == (0, "", "")
        assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()
        status, _, stderr = run(tmp_path, "chunk_store.py", "--at", sshd.address(serve, "stranger"), "put", "file")
    assert status == 1
    assert "Permission denied (publickey)" in stderr


# tree_digest.py


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Some files, one with a name that is no UTF-8, and what is left out: a link and a FIFO."""
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    for number in range(20):
        (tree / "below" / f"file {number}").write_bytes(os.urandom(1000 * number))
    (tree / os.fsdecode(b"n\xe4me")).write_bytes(b"abc")
    (tree / "link").symlink_to("below")
    os.mkfifo(tree / "fifo")
    return tree


def next_line(pipe: IO[str]) -> str:
    """One line of a child's output, byte by byte: what a file object reads ahead `communicate` does not see."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(pipe.fileno(), 1)
        assert byte, "the output has ended"
        line += byte
    return line.decode()


def test_digests_are_those_of_hashlib(tmp_path: Path, tree: Path) -> None:
    status, stdout, stderr = run(
        tmp_path, "tree_digest.py", "--children", "3", "tree", errors="surrogateescape", encoding="utf-8"
    )
    assert (status, stderr) == (0, "")
    files = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) == 21
    expected = [f"{sha256(path)}  {path.relative_to(tmp_path)}" for path in files]
    assert sorted(stdout.splitlines()) == sorted(expected)


def test_a_child_that_is_killed_is_replaced(tmp_path: Path, fifo: Path) -> None:
    (tmp_path / "another").write_bytes(b"abc")
    with running(tmp_path, "tree_digest.py", "--children", "1", fifo, "another") as example:
        with fifo.open("wb"):  # there is a reader: the first child
            example.kill_child()
            told = next_line(example.process.stderr)
            with fifo.open("wb") as second:  # the first one is gone: this waits for the second
                second.write(b"content")
        status, stdout, stderr = example.end()
    assert re.fullmatch(
        rf"tree_digest: child .* was killed by signal 9 \(SIGKILL\); another one takes {fifo}\n", told
    )
    assert (status, stderr) == (0, "")
    expected = [(b"content", str(fifo)), (b"abc", "another")]
    assert stdout.splitlines() == [f"{hashlib.sha256(data).hexdigest()}  {name}" for data, name in expected]


@pytest.mark.long
def test_a_file_that_children_die_of_is_given_up(tmp_path: Path, fifo: Path) -> None:
    (tmp_path / "another").write_bytes(b"abc")
    with running(tmp_path, "tree_digest.py", "--children", "1", fifo, "another") as example:
        held = []
        for _ in range(3):
            held.append(fifo.open("wb"))  # kept, so that no child finds the end of the file
            example.kill_child()
            assert "SIGKILL" in next_line(example.process.stderr)
        status, stdout, stderr = example.end()
        for file in held:
            file.close()
    assert (status, stderr) == (1, f"tree_digest: {fifo}: 3 children have died of it\n")
    assert stdout == f"{hashlib.sha256(b'abc').hexdigest()}  another\n"


@pytest.mark.long
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    status, stdout, stderr = run(tmp_path, "tree_digest.py", "absent", "file")
    assert (status, stderr) == (
        1,
        "tree_digest: FileNotFoundError: [Errno 2] No such file or directory: 'absent'\n",
    )
    assert stdout == f"{sha256(tmp_path / 'file')}  file\n"


@pytest.mark.long
def test_nobody_reads_the_digests(tmp_path: Path, tree: Path) -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    try:
        status, _, stderr = run(tmp_path, "tree_digest.py", "tree", stdout=write_fd)
    finally:
        os.close(write_fd)
    assert (status, stderr) == (141, "")


# fbsp_grep.py


def test_the_service_finds_what_grep_would(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("ab\ncd\nabc\n")
    (tmp_path / "two").write_text("b\n")
    found = ["one:1:ab", "one:3:abc", "two:1:b"]
    assert run(tmp_path, "fbsp_grep.py", "b", "one", "two") == (0, "".join(f"{line}\n" for line in found), "")
    assert run(tmp_path, "fbsp_grep.py", "--max-count", "1", "b", "one", "two") == (0, f"{found[0]}\n", "")
    assert run(tmp_path, "fbsp_grep.py", "nothing", "one") == (1, "", "")


@pytest.mark.long
@pytest.mark.parametrize(
    ("pattern", "file", "code", "text"),
    [
        ("(", "one", "BAD_REQUEST", "the pattern is not good: missing )"),
        ("b", "absent", "NOT_FOUND", "absent: No such file or directory"),
    ],
)
def test_what_the_service_refuses(pattern: str, file: str, code: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("ab\n")
    status, stdout, stderr = run(tmp_path, "fbsp_grep.py", pattern, file)
    assert (status, stdout) == (2, "")
    assert stderr.startswith(f"fbsp_grep: {code}")
    assert text in stderr
    assert "Traceback" not in stderr


@pytest.mark.long
def test_a_service_that_dies_is_told(tmp_path: Path, fifo: Path) -> None:
    with running(tmp_path, "fbsp_grep.py", "pattern", fifo) as example:
        with fifo.open("wb"):
            example.kill_child()
            status, stdout, stderr = example.end()
    assert (status, stdout) == (2, "")
    assert re.fullmatch(r"fbsp_grep: .*child .* was killed by signal 9 \(SIGKILL\)\n", stderr)


# iccp_sampler.py


def test_the_component_says_at_its_end_what_it_has_written(tmp_path: Path) -> None:
    status, stdout, stderr = run(
        tmp_path, "iccp_sampler.py", "samples.csv", "--seconds", "0.2", "--interval", "0.01"
    )
    assert (status, stderr) == (0, "")
    samples = (tmp_path / "samples.csv").read_text().splitlines()
    assert all(re.fullmatch(r"[\d.]+,[\d.]+", sample) for sample in samples)
    assert stdout == f"the component runs\nthe component ended: OK, {len(samples)} samples were written\n"


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["absent/samples.csv"], "No such file or directory: "),
        (["samples.csv", "--interval", "-1"], "the interval must be more than 0 seconds"),
    ],
)
def test_a_configuration_that_the_component_refuses(arguments: list[str], text: str, tmp_path: Path) -> None:
    status, _, stderr = run(tmp_path, "iccp_sampler.py", *arguments)
    assert status == 1
    assert stderr.startswith("iccp_sampler: ")
    assert text in stderr
    assert "Traceback" not in stderr


@pytest.mark.long
def test_a_component_that_dies_is_told(tmp_path: Path) -> None:
    with running(tmp_path, "iccp_sampler.py", "samples.csv", "--seconds", LIMIT) as example:
        assert example.process.stdout.readline() == "the component runs\n"
        example.kill_child()
        status, _, stderr = example.end()
    assert status == 1
    assert re.fullmatch(
        r"iccp_sampler: component .* ended without FINISHED: child .* was killed by signal 9 \(SIGKILL\)\n", stderr
    )


@pytest.mark.long
def test_ctrl_c_stops_the_component(tmp_path: Path) -> None:
    with running(tmp_path, "iccp_sampler.py", "samples.csv", "--seconds", LIMIT) as example:
        assert example.process.stdout.readline() == "the component runs\n"
        (child,) = example.children()
        example.interrupt()
        assert example.end() == (130, "", "")
    assert not Path(f"/proc/{child}").exists()


# zmq_workers.py


@pytest.mark.long
def test_ctrl_c_ends_the_workers(tmp_path: Path) -> None:
    # without warnings: it may come in an import, or between the making of something and its `with`
    with running(tmp_path, "zmq_workers.py", env=os.environ | {"PYTHONWARNINGS": "ignore"}) as example:
        assert example.process.stdout.readline().startswith("| workers |")
        example.interrupt()
        status, _, stderr = example.end()
    assert (status, stderr) == (130, "")


@pytest.mark.long
def test_workers_that_do_not_answer_in_time(tmp_path: Path) -> None:
    status, _, stderr = run(tmp_path, "zmq_workers.py", "--timeout", "0.001")  # in which no worker can start
    assert status == 1
    assert re.fullmatch(r"zmq_workers: ipc://.*: no response in time to request \d+\n", stderr)


# behind_balancer.py


@pytest.fixture
def needs_haproxy() -> None:
    for name in "haproxy", "openssl":
        if shutil.which(name) is None:
            pytest.skip(f"there is no {name}")


@pytest.mark.long
def test_servers_behind_a_balancer_come_and_go(tmp_path: Path, needs_haproxy: None) -> None:
    status, stdout, stderr = run(tmp_path, "behind_balancer.py", "--seconds", 12)
    assert status == 0, stdout + stderr
    assert all("a client was not let in" in line for line in stderr.splitlines()), stderr  # a check of the balancer
    table, _, judged = stdout.partition("\n\n")
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ["four servers", "one is killed", "one is added", "one is drained"]
    not_known = [int(row[2]) for row in rows]
    assert [not_known[0], *not_known[2:]] == [0, 0, 0]
    assert not_known[1] <= 8  # one for each caller
    assert "done twice: 0; answered and not done: 0" in judged
    assert "'five': 0" not in judged


@pytest.mark.long
def test_ctrl_c_ends_the_servers_and_the_balancer(tmp_path: Path, needs_haproxy: None) -> None:
    with running(tmp_path, "behind_balancer.py", env=os.environ | {"PYTHONWARNINGS": "ignore"}) as example:
        assert example.process.stdout.readline().startswith("| | answered |")
        children = example.children()
        example.interrupt()
        status, _, stderr = example.end()
    assert (status, stderr) == (130, "")
    assert len(children) == 5
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_there_is_no_balancer(tmp_path: Path) -> None:
    status, stdout, stderr = run(tmp_path, "behind_balancer.py", env=os.environ | {"PATH": ""})
    assert (status, stdout) == (1, "")
    assert re.fullmatch(r"behind_balancer: .*No such file or directory: '(openssl|haproxy)'\n", stderr)


# riaps_members.py


@pytest.mark.long
def test_a_member_whose_address_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        status, stdout, stderr = run(tmp_path, "riaps_members.py", "pump", port, "lead", f"127.0.0.1:{port}")
    assert (status, stdout) == (1, "")
    assert stderr.startswith("riaps_members: pump: ")
    assert "in use" in stderr
    assert len(stderr.splitlines()) == 1


def test_ctrl_c_ends_a_member(tmp_path: Path, nobody: int) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as other:
        other.linger = 0
        other.subscribe(b"")
        with running(tmp_path, "riaps_members.py", "pump", nobody, "lead", *[f"127.0.0.1:{nobody}"] * 2) as example:
            other.connect(f"tcp://127.0.0.1:{nobody}")
            other.rcvtimeo = LIMIT * 1000
            other.recv_multipart()  # what it publishes as the leader, and so inside its `with`
            example.interrupt()
            assert example.end() == (130, "", "")


MISSING = (
    "the peer answered Plugin.find not ok: flags=0x00, "
    "\"FileNotFoundError: [Errno 2] No such file or directory: 'missing.txt'\""
)


def test_the_plugins_find_words_and_tell_their_host(tmp_path: Path) -> None:
    (tmp_path / "emma.txt").write_text("Emma Woodhouse\nhandsome\nclever, and Emma's own emma\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "long.txt").write_text("Emma\n" * 200_000)
    (tmp_path / "quiet.txt").write_text("Persuasion\n" * 2500)
    names = ["emma.txt", "missing.txt", "long.txt", "quiet.txt", *["empty.txt"] * 6]
    status, out, err = run(tmp_path, "plugin_host.py", "emma", *names, "--most", 3)
    assert status == 0
    assert out.splitlines() == [
        "Match(place=Place(path='emma.txt', line=1), words=['Emma'])",
        "Match(place=Place(path='emma.txt', line=3), words=[\"Emma's\", 'emma'])",
        f"Plugin.find(word='emma', path='missing.txt'): {MISSING}",
        *[f"Match(place=Place(path='long.txt', line={number}), words=['Emma'])" for number in (1, 2, 3)],
    ]
    told = err.splitlines()
    assert sorted(line for line in told if "lines" not in line) == sorted(f"{name} …" for name in names)
    assert [line for line in told if re.fullmatch(r"[12]000 lines of quiet.txt …", line)]


def test_ctrl_c_ends_the_plugins(tmp_path: Path, fifo: Path) -> None:
    with running(tmp_path, "plugin_host.py", "emma", fifo) as example, fifo.open("w"):
        example.interrupt()
        status, out, _ = example.end()
    assert (status != 0, out) == (True, "")


# sync_tree.py


SIZE, FIRST = 300_000, 100_000
DATA = bytes(range(256)) * (SIZE // 256 + 1)
MTIME = 1_700_000_000_123_456_789

STUCK = f"""
import json
from packetwire import PacketConnection, current_request, stdio

def answer(rq_type, flags, payload):
    return listed() if rq_type == 0 else some()

def listed():
    yield json.dumps(["below/file", {SIZE}, {MTIME}]).encode() + b"\\n"

def some():
    yield (bytes(range(256)) * 400)[:{FIRST}]
    current_request().wait({LIMIT})

with PacketConnection(stdio(), request_handler=answer) as conn:
    conn.join_recv()
"""


def sync_address(*words: object) -> str:
    return "exec:" + shlex.join([sys.executable, *map(str, words)])


def synced(directory: Path) -> tuple[int, str, str]:
    """Bring `near` up to date with `far`."""
    return run(directory, "sync_tree.py", sync_address(EXAMPLES / "sync_tree.py", "--serve", "far"), "near")


@pytest.fixture
def far(tmp_path: Path) -> Path:
    """The directory of the other end, which has one file."""
    path = tmp_path / "far" / "below" / "file"
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA[:SIZE])
    os.utime(path, ns=(MTIME, MTIME))
    return tmp_path / "far"


@contextmanager
def in_the_middle(directory: Path) -> Iterator[Example]:
    """Its other end has sent a part of the file, and sends no more."""
    (directory / "stuck.py").write_text(STUCK)
    part = directory / "near" / "below" / "file.part"
    with running(directory, "sync_tree.py", sync_address("stuck.py"), "near") as example:
        while not (part.exists() and part.stat().st_size == FIRST):
            assert example.process.poll() is None
        yield example
    assert part.read_bytes() == DATA[:FIRST]


def test_a_directory_is_brought_up_to_date(tmp_path: Path, far: Path) -> None:
    (far / os.fsdecode(b"n\xe4me")).write_bytes(b"abc")
    (far / "empty").touch()
    (far / "link").symlink_to("below")
    status, stdout, stderr = synced(tmp_path)
    assert (status, stderr) == (0, "")
    assert stdout.splitlines()[0] == f"'below/file': {SIZE} of {SIZE} bytes"
    near = tmp_path / "near"
    assert (near / "below" / "file").read_bytes() == DATA[:SIZE]
    assert sorted(os.listdir(near)) == sorted(["below", "empty", os.fsdecode(b"n\xe4me")])
    assert synced(tmp_path) == (0, "", "")

    (far / "empty").write_bytes(b"no more")
    (far / "below" / "file").unlink()
    assert synced(tmp_path) == (0, "'empty': 7 of 7 bytes\n", "")
    assert (near / "empty").read_bytes() == b"no more"
    assert (near / "below" / "file").exists()  # nothing is deleted


def test_ctrl_c_leaves_a_part_that_is_continued(tmp_path: Path, far: Path) -> None:
    with in_the_middle(tmp_path) as example:
        (child,) = example.children()
        example.interrupt()
        assert example.end() == (130, "", "")
    assert not Path(f"/proc/{child}").exists()
    assert synced(tmp_path) == (0, f"'below/file': {SIZE - FIRST} of {SIZE} bytes\n", "")
    assert (tmp_path / "near" / "below" / "file").read_bytes() == DATA[:SIZE]
    assert not list((tmp_path / "near").rglob("*.part"))


@pytest.mark.long
def test_a_remote_that_dies_is_told_and_the_part_continued(tmp_path: Path, far: Path) -> None:
    with in_the_middle(tmp_path) as example:
        example.kill_child()
        status, stdout, stderr = example.end()
    assert (status, stdout) == (1, "")
    assert re.fullmatch(r"sync_tree: child .* was killed by signal 9 \(SIGKILL\)\n", stderr)
    assert synced(tmp_path) == (0, f"'below/file': {SIZE - FIRST} of {SIZE} bytes\n", "")


@pytest.mark.long
def test_a_part_of_another_state_of_the_file_is_not_continued(tmp_path: Path, far: Path) -> None:
    with in_the_middle(tmp_path) as example:
        example.interrupt()
        assert example.end() == (130, "", "")
    (far / "below" / "file").write_bytes(DATA[1:SIZE])
    assert synced(tmp_path) == (0, f"'below/file': {SIZE - 1} of {SIZE - 1} bytes\n", "")
    assert (tmp_path / "near" / "below" / "file").read_bytes() == DATA[1:SIZE]


@pytest.mark.long
def test_a_directory_over_ssh(tmp_path: Path, far: Path) -> None:
    serve = [sys.executable, str(EXAMPLES / "sync_tree.py"), "--serve", str(far)]
    with running_sshd(tmp_path) as sshd:
        status, stdout, stderr = run(tmp_path, "sync_tree.py", sshd.address(serve), "near")
    assert (status, stdout, stderr) == (0, f"'below/file': {SIZE} of {SIZE} bytes\n", "")
    assert (tmp_path / "near" / "below" / "file").read_bytes() == DATA[:SIZE]


@pytest.mark.long
def test_what_cannot_be_synced(tmp_path: Path) -> None:
    status, stdout, stderr = synced(tmp_path)
    assert (status, stdout) == (1, "")
    assert "No such file or directory" in stderr
    assert "Traceback" not in stderr
    (tmp_path / "evil.py").write_text(STUCK.replace("below/file", "../file"))
    status, stdout, stderr = run(tmp_path, "sync_tree.py", sync_address("evil.py"), "near")
    assert (status, stdout, stderr) == (1, "", "sync_tree: ../file is outside of the directory\n")
    (tmp_path / "short.py").write_text(STUCK.replace("current_request().wait", "int"))
    status, stdout, stderr = run(tmp_path, "sync_tree.py", sync_address("short.py"), "near")
    assert (status, stdout, stderr) == (1, "", "sync_tree: below/file has changed meanwhile\n")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_file_of_2_gb_is_interrupted_killed_and_continued(tmp_path: Path) -> None:
    size = 2 << 30
    far, part = tmp_path / "far" / "big", tmp_path / "near" / "big.part"
    far.parent.mkdir()
    with far.open("wb") as file:
        file.truncate(size)
        for at in range(0, size, 256 << 20):  # so that no part can stand for another one
            file.seek(at + at // 1000)
            file.write(os.urandom(1000))
    address = sync_address(EXAMPLES / "sync_tree.py", "--serve", "far")
    come = 0
    for end in Example.interrupt, Example.kill_child:
        with running(tmp_path, "sync_tree.py", address, "near") as example:
            while not (part.exists() and part.stat().st_size > come + 1_000_000):
                assert example.process.poll() is None
            end(example)
            status, stdout, _ = example.end()
        assert (status, stdout) == (130 if end is Example.interrupt else 1, "")
        assert come < part.stat().st_size < size
        come = part.stat().st_size
    with running(tmp_path, "sync_tree.py", address, "near") as example:
        stdout, stderr = example.process.communicate(timeout=500)
    assert (example.process.returncode, stdout, stderr) == (0, f"'big': {size - come} of {size} bytes\n", "")
    assert filecmp.cmp(far, tmp_path / "near" / "big", shallow=False)
    (tmp_path / "near" / "big").unlink()  # pytest keeps its directories
