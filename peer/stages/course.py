"""How one open round comes to its end, as the leader directs it.

It is driven (drivers take their microbatches through the stages), reconciled (they halt, and replay what a replica
lost), collected (every replica holds and writes exactly what was agreed) and applied (norms are exchanged, every
replica takes the step). Whatever happens on the way, a new attempt may begin; what it agrees on replaces what was
agreed before. Survivors never wait for the dead: who falls silent, or has had time enough, is left out.

Pure: fed what was heard and the time; says what is to be told, and at the end its `outcome`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from ledger.entries import StageReceipt
from peer.rounds.log import OpenRound, RunLog
from peer.rounds.messages import Checked
from peer.rounds.pace import Pace
from peer.rounds.roster import Roll
from peer.stages.messages import Attempt, CheckUpdate, Cut, Freeze, Halt, Losses, StageLeaderEffect, Status, Tell
from peer.stages.plan import StagePlan
from peer.stages.tally import Tally

Effects = list[StageLeaderEffect]
PATIENCE = 4.0
"""A stage without any replica is waited for so many times longer than a silent member."""

MOST_TOLD = 3
"""Leaders do not change so often in one round; who goes on to know of other attempts is not believed."""


class Step(StrEnum):
    """How far the round is."""

    DRIVING = "driving"
    RECONCILING = "reconciling"
    COLLECTING = "collecting"
    APPLYING = "applying"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the round came to."""

    receipts: tuple[StageReceipt, ...]
    """In the order in which they count; none if its work does not."""
    states: tuple[str, ...]
    """Id of each stage's state after it."""


