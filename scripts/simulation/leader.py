"""The simulated leader: carries out what the daemon's own LeaderMachine asks for. It does not train, and never fails.

Heartbeats that say nothing new are not given to the machine one by one: all members that live are noted at once before
the machine is asked anything, at most every `SWEEP_S`.

Pure: time is the world's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ledger import codec
from ledger.entries import Entry, Open, Receipt, Settle
from peer.rounds import messages as rounds
from peer.rounds.lead import LeaderMachine
from peer.rounds.messages import ApplyRound, Check, LeaderEffect, Log, Report
from scripts.simulation.settings import CERTIFY_ENTRY_S, CERTIFY_S

if TYPE_CHECKING:
    from scripts.simulation.world import World

SWEEP_S = 2.0
"""Less than the silence after which the machine drops a member."""
FRAMING = 40
"""Bytes of an entry on the wire beside its own."""


class SimLeader:
    """The peer that writes the run's log."""

    def __init__(self, world: World) -> None:
        """Lead from a log that has just begun."""
        self.world = world
        self.machine = LeaderMachine(plan=world.plan, log=world.log, balance=0, now=0.0)
        self._tick_at = 0.0
        self._swept_at = 0.0
        self._settled_at = 0.0
        self.opened_at = 0.0
        """When the open round was certified."""
        self._entry_bytes: dict[str, int] = {}
        """By type, of receipts; they are all about as long."""

    # ------------------------------------------------------------------ machine

    def tell(self, message: rounds.LeaderMessage) -> None:
        """Give the machine a message and start what it asks for."""
        self._sweep()
        effects = self.machine.receive(message, self.world.clock.now)
        if effects or not isinstance(message, rounds.Delivered):  # a receipt said again changes nothing
            self._carry_out(effects)

    def sweep_now(self) -> None:
        """Note who lives, before somebody dies."""
        self._sweep(least_s=0.0)

    def _sweep(self, least_s: float = SWEEP_S) -> None:
        now = self.world.clock.now
        passed = now - self._swept_at
        if passed < least_s:
            return
        self._swept_at = now
        live = self.world.live()
        for member in live:
            self.machine.roll.beat(member.name, member.machine.state, now)
        if passed > 0:
            self.world.scheme.beat(passed, len(live), len(self.machine.delivered))

    def _carry_out(self, effects: Sequence[LeaderEffect]) -> None:
        for effect in effects:
            self._do(effect)
        deadline = self.machine.deadline
        if deadline is not None and deadline != self._tick_at:
            self._tick_at = deadline
            self.world.clock.at(deadline, lambda: self._tick(deadline))

    def _tick(self, planned: float) -> None:
        if planned == self._tick_at:
            self._tick_at = 0.0
            self._sweep()
            self._carry_out(self.machine.tick(max(self.world.clock.now, planned)))

    # ------------------------------------------------------------------ effects

    def _do(self, effect: LeaderEffect) -> None:
        match effect:
            case Check():
                self._check(effect.receipt)
            case ApplyRound():
                self._apply(effect)
            case Log():
                self._log(effect.entries)
            case Report() if effect.event == "dropped":
                self.world.tally.dropped += 1
            case _:
                pass  # other reports; evaluation is off

    def _check(self, receipt: Receipt) -> None:
        world = self.world
        world.tally.calls += 1
        world.tally.phases["delivered"].append(world.clock.now - self.opened_at)
        maker = world.members[receipt.account]
        life = maker.life
        sound_at = world.scheme.fetched(receipt, maker.person, world.clock.now)

        def checked() -> None:
            here = maker.alive and maker.life == life
            refusal = None if here else ("FP-417", "its maker went away before anybody had it")
            self.tell(rounds.Checked(account=receipt.account, update=receipt.update, refusal=refusal))

        world.clock.at(sound_at, checked)

    def _apply(self, effect: ApplyRound) -> None:
        state = self.world.next_state(effect.round)
        done = rounds.Applied(round=effect.round, state=state)
        now, phases = self.world.clock.now, self.world.tally.phases
        at = self.world.scheme.combined(effect.round, effect.receipts, now)
        phases["cut"].append(now - self.opened_at)
        phases["combined"].append(at - now)
        self.world.clock.at(at, lambda: self.tell(done))

    # ------------------------------------------------------------------ the log

    def _log(self, entries: tuple[Entry, ...]) -> None:
        world = self.world
        amount = sum(self._bytes(entry) for entry in entries)
        world.tally.log_bytes += amount
        seconds = CERTIFY_S + CERTIFY_ENTRY_S * len(entries)
        signed_at = world.scheme.certified(world.clock.now, amount, seconds)
        world.clock.at(signed_at, lambda: self._certified(entries, amount))

    def _bytes(self, entry: Entry) -> int:
        """Length of an entry; an open that is longer than the ledger takes is only counted."""
        if isinstance(entry, Receipt) and entry.type in self._entry_bytes:
            return self._entry_bytes[entry.type]
        length = len(codec.encode(entry.to_json())) + FRAMING
        if isinstance(entry, Receipt):
            self._entry_bytes[entry.type] = length
        if isinstance(entry, Open):
            self.world.tally.open_bytes = max(self.world.tally.open_bytes, length - FRAMING)
        return length

    def _certified(self, entries: tuple[Entry, ...], amount: int) -> None:
        world, now = self.world, self.world.clock.now
        world.extend(entries)
        if any(isinstance(entry, Settle) for entry in entries):
            world.tally.round(now - self._settled_at, world.log.settled[-1].receipts)
            self._settled_at = now
        live = world.live()
        if world.log.open is not None:
            roster = {seat.account: world.members[seat.account].person for seat in world.log.open.roster}
            world.scheme.opened(roster, len(live))
            self.opened_at = now
        view = world.view
        times = world.scheme.news(now, amount, [member.person for member in live])
        for member, time in zip(live, times, strict=True):
            member.after(time - now, lambda member=member: member.learn(view))  # type: ignore[misc]
        self.tell(rounds.Logged(balance=0))
