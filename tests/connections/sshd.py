"""An OpenSSH server of the tests' own, on a free port of the loopback interface, with keys of its own.

It runs as whoever runs the tests and lets nobody else in. `Sshd.address` and `Sshd.argv` lead to a command
behind it, through a real `ssh`.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PORT_TRIES = 5

SSHD_CONFIG = """
ListenAddress 127.0.0.1:{port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/user_key.pub {directory}/forced_keys
SetEnv HOME={directory}/home
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
PrintMotd no
MaxStartups 100
"""

SSH_CONFIG = """
Host here forced stranger unknown
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentitiesOnly yes
    IdentityAgent none
    ControlPath none
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
Host here unknown
    IdentityFile {directory}/user_key
Host stranger
    IdentityFile {directory}/stranger_key
Host forced
    IdentityFile {directory}/forced_key
Host here forced stranger
    UserKnownHostsFile {directory}/known_hosts
Host unknown
    UserKnownHostsFile /dev/null
"""
"""`here` is let in, and `forced` to the command of `Sshd.force`; `stranger` has a key that is not; the key of
`unknown` is not known to us."""


@dataclass(frozen=True)
class Sshd:
    """A running server; `config` is for `ssh -F`."""

    config: Path
    port: int

    @property
    def home(self) -> Path:
        """The home directory of whoever logs in, where profiles of shells can be written."""
        return self.config.parent / "home"

    def force(self, command: Sequence[str]) -> None:
        """Have the host `forced` run this command, whatever is asked for."""
        directory = self.config.parent
        quoted = shlex.join(command).replace('"', r"\"")
        key = (directory / "forced_key.pub").read_text()
        (directory / "forced_keys").write_text(f'command="{quoted}" {key}')

    def argv(self, command: Sequence[str], host: str = "here") -> list[str]:
        """What runs `command` there."""
        return ["ssh", "-F", str(self.config), "-T", "-o", "BatchMode=yes", host, shlex.join(command)]

    def address(self, command: Sequence[str], host: str = "here") -> str:
        """The same as an address."""
        return f"ssh:-F {shlex.quote(str(self.config))} {host} {shlex.join(command)}"


@contextmanager
def running_sshd(directory: Path) -> Iterator[Sshd]:
    """Start one; what it needs is written to `directory`. Skips the test if there is no `sshd` or no `ssh`."""
    sshd = _find("sshd")
    _find("ssh")
    (directory / "home").mkdir()
    for name in "host_key", "user_key", "forced_key", "stranger_key":
        keygen = [_find("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", f"{directory}/{name}"]
        subprocess.run(keygen, check=True)
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # where a server of root's puts those not logged in yet
    for tries_left in reversed(range(PORT_TRIES)):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        config = directory / "sshd_config"
        config.write_text(SSHD_CONFIG.format(port=port, directory=directory))
        process = subprocess.Popen([sshd, "-D", "-e", "-f", str(config)], stderr=subprocess.PIPE, text=True)
        log = _until_listening(process)
        if log is None:
            break
        process.wait()
        assert tries_left, f"sshd does not start: {log}"
        assert "Address already in use" in log, f"sshd does not start: {log}"
    assert process.stderr
    drain = threading.Thread(target=process.stderr.read, name="sshd-log")  # a full pipe would stop it
    drain.start()
    try:
        yield Sshd(_write_client_config(directory, port), port)
    finally:
        process.terminate()
        process.wait()
        drain.join()
        process.stderr.close()


def _find(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"there is no {name} command")
    return found


def _until_listening(process: subprocess.Popen[str]) -> str | None:
    """Wait until it listens; what it said if it does not."""
    assert process.stderr
    log = ""
    for line in process.stderr:
        if "Server listening on" in line:
            return None
        log += line
    process.stderr.close()
    return log


def _write_client_config(directory: Path, port: int) -> Path:
    host_key = (directory / "host_key.pub").read_text()
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    config = directory / "ssh_config"
    user = pwd.getpwuid(os.geteuid()).pw_name
    config.write_text(SSH_CONFIG.format(port=port, directory=directory, user=user))
    return config
