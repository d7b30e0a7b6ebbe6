"""A rolling restart of a server under load: clients that connect anew when they are told to lose no call."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest

from packetwire.streams.tls import client_context

from .certificates import make_certificate
from .restarting import Clients, Servers

pytestmark = pytest.mark.timeout(90)

CLIENTS = 20


def address_for(scheme: str, directory: Path) -> str:
    if scheme == "unix":
        return f"unix:{directory}/socket"
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"{scheme}:127.0.0.1:{free.getsockname()[1]}"


def restart(address: str, way: str, face: str, directory: Path, seconds: float | None, **options: Any) -> Clients:
    """Replace the server while clients call: four times, or for so many seconds."""
    certificate: list[str] = []
    if address.startswith("tls:"):
        made = make_certificate(directory, "server")
        certificate = [str(made.certfile), str(made.keyfile)]
        options["ssl_context"] = client_context(made.certfile)
    servers = Servers(way, face, address, directory / "log", *certificate)
    clients = Clients(address, CLIENTS, **options)
    try:
        with clients.calling():
            clients.wait_for_calls(CLIENTS)
            began, done = time.monotonic(), 0
            while not clients.failures and (done < 4 if seconds is None else time.monotonic() - began < seconds):
                servers.replace(overlapping=way != "passed" or done % 2 == 0)
                clients.wait_for_calls(CLIENTS)
                done += 1
    finally:
        servers.close()
    clients.check(servers.executed())
    print(f"{done} replacements, {len(clients.answered)} calls, {clients.moved} connections anew")
    assert clients.moved
    return clients


PLACES = [("passed", "unix"), ("passed", "tcp"), ("reuse_port", "tcp"), ("replace", "unix")]


@pytest.mark.parametrize(
    ("way", "scheme", "face"),
    [("passed", "tcp", "asyncio"), ("reuse_port", "tcp", "threads"), ("replace", "unix", "asyncio")],
)
def test_no_call_is_lost(way: str, scheme: str, face: str, tmp_path: Path) -> None:
    restart(address_for(scheme, tmp_path), way, face, tmp_path, None)


@pytest.mark.long
@pytest.mark.parametrize("face", ["threads", "asyncio"])
@pytest.mark.parametrize(("way", "scheme"), [*PLACES, ("reuse_port", "tls"), ("passed", "tls")])
def test_no_call_is_lost_for_long(way: str, scheme: str, face: str, tmp_path: Path) -> None:
    restart(address_for(scheme, tmp_path), way, face, tmp_path, 10.0)
