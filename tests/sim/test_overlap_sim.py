"""Runs in which members train the next round while this one is being settled: kills, loss, lies, unequal machines.

The world checks what it always checks, and of every settled update that its training began where the log says.

IO: none; every run follows from its seed.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest

from tests.sim.settings import Settings
from tests.sim.test_speeds_sim import LEARNT, calm, slots_of, used
from tests.sim.world import Outcome, World, play

SEEDS = range(60)


@cache
def outcomes() -> tuple[list[Outcome], list[str]]:
    """How the runs ended, and what went wrong in those that did not."""
    ended, broken = [], []
    for seed in SEEDS:
        try:
            ended.append(play(World(seed, replace(Settings.draw(random.Random(seed)), overlap=True))))
        except AssertionError as exc:
            broken.append(f"seed {seed}: {exc}")
    return ended, broken


def test_every_run_with_overlap_ends_in_time_with_one_state_everywhere() -> None:
    _, broken = outcomes()
    assert broken == [], f"{len(broken)} of {len(SEEDS)} seeds"


def test_the_seeds_reach_work_that_counts_and_work_that_is_thrown_away() -> None:
    reached: Counter[str] = Counter()
    for outcome in outcomes()[0]:
        reached.update(outcome.reports)
    wanted = {"trained ahead", "finished", "thrown away", "killed when trained ahead", "killed when applied", "late"}
    assert wanted <= set(reached), f"never reached: {wanted - set(reached)}"
    assert reached["finished"] > reached["thrown away"]


@cache
def far_apart(seed: int, *, overlap: bool = False, tells_cuts: bool = False) -> World:
    """Equal machines whose rounds of 4 s are settled over slow lines."""
    speeds = (1.0, 1.0, 1.0, 1.0)
    settings = calm(20, time_budget_s=4.0, speeds=speeds, delay_s=0.3, overlap=overlap, tells_cuts=tells_cuts)
    world = World(seed, settings)
    play(world)
    return world


@pytest.mark.parametrize("seed", range(3))
def test_with_overlap_nobody_waits_for_the_settlement(seed: int) -> None:
    without, overlapped = (used(far_apart(seed, overlap=overlap)) for overlap in (False, True))
    assert overlapped > 1.15 * without


@pytest.mark.parametrize("seed", range(3))
def test_without_overlap_members_wait_less_where_they_are_told_what_a_round_is_cut_with(seed: int) -> None:
    assert used(far_apart(seed, tells_cuts=True)) > used(far_apart(seed))


@pytest.mark.parametrize("seed", range(3))
def test_unequal_machines_keep_their_shares_of_the_work(seed: int) -> None:
    world = World(seed, calm(30, overlap=True))
    play(world)
    assert {len(done.receipts) for done in world.leader.log.settled[LEARNT:]} == {4}
    assert used(world) >= 0.8
    trained = slots_of(world, slice(LEARNT, None))
    for name, node in world.nodes.items():
        fair = 1 / node.traits.slot_s / sum(1 / other.traits.slot_s for other in world.nodes.values())
        assert trained[name] / sum(trained.values()) == pytest.approx(fair, rel=0.25)
