"""Certificates for tests of TLS, made by the `openssl` command. Each is its own CA."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Certificate:
    """The files of a certificate and its key."""

    certfile: str
    keyfile: str


def make_certificate(directory: Path, name: str) -> Certificate:
    """A certificate for localhost and its addresses, whose subject is `name`."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl command")
    made = Certificate(f"{directory}/{name}.pem", f"{directory}/{name}-key.pem")
    command = f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN={name}"
    extensions = (
        "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1",
        "keyUsage=critical,digitalSignature,keyCertSign",
    )
    subprocess.run(
        [*command.split(), "-keyout", made.keyfile, "-out", made.certfile]
        + [word for extension in extensions for word in ("-addext", extension)],
        check=True,
        capture_output=True,
    )
    return made
