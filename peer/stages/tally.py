"""What the leader knows of the open round: tables, receipts, what is lacking, norms and states; and what follows.

Pure: no time; nothing changes when a method raises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from ledger.entries import StageReceipt
from peer.rounds.log import OpenRound, Seat
from peer.rounds.messages import Checked, Report
from peer.stages.manifest import Manifest
from peer.stages.messages import NO_ATTEMPT, Attempt, Status
from peer.stages.plan import StagePlan
from peer.stages.reconcile import Agreement, Table, reconcile
from peer.stages.slots import size_of

NO_NORM = "0" * 16
"""That of a stage without receipts, as norms travel."""


class Tally:
    """One open round. Written only by the leader's machine."""

    def __init__(self, open_round: OpenRound, plan: StagePlan) -> None:
        self.open = open_round
        self.size = size_of(open_round, plan.microbatch)
        self.attempt: Attempt = NO_ATTEMPT
        self.gaps: Mapping[str, tuple[tuple[int, int], ...]] = {}
        """By driver: what is to be replayed in this attempt."""
        self.manifests: Mapping[str, str] = {}
        """By account: what it shall hold in this attempt; none while that is not agreed."""
        self.stuck: set[str] = set()
        """Who had time enough and did not do what was asked."""
        self.cut: tuple[StageReceipt, ...] = ()
        self.norms: tuple[str, ...] = ()
        self._statuses: dict[str, Status] = {}
        self._tables: dict[str, Table] = {}
        self._lacking: dict[str, set[int]] = {}
        self._sound: dict[str, StageReceipt] = {}
        self._checking: dict[str, StageReceipt] = {}
        self._stages = plan.stages
        self._plan = plan

    # ------------------------------------------------------------------ learning

    def heard(self, status: Status) -> StageReceipt | None:
        """A newer status about this round; returns a receipt that is to be checked."""
        self._statuses[status.account] = status
        if status.halted == self.attempt != NO_ATTEMPT:
            self._tables[status.account] = dict(status.table)
        if status.lacking and status.frozen == self.attempt:
            self._lacking[status.account] = set(Manifest.read(status.lacking, self.size))
        receipt, account = status.receipt, status.account
        if receipt is None or receipt in (self._sound.get(account), self._checking.get(account)):
            return None
        if self.manifests and receipt.served != self.manifests.get(account):
            return None
        return self.check(receipt)

    def check(self, receipt: StageReceipt) -> StageReceipt:
        """Its update is being fetched and looked at."""
        self._checking[receipt.account] = receipt
        return receipt

    def judge(self, message: Checked) -> StageReceipt | None:
        """An update was checked; returns its receipt, or None if it is not (or no longer) awaited."""
        receipt = self._checking.get(message.account)
        if receipt is None or receipt.update != message.update:
            return None
        del self._checking[message.account]
        if message.refusal is None:
            self._sound[message.account] = receipt
        elif message.unsound:
            self.stuck.add(message.account)
        return receipt

    # ------------------------------------------------------------------ attempts

    def begin(self, attempt: Attempt, working: Collection[str]) -> None:
        """A new attempt, in which what is known to be lacking is replayed; what nobody can replay is dropped for good.

        A driver that is still there tells its whole table again.
        """
        agreement = self.agree(working)
        self.gaps = agreement.gaps
        self.attempt, self.manifests, self.cut, self.norms = attempt, {}, (), ()
        self._tables = {
            driver: {microbatch: held for microbatch, held in table.items() if microbatch in agreement.counted}
            for driver, table in self._tables.items()
            if driver in self._sound
        }
        self._lacking.clear()

    def freeze(self, agreement: Agreement) -> None:
        """All gaps are closed: everybody shall hold what was agreed."""
        self.manifests = {
            account: Manifest.of(held, self.size).hex for account, held in agreement.manifests.items() if held
        }

    def agree(self, working: Collection[str]) -> Agreement:
        """Who shall hold what, as far as is known."""
        able = {account for account in working if account not in self.stuck}
        there = self.stages_of(able)
        groups = {stage: stage in there for stage in range(self._plan.needed, self._stages)}
        sound = {
            account: set(Manifest.read(one.served, self.size))
            for account, one in self._sound.items()
            if groups.get(one.stage, True)
        }
        return reconcile(self._tables, working=able, lacking=self._lacking, sound=sound, optional=groups)

    def stages_of(self, accounts: Collection[str]) -> set[int]:
        """The stages that these have seats of."""
        return {seat.stage for seat in self.open.roster if seat.account in accounts}

    def abandoned(self, working: Collection[str]) -> bool:
        """Whether a group of experts that is to count, or does, has nobody left to take its step."""
        counting = {receipt.stage for receipt in self.cut} or self.stages_of(self.manifests)
        there = self.stages_of({account for account in working if account not in self.stuck})
        gone = [stage for stage in counting if stage >= self._plan.needed and stage not in there]
        return any(not any(self._said(seat.account).applied for seat in self._seats(stage)) for stage in gone)

    def halted(self, account: str) -> bool:
        """Whether this driver halted and closed its gaps in this attempt."""
        return self._statuses[account].halted == self.attempt if account in self._statuses else False

    def finished(self, account: str) -> bool:
        """Whether this driver has nothing more to drive."""
        return self._statuses[account].finished if account in self._statuses else False

    def knows(self, account: str, losses: int, leader: str) -> bool:
        """Whether this driver was told of so many losses by this leader; of none, if it was not heard yet."""
        status = self._statuses.get(account)
        return not losses or status is None or status.losses == Attempt(losses, leader)

    def told(self, account: str) -> bool:
        """Whether it took what it shall hold, or what counts, in this attempt."""
        return self._statuses[account].frozen == self.attempt if account in self._statuses else False

    def armed(self, account: str) -> bool:
        """Whether it was told what counts, and the norms if we have them."""
        status = self._statuses.get(account)
        return self.told(account) and status is not None and bool(status.cut) and (status.armed or not self.norms)

    def delivered(self, account: str) -> bool:
        """Whether the update that it shall write is here and sound."""
        return account in self._sound and self._sound[account].served == self.manifests.get(account)

    def lacks(self, account: str) -> bool:
        """Whether it said that it does not hold what it shall hold."""
        return bool(self._lacking.get(account))

    # ------------------------------------------------------------------ what counts

    def receipts(self) -> tuple[StageReceipt, ...]:
        """What was agreed and delivered, by stage and place in the roster."""
        seats = sorted(self.open.roster, key=lambda seat: seat.stage)
        return tuple(self._sound[seat.account] for seat in seats if seat.account in self.manifests)

    def take_norms(self) -> bool:
        """Take up the norms that are here, the first of each stage in the roster's order; whether none is missing."""
        norms = [
            next((norm for seat in self._seats(stage) if (norm := self._said(seat.account).norm)), "")
            if self.counts(stage)
            else NO_NORM
            for stage in range(self._stages)
        ]
        self.norms = tuple(norms) if all(norms) else ()
        return bool(self.norms)

    def counts(self, stage: int) -> bool:
        """Whether there are receipts of it; of a group of experts there may be none."""
        return any(receipt.stage == stage for receipt in self.cut)

    def _said(self, account: str) -> Status:
        """What it said of this very cut."""
        status = self._statuses.get(account)
        same = status is not None and status.frozen == self.attempt and status.cut == self.cut
        return status if status is not None and same else Status(account=account, life=0, seq=0)

    def _seats(self, stage: int) -> list[Seat]:
        return [seat for seat in self.open.roster if seat.stage == stage]

    def states(self, before: Sequence[str], working: Collection[str], *, patient: bool) -> list[str]:
        """The state of each stage after the cut, empty where it is not sure; without receipts it stays as it is."""
        return [
            self.state_of(stage, working, patient=patient) if self.counts(stage) else before[stage]
            for stage in range(self._stages)
        ]

    def state_of(self, stage: int, working: Collection[str], *, patient: bool) -> str:
        """The id that most replicas say the stage's state has after the cut, once that is sure; else empty.

        While `patient`, more than half of those must say so that are working or have said something.
        """
        said, silent = Counter[str](), 0
        for seat in self._seats(stage):
            applied = self._said(seat.account).applied
            said.update([applied] if applied else [])
            silent += not applied and seat.account in working
        if not said:
            return ""
        state, votes = said.most_common(1)[0]
        return state if not patient or 2 * votes > said.total() + silent else ""


def verdict(receipt: StageReceipt, message: Checked) -> Report:
    """What a person is told of a receipt whose update was checked."""
    fields: dict[str, object] = {"account": receipt.account, "round": receipt.round, "stage": receipt.stage}
    if message.refusal is not None:
        code, reason = message.refusal
        return Report(event="refused", fields={**fields, "code": code, "reason": reason})
    return Report(event="receipt", fields={**fields, "loss": receipt.loss / 1e6, "tokens": receipt.tokens})
