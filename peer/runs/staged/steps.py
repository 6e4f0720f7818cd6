"""What a replica's machine asks of its worker in a round: begin it, write and sign the update, take the step.

IO: the run's worker, folder and journal.
"""

from __future__ import annotations

from ledger.entries import StageReceipt
from ledger.keys import PrivateKey
from peer.runs.run import Run
from peer.runs.staged import promises
from peer.runs.staged.expert_worker import ExpertWorker
from peer.runs.staged.worker import StageWorker
from peer.stages import tasks
from peer.stages.holding import Held
from peer.stages.manifest import Manifest
from peer.stages.slots import first_slot, size_of
from peer.stages.tally import NO_NORM
from peer.stages.work import Work


class Steps:
    """One member's."""

    def __init__(self, *, run: Run, worker: StageWorker, key: PrivateKey) -> None:
        """Receipts are signed with `key`."""
        assert run.staged is not None
        self._run, self._plan, self._worker, self._key = run, run.staged, worker, key

    async def load(self, effect: tasks.LoadStage) -> tasks.HoldsStage:
        """Fetch a stage's state and hold it."""
        await self._worker.load(effect.stage, effect.state)
        await self._worker.history.hold(effect.round, effect.state)
        await self._run.journal.add("loaded", round=effect.round, stage=effect.stage)
        return tasks.HoldsStage(round=effect.round, stage=effect.stage, state=effect.state)

    async def begin(self, effect: tasks.OpenStage, work: Work | None) -> None:
        """Begin the round with nothing done; nothing is awaited before the worker is told."""
        if work is not None and work.open.round == effect.round:
            await self._worker.begin(effect.round, first_slot(work.open), size_of(work.open, self._plan.microbatch))
            await self._run.journal.add("training", round=effect.round, stage=effect.stage)

    async def undo(self, effect: tasks.Undo, work: Work | None) -> tasks.Undone:
        """Have the worker hold no more than the machine says; beside serving, take out just these."""
        if effect.beside:
            tokens = self._plan.microbatch * self._plan.plan.tokens_per_slot
            out = {each: await self._worker.take_out(effect.round, each, tokens) for each in effect.microbatches}
            return tasks.Undone(round=effect.round, kept=tuple(each for each, done in out.items() if not done))
        await self._worker.keep_only(effect.round, list(work.held) if work is not None else [])
        await self._run.journal.add("undone", round=effect.round, microbatches=len(effect.microbatches))
        return tasks.Undone(round=effect.round)

    async def write(self, effect: tasks.WriteUpdate) -> tasks.Wrote:
        """Write the update and sign for it; the receipt is on disk when this returns."""
        opened, plan = effect.open, self._plan
        served = Manifest.read(effect.served, size_of(opened, plan.microbatch))
        update, told = await self._worker.write(opened.round, list(served))
        count = len(served) * plan.microbatch
        receipt = StageReceipt.create(
            network=plan.plan.network, run=self._run.id, round=opened.round, stage=effect.stage,
            state_in=opened.state, update=update, slots=(first_slot(opened), count), served=effect.served,
            tokens=count * plan.plan.tokens_per_slot, loss=int(told["loss"]), leaves=str(told["leaves"]),
            key=self._key,
        )  # fmt: skip
        promises.keep(self._run, receipt)
        if isinstance(self._worker, ExpertWorker) and self._worker.masked.get("weakened"):
            await self._run.journal.add("masked", round=receipt.round, **self._worker.masked)
        loss = {"loss": receipt.loss / 1e6} if effect.stage == plan.last else {}
        await self._run.journal.add(
            "delivered", round=receipt.round, stage=effect.stage, microbatches=len(served), tokens=receipt.tokens,
            **loss,
        )  # fmt: skip
        return tasks.Wrote(receipt=receipt)

    async def norm(self, effect: tasks.SumUpdates) -> tasks.Normed:
        """The norm of our stage's mean gradient."""
        counts = any(receipt.stage == effect.stage for receipt in effect.receipts)
        norm = await self._worker.norm(effect.receipts, self._key.public) if counts else NO_NORM
        return tasks.Normed(receipts=effect.receipts, norm=norm)

    async def apply(self, effect: tasks.ApplyStage, held: Held) -> tasks.AppliedStage:
        """Take the round's step from what is held; norms that nobody told us are computed from all stages' updates."""
        worker, receipts = self._worker, effect.receipts
        if worker.state != held[2]:
            await worker.load(held[1], held[2])
        norms = list(effect.norms)
        for stage in range(self._plan.stages) if receipts and not norms else ():
            counts = any(receipt.stage == stage for receipt in receipts)
            norms.append(await worker.norm(receipts, self._key.public, stage) if counts else NO_NORM)
        state = held[2]
        if any(receipt.stage == held[1] for receipt in receipts):
            state = await worker.apply(effect.round, receipts, norms, self._key.public)
        return tasks.AppliedStage(round=effect.round, receipts=receipts, state=state)
