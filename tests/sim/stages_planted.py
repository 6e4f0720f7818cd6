"""Faults to plant in the machines of a run with stages: each must be found by the simulation's checker.

Pure: every fault is undone by the monkeypatch that plants it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pytest import MonkeyPatch  # noqa: PT013

import ledger.rounds
from ledger.entries import StageReceipt
from peer.stages import course, drive, holding, placement, serve, tally, work
from peer.stages.manifest import Manifest
from peer.stages.messages import Refusal, Status, Tag
from peer.stages.reconcile import Agreement
from tests.sim import stages_hands
from tests.sim.stages_worker import StageWorker, applied

Plant = Callable[[MonkeyPatch], None]


def settles_what_some_stages_lack(patch: MonkeyPatch) -> None:
    """The leader counts what is delivered, though not everything is."""

    def collect(self: course.Course, working: set[str], now: float) -> course.Effects:
        known = self._tally
        known.manifests = {account: held for account, held in known.manifests.items() if known.delivered(account)}
        return self._apply(known.receipts(), now) if known.manifests else self._again(now)

    patch.setattr(course.Course, "_collect", collect)


def counts_overlapping_manifests(patch: MonkeyPatch) -> None:
    """Replicas write what they hold beyond what they shall, the leader takes it, and so does the ledger."""
    freeze, heard = work.Work.freeze, tally.Tally.heard

    def greedy(self: work.Work, order: Any) -> bool:
        wanted = Manifest.read(order.manifest, self.size) | self.held
        return freeze(self, replace(order, manifest=wanted.hex))

    def lenient(self: tally.Tally, status: Status) -> StageReceipt | None:
        if status.receipt is not None and status.account in self.manifests:
            self.manifests = {**self.manifests, status.account: status.receipt.served}
        return heard(self, status)

    patch.setattr(work.Work, "freeze", greedy)
    patch.setattr(tally.Tally, "heard", lenient)
    patch.setattr(ledger.rounds, "check_cover", lambda entry, receipts, stages: None)


def skips_an_undo(patch: MonkeyPatch) -> None:
    """A replica writes what it shall hold without undoing the rest."""

    def writable(self: work.Work) -> bool:
        there = self.still and self.wanted is not None and self.cut is None and not self.wanted - self.held
        return there and bool(self.held) and not self.written

    patch.setattr(work.Work, "extra", property(lambda self: ()))
    patch.setattr(work.Work, "writable", property(writable))


def keeps_the_undone_in_its_manifest(patch: MonkeyPatch) -> None:
    """A replica goes on to believe that it holds what it had undone."""

    def undo(self: work.Work, microbatches: Sequence[int]) -> None:
        self.undoing = True

    patch.setattr(work.Work, "undo", undo)


def trusts_an_undo_that_broke(patch: MonkeyPatch) -> None:
    """A replica takes an undo that broke for done."""

    def lose(self: work.Work) -> None:
        self.undoing = False

    patch.setattr(work.Work, "lose", lose)


def counts_what_a_dead_driver_drove(patch: MonkeyPatch) -> None:
    """What a driver that is gone drove stays with the replicas of the other stages."""
    begin, agree = tally.Tally.begin, tally.Tally.agree

    def remember(self: tally.Tally, *args: Any) -> None:
        tables = dict(self._tables)
        begin(self, *args)
        self._tables = {**tables, **self._tables}

    def keep(self: tally.Tally, working: Any) -> Agreement:
        agreement = agree(self, working)
        held = {account: set(known) for account, known in agreement.manifests.items()}
        for driver, table in self._tables.items():
            rows = table.items() if driver not in working else ()
            for account, number in ((account, number) for number, accounts in rows for account in accounts):
                if account in working:
                    held.setdefault(account, set()).add(number)
        return replace(agreement, manifests={account: frozenset(known) for account, known in held.items()})

    patch.setattr(tally.Tally, "begin", remember)
    patch.setattr(tally.Tally, "agree", keep)


def serves_another_rounds_passes(patch: MonkeyPatch) -> None:
    """A replica does not look at the round and the state that a request is for."""
    admit = serve.ReplicaMachine.admit

    def serve_all(self: serve.ReplicaMachine, tag: Tag, caller: str, queue_s: float = 0.0) -> Refusal | None:
        return self.work.admit(tag, caller) if self.work is not None else admit(self, tag, caller, queue_s)

    patch.setattr(serve.ReplicaMachine, "admit", serve_all)


def does_a_repeated_call_again(patch: MonkeyPatch) -> None:
    """A replica does not recognise a request, and its worker keeps no replies."""
    admit, reply = work.Work.admit, StageWorker._reply

    def forget(self: work.Work, tag: Tag, caller: str) -> Refusal | None:
        self._pending.discard(tag)
        return admit(self, tag, caller)

    def again(self: StageWorker, call: Any) -> str:
        if self.accumulator is not None:
            self.accumulator.replies.clear()
        return reply(self, call)

    patch.setattr(work.Work, "admit", forget)
    patch.setattr(StageWorker, "_reply", again)


def sums_in_another_order(patch: MonkeyPatch) -> None:
    """Replicas sum updates in the order of their ids, not of the receipts."""

    def sort(state: str, stage: int, receipts: Sequence[StageReceipt], norms: Sequence[str]) -> str:
        return applied(state, stage, sorted(receipts, key=lambda receipt: receipt.update), norms)

    patch.setattr(stages_hands, "applied", sort)


def takes_a_receipt_of_another_attempt(patch: MonkeyPatch) -> None:
    """The leader counts what was delivered, whatever was agreed since."""
    heard = tally.Tally.heard

    def take_any(self: tally.Tally, status: Status) -> StageReceipt | None:
        manifests, self.manifests = self.manifests, {}
        receipt = heard(self, status)
        self.manifests = manifests
        return receipt

    patch.setattr(tally.Tally, "heard", take_any)
    patch.setattr(tally.Tally, "delivered", lambda self, account: account in self._sound)


def trains_on_what_gave_way(patch: MonkeyPatch) -> None:
    """A member that applied a cut which gave way takes what came of it for the round's state."""

    def behind(self: holding.Holding) -> bool:
        return self.held is None or self.held[1] != self.stage or self.held[0] < self._log.round

    def state(self: holding.Holding) -> str:
        return self._log.state_after(min(self.held[0], self._log.round)) if self.held is not None else ""

    patch.setattr(holding.Holding, "give_way", lambda self: None)
    patch.setattr(holding.Holding, "behind", property(behind))
    patch.setattr(holding.Holding, "state", property(state))


