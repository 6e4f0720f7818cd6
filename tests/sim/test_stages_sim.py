"""Hundreds of runs with stages, with kills, restarts, loss and other leaders; thousands are played elsewhere.

IO: none; every run follows from its seed.
"""

from __future__ import annotations

from collections import Counter
from functools import cache

from tests.sim.played import played
from tests.sim.stages_world import Outcome, run

SEEDS = range(300)


@cache
def outcomes() -> tuple[list[Outcome], list[str]]:
    """How the runs ended, and what went wrong in those that did not."""
    return played(run, SEEDS)


def test_no_microbatch_of_any_stage_is_lost_or_counts_twice_and_every_run_ends_in_time() -> None:
    _, broken = outcomes()
    assert broken == [], f"{len(broken)} of {len(SEEDS)} seeds; play one with tests.sim.stages_world.run(seed)"


def test_the_seeds_reach_the_places_that_matter() -> None:
    ended, _ = outcomes()
    reached = sum((outcome.reports for outcome in ended), Counter[str]())
    wanted = {
        "placed", "joined", "dropped", "rejoined", "waiting", "void", "killed", "leader killed", "worker lost",
        "killed when served", "killed when wrote", "killed when checked", "killed when applied",
        "killed when signed", "killed when certified", "usurped", "tail lost",
        "held back", "moved", "undone", "replayed", "written again", "went back", "cut went on",
    }  # fmt: skip
    assert wanted <= set(reached), f"never reached: {wanted - set(reached)}"


def test_in_calm_weather_every_round_counts() -> None:
    ended, _ = outcomes()
    calm = [outcome for outcome in ended if outcome.calm]
    assert len(calm) > 10
    assert [outcome.seed for outcome in calm if outcome.void] == []


def test_the_same_seed_gives_the_same_run() -> None:
    assert run(7) == run(7)
