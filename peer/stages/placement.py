"""Which stage a peer serves: a joiner the least served one that it can hold; later moves are few and worth it.

A stage's capacity is what its replicas serve together, in microbatches a second, as measured; the stage with the least
bounds the run. What a peer would do in another stage follows from the stages' shares of the work. Moves are decided at
a round's edge only, one in an interval, when the least capacity grows by a good part, and never so that a stage keeps
fewer replicas than it should have. Where a stage has too few, that is mended first; then a peer still moves only once
in an interval.

Pure: time is an argument.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import median

from peer.rounds.messages import Report
from peer.stages.messages import Status
from peer.stages.plan import StagePlan

INTERVAL_S = 300.0
HYSTERESIS = 0.2
"""A move must make the least capacity greater by this part."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """A peer that is to serve another stage."""

    account: str
    before: int
    stage: int


@dataclass(kw_only=True)
class Peer:
    """What is known of one peer. Written only by `Placement`."""

    stage: int
    """The one that it is to serve."""
    memory_bytes: int
    since: float
    """When it came to be there."""
    microbatch_s: float = 0.0
    """What a microbatch takes it in that stage; 0: not known."""
    holds: bool = False
    """Whether it holds the stage's state."""


class Placement:
    """Who serves what. Written only by the leader's machine."""

    def __init__(self, plan: StagePlan) -> None:
        self._plan = plan
        self._peers: dict[str, Peer] = {}
        self._moved_at: float | None = None

    def stage_of(self, account: str) -> int | None:
        """The stage that a peer is to serve, if it has one."""
        return self._peers[account].stage if account in self._peers else None

    def seen(self, status: Status, *, now: float, living: Collection[str]) -> list[Report]:
        """A peer says what it serves and how fast it is; says where a newcomer is placed, or that nothing fits it.

        Whoever comes with a stage goes on with it; who has none is placed, given who else is `living`.
        """
        account, stage, memory_bytes = status.account, status.stage, status.memory_bytes
        fields: dict[str, object] = {"account": account}
        reports: list[Report] = []
        peer = self._peers.get(account)
        if peer is None:
            chosen = stage if 0 <= stage < self._plan.stages else self._place(memory_bytes, living)
            if chosen is None:
                least = min(self._plan.needs_bytes) / 1e9
                reason = f"gives {memory_bytes / 1e9:.1f} GB, the smallest stage needs {least:.1f} GB"
                return [Report(event="unfit", fields={**fields, "reason": reason})]
            peer = self._peers[account] = Peer(stage=chosen, memory_bytes=memory_bytes, since=now)
            reports.append(Report(event="placed", fields={**fields, "stage": chosen}))
        peer.memory_bytes, peer.holds = memory_bytes, bool(status.state) and stage == peer.stage
        if peer.holds and status.microbatch_s > 0:
            peer.microbatch_s = status.microbatch_s
        return reports

    def edge(self, living: Collection[str], now: float) -> Move | None:
        """At a round's edge: the move to make, if any is worth it."""
        counts = self._counts(living)
        short = [stage for stage, count in enumerate(counts) if count < self._plan.least(stage)]
        if not short and self._moved_at is not None and now < self._moved_at + INTERVAL_S:
            return None
        old = self._capacities(living, {})
        target = min(short, key=lambda stage: counts[stage]) if short else min(range(len(old)), key=old.__getitem__)
        best: tuple[float, str] | None = None
        for account in living:
            peer = self._peers.get(account)
            if peer is None or not self._may_move(peer, target, counts, now):
                continue
            least = min(self._capacities(living, {account: target}))
            if best is None or least > best[0]:
                best = least, account
        if best is None or not (short or best[0] >= (1 + HYSTERESIS) * min(old)):
            return None
        return self._move(best[1], target, now)

    def missing(self, counts: Mapping[int, int]) -> str:
        """What a round lacks with so many replicas of each stage, for people; empty if nothing."""
        said = []
        for stage, needs in enumerate(self._plan.needs_bytes):
            count = counts.get(stage, 0)
            if count < self._plan.least(stage):
                has = f"{count} of {self._plan.least(stage)} replicas" if count else "no replica"
                said.append(f"stage {stage} has {has}: needs a peer with >= {needs / 1e9:.1f} GB")
        return "; ".join(said)

    # ------------------------------------------------------------------ parts

    def _place(self, memory_bytes: int, living: Collection[str]) -> int | None:
        counts, capacities = self._counts(living), self._capacities(living, {})
        fits = [stage for stage, needs in enumerate(self._plan.needs_bytes) if needs <= memory_bytes]
        short = [stage for stage in fits if counts[stage] < self._plan.least(stage)]
        if short:
            return min(short, key=lambda stage: (counts[stage], capacities[stage]))
        return min(fits, key=lambda stage: (capacities[stage], counts[stage]), default=None)

    def _may_move(self, peer: Peer, target: int, counts: list[int], now: float) -> bool:
        spare = counts[peer.stage] > self._plan.least(peer.stage)
        fits = peer.memory_bytes >= self._plan.needs_bytes[target]
        return peer.stage != target and peer.holds and spare and fits and now >= peer.since + INTERVAL_S

    def _move(self, account: str, stage: int, now: float) -> Move:
        peer, shares = self._peers[account], self._plan.shares
        move = Move(account=account, before=peer.stage, stage=stage)
        peer.microbatch_s *= shares[stage] / shares[peer.stage]
        peer.stage, peer.since, peer.holds = stage, now, False
        self._moved_at = now
        return move

    def _counts(self, living: Collection[str]) -> list[int]:
        counts = [0] * self._plan.stages
        for account in living:
            if account in self._peers:
                counts[self._peers[account].stage] += 1
        return counts

    def _capacities(self, living: Collection[str], moved: Mapping[str, int]) -> list[float]:
        """Microbatches a second by stage, once these have moved; who was not measured is taken to be a usual peer."""
        shares = self._plan.shares
        known = [shares[peer.stage] / peer.microbatch_s for peer in self._peers.values() if peer.microbatch_s]
        usual = median(known) if known else 1.0
        capacities = [0.0] * self._plan.stages
        for account in living:
            if account in self._peers:
                peer = self._peers[account]
                work = shares[peer.stage] / peer.microbatch_s if peer.microbatch_s else usual
                stage = moved.get(account, peer.stage)
                capacities[stage] += work / shares[stage]
        return capacities
