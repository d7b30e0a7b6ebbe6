"""Runs checks, each over a stream of its own. Nothing blocks but the poll, which has a deadline."""

from __future__ import annotations

import select
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from packetwire.conformance.capabilitychecks import features_of, probe
from packetwire.conformance.farends import FarEnds
from packetwire.conformance.play import Line, Outcome, Play, Verdict
from packetwire.conformance.rulechecks import ordinary
from packetwire.conformance.table import Check
from packetwire.conformance.talk import FarEnd, Talk
from packetwire.streams.bytestream import ByteStream

READ_SIZE = 65536
PATIENCE = 10
"""A check takes so many times as long as one step may take, at most."""
STARTING = 20.0
"""Seconds for the first bytes to come, at least: a child may take long to start."""
NEVER_SEEN = "it did nothing of the kind"


class Runner:
    """Runs checks against one far end, and keeps what was seen of the rules."""

    def __init__(self, ends: FarEnds, far: FarEnd, timeout: float) -> None:
        self.far = far
        self._ends = ends
        self._timeout = timeout
        self._broken: dict[str, tuple[str, tuple[Line, ...]]] = {}
        self._occasions: set[str] = set()
        self._has_seen_ordinary = False

    def probe(self) -> None:
        """Find out what the far end understands. Raises OSError if it cannot be reached."""
        stream = self._ends.open()
        self.far = replace(self.far, half_closes=stream.half_closes)
        talk = Talk(self.far)
        self._run_over(stream, talk, Play(probe(talk), talk))
        self.far = replace(self.far, features=features_of(talk), requests=talk.requests)

    def run(self, checks: Iterable[Check]) -> Iterator[tuple[Check, Outcome]]:
        """The checks and their outcomes, as they come."""
        for check in checks:
            if check.steps is not ordinary:
                outcome = self._conversation(check)
            else:
                if not self._has_seen_ordinary:
                    self._has_seen_ordinary = True
                    self._conversation(check)
                outcome = self._rule(check.rule)
            if check.rule in self._broken and outcome.verdict is Verdict.PASSED:
                outcome = self._rule(check.rule)
            yield check, outcome

    def _conversation(self, check: Check) -> Outcome:
        talk = Talk(self.far)
        play = Play(check.steps(talk), talk)
        if play.outcome is not None:  # it does not apply
            return play.outcome
        try:
            stream = self._ends.open()
        except OSError as error:
            return Outcome(Verdict.FAILED, f"there is no connection: {error}")
        return self._run_over(stream, talk, play)

    def _rule(self, rule: str) -> Outcome:
        if rule in self._broken:
            text, lines = self._broken[rule]
            return Outcome(Verdict.FAILED, text, lines)
        if rule not in self._occasions:
            return Outcome(Verdict.SKIPPED, NEVER_SEEN)
        return Outcome(Verdict.PASSED)

    def _run_over(self, stream: ByteStream, talk: Talk, play: Play) -> Outcome:
        try:
            stream.start(lambda _: None)
            _Shell(stream, play, self._timeout).run()
            said = _last_words(stream)
        finally:
            stream.close()
        self._occasions |= talk.ledger.occasions.keys()
        for rule, text in talk.ledger.broken.items():
            self._broken.setdefault(rule, (text, play.evidence.get(rule, ())))
        assert play.outcome is not None
        if play.outcome.verdict is Verdict.FAILED and said:
            return replace(play.outcome, reason=f"{play.outcome.reason}; {said}")
        return play.outcome


class _Shell:
    """Brings the bytes of a stream, and the time, to a check."""

    def __init__(self, stream: ByteStream, play: Play, timeout: float) -> None:
        self._stream = stream
        self._play = play
        self._timeout = timeout
        self._offset = 0
        """Bytes of the first step in the outbox that are written."""
        self._writes = True
        self._reads = True
        self._ended_writing = False
        self._has_heard = False

    def run(self) -> None:
        """Run the check to its end, and write what it has left to say."""
        play = self._play
        last = time.monotonic() + STARTING + PATIENCE * self._timeout
        if self._stream.leading_data:
            play.receive(self._stream.leading_data)
        while play.outcome is None:
            seconds = self._timeout if self._has_heard else max(STARTING, self._timeout)
            deadline = min(last, time.monotonic() + seconds)
            while play.outcome is None and not self._exchange():
                if not self._wait(deadline):
                    play.time_out(seconds)
                    break
        self._flush(time.monotonic() + self._timeout)

    def _exchange(self) -> bool:
        """Write what fits, read what is there; returns True if something came."""
        self._write()
        if not self._reads:
            return False
        if self._play.is_deaf:
            return False
        try:
            data = self._stream.try_read(READ_SIZE)
        except OSError as error:
            self._reads = False
            self._play.end(error.strerror or str(error))
            return True
        if data is None:
            return False
        if data:
            self._has_heard = True
            self._play.receive(data)
        else:
            self._reads = False
            self._play.end("the far end has closed it")
        return True

    def _write(self) -> None:
        outbox = self._play.outbox
        while outbox and self._writes:
            data, piecemeal = outbox[0].data, outbox[0].piecemeal
            rest = memoryview(data)[self._offset : self._offset + 1 if piecemeal else None]
            try:
                taken = self._stream.try_write((rest,))
            except OSError:
                self._writes = False  # the far end reads no more; what it says about it is still to be read
                outbox.clear()
                return
            if not taken:
                return
            self._offset += taken
            if self._offset == len(data):
                outbox.popleft()
                self._offset = 0
        if self._play.ends_writing and not self._ended_writing:
            self._ended_writing = True
            self._stream.end_write()

    def _wait(self, deadline: float) -> bool:
        """Wait until something can be read or written; False if the time is over."""
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        wanted: dict[int, int] = {}
        if self._reads and not self._play.is_deaf:
            wanted[self._stream.read_fd] = select.POLLIN
        if self._play.outbox:
            fd = self._stream.write_fd
            wanted[fd] = wanted.get(fd, 0) | self._stream.write_events
        poller = select.poll()
        for fd, events in wanted.items():
            poller.register(fd, events)
        poller.poll(left * 1000)
        return True

    def _flush(self, deadline: float) -> None:
        self._write()
        while self._play.outbox and self._writes:
            self._reads = False
            if not self._wait(deadline):
                return
            self._write()


def _last_words(stream: ByteStream) -> str:
    """The last line that a child has written to standard error."""
    stderr = getattr(stream, "stderr", b"")
    lines = [line for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    return f"its standard error ends by {lines[-1].strip()[:300]!r}" if lines else ""
