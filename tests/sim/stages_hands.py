"""What a simulated peer of a run with stages does with its worker and its disk, as its machine asks.

Pure: time and randomness are the world's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from functools import partial
from typing import TYPE_CHECKING

from ledger.entries import Slots, StageReceipt
from ledger.stages import bitmap
from peer.stages import tasks
from peer.stages.slots import first_slot, size_of
from peer.stages.tasks import ApplyStage, LoadStage, ReplicaEffect, SumUpdates, Undo, WriteUpdate
from tests.sim.stages_settings import TOKENS_PER_SLOT
from tests.sim.stages_worker import applied, norm_of
from tests.sim.worker import blob

if TYPE_CHECKING:
    from tests.sim.stages_node import StageNode


KEEP_STATES = 5


def _has(update: str, updates: Set[str], states: object) -> bool:
    return update in updates


class Hands:
    """The longer things of one process life."""

    def __init__(self, node: StageNode) -> None:
        self.node = node

    def _count(self, effect: ReplicaEffect) -> None:
        """Whether the rare things are ever done."""
        reports, held = self.node.world.reports, self.node.machine.work
        reports["undone"] += isinstance(effect, Undo)
        written = isinstance(effect, WriteUpdate) and held is not None and held.receipt is not None
        reports["written again"] += written
        if isinstance(effect, LoadStage) and self.node.log.open is not None:
            after = effect.round + 1
            reports["went back"] += after in self.node.disk.states and self.node.log.open.round == after

    def do(self, effect: ReplicaEffect) -> None:
        """Carry it out."""
        self._count(effect)
        worker, machine = self.node.worker, self.node.machine
        match effect:
            case LoadStage():
                self._load(effect)
            case Undo():
                worker.undo(effect.round, effect.microbatches, lambda: self.node.tell(tasks.Undone(round=effect.round)))
            case WriteUpdate():
                worker.write(effect.open.round, lambda *written: self._wrote(effect, *written))
            case SumUpdates():

                def summed() -> None:
                    norm = norm_of(effect.stage, effect.receipts)
                    self.node.tell(tasks.Normed(receipts=effect.receipts, norm=norm))

                self._fetch(effect, effect.stage, effect.receipts, lambda: worker.do(0.05, summed))
            case ApplyStage():

                def stepped() -> None:
                    held = worker.held
                    assert held is not None, "applied while it held nothing"
                    assert held == machine.holding.held, f"holds {held}, and believes {machine.holding.held}"
                    assert held[:2] == (effect.round - 1, effect.stage), "applied to another state"
                    norms = effect.norms or [
                        norm_of(stage, effect.receipts) for stage in range(self.node.world.plan.stages)
                    ]
                    state = applied(held[2], effect.stage, effect.receipts, norms)
                    self.node.world.checker.came_from.setdefault(state, held[2])
                    self._keep(effect.round, effect.stage, state)
                    if not self.node.world.hazard(self.node, "applied"):
                        told = tasks.AppliedStage(round=effect.round, receipts=effect.receipts, state=state)
                        self.node.tell(told)

                self._fetch(effect, effect.stage, effect.receipts, lambda: worker.do(0.05, stepped))

    def _keep(self, round_number: int, stage: int, state: str) -> None:
        self.node.disk.states[round_number] = stage, state
        for old in sorted(self.node.disk.states)[:-KEEP_STATES]:
            del self.node.disk.states[old]
        self.node.worker.hold(round_number, stage, state)

    def _load(self, effect: LoadStage) -> None:
        wanted, worker = (effect.stage, effect.state), self.node.worker

        def loaded(number: int, state: str) -> None:
            for later in [later for later in self.node.disk.states if later > number]:
                del self.node.disk.states[later]
            self._keep(number, effect.stage, state)
            self.node.tell(tasks.HoldsStage(round=number, stage=effect.stage, state=state))

        older = [
            (number, state)
            for number, (stage, state) in self.node.disk.states.items()
            if number < effect.round and (stage, state) == (effect.stage, self.node.log.states_after(number)[stage])
        ]
        if wanted in self.node.disk.states.values():
            worker.do(0.1, lambda: loaded(effect.round, effect.state))
        elif self.node.world.provides(lambda _, states: wanted in states) or effect.round == 0:
            self.node.after(0.5, lambda: worker.do(0.1, lambda: loaded(effect.round, effect.state)))
        elif older:
            worker.do(0.1, lambda: loaded(*max(older)))
        else:
            self.node.after(0.5, lambda: self.node.tell(tasks.StageBroke(effect=effect, reason="nobody has it")))

    def _fetch(
        self, effect: ReplicaEffect, stage: int, receipts: Sequence[StageReceipt], then: Callable[[], None]
    ) -> None:
        """Have the updates of a stage here, from whoever has them."""
        worker = self.node.worker
        wanted = {receipt.update for receipt in receipts if receipt.stage == stage} - self.node.disk.updates
        broke = tasks.StageBroke(effect=effect, reason="an update is not to be had")
        for update in wanted:
            if not self.node.world.provides(partial(_has, update)):
                self.node.after(0.3, lambda: self.node.tell(broke))
                return

        def here() -> None:
            self.node.disk.updates |= wanted
            if worker is self.node.worker:
                then()

        self.node.after(0.1 if wanted else 0.0, here)

    def _wrote(self, effect: WriteUpdate, inside: frozenset[int], state: str) -> None:
        world, opened = self.node.world, effect.open
        assert state == opened.state, "wrote an update from another state than its receipt says"
        served = bitmap(inside, size_of(opened, world.plan.microbatch))
        assert served == effect.served, f"wrote {served} where {effect.served} was wanted"
        update = blob(self.node.name, opened.round, state, effect.stage, sorted(inside), self.node.disk.lives, size=100)
        world.checker.updates[update] = (effect.stage, opened.round, state, inside)
        self.node.disk.updates.add(update)
        slots = 2 * len(inside)
        last = effect.stage == world.plan.stages - 1
        receipt = StageReceipt(
            network=world.plan.plan.network, run=world.plan.plan.run, round=opened.round, account=self.node.name,
            stage=effect.stage, state_in=opened.state, update=update, slots=Slots(first_slot(opened), slots),
            served=served, tokens=slots * TOKENS_PER_SLOT, loss=3_000_000 if last else 0, leaves="ab" * 32,
            signature="00" * 64,
        )  # fmt: skip
        self.node.disk.receipts.append(receipt)
        if not world.hazard(self.node, "wrote"):
            self.node.tell(tasks.Wrote(receipt=receipt))
