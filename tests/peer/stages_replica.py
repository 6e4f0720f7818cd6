"""A replica's machine in the first round, and what the test has it do.

Pure: no clock; tests say what time it is.
"""

from __future__ import annotations

from ledger.stages import bitmap
from peer.rounds.messages import LogGrew
from peer.stages import tasks
from peer.stages.messages import Attempt, Freeze
from peer.stages.serve import ReplicaMachine
from peer.stages.tasks import OpenStage, ReplicaEffect, Say
from tests.peer.stages_kit import COUNT, D1, D2, M1, OPEN, S0, log_of, receipt, replica, tag

FIRST, SECOND, THIRD = (Attempt(number, "leader") for number in (1, 2, 3))
NORMS = ("3ff0000000000000",) * 3


def work(effects: list[ReplicaEffect]) -> list[ReplicaEffect]:
    """Without what only tells the leader, and without a driver's calls."""
    return [effect for effect in effects if not isinstance(effect, Say | tasks.Call)]


def freeze(attempt: Attempt, *served: int) -> Freeze:
    """The order to hold these."""
    return Freeze(round=1, attempt=attempt, manifest=bitmap(served, COUNT))


def serve(machine: ReplicaMachine, *numbers: int, **changes: object) -> list[ReplicaEffect]:
    """The backward of these microbatches is asked for and done."""
    effects: list[ReplicaEffect] = []
    for number in numbers:
        request = tag(1, number, **changes)
        refusal = machine.admit(request, D1 if number < 4 else D2)
        assert refusal is None, refusal
        effects += work(machine.receive(tasks.Served(tag=request), 0.0))
    return effects


def begun(account: str = M1) -> ReplicaMachine:
    """A replica in the first round."""
    machine = replica(account, log_of(OPEN))
    assert work(machine.receive(LogGrew(), 0.0)) == [OpenStage(round=1, state=S0, stage=machine.status().stage)]
    return machine


def delivered() -> ReplicaMachine:
    """One that wrote its update with microbatches 0 and 1."""
    machine = begun()
    serve(machine, 0, 1)
    machine.receive(freeze(FIRST, 0, 1), 0.0)
    machine.receive(tasks.Wrote(receipt=receipt(M1, [0, 1])), 0.0)
    return machine
