"""The leader of a simulated run with stages: carries out a StageLeader's effects, signs, and has that certified.

Members go by what it signed before that is certified, as far as the run allows; it gives way where another leader's
entries were certified first.

Pure: time and randomness are the world's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ledger.entries import Entry, StageReceipt
from peer.errors import RoundError
from peer.rounds.log import RunLog
from peer.rounds.messages import Cancel, Checked, Log, Logged, Report
from peer.rounds.tail import balance_after_tail, why_wait
from peer.stages.lead import StageLeader
from peer.stages.messages import (
    NO_ATTEMPT,
    Attempt,
    CheckUpdate,
    Cut,
    StageLeaderEffect,
    StageLeaderMessage,
    Status,
    Tell,
)
from tests.sim.stages_life import Life

if TYPE_CHECKING:
    from tests.sim.stages_node import Ahead
    from tests.sim.stages_world import World


@dataclass(kw_only=True)
class LeaderDisk:
    """What survives a kill."""

    updates: set[str] = field(default_factory=set)
    signed: list[Entry] = field(default_factory=list)
    """Beyond what is certified."""
    start: int = 0
    """How many entries were certified before those."""
    lives: int = 0


class SimLeader(Life[StageLeaderMessage, StageLeaderEffect]):
    """One life of a leading daemon; it holds no stage."""

    machine: StageLeader

    def __init__(self, world: World, name: str, disk: LeaderDisk) -> None:
        super().__init__(world.clock)
        self.world = world
        self.name = name
        self.disk = disk
        disk.lives += 1
        self.log = RunLog()
        self.leads = self.took_over = False
        """A round was open when it began, and is still the same."""
        self._certifying = self._held_back = False
        self._leads_since = 0.0
        self._first_heard: dict[str, float] = {}
        self.after(world.certify_s(), self._begin)

    def _begin(self) -> None:
        """Have certified what was signed before a restart, then lead."""
        world, disk = self.world, self.disk
        if world.no_quorum:
            self.after(world.certify_s(), self._begin)
            return
        if disk.signed and disk.start == len(world.truth):
            world.certified(self, disk.signed)
        disk.signed.clear()
        disk.start = len(world.truth)
        self.log.extend(world.truth)
        self.machine = StageLeader(
            name=f"{self.name}/{disk.lives}", plan=world.plan, log=self.log, balance=world.balance(),
            now=world.clock.now,
        )  # fmt: skip
        self.leads, self.took_over = True, self.log.open is not None
        self._leads_since = world.clock.now
        if world.cancelled:
            self.tell(Cancel(reason="cancelled"))
        self._carry_out([])

    def end(self) -> None:
        """Another one leads."""
        if self.alive:
            self.die()
            self.world.ended(self)

    @property
    def attempt(self) -> Attempt:
        """The open round's newest; later than what drivers halted for, where it went on with another leader's cut."""
        return self.machine.course._tally.attempt if self.machine.course is not None else NO_ATTEMPT

    def heard_in_time(self, account: str) -> bool:
        """Whether a member was heard before it was taken to be gone."""
        patience_s = self.world.plan.plan.lost_after_s
        return self._first_heard.get(account, self.world.clock.now) < self._leads_since + patience_s

    def lost_patience(self, account: str) -> bool:
        """Whether a member of the open round had time enough and did not do what was asked."""
        course = self.machine.course
        return course is not None and account in course._tally.stuck

    # ------------------------------------------------------------------ members

    def heard(self, status: Status, size: int, ahead: Ahead) -> None:
        """A member's heartbeat, how much of the certified log it has, and whose tail beyond it, how long."""
        if not self.alive or not self.leads:
            return
        self._first_heard.setdefault(status.account, self.world.clock.now)
        if size < self.log.certified:
            self._push(status.account, size)
        elif ahead != (self.name, len(self.log.tail)):
            self._push_ahead(status.account)
        try:
            self.tell(status)
        except RoundError as exc:
            self.world.checker.refused(self, status, exc)

    def _push(self, account: str, size: int) -> None:
        entries, node = self.world.truth[size : self.log.certified], self.world.nodes[account]
        self.world.net.send(self.name, account, lambda: node.learn(size, entries) if node.alive else None)

    def _push_ahead(self, account: str) -> None:
        start, tail, node = self.log.certified, self.log.tail, self.world.nodes[account]
        self.world.net.send(self.name, account, lambda: node.go_ahead(start, tail, self.name) if node.alive else None)

    # ------------------------------------------------------------------ effects

    def _do(self, effect: StageLeaderEffect) -> None:
        match effect:
            case Tell():
                self._order(effect)
            case CheckUpdate():
                self._check(effect.receipt)
            case Log():
                self._log(effect.entries)
            case Report():
                self.world.reports[effect.event] += 1
                self.world.checker.reported(self, effect)
            case _:
                raise AssertionError(f"unasked for: {effect}")

    def _order(self, effect: Tell) -> None:
        world, order = self.world, effect.order
        world.reports["cut went on"] += isinstance(order, Cut) and order.attempt.number > 1 and self.took_over

        def arrive() -> None:
            node = world.nodes[effect.account]
            if node.alive:
                node.ordered(effect.order, self.name)

        world.net.send(self.name, effect.account, arrive)

    def _check(self, receipt: StageReceipt) -> None:
        def checked(refusal: tuple[str, str] | None) -> None:
            if not self.world.hazard(self, "checked"):
                self.tell(Checked(account=receipt.account, update=receipt.update, refusal=refusal))

        def fetched() -> None:
            if self.world.provides(lambda updates, _: receipt.update in updates):
                self.disk.updates.add(receipt.update)
                checked(None)
            else:
                checked(("FP-417", "nobody has it"))

        self.after(0.2, fetched)

    # ------------------------------------------------------------------ the log

    def _log(self, entries: Sequence[Entry]) -> None:
        self.world.checker.signed(self, entries)
        self.disk.signed += entries
        self._held_back = True
        if not self.world.hazard(self, "signed"):
            self._go_ahead()
            self._certify()

    def _go_ahead(self) -> None:
        """Have members go by what is signed, as far as the run allows."""
        tail = tuple(self.disk.signed)
        if not self._held_back:
            return
        if why_wait(self.world.plan.plan, tail):
            self.world.reports["held back"] += bool(self.world.plan.plan.max_uncertified)
            return
        self._held_back = self.took_over = False
        self.log.follow(tail)
        for account in self.world.nodes if tail else ():
            self._push_ahead(account)
        balance = balance_after_tail(self.world.plan.plan, self.log, self.world.balance())
        self.after(0.0, lambda: self.tell(Logged(balance=balance)))

    def _certify(self) -> None:
        """Have certified what is signed by now, whenever that is possible."""
        count, world, disk = len(self.disk.signed), self.world, self.disk
        if self._certifying or not count:
            return
        self._certifying = True

        def certified() -> None:
            if disk.start != len(world.truth):
                self.end()  # another leader was first
                return
            if world.no_quorum:
                self.after(world.certify_s(), certified)
                return
            self._certifying = False
            entries, disk.signed[:] = disk.signed[:count], disk.signed[count:]
            disk.start += count
            world.certified(self, entries)
            if world.hazard(self, "certified"):
                return
            since = self.log.certified
            self.log.extend(entries)
            for account in world.nodes:
                self._push(account, since)
            self._go_ahead()
            self._certify()

        self.after(world.certify_s(), certified)
