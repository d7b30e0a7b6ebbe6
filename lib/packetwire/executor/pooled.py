"""`PoolExecutor`: an executor over a pool of far ends.

Strategy: threads of a `ThreadPoolExecutor` make the calls of a pool, so futures, their order and their cancelling
are those of the standard library. The pool decides what becomes of a call whose far end dies.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

from packetwire.addresses import takes_ship
from packetwire.connection import PacketConnection
from packetwire.core.bounds import bound_of
from packetwire.core.settings import DEFAULT_HANDLERS
from packetwire.errors import LocalProtocolError, RequestFailed
from packetwire.executor.failures import exception_of
from packetwire.executor.farside import SERVICE
from packetwire.executor.signature import CALL, Signature, name_of
from packetwire.pool import Pool
from packetwire.ship.shipment import Ship

ParametersT = ParamSpec("ParametersT")
ResultT = TypeVar("ResultT")


class PoolExecutor(Executor):
    """Runs functions of a module at many far ends, as `concurrent.futures` executors do.

        with PoolExecutor(["ssh:one", "ssh:two"], work) as executor:
            print(executor.submit(work.count, "Emma").result())

    `addresses` are those of a `Pool`. At `exec:PYTHON` and `ssh:HOST` only Python 3.11 or newer is needed: the
    module is sent there, with further `modules`, and `site`, as by a `Ship`. With `ship=False` they are commands.
    At all other addresses, and for `child(argv)`, the module's `Functions` must be served. `module` is the module
    of the functions, or its name, or several of these.

    `size` is the number of connections to each address: for work of the processor as many as it has there.
    `max_workers` calls are under way at once, four for each connection if it is None; further ones wait here. A
    call goes where the fewest are. `timeout` are the seconds for each.

    If a far end dies, `idempotent` and `once` decide, as for a call of a `Pool`: the call is made again, or raises
    `ConnectionEnded`. Further arguments are those of `Pool`. The far ends are started at once, in the background.
    """

    __module__ = "packetwire.executor"  # where it is public

    def __init__(
        self,
        addresses: object,
        module: ModuleType | str | Sequence[ModuleType | str],
        *,
        size: int = 1,
        max_workers: int | None = None,
        ship: bool = True,
        modules: Sequence[str] = (),
        site: bool = False,
        timeout: float | None = None,
        idempotent: bool = False,
        once: bool = False,
        **pool: object,
    ) -> None:
        self._modules = _names_of(module)
        self._options: dict[str, Any] = {"timeout": timeout, "idempotent": idempotent, "once": once}
        self._signatures: dict[object, Signature] = {}
        targets = addresses if isinstance(addresses, list | tuple) else [addresses]
        shipped = (
            Ship(SERVICE, [*self._modules, *modules], site) if ship and any(map(takes_ship, targets)) else None
        )
        if shipped is not None:
            shipped.find()  # whatever is wrong with the modules is known at once
        self._pool = _LeastBusy(list(targets), size=size, ship=shipped, **pool)
        workers = DEFAULT_HANDLERS * len(self._pool.members) if max_workers is None else max_workers
        self._threads = ThreadPoolExecutor(bound_of(workers, "max_workers"), f"{self._pool.name}-caller")
        self._closing = threading.Lock()
        self._closed = False
        self._pool.open()

    def __str__(self) -> str:
        return f"{type(self).__name__}[{self._pool.name}]"

    @property
    def pool(self) -> Pool:
        """The connections to the far ends."""
        return self._pool

    def submit(
        self, fn: Callable[ParametersT, ResultT], /, *args: ParametersT.args, **kwargs: ParametersT.kwargs
    ) -> Future[ResultT]:
        """Have a far end call `fn(*args, **kwargs)`; the future has its result, or its exception.

        That has the far traceback as its cause. It is of the same class if that is Python's own or stands in the
        module, and can be made of its `args`; else it is a `FunctionFailed`. A call that waits here can be
        cancelled; one that is under way cannot. Raises `LocalProtocolError` if `fn` is not a function of the
        module, TypeError or `BadValue` if the arguments do not fit it, and RuntimeError after `shutdown`.
        """
        signature = self._signature_of(fn)
        return self._threads.submit(self._call, signature, signature.call_bytes(args, kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the far ends when those that were taken are done; `wait` for that.

        With `cancel_futures` those that have not left yet are cancelled.
        """
        self._threads.shutdown(wait=False, cancel_futures=cancel_futures)
        if wait:
            self._close()
        else:
            threading.Thread(target=self._close, name=f"{self._pool.name}-closer").start()

    def _close(self) -> None:
        self._threads.shutdown(wait=True)
        with self._closing:
            if not self._closed:
                self._closed = True
                self._pool.close()

    def _signature_of(self, function: Any) -> Signature:
        try:
            return self._signatures[function]
        except (KeyError, TypeError):
            pass
        module, name = name_of(function)
        if module not in self._modules:
            raise LocalProtocolError(
                f"{module}.{name} is not at the far ends: they have the functions of {', '.join(self._modules)}"
            )
        signature = Signature(function)
        if name.startswith("_"):
            raise LocalProtocolError(f"{signature.name} cannot be called at a far end: its name begins with _")
        self._signatures[function] = signature
        return signature

    def _call(self, signature: Signature, payload: bytes) -> Any:
        try:
            ok, flags, data = self._pool(CALL, payload, label=signature.name, **self._options)
        finally:
            self._pool.release()
        if not ok:
            failure = RequestFailed(flags, data, signature.name)
            raise exception_of(failure, signature.name, self._modules)
        return signature.result_from(data)


class _LeastBusy(Pool):
    """A pool whose calls go where the fewest of them are."""

    def __init__(self, addresses: Any, **options: Any) -> None:
        super().__init__(addresses, **options)
        self._lock = threading.Lock()
        self._busy: dict[object, int] = dict.fromkeys(self.members, 0)
        self._mine = threading.local()

    def release(self) -> None:
        """The call of this thread is no more with the member that it took last."""
        with self._lock:
            member, self._mine.member = getattr(self._mine, "member", None), None
            if member is not None:
                self._busy[member] -= 1

    def _choose(self, found: Sequence[tuple[Any, PacketConnection]]) -> tuple[Any, PacketConnection]:
        self.release()
        with self._lock:
            chosen = min(found, key=lambda each: (self._busy[each[0]], random.random()))
            self._busy[chosen[0]] += 1
            self._mine.member = chosen[0]
        return chosen


def _names_of(module: object) -> list[str]:
    modules = module if isinstance(module, list | tuple) else [module]
    names = [each if isinstance(each, str) else getattr(each, "__name__", None) for each in modules]
    if not names or None in names:
        raise TypeError(f"expected a module, or several, got {module!r:.100}")
    return [str(name) for name in names]
