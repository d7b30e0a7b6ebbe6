"""Calls into libzmq that a signal can interrupt.

pyzmq repeats sending, receiving, polling, binding, connecting and looking at options when a signal arrives in
between; it does not repeat what concerns monitors, `unbind` and `disconnect`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import zmq

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


def uninterrupted(
    call: Callable[Parameters, Returned], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Returned:
    """What `call` returns; it is called again whenever a signal interrupted it, whose handler ran in between."""
    while True:
        try:
            return call(*args, **kwargs)
        except zmq.ZMQError as error:
            if error.errno != errno.EINTR:
                raise
