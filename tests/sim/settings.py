"""What a seed decides about a simulated run.

Pure: randomness comes from the generator given.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from ledger.codec import Json
from peer.rounds.plan import Plan
from tests.sim.node import Traits
from tests.sim.worker import STATE_BYTES, blob

NETWORK = "9e" * 32
TOKENS_PER_SLOT = 64
FIRST_STATE = blob("first", size=STATE_BYTES)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run's circumstances."""

    peers: int
    joiners: int
    """How many of the peers come later, with an empty disk."""
    hostile: int
    min_members: int
    max_members: int
    rounds: int
    batch_size: int
    inner_steps: int
    price: int
    budget_share: float
    """The run's money over what all its rounds could cost at most."""
    evaluate_every: int
    max_tokens: int
    target_loss: int
    patience: int
    time_budget_s: float
    heal_s: float
    """After this time nothing is killed or cut off any more, and everybody is back."""
    flaps: int
    """How often the last peer is killed, each time soon after it was rostered."""
    kills: int
    leader_kills: int
    everyone_killed: bool
    cuts: int
    """How often a peer is cut off from the network for a while."""
    cancel: bool
    hazard: float
    """Chance to be killed at each delicate point: a promise kept but not sent, entries appended but not certified …"""
    training_breaks: float
    bit_flips: float
    """Chance that a replay ends in another state than the log says."""
    beat_timeout_s: float
    delay_s: float
    loss: float
    repeat: float
    update_bytes: int
    max_uncertified: int = 2
    outages: int = 0
    """How often no quorum of witnesses can be reached for a while."""
    usurpers: float = 0.0
    """Chance that another leader goes on after an outage, from what was certified before it."""
    speeds: tuple[float, ...] = ()
    """How fast each machine is compared with the first; random if empty."""
    swing: tuple[float, float] = (0.9, 1.2)
    """Between these factors a machine's times vary from round to round."""
    overlap: bool = False
    """Members train the next round while this one is being settled."""
    tells_cuts: bool = True
    """Leaders say what they cut a round with before it is settled."""
    false_cuts: float = 0.0
    """Chance that a leader says something else than what it cuts a round with."""

    @classmethod
    def draw(cls, rng: random.Random) -> Settings:
        """Settings in which the honest peers can always finish the run."""
        peers = rng.randint(1, 7)
        hostile = rng.choice([0, 0, 0, 1, 2]) if peers > 2 else 0
        hostile = min(hostile, peers - 1)
        min_members = rng.randint(1, min(3, peers - hostile))
        stormy = rng.random() < 0.75
        return cls(
            peers=peers,
            joiners=rng.randint(0, max(0, peers - hostile - min_members)),
            hostile=hostile,
            min_members=min_members,
            max_members=rng.randint(min_members, peers),
            rounds=rng.randint(1, 12),
            batch_size=rng.choice([1, 1, 2, 4]),
            inner_steps=rng.randint(1, 16),
            price=rng.choice([0, 1, 777, 1_000_000]),
            budget_share=rng.choice([0.4, 1.0, 1.0, 1.0]),
            evaluate_every=rng.choice([0, 1, 3]),
            max_tokens=rng.choice([0, 0, 0, rng.randint(1, 200) * TOKENS_PER_SLOT]),
            target_loss=rng.choice([0, 0, 0, 2_600_000]),
            patience=rng.choice([0, 0, 0, 2]),
            time_budget_s=rng.uniform(2, 30),
            heal_s=rng.uniform(60, 300),
            flaps=rng.choice([0, 0, 6]) if stormy else 0,
            kills=rng.randint(0, 12) if stormy else 0,
            leader_kills=rng.randint(0, 4) if stormy else 0,
            everyone_killed=stormy and rng.random() < 0.3,
            cuts=rng.randint(0, 6) if stormy else 0,
            cancel=rng.random() < 0.08,
            hazard=rng.choice([0.0, 0.01, 0.05]) if stormy else 0.0,
            training_breaks=rng.choice([0.0, 0.0, 0.05]),
            bit_flips=rng.choice([0.0, 0.0, 0.05]),
            beat_timeout_s=rng.choice([1.0, 5.0]),
            delay_s=rng.uniform(0.002, 0.3),
            loss=rng.choice([0.0, 0.01, 0.1]) if stormy else 0.0,
            repeat=rng.choice([0.0, 0.1]),
            update_bytes=rng.choice([50_000, 1_500_000]),
            max_uncertified=rng.choice([0, 1, 2, 2, 3]),
            outages=rng.choice([0, 0, 2, 5]) if stormy else 0,
            usurpers=rng.choice([0.0, 0.5]),
            false_cuts=rng.choice([0.0, 0.0, 0.2]),
        )

    def traits(self, rng: random.Random, place: int) -> Traits:
        """A machine that needs between a tenth of the time budget and twice of it for a whole quota.

        Where `speeds` are given, the first needs the whole time budget for it.
        """
        shares = [0.1, 0.3, 0.3, 0.5, 1.5, 2.0]
        share = 1 / self.speeds[place] if self.speeds else rng.choice(shares) * rng.uniform(0.7, 1)
        return Traits(
            slot_s=self.time_budget_s * share / self.quota,
            apply_s=rng.uniform(0.02, 0.5),
            load_s=rng.uniform(0.1, 2.0),
            transfer_s=rng.uniform(0.01, 0.5),
            hostile=0 < place <= self.hostile,
        )

    def spec(self, leader: str) -> dict[str, Json]:
        """What the run's log begins with."""
        file = blob("file", size=7)
        return {
            "version": 1, "name": "simulated", "submitter": leader, "leaders": [leader], "price": self.price,
            "tokens_per_slot": TOKENS_PER_SLOT, "slots_per_epoch": 50, "rounds": self.rounds, "nonce": "ab" * 16,
            "config": {}, "blobs": {"model": file, "tokenizer": file, "manifest": file, "state": FIRST_STATE},
        }  # fmt: skip

    def plan(self, *, run: str) -> Plan:
        """What the round machines need of it."""
        return Plan(
            network=NETWORK,
            run=run,
            rounds=self.rounds,
            quota=self.quota,
            batch_size=self.batch_size,
            tokens_per_slot=TOKENS_PER_SLOT,
            price=self.price,
            min_members=self.min_members,
            max_members=self.max_members,
            evaluate_every=self.evaluate_every,
            max_tokens=self.max_tokens,
            target_loss=self.target_loss,
            patience=self.patience,
            time_budget_s=self.time_budget_s,
            max_uncertified=self.max_uncertified,
            overlap=self.overlap,
        )

    @property
    def quota(self) -> int:
        """Most slots of a member in one round."""
        return self.inner_steps * self.batch_size

    @property
    def calm(self) -> bool:
        """Nothing is killed, cut off, lost, broken or hostile."""
        return not (
            self.flaps or self.kills or self.leader_kills
            or self.everyone_killed or self.cuts or self.cancel or self.hazard
            or self.loss or self.hostile or self.training_breaks or self.bit_flips or self.outages
        )  # fmt: skip

    @property
    def patience_s(self) -> float:
        """Virtual seconds, after everything has healed, within which the run must be over."""
        slowest_s = 2 * self.time_budget_s + 10
        return 120 + (self.rounds + 3) * 3 * 2 * slowest_s