class Course:
    """One open round. Written only by the leader's machine."""

    def __init__(
        self, open_round: OpenRound, *, plan: StagePlan, log: RunLog, name: str, roll: Roll, pace: Pace, now: float
    ) -> None:
        """Begin, or take over.

        Args:
            open_round: the round.
            plan: the run's figures.
            log: the run's log.
            name: the leader's account and life: no other leader has the same.
            roll: who lives and holds which state.
            pace: how long drivers may take.
            now: members that were not heard yet are waited for from now on, as long as for silent ones.
        """
        self.open = open_round
        self.step = Step.DRIVING
        self.outcome: Outcome | None = None
        self.done_s: dict[str, float] = {}
        """By driver: how long after the beginning it had nothing more to drive."""
        self._plan = plan
        self._log = log
        self._name = name
        self._roll = roll
        self._pace = pace
        self._tally = Tally(open_round, plan)
        self._began_at = self._step_at = now
        self._drivers = [seat.account for seat in open_round.roster if seat.stage == 0]
        self._grace_until = now + plan.plan.lost_after_s
        self._bare_since: float | None = None
        """Since when some stage has no replica."""
        self._losses: list[str] = []
        """Replicas that lost what they held, one after the other."""
        self._lives: dict[str, int] = {}
        self._told_more: Counter[str] = Counter()
        """How often an account knew of an attempt that we do not."""

    @property
    def times(self) -> list[float]:
        """When something may have to be done though nothing is heard."""
        bare = [self._bare_since + self._patience_s] if self._bare_since is not None else []
        return [self._due_at, self._grace_until, *bare]

    @property
    def _patience_s(self) -> float:
        return PATIENCE * self._plan.plan.lost_after_s

    @property
    def _due_at(self) -> float:
        """When the step has taken too long; driving, once others had half as long again as the first who finished."""
        if self.step is not Step.DRIVING:
            return self._step_at + self._plan.plan.first_deadline_s
        first_s = min(self.done_s.values(), default=None)
        return self._began_at + min(self._pace.first_s, self._pace.deadline_s(first_s, len(self._drivers)))

    # ------------------------------------------------------------------ what is heard

    def heard(self, status: Status, now: float) -> Effects:
        """Take a newer status about this round."""
        tally, told = self._tally, max(status.halted, status.frozen)
        effects = self._lost(status)
        if status.finished and status.account not in self.done_s and self.step is Step.DRIVING:
            self.done_s[status.account] = now - self._began_at
        self._told_more[status.account] += told > tally.attempt
        if self._told_more[status.account] > MOST_TOLD:
            tally.stuck.add(status.account)
        elif told > tally.attempt:  # another leader's attempt, or ours before a restart
            tally.attempt = told
            if status.cut and status.frozen == told:
                tally.attempt = Attempt(told.number + 1, self._name)
                effects += [CheckUpdate(receipt=tally.check(receipt)) for receipt in status.cut]
                effects += self._apply(status.cut, now)
            else:
                effects += self._again(now)
        receipt = tally.heard(status)
        return [*effects, *([CheckUpdate(receipt=receipt)] if receipt is not None else [])]

    def _lost(self, status: Status) -> Effects:
        """A replica that was started again lost what it held: drivers had better replay that at once."""
        account, life = status.account, self._lives.get(status.account, status.life)
        self._lives[account] = status.life
        seat = self.open.seat(account)
        if life == status.life or seat is None or seat.stage == 0:  # a driver drives the same again
            return []
        return self.missed(account)

    def missed(self, account: str) -> Effects:
        """This one fell silent, left, or was started again."""
        seat = self.open.seat(account)
        if seat is None or self.step is not Step.DRIVING:
            return []
        self._losses.append(account)
        return self._tell(each.account for each in self.open.roster)

    def judge(self, message: Checked, now: float) -> tuple[StageReceipt | None, Effects]:
        """An update was checked: its receipt, if it is awaited, and what is to be done."""
        receipt = self._tally.judge(message)
        lost = self.step is Step.APPLYING and message.refusal is not None and receipt in self._tally.cut
        return receipt, self._again(now) if lost else []

    def advance(self, now: float, *, closing: bool) -> Effects:
        """Go on as far as it goes; `closing`: the run is to end, so nothing more is driven."""
        effects: Effects = []
        while self.outcome is None:
            before = self.step, self._tally.attempt
            working = self._working()
            if self._bare(working, now):
                self._void()
            elif self.step is Step.DRIVING:
                effects += self._drive(working, now, closing=closing)
            elif self.step is Step.RECONCILING:
                effects += self._reconcile(working, now)
            elif self.step is Step.COLLECTING:
                effects += self._collect(working, now)
            else:
                effects += self._applied(working, now)
            if (self.step, self._tally.attempt) == before:
                break
        return effects

    # ------------------------------------------------------------------ who is there

    def _working(self) -> set[str]:
        """Seats that can do what is wanted of them, as far as their heartbeats say."""
        before = [done.state_in for done in self._log.settled[-1:]]
        states = {self._log.state, *before}
        seats = [seat.account for seat in self.open.roster if seat.account not in self._tally.stuck]
        return {account for account in seats if self._roll.working(account, states)}

    def _unheard(self, now: float) -> set[str]:
        """Seats of which nothing is known as we just took over."""
        if now >= self._grace_until:
            return set()
        return {seat.account for seat in self.open.roster if not self._roll.knows(seat.account)}

    def _bare(self, working: set[str], now: float) -> bool:
        """Whether a stage has had no replica for too long."""
        there = working | self._unheard(now)
        if self._tally.stages_of(there) >= set(range(self._plan.needed)):
            self._bare_since = None
            return False
        self._bare_since = now if self._bare_since is None else self._bare_since
        return now >= self._bare_since + self._patience_s

    # ------------------------------------------------------------------ the steps

    def _drive(self, working: set[str], now: float, *, closing: bool) -> Effects:
        expected = working | self._unheard(now)
        busy = [account for account in self._drivers if account in expected and not self._tally.finished(account)]
        if busy and not closing and now < self._due_at:
            return []
        first_s = min(self.done_s.values(), default=0.0)
        for account in self._drivers:
            done_s = self.done_s.setdefault(account, now - self._began_at)
            if first_s:
                self._pace.saw(done_s, first_s)
        return self._again(now)

    def _again(self, now: float) -> Effects:
        """A new attempt: drivers halt, and replay what is known to be lacking."""
        tally = self._tally
        tally.begin(Attempt(tally.attempt.number + 1, self._name), self._working())
        self.step, self._step_at = Step.RECONCILING, now
        return self._tell(self._drivers)

    def _reconcile(self, working: set[str], now: float) -> Effects:
        """Once everybody halted: agree on who holds what, or try again where something is lacking."""
        tally = self._tally
        awaited = [account for account in self._drivers if account in working and not tally.halted(account)]
        if (awaited or self._unheard(now)) and now < self._due_at:
            return []
        tally.stuck.update(awaited)
        agreement = tally.agree(working - tally.stuck)
        if agreement.gaps:
            return self._again(now)
        if not agreement.counted:
            self._void()
            return []
        tally.freeze(agreement)
        self.step, self._step_at = Step.COLLECTING, now
        return self._tell(tally.manifests)

    def _collect(self, working: set[str], now: float) -> Effects:
        """Once everything that was agreed is written and here, it counts."""
        tally = self._tally
        awaited = [account for account in tally.manifests if not tally.delivered(account)]
        if not awaited and not tally.abandoned(working):
            return self._apply(tally.receipts(), now)
        if now >= self._due_at:
            tally.stuck.update(awaited)
        if awaited and all(account in working - tally.stuck and not tally.lacks(account) for account in awaited):
            return []
        return self._again(now)

    def _apply(self, receipts: tuple[StageReceipt, ...], now: float) -> Effects:
        """These count: have them summed and applied."""
        self._tally.cut, self._tally.norms = receipts, ()
        self.step, self._step_at = Step.APPLYING, now
        return self._tell(seat.account for seat in self.open.roster)

    def _applied(self, working: set[str], now: float) -> Effects:
        """Once the norms are here, tell them; once every stage's state is sure, that is it."""
        tally, late = self._tally, now >= self._due_at
        if tally.abandoned(working):
            return self._again(now)
        if not tally.norms and tally.take_norms():
            return self._tell(seat.account for seat in self.open.roster)
        before = self._log.states_after(self._log.round)
        states = tally.states(before, working, patient=not late)
        if tally.norms and all(states):
            self.outcome = Outcome(receipts=tally.cut, states=tuple(states))
        elif late:
            self._void()
        return []

    def _void(self) -> None:
        """It cannot come to its end: its work does not count, and the state stays what it was."""
        self.outcome = Outcome(receipts=(), states=self._log.states_after(self._log.round))

    # ------------------------------------------------------------------ orders

    def order(self, account: str) -> Effects:
        """What this member has not taken yet."""
        tally, seat = self._tally, self.open.seat(account)
        if seat is None or self.outcome is not None:
            return []
        number, attempt, manifest = self.open.round, tally.attempt, tally.manifests.get(account)
        if self.step is Step.DRIVING and not tally.knows(account, len(self._losses), self._name):
            losses = Losses(round=number, leader=self._name, accounts=tuple(self._losses))
            return [Tell(account=account, order=losses)]
        if self.step is Step.RECONCILING and seat.stage == 0 and not tally.halted(account):
            seats = [each.account for each in self.open.roster]
            gone = tuple(one for one in seats if one in tally.stuck or not self._roll.lives(one))
            gaps = tally.gaps.get(account, ())
            return [Tell(account=account, order=Halt(round=number, attempt=attempt, gaps=gaps, gone=gone))]
        if self.step is Step.COLLECTING and manifest and not (tally.told(account) or tally.delivered(account)):
            return [Tell(account=account, order=Freeze(round=number, attempt=attempt, manifest=manifest))]
        if self.step is Step.APPLYING and not tally.armed(account):
            order = Cut(round=number, attempt=attempt, receipts=tally.cut, norms=tally.norms)
            return [Tell(account=account, order=order)]
        return []

    def _tell(self, accounts: Iterable[str]) -> Effects:
        return [effect for account in accounts for effect in self.order(account)]
