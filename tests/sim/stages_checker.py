"""What an observer who sees everything of a simulated run with stages knows, and what must hold of it.

Of every status: what it claims is so. Of every signed end of a round: what drivers that nothing happened to took
through all stages counts. Of all that is certified: the ledger's own rules accept it; every update holds exactly what
its receipt says, each microbatch once, in all stages the same; every stage's state is what comes of the receipts in
their order. Of moves: a stage keeps its replicas, and moves are rare.

Pure: changes nothing that it looks at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from ledger.entries import Close, Entry, StageOpen, StageReceipt, StageSettle
from ledger.fold.fold import conservation
from peer.errors import RoundError
from peer.rounds.messages import Report
from peer.stages.messages import Status
from peer.stages.placement import INTERVAL_S
from tests.sim.stages_worker import applied, first_state, norm_of

if TYPE_CHECKING:
    from tests.sim.stages_leader import SimLeader
    from tests.sim.stages_node import StageNode
    from tests.sim.stages_world import World


class Checker:
    """Of one run. Every broken rule raises AssertionError."""

    def __init__(self, world: World) -> None:
        self.updates: dict[str, tuple[int, int, str, frozenset[int]]] = {}
        """By id: stage, round, the state that it started from, and what is inside."""
        self.came_from: dict[str, str] = {}
        """By state of a stage: the one before it."""
        self.states = {0: tuple(first_state(stage) for stage in range(world.settings.stages))}
        """By round, as it must be."""
        self.opened = 0
        """Microbatches of all rounds that were opened."""
        self.counted = 0
        self.void = 0
        """Rounds of which nothing counted."""
        self.closed_s = 0.0
        self._world = world
        self._signed_at: dict[str, float] = {}
        """By id of the run's state: when the round that starts from it was opened first."""
        self._moved_at: dict[tuple[str, object], float] = {}
        """By leader and life, and member or "": when it moved last, or anybody did."""
        self._dropped_at: dict[tuple[str, str], float] = {}
        """By leader and life, and member: when it fell silent last."""

    # ------------------------------------------------------------------ members

    def said(self, node: StageNode, status: Status) -> None:
        """What a member claims is so."""
        held, machine, log = node.worker.held, node.machine, node.log
        place = f"{node.name[:8]} in round {status.round}"
        if status.state:
            assert held is not None, f"{place} says it holds a state, and holds none"
            number = min(held[0], log.round)
            wanted = log.states_after(number)[held[1]]
            assert held[1] == status.stage, f"{place} says it holds stage {status.stage}, and holds {held[1]}"
            ahead = held[0] == log.round + 1 and self.came_from.get(held[2]) == wanted
            assert held[2] == wanted or ahead, f"{place} says it holds a state of the log, and holds another"
            assert log.state_after(number) == status.state, f"{place} says it holds another round's state"
        if status.applied:
            assert held is not None, f"{place} says it took a step, and holds nothing"
            assert held[2] == status.applied, f"{place} says that another state came of its step"
        if status.receipt is not None:
            assert status.receipt.update in node.disk.updates, f"{place} does not have the update it signed for"
        inside = node.worker.accumulator.inside if node.worker.accumulator is not None else Counter[int]()
        if machine.work is not None and machine.work.begun and not machine.holding.ahead:
            known = {
                one for one in machine.work.held if not node.worker.waiting[one]
            }  # else it will be, before a write
            assert known <= set(inside), f"{place} takes {known - set(inside)} to be in its accumulator"

    def refused(self, leader: SimLeader, status: Status, reason: RoundError) -> None:
        """Nobody lies here: only who speaks of another round of the same number, which gave way, is not believed."""
        same = self._world.nodes[status.account].log.open == leader.log.open
        assert not same, f"{leader.name[:8]} refused what {status.account[:8]} says: {reason}"
        self._world.reports["spoke of another round"] += 1

    # ------------------------------------------------------------------ leaders

    def reported(self, leader: SimLeader, report: Report) -> None:
        """A leader tells of a move: nobody leaves a stage with too few, and moves are rare."""
        machine, now, name = leader.machine, self._world.clock.now, f"{leader.name}/{leader.disk.lives}"
        if report.event == "dropped":
            self._dropped_at[name, cast(str, report.fields["account"])] = now
        if report.event != "moved":
            return
        living = [one.account for one in machine.roll.alive()]
        served = Counter(machine.placement.stage_of(account) for account in living)
        account, before, stage = (report.fields[name] for name in ("account", "before", "stage"))
        least = self._world.plan.least
        assert served[cast(int, before)] >= least(cast(int, before)), f"a move leaves stage {before} with too few"
        short = served[cast(int, stage)] <= least(cast(int, stage))
        for last in (self._moved_at.get((name, account)), None if short else self._moved_at.get((name, ""))):
            assert last is None or now >= last + INTERVAL_S, "two moves in one interval"
        self._moved_at[name, account] = self._moved_at[name, ""] = now

    def signed(self, leader: SimLeader, entries: Sequence[Entry]) -> None:
        """A leader signs the end of a round: nothing is lost that a driver took through all stages in peace."""
        opened = leader.log.open
        for entry in entries:
            if isinstance(entry, StageOpen):
                self._signed_at.setdefault(entry.state, self._world.clock.now)
        receipts = [entry for entry in entries if isinstance(entry, StageReceipt)]
        if opened is None or not receipts:
            return
        counted = {bit for receipt in receipts if receipt.stage == 0 for bit in bits_of(receipt)}
        for seat in opened.roster:
            node = self._world.nodes[seat.account]
            driver = node.machine.driver
            if leader.lost_patience(seat.account) and self._world.settings.loss:
                continue  # so much was lost on its lines that it had not halted in time
            if driver is not None and driver.open == opened and self._undisturbed(node, leader, opened.state):
                lost = set(driver.table) - counted
                assert not lost, f"round {opened.round}: {lost} went through all stages and does not count"

    def _undisturbed(self, node: StageNode, leader: SimLeader, state: str) -> bool:
        """Whether nothing happened to a driver since the round was opened, and it halted for what is signed."""
        name, since, driver = f"{leader.name}/{leader.disk.lives}", self._signed_at[state], node.machine.driver
        disturbed = (
            node.undisturbed_since,
            self._world.net.cut_off.get(node.name, 0.0),
            self._dropped_at.get((name, node.name), 0.0),
        )
        heard = node.alive and leader.heard_in_time(node.name)
        return heard and max(disturbed) < since and driver is not None and driver.attempt == leader.attempt

    # ------------------------------------------------------------------ what is certified

    def certified(self, entries: Sequence[Entry]) -> None:
        """A quorum of witnesses cosigned these entries, which the world's log has by now."""
        ledger = self._world.fold.ledger()
        assert not ledger.invalid, f"the ledger refuses {ledger.invalid[0]}"
        assert not ledger.voids, f"void: {ledger.voids[0]}"
        assert not ledger.pendings, f"pending: {ledger.pendings[0]}"
        assert conservation(ledger), "credits are not conserved"
        receipts: list[StageReceipt] = []
        for entry in entries:
            match entry:
                case StageOpen():
                    self.opened += entry.slots.count // self._world.plan.microbatch
                case StageReceipt():
                    receipts.append(entry)
                case StageSettle():
                    self._settled(entry, receipts)
                    receipts = []
                case Close():
                    self.closed_s = self._world.clock.now

    def _settled(self, entry: StageSettle, receipts: Sequence[StageReceipt]) -> None:
        place, stages = f"round {entry.round}", self._world.plan.stages
        served = [Counter[int]() for _ in range(stages)]
        for receipt in receipts:
            stage, number, state, inside = self.updates[receipt.update]
            told = (receipt.stage, receipt.round, receipt.state_in)
            assert (stage, number, state) == told, f"{place}: an update of another round or stage counts"
            assert inside == bits_of(receipt), f"{place}: a receipt says something else than what is inside"
            assert self._there(receipt.update), f"{place}: an update counts that nobody has"
            served[stage].update(inside)
        assert all(one == served[0] for one in served), f"{place}: stages served different sets"
        assert set(served[0].values()) <= {1}, f"{place}: counted twice"
        norms = [norm_of(stage, receipts) for stage in range(stages)]
        before = self.states[entry.round - 1]
        after = tuple(applied(state, stage, receipts, norms) for stage, state in enumerate(before))
        assert entry.states == after, f"{place}: a stage's state is not what comes of the receipts"
        self.states[entry.round] = after
        self.counted += len(served[0])
        self.void += not receipts

    def _there(self, update: str) -> bool:
        """Whether it is on somebody's disk."""
        disks = [node.disk.updates for node in self._world.nodes.values()]
        return any(update in updates for updates in (*disks, *(disk.updates for disk in self._world.disks.values())))

    # ------------------------------------------------------------------ the end

    def final(self, node: StageNode) -> bool:
        """Whether this peer says that it is through; then it holds its stage's final state."""
        if not (node.alive and node.machine.finished):
            return False
        held, last = node.worker.held, max(self.states)
        assert held is not None, f"{node.name[:8]} says that it holds the final state, and holds nothing"
        assert held[2] == self.states[last][held[1]], f"{node.name[:8]} holds another state than the final one"
        return True


def bits_of(receipt: StageReceipt) -> frozenset[int]:
    """The microbatches that a receipt names."""
    return frozenset(bit for bit in range(receipt.bits.bit_length()) if receipt.bits >> bit & 1)
