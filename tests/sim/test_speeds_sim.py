"""Machines of unequal speed, and one that flaps: who gets how much of the work, and how much of their time is used.

IO: none; every run follows from its seed.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest

from ledger.entries import Open
from peer.rounds.speed import Speeds
from tests.sim.node import Traits
from tests.sim.settings import Settings
from tests.sim.world import World, play

SPEEDS = (1.0, 1.0, 2.0, 4.0)
SEEDS = range(6)
LEARNT = 4
"""After so many rounds the leader knows its members."""


def calm(rounds: int, **changes: object) -> Settings:
    """Four machines with speeds 1:1:2:4 on good lines and rounds of a minute; nobody breaks anything."""
    drawn = Settings.draw(random.Random(0))
    quiet = replace(
        drawn, peers=4, joiners=0, hostile=0, min_members=2, max_members=4, rounds=rounds, batch_size=4,
        inner_steps=40, budget_share=1.0, evaluate_every=0, max_tokens=0, target_loss=0, patience=0,
        time_budget_s=240.0, heal_s=5000.0, flaps=0, kills=0, leader_kills=0, everyone_killed=False, cuts=0,
        cancel=False, hazard=0.0, training_breaks=0.0, bit_flips=0.0, delay_s=0.02, loss=0.0, repeat=0.0, outages=0,
        speeds=SPEEDS, swing=(0.95, 1.05),
    )  # fmt: skip
    return replace(quiet, **changes)  # type: ignore[arg-type]


@cache
def played(seed: int) -> World:
    """A run of 30 rounds, to its end."""
    world = World(seed, calm(30))
    play(world)
    return world


def slots_of(world: World, rounds: slice) -> Counter[str]:
    """Slots settled by account."""
    trained: Counter[str] = Counter()
    for done in world.leader.log.settled[rounds]:
        trained.update({receipt.account: receipt.slots.count for receipt in done.receipts})
    return trained


@pytest.mark.parametrize("seed", SEEDS)
def test_every_machine_contributes_in_every_round_however_slow_it_is(seed: int) -> None:
    world = played(seed)
    assert {len(done.receipts) for done in world.leader.log.settled[LEARNT:]} == {4}
    assert world.reports.get("late", 0) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_the_shares_of_the_work_are_those_of_the_speeds(seed: int) -> None:
    world = played(seed)
    trained = slots_of(world, slice(LEARNT, None))
    total = sum(trained.values())
    for name, node in world.nodes.items():
        fair = 1 / node.traits.slot_s / sum(1 / other.traits.slot_s for other in world.nodes.values())
        assert trained[name] / total == pytest.approx(fair, rel=0.12)


def used(world: World) -> float:
    """Share of the machines' summed throughput that went into settled receipts, once the leader knew its members."""
    seconds = world.settled_at[-1] - world.settled_at[LEARNT - 1]
    possible = sum(seconds / node.traits.slot_s for node in world.nodes.values())
    return sum(slots_of(world, slice(LEARNT, None)).values()) / possible


@pytest.mark.parametrize("seed", SEEDS)
def test_nine_tenths_of_the_summed_throughput_are_used(seed: int) -> None:
    assert used(played(seed)) >= 0.9


def test_with_equal_quotas_the_slow_would_hold_up_the_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Speeds, "quotas", lambda self, accounts: [160] * len(accounts))
    world = World(0, calm(12))
    play(world)
    assert used(world) < 0.55


@pytest.mark.parametrize("seed", SEEDS)
def test_quotas_settle_and_do_not_swing(seed: int) -> None:
    world = played(seed)
    quotas: dict[str, list[int]] = {}
    for entry in world.truth:
        for seat in entry.roster if isinstance(entry, Open) else ():
            quotas.setdefault(seat.account, []).append(seat.quota)
    for given in quotas.values():
        assert all(abs(one - other) <= 0.15 * one for one, other in pairwise(given[2 * LEARNT :]))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_machine_a_hundred_times_slower_contributes_and_costs_the_others_little(seed: int) -> None:
    world = World(seed, calm(60, speeds=(1.0, 100.0, 100.0, 100.0), time_budget_s=6000.0, heal_s=50_000.0))
    play(world)
    assert min(slots_of(world, slice(LEARNT, None)).values()) > 0
    assert len(slots_of(world, slice(LEARNT, None))) == 4
    assert used(world) >= 0.8


@pytest.mark.parametrize("seed", SEEDS)
def test_a_machine_that_gets_the_state_late_is_known_as_quick_and_holds_up_nobody(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Settings.traits

    def last_one_late(settings: Settings, rng: random.Random, place: int) -> Traits:
        traits = drawn(settings, rng, place)
        return replace(traits, apply_s=80.0) if place == 3 else traits

    monkeypatch.setattr(Settings, "traits", last_one_late)
    world = World(seed, calm(30, speeds=(1.0, 1.0, 1.0, 1.0)))
    play(world)
    far = max(world.nodes.values(), key=lambda node: node.traits.apply_s)
    assert world.leader.leader is not None
    machine = world.leader.leader.machine
    assert machine is not None
    known = machine.speeds._known[far.name]
    assert known.speed * far.traits.slot_s == pytest.approx(1.0, rel=0.15)
    assert known.overhead_s == pytest.approx(80.0, rel=0.1)
    trained = slots_of(world, slice(2 * LEARNT, None))
    others = [count for name, count in trained.items() if name != far.name]
    assert 0.5 < trained[far.name] / min(others) < 0.75, "240 s a round, of which it has 160"
    assert world.reports.get("late", 0) == 0


def rostered(world: World, name: str) -> list[int]:
    """The rounds on whose roster a peer was."""
    opens = [entry for entry in world.truth if isinstance(entry, Open)]
    return [entry.round for entry in opens if name in {seat.account for seat in entry.roster}]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_machine_that_flaps_is_rostered_ever_less_often_and_nobody_waits_for_it(seed: int) -> None:
    world = World(seed, calm(60, flaps=1000, time_budget_s=8.0, speeds=(1.0, 1.0, 1.0, 1.0)))
    outcome = play(world)
    assert outcome.rounds == 60
    assert min(len(done.receipts) for done in world.leader.log.settled[1:]) == 3
    named = rostered(world, world.faults.flapper)
    gaps = [later - earlier for earlier, later in pairwise(named)]
    assert max(gaps) > 8
    assert len(named) <= 20
    assert outcome.reports["benched"] >= 3


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_that_needs_the_flapping_machine_takes_it(seed: int) -> None:
    settings = calm(20, peers=3, max_members=3, min_members=3, flaps=8, time_budget_s=8.0, speeds=(1.0, 1.0, 1.0))
    world = World(seed, settings)
    outcome = play(world)
    assert outcome.rounds == 20
    assert outcome.reports["benched"] >= 1
    assert rostered(world, world.faults.flapper) == list(range(1, 21))
