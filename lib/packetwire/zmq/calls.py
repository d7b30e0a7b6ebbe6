"""Calls into libzmq that a signal can interrupt.

pyzmq repeats most calls when a signal interrupts them: to send, receive, poll, bind, connect and read options. It
does not repeat those to monitors, `unbind` and `disconnect`.
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
    """Call `call`, again each time that a signal interrupts it, whose handler has run by then."""
    while True:
        try:
            return call(*args, **kwargs)
        except zmq.ZMQError as error:
            if error.errno != errno.EINTR:
                raise
