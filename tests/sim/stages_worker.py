"""A fake worker of a replica: what is in its accumulator is counted, and a state is the hash of what was applied.

Pure: time is the clock given.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from ledger.entries import StageReceipt
from peer.stages.messages import Kind, Tag
from peer.stages.tasks import Call
from scripts.simulation.clock import Clock
from tests.sim.worker import FakeWorker, Job, blob

STATE_BYTES = 1000
FORWARD = 0.25
"""Of what a microbatch takes; the rest is its backward, which recomputes the forward."""


def first_state(stage: int) -> str:
    """Id of a stage's initial state."""
    return blob("first", stage, size=STATE_BYTES)


def norm_of(stage: int, receipts: Sequence[StageReceipt]) -> str:
    """The norm of a stage's mean gradient: as good as random, the same for everybody."""
    digest = sha256(repr([receipt.update for receipt in receipts if receipt.stage == stage]).encode()).digest()
    return struct.pack(">d", int.from_bytes(digest[:4], "big") / 2**32).hex()


def applied(state: str, stage: int, receipts: Sequence[StageReceipt], norms: Sequence[str]) -> str:
    """A stage's state after these receipts."""
    updates = [receipt.update for receipt in receipts if receipt.stage == stage]
    return blob(state, updates, tuple(norms), size=STATE_BYTES) if receipts else state


@dataclass(kw_only=True)
class Accumulator:
    """What a worker holds in memory of one round."""

    round: int
    state: str
    stage: int
    inside: Counter[int] = field(default_factory=Counter)
    """How often each microbatch's gradient is in it."""
    replies: dict[tuple[int, Kind], str] = field(default_factory=dict)


class StageWorker:
    """Serves one stage, one thing after the other, each in its time."""

    def __init__(self, clock: Clock, microbatch_s: float, stages: int) -> None:
        self.microbatch_s = microbatch_s
        self.held: tuple[int, int, str] | None = None
        """Round, stage, and id of the stage's state after it that is in memory."""
        self.accumulator: Accumulator | None = None
        self.queued_s = 0.0
        """Work that waits or is under way."""
        self.waiting: Counter[int] = Counter()
        """Microbatches whose backward waits or is under way."""
        self._clock = clock
        self._stages = stages
        self._line = FakeWorker(clock, microbatch_s)

    def die(self) -> None:
        """Everything in memory is gone, and nothing is done any more."""
        self._line.alive = False

    def hold(self, round_number: int, stage: int, state: str) -> None:
        """A stage's state is in memory now, and nothing else."""
        self.held, self.accumulator = (round_number, stage, state), None

    def begin(self, round_number: int, state: str, held: str) -> None:
        """An empty accumulator, once what was asked before is done; `held` is what the round starts from here."""

        def done() -> None:
            assert self.held is not None, "a round was begun while nothing was held"
            assert (self.held[0], self.held[2]) == (round_number - 1, held), "a round was begun from another state"
            self.accumulator = Accumulator(round=round_number, state=state, stage=self.held[1])

        self.do(0.0, done)

    def do(self, seconds: float, done: Callable[[], None]) -> None:
        """Do something once what was asked before is done."""
        self.queued_s += seconds

        def finish(_: float) -> None:
            self.queued_s -= seconds
            done()

        self._line.do(Job(seconds=seconds, done=finish))

    def serve(self, call: Call, done: Callable[[str, float, float], None]) -> None:
        """Do what a call asks for; `done` gets the reply's handle, the seconds it took and those it waited."""
        tag, asked_at = call.tag, self._clock.now
        seconds = self.microbatch_s * (FORWARD if tag.kind is Kind.FORWARD else self._backward(tag))

        self.waiting[tag.microbatch] += tag.kind is Kind.BACKWARD

        def finish() -> None:
            self.waiting[tag.microbatch] -= tag.kind is Kind.BACKWARD
            done(self._reply(call), seconds, self._clock.now - asked_at - seconds)

        self.do(seconds, finish)

    def _backward(self, tag: Tag) -> float:
        return 1.0 if tag.stage == self._stages - 1 else 1.0 - FORWARD

    def _reply(self, call: Call) -> str:
        tag, work = call.tag, self.accumulator
        assert work is not None, "asked before the round was begun"
        assert (work.round, work.state, work.stage) == (tag.round, tag.state, tag.stage), "asked of another round"
        key = tag.microbatch, tag.kind
        if key in work.replies:
            return work.replies[key]
        name = f"{tag.round}.{tag.microbatch} from {tag.state[:8]}"
        wanted = f"x{tag.stage}:{name}" if tag.stage else ""
        assert call.input == wanted, f"stage {tag.stage} got {call.input!r}, not {wanted!r}"
        reply = f"x{tag.stage + 1}:{name}"
        if tag.kind is Kind.BACKWARD:
            last = tag.stage == self._stages - 1
            wanted = "" if last else f"g{tag.stage + 1}:{name}"
            assert call.gradient == wanted, f"stage {tag.stage} got {call.gradient!r}, not {wanted!r}"
            work.inside[tag.microbatch] += 1
            reply = f"g{tag.stage}:{name}"
        work.replies[key] = reply
        return reply

    def undo(self, round_number: int, microbatches: Sequence[int], done: Callable[[], None]) -> None:
        """Take these out again."""

        def finish() -> None:
            work = self._of(round_number)
            for microbatch in microbatches:
                assert work.inside[microbatch] == 1, f"microbatch {microbatch} undone but not there once"
                del work.inside[microbatch]
                for kind in Kind:
                    work.replies.pop((microbatch, kind), None)
            done()

        self.do(self.microbatch_s * len(microbatches), finish)

    def write(self, round_number: int, done: Callable[[frozenset[int], str], None]) -> None:
        """Write what is inside; each microbatch must be there once. `done` gets it, and the state it started from."""

        def finish() -> None:
            work = self._of(round_number)
            assert set(work.inside.values()) <= {1}, f"counted twice: {work.inside}"
            done(frozenset(work.inside), work.state)

        self.do(0.05, finish)

    def _of(self, round_number: int) -> Accumulator:
        assert self.accumulator is not None, "there is no accumulator"
        assert self.accumulator.round == round_number, "the accumulator is of another round"
        return self.accumulator
