"""Thirty-two volunteers with a run of four stages, who come and go: how much of what could be done is done.

IO: none; every run follows from its seed.
"""

from __future__ import annotations

from functools import cache

import pytest

from scripts.simulation.pipeline import run
from scripts.simulation.pipeline_figures import Figures, told
from scripts.simulation.pipeline_settings import PipelineSettings

SHORT = (1, 4)
LONG = range(1, 13)


@cache
def figures(seed: int, hours: float) -> Figures:
    """Of one run."""
    found = run(PipelineSettings(seed=seed, hours=hours))
    print(told(found))
    return found


def check(found: Figures) -> None:
    """What is promised."""
    assert found.share >= 0.95, told(found)
    assert found.most_moves <= 1, told(found)
    assert found.reports["void"] == 0, told(found)


@pytest.mark.parametrize("seed", SHORT)
def test_the_stage_that_bounds_the_run_is_kept_busy_though_peers_die(seed: int) -> None:
    found = figures(seed, 0.2)
    assert found.ends > 0
    check(found)


def test_who_stays_away_costs_more_than_routing_but_most_of_the_work_counts() -> None:
    assert all(figures(seed, 0.2).whole_share >= 0.75 for seed in SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("seed", LONG)
def test_the_same_for_hours_with_joiners_and_moves(seed: int) -> None:
    found = figures(seed, 3.0)
    check(found)
    assert found.whole_share >= 0.75, told(found)
    assert found.balance >= 0.7, told(found)
