"""A large capture, and what `packetwire dump --summary` and `packetwire report` take for it.

`python -m tests.bench.large_captures [--packets 1000000] [--keep FILE]` makes a capture of so many packets on three
connections, each in a record of its own, and runs both commands.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.captures import write_capture


def measure(what: str, *words: str) -> None:
    """Run a command of packetwire, print its times and the most memory that it had."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "packetwire", *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{what} failed with exit status {process.returncode}")
    elapsed, processor = time.monotonic() - began, used.ru_utime + used.ru_stime
    memory = used.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    print(f"{what:16} {elapsed:6.1f} s, {processor:6.1f} s of processor time, {memory:6.0f} MiB")


def main() -> None:
    """Make the capture, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="write the capture to FILE, and its page beside it"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        capture = options.keep or Path(directory, "large.capture")
        page = capture.with_name(f"{capture.name}.html")
        write_capture(capture, options.packets)
        print(f"{options.packets:,} packets, a capture of {capture.stat().st_size / 1e6:.1f} MB")
        measure("dump --summary", "dump", "--summary", str(capture))
        measure("report", "report", str(capture), "-o", str(page))
        print(f"a page of {page.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
