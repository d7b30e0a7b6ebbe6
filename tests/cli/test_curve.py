"""CURVE on the command line: key files, who is let in, and what is wrong with a file."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
from zmq.auth import create_certificates

from packetwire.addresses import parse_address
from packetwire.cli import curve
from packetwire.cli.failure import EXIT_USAGE, CommandFailed

PACKETWIRE = [sys.executable, "-m", "packetwire"]
LIMIT = 60

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the keys of `server`, `client` and `stranger`, and one with those of clients."""
    made = tmp_path_factory.mktemp("keys")
    for name in "server", "client", "stranger":
        create_certificates(made, name)
    (made / "clients").mkdir()
    (made / "clients" / "client.key").write_bytes((made / "client.key").read_bytes())
    return made


@dataclass
class Served:
    """Where a server is, and what it says."""

    address: str
    stderr: IO[str]


@pytest.fixture(scope="module")
def served(keys: Path) -> Iterator[Served]:
    """By a server that lets in the client, and nobody else."""
    argv = [*PACKETWIRE, "serve", "packetwire.cli.benchmarks:REQUESTS", "zmq+router:tcp://127.0.0.1:*"]
    argv += ["--curve-key", str(keys / "server.key_secret"), "--curve-clients", str(keys / "clients")]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        found = re.fullmatch(r"serving \S+ on zmq\+router:(\S+)\n", server.stderr.readline())
        assert found
        yield Served(f"zmq+dealer:{found[1]}", server.stderr)
        server.send_signal(signal.SIGTERM)
        assert server.wait(LIMIT) == 0


@pytest.fixture(scope="module")
def address(served: Served) -> str:
    return served.address


def call(*args: Any) -> tuple[int, str, str]:
    """The exit status and what was said."""
    argv = [*PACKETWIRE, "call", *map(str, args)]
    done = subprocess.run(argv, capture_output=True, check=False, timeout=LIMIT, text=True)
    return done.returncode, done.stdout, done.stderr


def test_who_is_let_in(address: str, keys: Path) -> None:
    server, client = keys / "server.key", keys / "client.key_secret"
    assert call(address, 0, "abc", "--curve-server", server, "--curve-key", client) == (0, "cba", "")


@pytest.mark.parametrize("key", [None, "stranger.key_secret"])
def test_who_is_not_let_in(served: Served, keys: Path, key: str | None) -> None:
    own = [] if key is None else ["--curve-key", keys / key]
    status, stdout, stderr = call(served.address, 0, "abc", "--curve-server", keys / "server.key", *own)
    assert (status, stdout) == (1, "")
    assert re.search("does not let us in|broke off", stderr)
    if key is not None:
        assert any("a client was not let in: its key is not one" in line for line in served.stderr)


def test_a_bridge_has_keys_on_both_sides(address: str, keys: Path, tmp_path: Path) -> None:
    a = f"zmq+router:ipc://{tmp_path}/bridge"
    argv = [*PACKETWIRE, "bridge", a, address, "--curve-key", str(keys / "stranger.key_secret")]
    argv += ["--curve-server", str(keys / "server.key"), "--curve-client-key", str(keys / "client.key_secret")]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as bridge:
        assert bridge.stderr
        assert bridge.stderr.readline().startswith("bridging")
        near = a.replace("router", "dealer")
        assert call(near, 0, "abc", "--curve-server", keys / "stranger.key") == (0, "cba", "")
        bridge.send_signal(signal.SIGTERM)
        assert bridge.wait(LIMIT) == 0


@pytest.mark.long
def test_bench_uses_the_keys(address: str, keys: Path) -> None:
    own = ["--curve-server", keys / "server.key", "--curve-key", keys / "client.key_secret"]
    few = ["--rounds", 1, "--seconds", 0.01, "--growth", 10]
    argv = [*PACKETWIRE, "bench", address, *map(str, own + few)]
    done = subprocess.run(argv, capture_output=True, check=False, timeout=LIMIT, text=True)
    assert (done.returncode, done.stderr) == (0, "")


DEALER, ROUTER = "zmq+dealer:tcp://h:1", "zmq+router:tcp://h:1"


@pytest.mark.parametrize(
    ("target", "server", "key", "message"),
    [
        ("unix:/s", "server.key", None, "CURVE is for zmq"),
        (DEALER, None, "client.key_secret", "no use without --curve-server"),
        (DEALER, "nothing", None, "cannot read .*nothing.*No such file"),
        (DEALER, "clients", None, "cannot read .*directory"),
        (DEALER, "empty", None, "there is no key for CURVE"),
        (DEALER, "short", None, "must have 40 characters"),
        (DEALER, "server.key", "client.key", "no secret key"),
    ],
)
def test_what_a_client_cannot_use(
    keys: Path, target: str, server: str | None, key: str | None, message: str
) -> None:
    (keys / "empty").write_text("")
    (keys / "short").write_text('public-key = "short"\n')
    with pytest.raises(CommandFailed, match=message) as failed:
        curve.to_connect(parse_address(target), *(name and str(keys / name) for name in (server, key)))
    assert failed.value.status == EXIT_USAGE


@pytest.mark.parametrize(
    ("target", "key", "clients", "message"),
    [
        ("unix:/s", "server.key_secret", None, "CURVE is for zmq"),
        (ROUTER, None, "clients", "--curve-clients needs --curve-key"),
        (ROUTER, "server.key", None, "no secret key"),
        (ROUTER, "server.key_secret", "nothing", "cannot read .*nothing"),
    ],
)
def test_what_a_server_cannot_use(
    keys: Path, target: str, key: str | None, clients: str | None, message: str
) -> None:
    with pytest.raises(CommandFailed, match=message) as failed:
        curve.to_serve(parse_address(target), *(name and str(keys / name) for name in (key, clients)))
    assert failed.value.status == EXIT_USAGE


def test_without_keys_an_address_is_what_it_was() -> None:
    for text in DEALER, "unix:/s":
        assert curve.to_connect(parse_address(text), None, None) == parse_address(text)
        assert curve.to_serve(parse_address(text), None, None) == parse_address(text)


def test_an_address_within_a_process_is_refused() -> None:
    status, _, stderr = call("zmq+dealer:inproc://here", 0)
    assert (status, "inproc: is for within one process" in stderr) == (EXIT_USAGE, True)


WITHOUT_PYZMQ = """
import sys
sys.modules["zmq"] = None
from packetwire.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_without_pyzmq_an_address_of_zmq_says_what_to_install() -> None:
    argv = [sys.executable, "-c", WITHOUT_PYZMQ, "call", DEALER, "0"]
    done = subprocess.run(argv, capture_output=True, check=False, timeout=LIMIT, text=True)
    assert done.returncode == EXIT_USAGE
    assert "pip install 'packetwire[zmq]'" in done.stderr
    assert "Traceback" not in done.stderr
