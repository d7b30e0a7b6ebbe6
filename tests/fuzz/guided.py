"""The same with atheris: mutations are kept if they reach code that was not reached before.

Each target has a process of its own, because libFuzzer has one target for the life of a process. The modules are
imported, and instrumented for that, once: before these processes are forked.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from .running import Finding, Listener, Report, watchdog
from .target import Target

MAX_OCTETS = 1 << 12
"""Of the inputs that are mutated; seeds that are longer are heard once."""
MEMORY_LIMIT = 2048
"""Megabytes of a process: what protobuf takes is not seen by `tracemalloc`."""
WALL_SECONDS = 1800
"""For libFuzzer, which looks at the clock: that the process was stopped for a while is no fault of an input."""
OURS = 3
"""So many of four mutations are by the target, which knows what its inputs are made of; the rest is libFuzzer's."""


def is_there() -> bool:
    """Whether atheris is installed."""
    return importlib.util.find_spec("atheris") is not None


@contextmanager
def instrumented() -> Iterator[None]:
    """Modules of packetwire that are imported in here are instrumented; before, none may have been."""
    assert not any(name == "packetwire" or name.startswith("packetwire.") for name in sys.modules)
    import atheris

    os.environ["PACKETWIRE_PURE"] = "1"  # of what is compiled nothing is seen
    with atheris.instrument_imports(include=["packetwire"], enable_loader_override=False):
        yield


def run(target: Target, *, runs: int | None = None, seconds: float | None = None, seed: int = 0) -> Report:
    """As `running.run`, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="packetwire-fuzz-") as directory:
        told = Path(directory) / "report.json"
        pid = os.fork()
        if not pid:
            try:
                _fuzz(target, Path(directory), told, runs, seconds, seed)
            finally:
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        report = _read_report(target, told) if told.exists() else Report(target)
        if status:
            inputs = list(Path(directory).glob("died-*"))
            octets = inputs[0].read_bytes() if inputs else b""
            kind = f"the process died, status {os.waitstatus_to_exitcode(status)}"
            report.findings[kind] = Finding(target.name, octets, kind, "libFuzzer has told above what it was")
        return report


def _fuzz(target: Target, directory: Path, told: Path, runs: int | None, seconds: float | None, seed: int) -> None:
    """Never returns."""
    import atheris

    corpus = directory / "corpus"
    corpus.mkdir()
    for number, octets in enumerate(target.seeds):
        if len(octets) <= MAX_OCTETS:
            (corpus / str(number)).write_bytes(octets)
    deadline = None if seconds is None else time.process_time() + seconds

    def mutate(octets: bytes, limit: int, number: int) -> bytes:
        random = Random(number)
        if random.randrange(4) >= OURS:
            return bytes(atheris.Mutate(octets, limit))
        return target.mutate(octets, random)[:limit]

    with watchdog() as wind:
        listener = Listener(target, wind)
        for octets in target.seeds:
            if len(octets) > MAX_OCTETS:
                listener.hear(octets)

        def hear(octets: bytes) -> None:
            listener.hear(octets)
            inputs = listener.report.inputs
            if (runs is not None and inputs >= runs) or (deadline is not None and time.process_time() >= deadline):
                _write_report(listener.report, told)
                os._exit(0)

        options = {
            "seed": seed + 1,
            "max_len": MAX_OCTETS,
            "len_control": 0,
            "timeout": WALL_SECONDS,
            "report_slow_units": WALL_SECONDS,
            "rss_limit_mb": MEMORY_LIMIT,
            "artifact_prefix": f"{directory}/died-",
            "verbosity": 0,
        }
        flags = [f"-{name}={value}" for name, value in options.items()]
        atheris.Setup([sys.argv[0], *flags, str(corpus)], hear, custom_mutator=mutate)
        atheris.Fuzz()


def _write_report(report: Report, path: Path) -> None:
    content: dict[str, Any] = {
        "inputs": report.inputs,
        "refused": report.refused,
        "reasons": report.reasons,
        "findings": [[each.octets.hex(), each.kind, each.told] for each in report.findings.values()],
        "most_memory": report.most_memory,
    }
    path.write_text(json.dumps(content))


def _read_report(target: Target, path: Path) -> Report:
    content = json.loads(path.read_text())
    found = [Finding(target.name, bytes.fromhex(octets), kind, told) for octets, kind, told in content["findings"]]
    return Report(
        target,
        content["inputs"],
        content["refused"],
        Counter(content["reasons"]),
        {finding.kind: finding for finding in found},
        content["most_memory"],
    )
