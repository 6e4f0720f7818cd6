"""Replicas that meet loss, partitions, kills and liars agree in the end; scripts/long/seeds.py plays more.

IO: SQLite files in a test's folder.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.sim.ledger_replicas_liars import LIES
from tests.sim.ledger_replicas_stores import run

SEEDS = range(80)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Counter[str], list[str]]:
    """What happened, and what went wrong where it did."""
    folder, happened, broken = tmp_path_factory.mktemp("replicas"), Counter[str](), []
    for seed in SEEDS:
        try:
            happened.update(run(seed, folder))
        except AssertionError as exc:
            broken.append(f"seed {seed}: {str(exc)[:300]}")
    return happened, broken


def test_connected_honest_replicas_agree_and_nothing_unproven_is_stored(
    outcomes: tuple[Counter[str], list[str]],
) -> None:
    _, broken = outcomes
    assert broken == [], f"{len(broken)} of {len(SEEDS)} seeds; play one with ledger_replicas_stores.run(seed, folder)"


def test_the_seeds_reach_the_places_that_matter(outcomes: tuple[Counter[str], list[str]]) -> None:
    happened, _ = outcomes
    wanted = {*LIES, "killed", "parted", "blamed", "refused"}
    assert wanted <= set(happened), f"never reached: {wanted - set(happened)}"
