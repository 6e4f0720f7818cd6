"""A fake worker: it takes virtual time, and a state is the hash of what was applied to the one before it.

Pure: time is the clock given.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from ledger.entries import Receipt
from peer.rounds.cut import Counted
from scripts.simulation.clock import Clock

STATE_BYTES = 4_000_000
KEEP_STATES = 3


def blob(*parts: object, size: int) -> str:
    """A blob id that stands for these parts."""
    return f"{sha256(repr(parts).encode()).hexdigest()}-{size}"


def applied(state: str, receipts: Sequence[Receipt | Counted]) -> str:
    """The state after these receipts' updates."""
    return blob(state, [(r.update, r.tokens) for r in receipts], size=STATE_BYTES) if receipts else state


def held_out_loss(round_number: int) -> int:
    """The held-out loss of the state after a round, in micro-nats: it falls, then rests."""
    return max(3_000_000 - 100_000 * round_number, 2_400_000)


@dataclass(kw_only=True)
class Job:
    """One thing to do."""

    seconds: float
    done: Callable[[float], None]
    """Called with the share of the time that it was given."""
    training: bool = False
    started: float = 0.0


class FakeWorker:
    """Does one job at a time, in the order asked for; dies with its node."""

    def __init__(self, clock: Clock, step_s: float) -> None:
        """`step_s`: training can be stopped only at the end of a step this long."""
        self.alive = True
        self._clock = clock
        self._step_s = step_s
        self._waiting: deque[Job] = deque()
        self._job: Job | None = None

    def do(self, job: Job) -> None:
        """Do it once what was asked before is done."""
        self._waiting.append(job)
        self._begin()

    def stop(self) -> None:
        """Have a training under way end after its current step."""
        job = self._job
        if job is not None and job.training:
            steps = int((self._clock.now - job.started) / self._step_s)
            end = min(job.seconds, (steps + 1) * self._step_s)
            self._clock.at(job.started + end, lambda: self._finish(job, end / job.seconds))

    def _begin(self) -> None:
        if self._job is None and self._waiting:
            job = self._job = self._waiting.popleft()
            job.started = self._clock.now
            self._clock.at(job.started + job.seconds, lambda: self._finish(job, 1.0))

    def _finish(self, job: Job, share: float) -> None:
        if self.alive and self._job is job:
            self._job = None
            job.done(share)
            self._begin()
