"""A leader of a run with stages in its first round, and members that say what the test wants.

Pure: no clock; tests say what time it is.
"""

from __future__ import annotations

from dataclasses import replace

from ledger.entries import Entry, StageOpen, StageReceipt, StageSettle
from peer.rounds.messages import Checked, Log, Report
from peer.stages.course import Step
from peer.stages.lead import StageLeader
from peer.stages.messages import (
    Assign,
    Attempt,
    CheckUpdate,
    Cut,
    Freeze,
    Losses,
    Order,
    StageLeaderEffect,
    StageLeaderMessage,
    Status,
    Tell,
)
from peer.stages.plan import StagePlan
from tests.peer.stages_kit import COUNT, D1, D2, GB, L1, L2, M1, M2, PLAN, S0, STAGE, log_of, receipt, state

ALL = (D1, D2, M1, M2, L1, L2)
NORM = "3ff0000000000000"
TABLES = {D1: ((0, (M1, L1)), (1, (M2, L1))), D2: ((4, (M1, L2)),)}
SERVED = {D1: [0, 1], D2: [4], M1: [0, 4], M2: [1], L1: [0, 1], L2: [4]}


class Bench:
    """A leader in the first round, and members as the test wants them."""

    def __init__(self, *entries: StageOpen, plan: StagePlan = PLAN, name: str = "leader/1") -> None:
        self.log = log_of(*entries)
        self.leader = StageLeader(name=name, plan=plan, log=self.log, balance=10**9, now=0.0)
        self.standing = {
            account: Status(account=account, life=1, seq=0, stage=STAGE[account], state=S0, memory_bytes=8 * GB)
            for account in ALL
        }
        self.orders: dict[str, Order] = {}
        """The newest, by member."""
        self.checks: list[StageReceipt] = []
        self.logged: list[Entry] = []
        self.reports: list[Report] = []

    def tell(self, message: StageLeaderMessage, now: float) -> Bench:
        """Give the leader a message."""
        return self.take(self.leader.receive(message, now))

    def take(self, effects: list[StageLeaderEffect]) -> Bench:
        """What it wants to be done."""
        for effect in effects:
            match effect:
                case Tell():
                    self.orders[effect.account] = effect.order
                case CheckUpdate():
                    self.checks.append(effect.receipt)
                case Log():
                    self.logged += effect.entries
                case Report():
                    self.reports.append(effect)
        return self

    def say(self, account: str, now: float = 1.0, **changes: object) -> Bench:
        """A member's newest status, in the open round."""
        status = self.standing[account]
        number = self.log.open.round if self.log.open is not None else 0
        fields: dict[str, object] = {"seq": status.seq + 1, "round": number, **changes}
        self.standing[account] = replace(status, **fields)  # type: ignore[arg-type]
        return self.tell(self.standing[account], now)

    def all_say(self, now: float, *accounts: str) -> Bench:
        """Heartbeats."""
        for account in accounts or ALL:
            self.say(account, now)
        return self

    def attempt(self, account: str) -> Attempt:
        """Of the newest order to a member."""
        order = self.orders[account]
        assert not isinstance(order, Assign | Losses)
        return order.attempt

    def halted(self, *drivers: str, now: float = 2.0, **tables: object) -> Bench:
        """These drivers are halted for the newest attempt."""
        for driver in drivers:
            table = tables.get("table", TABLES[driver])
            self.say(driver, now, finished=True, halted=self.attempt(driver), table=table)
        return self

    def driven(self, now: float = 2.0) -> Bench:
        """The round was driven, and everybody halted."""
        self.all_say(1.0)
        for driver in (D1, D2):
            self.say(driver, now, finished=True)
        return self.halted(D1, D2, now=now)

    def wrote(self, *accounts: str, now: float = 3.0) -> Bench:
        """These wrote what they were asked to hold, and it was found sound."""
        for account in accounts:
            order = self.orders[account]
            assert isinstance(order, Freeze)
            given = receipt(account, [n for n in range(COUNT) if int(order.manifest, 16) >> n & 1])
            self.say(account, now, frozen=order.attempt, lacking="", receipt=given)
            self.tell(Checked(account=account, update=given.update, refusal=None), now)
        return self

    def applied(self, *accounts: str, now: float = 4.0) -> Bench:
        """These summed, were told the norms, and applied."""
        for account in accounts:
            order = self.orders[account]
            assert isinstance(order, Cut)
            self.say(account, now, frozen=order.attempt, cut=order.receipts, norm=NORM)
        for account in accounts:
            order = self.orders[account]
            assert isinstance(order, Cut)
            assert order.norms == (NORM,) * 3
            self.say(account, now, frozen=order.attempt, armed=True, applied=state(STAGE[account], 1))
        return self

    @property
    def step(self) -> Step | None:
        """How far the round is."""
        return self.leader.course.step if self.leader.course is not None else None

    def settled(self) -> StageSettle:
        """What was logged last."""
        return [entry for entry in self.logged if isinstance(entry, StageSettle)][-1]
