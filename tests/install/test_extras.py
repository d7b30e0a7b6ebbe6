"""What is said where something is missing that an extra brings."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .archives import EXTRAS

MISSING = [
    ("import packetwire.fbsp", "google.protobuf", "butler"),
    ("import packetwire.iccp", "google.protobuf", "butler"),
    ("import packetwire.messaging.zmq", "zmq", "butler"),
    ("import packetwire.hololinked", "zmq", "hololinked"),
    ("import packetwire.hololinked", "msgspec", "hololinked"),
    ("import packetwire.riaps", "zmq", "zmq"),
    ("import packetwire.riaps.aio", "zmq", "zmq"),
    ("import packetwire.zmqpackets", "zmq", "zmq"),
    ("import packetwire; packetwire.connect_to('zmq+pair:ipc://nobody')()", "zmq", "zmq"),
    ("import packetwire; packetwire.connect_to('zmq+dealer:ipc://nobody')()", "zmq", "zmq"),
    ("import packetwire; packetwire.serve('zmq+router:ipc://somebody', print)", "zmq", "zmq"),
    ("import packetwire.otel", "opentelemetry", "otel"),
    ("from packetwire.streams.curve import curve_keys; curve_keys()", "zmq", "zmq"),
]
"""What is done, without which module, and the extra that is for it."""

WITHOUT = """
import sys
sys.modules[sys.argv[2]] = None  # an import of it raises as where it is not installed
try:
    exec(sys.argv[1])
except ModuleNotFoundError as error:
    print(error)
    print(error.name)
"""


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("statement", "module", "extra"), MISSING)
def test_the_extra_is_named(statement: str, module: str, extra: str) -> None:
    assert extra in EXTRAS
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT, statement, module],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    text, name = done.stdout.splitlines()
    assert text.endswith(f": pip install 'packetwire[{extra}]'")
    assert name == module
