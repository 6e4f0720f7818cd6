"""Thirty-two volunteers with a run of four stages, who come and go: how much of what could be done is done.

IO: none; every run follows from its seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from statistics import mean

import pytest

from scripts.simulation.pipeline import run
from scripts.simulation.pipeline_figures import Figures, told
from scripts.simulation.pipeline_settings import PipelineSettings

SEEDS = (1, 2, 3, 4)
ROUND_H = 0.2
"""So the first round is all there is: no more fits into the tests of every day."""


@cache
def figures(seed: int, hours: float) -> Figures:
    """Of one run."""
    found = run(PipelineSettings(seed=seed, hours=hours))
    print(told(found))
    return found


def check(found: Sequence[Figures]) -> None:
    """What is promised: of what could be done 95 % is, on average, and nobody moves twice within five minutes."""
    lines = "\n".join(map(told, found))
    assert mean(min(one.share, 1.0) for one in found) >= 0.95, lines
    assert min(one.share for one in found) >= 0.9, lines
    assert max(one.most_moves for one in found) <= 1, lines
    assert min(one.whole_share for one in found) >= 0.7, lines
    assert sum(one.reports["void"] for one in found) == 0, lines


def test_the_stage_that_bounds_the_run_is_kept_busy_though_peers_die() -> None:
    found = [figures(seed, ROUND_H) for seed in SEEDS]
    assert sum(one.ends for one in found) > 5
    check(found)


@pytest.mark.slow
def test_the_same_for_hours_with_joiners_and_moves() -> None:
    found = [figures(seed, 2.0) for seed in range(1, 7)]
    assert sum(one.moves for one in found) > 5
    check(found)
