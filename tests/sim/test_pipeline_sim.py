"""Thirty-two volunteers with a run of four stages, who come and go: how much of what could be done is done.

IO: none; every run follows from its seed.
"""

from __future__ import annotations

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


def test_of_what_could_be_done_while_driving_95_percent_is_though_peers_die() -> None:
    found = [figures(seed, ROUND_H) for seed in SEEDS]
    lines = "\n".join(map(told, found))
    assert sum(one.ends for one in found) > 5, lines
    assert mean(min(one.share, 1.0) for one in found) >= 0.95, lines
    assert min(one.share for one in found) >= 0.93, lines
    assert min(one.whole_share for one in found) >= 0.7, lines
    assert max(one.most_moves for one in found) <= 1, lines


@pytest.mark.slow
def test_in_an_hour_with_joiners_and_moves_most_of_it_is() -> None:
    found = [figures(seed, 1.0) for seed in SEEDS[:3]]
    lines = "\n".join(map(told, found))
    assert sum(one.ends for one in found) > 20, lines
    assert mean(min(one.share, 1.0) for one in found) >= 0.9, lines
    assert max(one.most_moves for one in found) <= 1, lines
