"""Faults planted in the machines of a run with stages: the simulation finds every one of them.

IO: none; every run follows from its seed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import replace

import pytest

from tests.sim import stages_planted as planted
from tests.sim.stages_planted import Plant
from tests.sim.stages_settings import Settings
from tests.sim.stages_world import run

SEEDS = range(40)
LEDGER, SETS, STATE = "the ledger refuses .*served", "stages served different sets", "state is not what comes of"
CLAIM = "takes .* to be in its accumulator"
STORM = {
    "leaders": 2, "usurpers": 6, "hazard": 0.06, "stages": 2, "replicas": 2, "spares": 3, "loss": 0.02, "rounds": 4,
    "heal_s": 50.0,
}  # fmt: skip
"""Two leaders for long, and members enough for both."""
TAILS = {
    "leaders": 2, "usurpers": 3, "outages": 3, "certify_s": 2.0, "hazard": 0.06, "leader_kills": 2,
    "max_uncertified": 2,
}  # fmt: skip
"""Much that is signed gives way."""
LATE = {"loss": 0.1, "repeat": 0.2, "delay_s": 0.1}
LOSSY = {
    "loss": 0.35, "kills": 12, "hazard": 0.0, "heal_s": 50.0, "time_budget_s": 4.0, "leaders": 1, "usurpers": 0,
    "repeat": 0.0, "delay_s": 0.005, "stages": 2, "replicas": 2,
}  # fmt: skip
"""Drivers do not halt in time, and replicas are killed."""
SLOW = {"pace": 40.0, "replicas": 2, "spares": 0, "joiners": 0, "kills": 5, "heal_s": 2000.0, "rounds": 4}

FAULTS: tuple[tuple[Plant, str, dict[str, object], Iterable[int]], ...] = (
    (planted.settles_what_some_stages_lack, LEDGER, {}, SEEDS),
    (planted.counts_overlapping_manifests, f"{SETS}|counted twice", {}, SEEDS),
    (planted.skips_an_undo, "wrote .* was wanted", {}, SEEDS),
    (planted.keeps_the_undone_in_its_manifest, f"undone but not there|{CLAIM}", {}, SEEDS),
    (planted.trusts_an_undo_that_broke, "wrote .* was wanted", {"breaks": 0.3}, SEEDS),
    (planted.counts_what_a_dead_driver_drove, LEDGER, {}, range(20, 60)),
    (planted.serves_another_rounds_passes, "asked of another round", LATE, SEEDS),
    (planted.does_a_repeated_call_again, "counted twice|undone but not there", {}, SEEDS),
    (planted.sums_in_another_order, STATE, {}, SEEDS),
    (planted.takes_a_receipt_of_another_attempt, LEDGER, {}, SEEDS),
    (planted.trains_on_what_gave_way, "begun from another state|holds another", STORM, range(10, 50)),
    (planted.claims_what_it_lost, CLAIM, {}, SEEDS),
    (planted.claims_what_its_worker_lost, f"{CLAIM}|before the round was begun", {}, SEEDS),
    (planted.leaves_a_norm_out, STATE, {}, SEEDS),
    (planted.mixes_two_leaders_cuts, STATE, STORM, range(20, 60)),
    (planted.moves_away_from_a_stage_with_too_few, "a move leaves stage . with too few", SLOW, SEEDS),
    (planted.moves_again_and_again, "two moves in one interval", {}, SEEDS),
    (planted.loses_a_microbatch, "went through all stages and does not count", {}, SEEDS),
    (planted.replays_from_another_record, "stage . got", {}, SEEDS),
    (planted.tells_a_receipt_of_a_round_that_gave_way, "refused what", TAILS, range(15, 55)),
    (planted.asks_for_ever_for_what_nobody_can_replay, "not over in time", LOSSY, range(105, 145)),
)
"""What is planted, what finds it, circumstances in which it shows, and seeds to look in."""


def broken(seeds: Iterable[int], changes: dict[str, object]) -> Iterable[str]:
    """Which rules are broken in these seeds, one after the other."""
    for seed in seeds:
        settings = replace(Settings.draw(random.Random(f"planted/{seed}")), **changes)  # type: ignore[arg-type]
        try:
            run(seed, settings)
        except AssertionError as exc:
            yield str(exc)


@pytest.mark.parametrize(("plant", "wanted", "changes", "seeds"), FAULTS, ids=lambda one: getattr(one, "__name__", ""))
def test_a_planted_fault_is_found(
    plant: Plant, wanted: str, changes: dict[str, object], seeds: Iterable[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert any(re.search(wanted, told, re.DOTALL) for told in broken(seeds, changes)), f"nothing found: {plant.__doc__}"


def test_without_a_fault_nothing_is_found() -> None:
    for changes in ({}, STORM, TAILS, LATE, LOSSY, SLOW):
        assert list(broken(range(3), changes)) == []
