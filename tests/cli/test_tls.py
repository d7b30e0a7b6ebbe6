"""`tls:` addresses on the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from connections.certificates import Certificate, make_certificate

from .forked import packetwire_text

PACKETWIRE = [sys.executable, "-m", "packetwire"]
LIMIT = 30

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Certificate, Certificate]:
    """Of the server and of a client."""
    folder = tmp_path_factory.mktemp("certificates")
    return make_certificate(folder, "server"), make_certificate(folder, "client")


@pytest.fixture(params=["anyone", "known clients"])
def address(
    request: pytest.FixtureRequest, tmp_path: Path, certificates: tuple[Certificate, Certificate]
) -> Iterator[str]:
    """Of a server for anyone, or for clients with a certificate."""
    (tmp_path / "echo.py").write_text(
        "from packetwire import PacketConnection\n\n\n"
        "def make(recv_send):\n"
        "    return PacketConnection(recv_send, request_handler=lambda rq_type, flags, payload: payload[::-1])\n"
    )
    ours, theirs = certificates
    asked = ["--client-ca", theirs.certfile] if request.param == "known clients" else []
    argv = [*PACKETWIRE, "serve", "echo:make", "tls:localhost:0", "--cert", ours.certfile, "--key", ours.keyfile]
    with subprocess.Popen([*argv, *asked], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        said = re.fullmatch(r"serving echo:make on (tls:localhost:\d+)\n", server.stderr.readline())
        assert said
        yield said[1]
        server.terminate()
        assert server.wait(LIMIT) == 0


def call(*args: str) -> subprocess.CompletedProcess[str]:
    return packetwire_text("call", *args)


@pytest.mark.parametrize("address", ["anyone"], indirect=True)
def test_a_server_whose_certificate_is_trusted(address: str, certificates: tuple[Certificate, Certificate]) -> None:
    done = call(address, "1", "abc", "--cafile", certificates[0].certfile)
    assert (done.returncode, done.stdout, done.stderr) == (0, "cba", "")
    done = call(address, "1", "abc", "--cafile", certificates[0].certfile, "--server-name", "another.example")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Hostname mismatch" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("address", ["anyone"], indirect=True)
def test_a_server_whose_certificate_is_not(address: str) -> None:
    done = call(address, "1", "abc")
    assert (done.returncode, done.stdout) == (1, "")
    assert "certificate" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("address", ["known clients"], indirect=True)
def test_a_server_that_wants_to_know_who_comes(address: str, certificates: tuple[Certificate, Certificate]) -> None:
    trusting = ["--cafile", certificates[0].certfile]
    ours = certificates[1]
    done = call(address, "1", "abc", *trusting, "--cert", ours.certfile, "--key", ours.keyfile)
    assert (done.returncode, done.stdout, done.stderr) == (0, "cba", "")
    done = call(address, "1", "abc", *trusting)
    assert (done.returncode, done.stdout) == (1, "")
    assert "certificate" in done.stderr


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (
            ["call", "tcp:localhost:1", "1", "--cafile", "x"],
            2,
            "--cafile is for tls: addresses, not for tcp:localhost:1",
        ),
        (["call", "unix:x", "1", "--server-name", "x"], 2, "--server-name is for tls: addresses, not for unix:x"),
        (["call", "tls:localhost:1", "1", "--cafile", "absent.pem"], 1, "absent.pem"),
        (["call", "tls:localhost:1", "1", "--cert", "absent.pem"], 1, "absent.pem"),
        (["call", "tls:localhost:1", "1", "--key", "absent.pem"], 1, "a key without its certificate: 'absent.pem'"),
        (["serve", "builtins:list", "tls:localhost:0"], 2, "tls:localhost:0 needs --cert FILE"),
        (["serve", "builtins:list", "tls:localhost:0", "--cert", "absent.pem"], 1, "absent.pem"),
        (["serve", "builtins:list", "tcp:localhost:0", "--client-ca", "x"], 2, "--client-ca is for tls: addresses"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, args: list[str], status: int, said: str) -> None:
    done = packetwire_text(*args, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert done.stderr.startswith("packetwire: ") or done.stderr.startswith("packetwire ")
    assert done.stderr.count("\n") == 1
