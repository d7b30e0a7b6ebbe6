"""A mark on threads that may not wait for a connection where they are now.

A signal handler, or a finalizer that the garbage collector runs, comes at any instruction. If that is one of ours,
in the middle of reading or writing a connection, the connection stands still until it returns. So it can send
requests, but a call that it waits for could wait for itself, by way of the peer also on another connection: it is
refused. A handler, a receiver or a callback may wait: it is called from the same places, but on purpose.

Strategy: a thread that is in our code has a mark that says so, and that says otherwise while we call a function of
our users. Each change of the mark is undone by the code that made it, so they can be nested in any way. An
exception may come at any instruction, also while the mark is put back; so that is done again behind it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import get_ident
from typing import TypeVar

OURS, USERS = True, False

inside: dict[int, object] = {}
"""The marks: of threads that are in a call, or write, or belong to packetwire. `OURS`, or the
waiter of the call: if a function of a user runs there now, it has interrupted us; `USERS`: we have called it."""

ReturnedT = TypeVar("ReturnedT")


def is_interrupted(me: int) -> bool:
    """True if this thread is in code that interrupted ours: a signal handler or a finalizer."""
    return bool(inside.get(me))


def put_back(me: int, outer: object) -> None:
    """Have this thread marked as it was."""
    if outer is None:
        inside.pop(me, None)
    else:
        inside[me] = outer


def as_ours(function: Callable[..., ReturnedT], *args: object) -> ReturnedT:
    """Call a function of ours in which this thread can be interrupted."""
    me = get_ident()
    outer = inside.get(me)
    try:
        try:
            inside[me] = OURS
            return function(*args)
        finally:
            put_back(me, outer)
    except BaseException:
        put_back(me, outer)
        raise


def as_users(function: Callable[..., ReturnedT], *args: object) -> ReturnedT:
    """Call a function of our users on purpose: what it does is up to them."""
    me = get_ident()
    outer = inside.get(me)
    if outer is None:
        return function(*args)
    try:
        try:
            inside[me] = USERS
            return function(*args)
        finally:
            inside[me] = outer
    except BaseException:
        inside[me] = outer
        raise


def _after_fork() -> None:
    """Of the threads that were marked there is only this one."""
    me = get_ident()
    outer = inside.get(me)
    inside.clear()
    put_back(me, outer)


os.register_at_fork(after_in_child=_after_fork)
