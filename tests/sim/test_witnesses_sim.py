"""Hundreds of simulated networks of 4 and 7 witnesses; `scripts/long/seeds.py` plays thousands.

IO: none; every network follows from its seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

import pytest

from ledger.errors import Conflict, Frozen
from ledger.witness import Witness
from tests.sim.ledger_witnesses import World, run
from tests.sim.ledger_witnesses_nodes import WitnessNode
from tests.sim.ledger_witnesses_observer import Violation
from tests.sim.ledger_witnesses_parts import WITNESSES, Disk

SEEDS = range(300)


@cache
def played() -> tuple[Counter[str], list[str]]:
    """What happened how often, and what went wrong."""
    happened: Counter[str] = Counter()
    broken = []
    for seed in SEEDS:
        try:
            events = run(seed)
        except Violation as exc:
            broken.append(f"seed {seed}: {exc}")
        else:
            happened.update(events)
            happened.update(f"in some network: {name}" for name, count in events.items() if count)
    return happened, broken


def test_with_at_most_f_faulty_witnesses_nothing_forbidden_happens_and_all_comes_right_in_time() -> None:
    _, broken = played()
    assert broken == [], f"{len(broken)} of {len(SEEDS)} seeds; play one with tests.sim.ledger_witnesses.run(seed)"


def test_the_seeds_reach_the_places_that_matter() -> None:
    happened, _ = played()
    wanted = {
        "killed before a commit": 50, "killed after a commit": 50, "killed": 500, "accused on the spot": 100,
        "logs contradicted": 50, "certified": 3000, "cosigned": 5000, "refused FP-205": 50,
        "refused FP-211": 100, "refused FP-212": 100, "refused FP-213": 100, "refused FP-214": 100,
    }  # fmt: skip
    assert {name: happened[name] for name, least in wanted.items() if happened[name] < least} == {}


def test_the_same_seed_gives_the_same_network() -> None:
    assert run(3) == run(3)


# ---------------------------------------------------------------------- the observer notices what it must


class Careless(WitnessNode):
    """A witness that forgets its promise where it stands in the way: no compare-and-set."""

    def cosign(self, origin: str, start: int, entries: Sequence[bytes], note: bytes) -> bytes:
        """The cosignature, whatever was cosigned before."""
        try:
            return super().cosign(origin, start, entries, note)
        except (Conflict, Frozen):
            self.store = Disk(self.world.genesis, lambda _: None).boot()
            self.witness = Witness(self.store, self.world.genesis, WITNESSES[self.name], self.name)
            return super().cosign(origin, start, entries, note)


class CarelessWorld(World):
    """All witnesses are careless."""

    honest_witness = Careless


class ForgetfulWorld(World):
    """Every disk loses what was committed last."""

    forgetful = True


def violations(count: int, *, excess: int = 0, world: type[World] = World) -> list[str]:
    """What the observer says of so many networks."""
    said = []
    for seed in range(count):
        try:
            run(seed, excess=excess, world=world)
        except Violation as exc:
            said.append(str(exc))
    return said


def test_one_faulty_witness_too_many_and_two_contradicting_heads_can_be_certified() -> None:
    said = violations(12, excess=1)
    assert any("contradicting heads" in text for text in said), said


@pytest.mark.parametrize(("world", "text"), [(CarelessWorld, "cosigned two heads"), (ForgetfulWorld, "forgot")])
def test_a_broken_witness_is_noticed(world: type[World], text: str) -> None:
    said = violations(12, world=world)
    assert any(text in each for each in said), said
