"""What a seed decides about a simulated run with stages.

Pure: randomness comes from the generator given.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from ledger.codec import Json
from ledger.stages import run_state
from peer.rounds.plan import Plan
from peer.stages.plan import StagePlan
from tests.sim.settings import NETWORK
from tests.sim.stages_worker import first_state
from tests.sim.worker import blob

TOKENS_PER_SLOT = 64
PRICE = 1000
GB = 10**9


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run's circumstances."""

    stages: int
    replicas: int
    """So many of each stage a round needs."""
    spares: int
    """Replicas beyond them, anywhere."""
    joiners: int
    """Peers that come later, without a stage."""
    leaders: int
    microbatches: int
    """Of a driver, in a round."""
    in_flight: int
    rounds: int
    time_budget_s: float
    pace: float
    """How many times slower everybody is than volunteers with a small model: only where a run lasts do peers move."""
    heal_s: float
    """After this time nothing is killed or cut off any more, and everybody is back."""
    kills: int
    leader_kills: int
    usurpers: int
    """How often another leader begins while one leads: some members go by the one, some by the other."""
    worker_kills: int
    cuts: int
    outages: int
    """How often nothing is certified for a while."""
    certify_s: float
    """How long the witnesses take, on average."""
    max_uncertified: int
    hazard: float
    """Chance to be killed at each delicate point."""
    breaks: float
    """Chance that a longer thing breaks."""
    delay_s: float
    loss: float
    repeat: float
    room: int

    @classmethod
    def draw(cls, rng: random.Random) -> Settings:
        """The circumstances of a seed; one in eight is calm, one in sixteen slow."""
        wild = 0 if rng.random() < 0.125 else 1
        pace = 40.0 if rng.random() < 0.0625 else 1.0
        return cls(
            stages=rng.choice([2, 3, 3, 4]), replicas=rng.choice([1, 1, 2]), spares=rng.choice([0, 1, 2, 3]),
            joiners=rng.choice([0, 0, 1, 2]), leaders=rng.choice([1, 2, 2]), microbatches=rng.choice([2, 4, 6]),
            in_flight=rng.choice([1, 2, 4]), rounds=rng.choice([2, 3, 4]), pace=pace,
            time_budget_s=pace * rng.choice([4.0, 8.0]),
            heal_s=pace * rng.choice([15.0, 30.0, 50.0]), kills=wild * rng.randrange(6),
            leader_kills=wild * rng.randrange(3), usurpers=wild * rng.choice([0, 0, 1, 3]),
            worker_kills=wild * rng.randrange(3), cuts=wild * rng.randrange(3), outages=wild * rng.choice([0, 0, 1, 3]),
            certify_s=rng.choice([0.1, 0.1, 2.0]), max_uncertified=rng.choice([0, 2, 2]),
            hazard=wild * rng.choice([0.0, 0.02, 0.06]), breaks=wild * rng.choice([0.0, 0.0, 0.05]),
            delay_s=rng.choice([0.005, 0.03, 0.1]), loss=wild * rng.choice([0.0, 0.02, 0.1]),
            repeat=wild * rng.choice([0.0, 0.05, 0.2]), room=rng.choice([2, 64]),
        )  # fmt: skip

    @property
    def calm(self) -> bool:
        """Whether nothing is done to the run."""
        done = self.kills or self.leader_kills or self.usurpers or self.worker_kills or self.cuts or self.outages
        return not (done or self.hazard or self.loss)

    @property
    def peers(self) -> int:
        """How many there are in the end."""
        return self.stages * self.replicas + self.spares + self.joiners

    @property
    def limit_s(self) -> float:
        """By then it must be over."""
        return self.heal_s + 60 * self.rounds * self.pace

    @property
    def shares(self) -> tuple[int, ...]:
        """Parts per million of every stage."""
        each = 10**6 // self.stages
        return (10**6 - each * (self.stages - 1), *[each] * (self.stages - 1))

    def spec(self, leaders: list[str]) -> dict[str, Json]:
        """The run's canonical spec."""
        states = [first_state(stage) for stage in range(self.stages)]
        file = blob("file", size=7)
        return {
            "version": 1, "name": "simulated", "submitter": leaders[0], "leaders": list(leaders), "price": PRICE,
            "tokens_per_slot": TOKENS_PER_SLOT, "slots_per_epoch": 1_000_000, "rounds": self.rounds,
            "nonce": "ab" * 16, "config": {},
            "blobs": {"model": file, "tokenizer": file, "manifest": file, "state": run_state(states)},
            "stages": {"shares": list(self.shares), "states": list(states), "microbatch": 2},
        }  # fmt: skip

    def plan(self, run: str) -> StagePlan:
        """The run's figures."""
        plan = Plan(
            network=NETWORK, run=run, rounds=self.rounds, quota=2 * self.microbatches, batch_size=2,
            tokens_per_slot=TOKENS_PER_SLOT, price=PRICE, min_members=1, max_members=8, evaluate_every=0,
            time_budget_s=self.time_budget_s, max_uncertified=self.max_uncertified,
        )  # fmt: skip
        return StagePlan(
            plan=plan, replicas=self.replicas, microbatch=2, in_flight=self.in_flight, shares=self.shares,
            needs_bytes=(GB,) * self.stages,
        )  # fmt: skip
