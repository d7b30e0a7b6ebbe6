"""Something happens at the n-th step that this thread takes inside packetwire, as by a signal or a finalizer.

The interpreter can be made to tell of each opcode before it runs. What is called then may use the connection, as a
signal handler does, or raise, as Ctrl-C does. That is stricter than life, where a signal is looked for at fewer
places; so what stands this does not depend on where these are, in this version of Python or the next.

Inside a finalizer nothing happens, but at the first opcode behind it: Python only prints what is raised there, and
an exception of a trace function in a finalizer that the garbage collector called has made the interpreter itself
confuse what it called with a traceback ("'traceback' object is not callable", CPython 3.11, seen once).
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import packetwire

_HOME = os.path.dirname(packetwire.__file__) + os.sep
_INSIDE = (_HOME, threading.__file__)
"""Where opcodes count: the library, and the threading module that it may wait in."""


class Steps:
    """Counts the opcodes of this thread inside packetwire, and does something at the one that is asked for.

    With `hits` each place counts only so many times: loops are not counted on and on.
    """

    def __init__(
        self, at: int | None, action: Callable[[], object] = lambda: None, *, hits: int = sys.maxsize
    ) -> None:
        self.count = 0
        self.action = action
        self.place: str | None = None
        """Where it was done; None if it was not."""
        self._at = at
        self._hits = hits
        self._seen: Counter[tuple[CodeType, int]] = Counter()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Inside the block they are counted."""
        before = sys.gettrace()
        sys.settrace(self._entered)
        try:
            yield
        finally:
            sys.settrace(before)

    def _entered(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_INSIDE):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode" and self._is_counted(frame):
            self.count += 1
            if self.count == self._at and _in_a_finalizer(frame):
                self._at += 1
            elif self.count == self._at:
                code = frame.f_code
                name = os.path.basename(code.co_filename)
                self.place = f"{name}:{frame.f_lineno} {code.co_qualname} +{frame.f_lasti}"
                self.action()
        return self._step

    def _is_counted(self, frame: FrameType) -> bool:
        place = frame.f_code, frame.f_lasti
        self._seen[place] += 1
        return self._seen[place] <= self._hits


def _in_a_finalizer(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
