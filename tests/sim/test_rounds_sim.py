"""Hundreds of runs with kills, restarts, loss and lies; `tests.sim.world.run` plays thousands elsewhere.

IO: none; every run follows from its seed.
"""

from __future__ import annotations

from collections import Counter
from functools import cache

from tests.sim.played import played
from tests.sim.world import Outcome, run

SEEDS = range(400)


@cache
def outcomes() -> tuple[list[Outcome], list[str]]:
    """How the runs ended, and what went wrong in those that did not."""
    return played(run, SEEDS)


def test_every_run_ends_in_time_with_a_log_that_the_ledger_accepts_and_one_state_everywhere() -> None:
    _, broken = outcomes()
    assert broken == [], f"{len(broken)} of {len(SEEDS)} seeds; play one with tests.sim.world.run(seed)"


def test_the_seeds_reach_the_places_that_matter() -> None:
    ended, _ = outcomes()
    reached: Counter[str] = Counter()
    for outcome in ended:
        reached.update(outcome.reports)
        reached[outcome.reason] += 1
        reached["leader killed"] += outcome.leader_kills > 0
        reached["empty round"] += outcome.empty_rounds > 0
    wanted = {
        "all rounds settled", "budget spent", "cancelled", "leader killed", "empty round",
        "joined", "dropped", "rejoined", "refused", "waiting", "late", "benched", "evaluated",
        "max_tokens reached", "target_loss reached", "no better held-out loss in 2 evaluations",
        "killed when trained", "killed when promised", "killed when checking", "killed when applied",
        "killed when appended", "killed when certified", "held back", "usurped", "tail lost",
        "guessed right", "guessed wrong",
    }  # fmt: skip
    assert wanted <= set(reached), f"never reached: {wanted - set(reached)}"


def test_in_calm_weather_every_round_settles_enough_receipts() -> None:
    ended, _ = outcomes()
    calm = [outcome for outcome in ended if outcome.calm]
    assert len(calm) > 10
    assert [outcome.seed for outcome in calm if outcome.fewest < outcome.min_members] == []


def test_the_same_seed_gives_the_same_run() -> None:
    assert run(7) == run(7)
