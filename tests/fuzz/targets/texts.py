"""What users write: addresses, and files with keys."""

from __future__ import annotations

import tempfile
from pathlib import Path

import zmq
from zmq.auth import create_certificates
from zmq.utils import z85

from packetwire import LocalProtocolError, addresses
from packetwire.addresses import KINDS, parse_address
from packetwire.cli import curve as curve_options
from packetwire.cli.failure import CommandFailed
from packetwire.streams import curve
from packetwire.streams.curve import CurveClient, CurveServer

from ..mutators import octets_mutator
from ..reasons import RaisedIn
from ..target import Target

# addresses

RAISED = RaisedIn(
    addresses,
    without=[
        *("UnixAddress.open", "TcpAddress.connect", "ZmqRouterAddress.open", "connect_to"),  # connecting
        *(
            "TcpAddress.__post_init__",
            "ZmqDealerAddress.__post_init__",
            "_for_client",
            "_ShippedExec.parse",
            "_to_ship",
            "_check_text",
        ),  # what is no part of the text
    ],
)
NO_WORDS = "shlex: no words"

WRITTEN = (
    "exec:",
    "exec:cat",
    "exec:sh -c 'echo \"x y\"; cat'",
    "ssh:host cmd",
    "ssh:-4 -p 2222 -o 'X=y z' -- user@host cat file | wc",
    "ssh:-oProxyCommand=x host cmd",
    "ssh:-z host cmd",
    "ssh:-p",
    "ssh:-p 22",
    "unix:/run/store.sock",
    "unix:",
    "tcp:localhost:4000",
    "tcp://localhost:4000",
    "tcp:[::1]:4000",
    "tcp:::1:4000",
    "tcp:[x:5",
    "tcp::5",
    "tls:example.org:443",
    "tls:Ärger.example:65536",
    f"tcp:{'x' * 70}.de:1",
    "stdio:",
    "stdio:x",
    "zmq+pair:tcp://127.0.0.1:5000",
    "zmq+dealer:ipc:///tmp/x",
    "zmq+router:inproc://name",
    "zmq+router:udp://x",
)
WORDS = [
    each.encode() for each in (*(f"{kind}:" for kind in KINDS), "-p ", "-- ", "'", '"', "\\", "\0", "[", "]", ":0")
]


def hear_address(octets: bytes) -> list[str]:
    text = octets.decode("utf-8", "surrogateescape")  # as a command line has it
    try:
        address = parse_address(text)
    except LocalProtocolError as error:
        found = RAISED.of(error)
        assert found, "whatever is wrong is told by `parse_address`"
        # what is not raised in the module comes out of shlex, without a text of ours
        return found if len(found) > 1 or error.__cause__ is None else [*found, NO_WORDS]
    assert "\0" not in text
    again = parse_address(str(address))
    assert again == address
    assert str(again) == str(address)
    return []


# keys

KEYS = RaisedIn(curve, without=["CurveServer.__post_init__"])
FILES = RaisedIn(
    curve_options,
    without=[
        *("to_connect", "to_serve"),  # which options go together, and what `KEYS` has
        "_key_files",
    ],
)
UNREADABLE = "_load: cannot read {}: {}"
assert UNREADABLE in FILES.reasons


def hear_keys(octets: bytes) -> list[str]:
    reasons = []
    with tempfile.NamedTemporaryFile(prefix="packetwire-fuzz-") as file:
        file.write(octets)
        file.flush()
        try:
            public, secret = curve_options._pair(file.name)
        except CommandFailed as error:
            reasons += FILES.of(error)
            public = secret = octets
    try:
        client = CurveClient(public, public, secret)
        server = CurveServer(secret, [public])
    except LocalProtocolError as error:
        return reasons + KEYS.of(error)
    for key in (client.server_key, client.secret_key, server.secret_key, *(server.clients or ())):
        assert len(z85.decode(key)) == 32
    socket = zmq.Context.instance().socket(zmq.DEALER)
    try:
        socket.setsockopt(zmq.CURVE_SERVERKEY, client.server_key)
        socket.setsockopt(zmq.CURVE_SECRETKEY, client.secret_key)
    finally:
        socket.close(0)
    return reasons


def certificates() -> list[bytes]:
    """A key file of each kind, and keys without one."""
    with tempfile.TemporaryDirectory() as directory:
        return [Path(path).read_bytes() for path in create_certificates(directory, "name")]


KEY_SEEDS = [*certificates(), b"rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7", b"public-key = x", b"# nothing"]

TARGETS = (
    Target(
        name="addresses",
        seeds=[text.encode() for text in WRITTEN],
        mutate=octets_mutator(WORDS, [text.encode() for text in WRITTEN]),
        hear=hear_address,
        reasons=RAISED.reasons | {NO_WORDS},
        growth=2000,
    ),
    Target(
        name="keys",
        seeds=KEY_SEEDS,
        mutate=octets_mutator([b"public-key", b"secret-key", b" = ", b'"', b"#", b"\n", b"%nSc0"], KEY_SEEDS),
        hear=hear_keys,
        reasons=(KEYS.reasons | FILES.reasons) - {UNREADABLE},
    ),
)