def claims_what_it_lost(patch: MonkeyPatch) -> None:
    """A replica that was started again goes on from the manifest that it had."""
    known: dict[tuple[str, Any], Manifest] = {}
    served, take_part = work.Work.served, serve.ReplicaMachine._take_part

    def remember(self: work.Work, tag: Tag) -> None:
        served(self, tag)
        known[self.seat.account, self.open] = self.held

    def resume(self: serve.ReplicaMachine, now: float) -> serve.Effects:
        before = self.work
        effects = take_part(self, now)
        if self.work is not None and self.work is not before:
            self.work.held = known.get((self.account, self.work.open), self.work.held)
        return effects

    patch.setattr(work.Work, "served", remember)
    patch.setattr(serve.ReplicaMachine, "_take_part", resume)


def claims_what_its_worker_lost(patch: MonkeyPatch) -> None:
    """A replica whose worker ended goes on as if it had not."""
    receive = serve.ReplicaMachine.receive

    def go_on(self: serve.ReplicaMachine, message: Any, now: float) -> serve.Effects:
        kept = self.work
        effects = receive(self, message, now)
        self.work = kept if isinstance(message, serve.tasks.WorkerLost) else self.work
        return effects

    patch.setattr(serve.ReplicaMachine, "receive", go_on)


def leaves_a_norm_out(patch: MonkeyPatch) -> None:
    """The last stage's norm is left out of the clipping."""
    take = tally.Tally.take_norms

    def without(self: tally.Tally) -> bool:
        told = take(self)
        self.norms = (*self.norms[:-1], tally.NO_NORM) if told else ()
        return told

    patch.setattr(tally.Tally, "take_norms", without)


def mixes_two_leaders_cuts(patch: MonkeyPatch) -> None:
    """A member that is told another cut says the norm and the state that came of the one before."""
    take = work.Work.take

    def keep(self: work.Work, order: Any) -> bool:
        norm, state = self.norm, self.applied
        told = take(self, order)
        self.norm, self.applied = norm, state
        return told

    patch.setattr(work.Work, "take", keep)


def moves_away_from_a_stage_with_too_few(patch: MonkeyPatch) -> None:
    """Whoever moves, nobody looks at what it leaves."""
    may_move = placement.Placement._may_move

    def move(self: Any, peer: Any, target: int, counts: list[int], now: float) -> bool:
        return may_move(self, peer, target, [count + 9 for count in counts], now)

    patch.setattr(placement.Placement, "_may_move", move)


def moves_again_and_again(patch: MonkeyPatch) -> None:
    """Moves are not rare."""
    patch.setattr(placement, "INTERVAL_S", 0.0)


def loses_a_microbatch(patch: MonkeyPatch) -> None:
    """The leader drops the last microbatch of every driver."""
    agree = tally.Tally.agree

    def drop(self: tally.Tally, working: Any) -> Agreement:
        tables = self._tables
        self._tables = {
            driver: {number: row for number, row in table.items() if number != max(table)}
            for driver, table in tables.items()
        }
        agreement = agree(self, working)
        self._tables = tables
        return agreement

    patch.setattr(tally.Tally, "agree", drop)


def replays_from_another_record(patch: MonkeyPatch) -> None:
    """A driver replays a microbatch with what it recorded of another one."""
    replay = drive.Driver._replay

    def swap(self: drive.Driver, stage: int, microbatch: int) -> drive.Job:
        job = replay(self, stage, min(number for place, number in self._records if place == stage))
        job.microbatch = microbatch
        return job

    patch.setattr(drive.Driver, "_replay", swap)


def tells_a_receipt_of_a_round_that_gave_way(patch: MonkeyPatch) -> None:
    """A member tells in a round what it signed for another one of the same number, which gave way."""

    def state_only(receipt: StageReceipt, *, plan: Any, open_round: Any) -> bool:
        return receipt.state_in == open_round.state

    patch.setattr(serve, "fits", state_only)


def asks_for_ever_for_what_nobody_can_replay(patch: MonkeyPatch) -> None:
    """What a driver that is gone drove is agreed on anew in every attempt, though it is known to be lost."""
    begin = tally.Tally.begin

    def forget(self: tally.Tally, *args: Any) -> None:
        tables = {driver: table for driver, table in self._tables.items() if driver in self._sound}
        begin(self, *args)
        self._tables = tables

    patch.setattr(tally.Tally, "begin", forget)
