"""`PoolExecutor`: functions of a module that run at many far ends, as a `concurrent.futures.Executor`.

    with PoolExecutor(["ssh:one", "ssh:two"], work) as executor: print(list(executor.map(work.count, texts)))

The module is sent to far ends that have only Python. A server of ours has it already, and serves `Functions`.
Arguments and results are MessagePack, by the annotations of the function where it has some; nothing is pickled.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packetwire.executor.failures import FarTraceback, FunctionFailed
    from packetwire.executor.farside import Functions
    from packetwire.executor.pooled import PoolExecutor

__all__ = ["FarTraceback", "FunctionFailed", "Functions", "PoolExecutor"]

_HOME_OF = {
    "FarTraceback": "packetwire.executor.failures",
    "FunctionFailed": "packetwire.executor.failures",
    "Functions": "packetwire.executor.farside",
    "PoolExecutor": "packetwire.executor.pooled",
}
"""The modules of the public names, imported when one of these is asked for: a far end needs no pool."""


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
