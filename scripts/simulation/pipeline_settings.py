"""What is simulated of a run with stages: its rounds, the volunteers' machines, how they come and go.

Pure: frozen values.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from scripts.simulation.settings import Settings


@dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """One simulated run with stages."""

    peers: int = 32
    """Mean number of peers that are online."""
    stages: int = 4
    replicas: int = 2
    """So many of each stage a round needs."""
    in_flight: int = 16
    """Microbatches that a driver has under way: the default of `pipeline.in_flight`."""
    round_s: float = 900.0
    """Time budget of a round."""
    hours: float = 1.0
    seed: int = 1
    microbatch_s: float = 4.0
    """Median time of a microbatch in one stage, forward and backward, of which log-normal draws are made. Transfers are
    in it: where a peer's line binds, it is a slower peer."""
    spread: float = 0.5
    """Sigma of the logarithm."""
    forward: float = 0.25
    """The forward's part of it."""
    swing: float = 0.1
    """A call takes up to so much more or less than usual."""
    online_hours: float = 4.0
    """Mean session; as many volunteers again are away."""
    crash_share: float = 0.5
    """Part of the sessions that end without a goodbye."""
    write_s: float = 2.0
    """To write an update and sign for it."""
    fetch_s: float = 6.0
    """For an update to come to the leader, and for those of a stage to come to its replicas."""
    apply_s: float = 2.0
    load_s: float = 60.0
    """To fetch a stage's state and load it."""
    certify_s: float = 0.25

    @property
    def people(self) -> Settings:
        """Latencies and sessions are those of other simulated runs."""
        return Settings(
            peers=self.peers,
            hours=self.hours,
            seed=self.seed,
            online_hours=self.online_hours,
            offline_hours=self.online_hours,
            crash_share=self.crash_share,
        )

    def draw(self, rng: random.Random) -> float:
        """A volunteer's time for a microbatch."""
        return self.microbatch_s * rng.lognormvariate(0, self.spread)
