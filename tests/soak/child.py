"""The end of a round that is a process of its own: `python -m tests.soak.child SEED NUMBER`."""

from __future__ import annotations

import logging
import os
import sys

from packetwire import StreamEnded, stdio

from .ends import End, LoopEnd, Surroundings, ThreadEnd
from .later import Later
from .ledger import Ledger
from .plan import EndPlan, RoundPlan, draw

FAULTY = 9
"""The exit status if something was wrong, which is told on standard error."""
EXITED = 3
"""That of one whose plan is to exit without a word."""


def _end_class(plan: RoundPlan, end_class: type[End]) -> type[End]:
    """The other end also counts as one that asks, until it has ended."""
    events = iter(range(plan.at)) if plan.end == "exits" else None

    class ChildEnd(end_class):  # type: ignore[misc, valid-type]
        def _on_event(self, event: object) -> None:
            super()._on_event(event)
            if events is not None and next(events, None) is None:
                os._exit(EXITED)
            if isinstance(event, StreamEnded):
                self._surroundings.has_asked()

    return ChildEnd


def main(seed: int, number: int) -> int:
    logging.getLogger("packetwire").addHandler(logging.NullHandler())
    plan = draw(seed, number)
    own: EndPlan = plan.ends[1]
    ledger = Ledger(may_end=True, is_spoilt=False)
    surroundings = Surroundings(ledger, Later(), may_end=True, is_spoilt=False, asking=2)
    end_class = _end_class(plan, ThreadEnd if own.face == "threads" else LoopEnd)
    end_class(own, stdio(), surroundings).run()
    ledger.check()
    for fault in ledger.faults:
        print(f"tests.soak.child {seed} {number}: {fault}", file=sys.stderr)
    return FAULTY if ledger.faults else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
