"""Whole simulated runs: repeatable, conserving, and right at the limits where the answer is known."""

import math
from dataclasses import replace
from typing import Any

import pytest

from scripts.simulation.settings import SCHEMES, Settings
from scripts.simulation.tally import Figures
from scripts.simulation.world import World, run

SMALL = Settings(peers=24, hours=1.5, group=8)
CALM = replace(SMALL, online_hours=math.inf)
FAST: dict[str, Any] = {
    **dict.fromkeys(["download_mbit", "upload_mbit", "leader_download_mbit", "leader_upload_mbit"], 1e7),
    **dict.fromkeys(["download_spread", "upload_spread", "tflops_spread"], 0.0),
    "latency_ms": 0.01,
    "cores": 10_000,
}
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)


@every_scheme
def test_a_seed_gives_the_same_figures_again_and_another_seed_others(scheme: str) -> None:
    settings = replace(SMALL, scheme=scheme)
    assert run(settings) == run(settings)
    assert run(settings) != run(replace(settings, seed=2))


@every_scheme
def test_with_endless_bandwidth_peers_train_all_the_time(scheme: str) -> None:
    found = run(replace(CALM, scheme=scheme, **FAST))
    assert found.utilisation > 0.98
    assert found.efficiency > 0.9  # the round under way at the end is not settled
    assert found.round_median_s < 1.02 * CALM.time_budget_s


@every_scheme
def test_without_churn_nobody_is_lost(scheme: str) -> None:
    found = run(replace(CALM, scheme=scheme))
    assert found.dropped_per_round == 0
    assert found.reducers_replaced == 0
    assert found.online == pytest.approx(24)
    assert found.rounds > 5


@every_scheme
def test_every_settled_slot_was_trained_once(scheme: str) -> None:
    world = World(replace(SMALL, scheme=scheme, crash_share=1.0, online_hours=0.5, offline_hours=0.5))
    world.clock.run(world.settings.hours * 3600, lambda: False)
    receipts = [receipt for done in world.log.settled for receipt in done.receipts]
    slots = [set(range(r.slots.start, r.slots.start + r.slots.count)) for r in receipts]
    assert sum(map(len, slots)) == len(set().union(*slots)) == world.tally.slots > 0
    assert world.tally.tokens == world.tally.slots * world.settings.tokens_per_slot
    assert world.tally.dropped > 0


@every_scheme
def test_what_is_sent_is_received(scheme: str) -> None:
    world = World(replace(SMALL, scheme=scheme))
    world.clock.run(world.settings.hours * 3600, lambda: False)
    assert sum(world.tally.up.values()) == pytest.approx(sum(world.tally.down.values()))
    assert world.tally.up["witnesses"] == 0
    assert world.tally.down["witnesses"] > 0


def test_slots_credited_twice_are_noticed() -> None:
    world = World(CALM)
    world.clock.run(1000, lambda: bool(world.log.settled))
    with pytest.raises(AssertionError, match="credited twice"):
        world.tally.round(1.0, world.log.settled[0].receipts)


def test_a_reducer_that_goes_away_is_replaced_and_the_run_goes_on() -> None:
    stormy = replace(SMALL, scheme="tree", online_hours=0.4, offline_hours=0.4, online_shape=1.0, hours=3.0, group=4)
    found = run(stormy)
    assert found.reducers_replaced > 0
    assert found.rounds > 10


def fetched(found: Figures) -> float:
    """Megabytes that a member fetches in a round."""
    return found.member_down_mb_per_hour / found.rounds_per_hour


def test_what_a_member_fetches_grows_with_the_members_unless_reducers_add_it_up() -> None:
    few, many = replace(CALM, peers=20), replace(CALM, peers=80)
    flat = fetched(run(replace(many, scheme="lean"))) / fetched(run(replace(few, scheme="lean")))
    grouped = fetched(run(replace(many, scheme="ranges"))) / fetched(run(replace(few, scheme="ranges")))
    assert flat == pytest.approx(4, rel=0.3)
    assert grouped < 3
    assert fetched(run(replace(many, scheme="ranges"))) < fetched(run(replace(many, scheme="lean")))


def test_the_leader_s_answers_to_heartbeats_grow_with_the_square_of_the_members_unless_relayed() -> None:
    few, many = replace(CALM, peers=10, hours=0.5), replace(CALM, peers=40, hours=0.5)
    assert run(many).beats_mbit / run(few).beats_mbit > 8
    assert run(replace(many, scheme="lean")).beats_mbit < run(few).beats_mbit


def test_a_leader_that_is_asked_more_than_its_line_gives_is_told_of() -> None:
    small = run(replace(CALM, hours=0.5))
    assert small.leader_load < 1
    assert run(replace(CALM, hours=0.5, leader_upload_mbit=0.01)).leader_load > 1


def test_ending_together_makes_rounds_shorter_where_lines_differ() -> None:
    own, together = (run(replace(CALM, peers=60, ends=ends)) for ends in ("own", "together"))
    assert together.round_median_s < own.round_median_s
    assert together.efficiency > 0.95 * own.efficiency, "quotas that know of late starts do nearly as much"


def test_a_round_in_which_nothing_counts_leaves_the_run_going() -> None:
    """Two peers that hardly ever stay for a whole round."""
    found = run(replace(SMALL, peers=2, hours=6.0, online_hours=0.05, offline_hours=0.05, online_shape=1.0))
    assert found.settled_per_round < 2
