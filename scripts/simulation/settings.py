"""What is simulated: the model, the round, the volunteers' machines and lines, how they come and go.

Figures that are not of this repository are assumptions; each says where its size comes from. docs/simulation.md has
what they mean for the results.

Pure: frozen values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

SCHEMES = ("flat", "lean", "tree", "ranges")
POSITIVE = (
    "peers", "hours", "parameters", "bytes_per_parameter", "density", "inner_steps", "batch_size", "tokens_per_slot",
    "time_budget_s", "min_members", "download_mbit", "upload_mbit", "latency_ms", "line_share", "tflops",
    "leader_download_mbit", "leader_upload_mbit", "online_hours", "online_shape", "group", "cores",
)  # fmt: skip
ENDS = ("own", "together")
SHARES = ("density", "line_share", "crash_share")

DECODE_S = 0.42e-9
"""Seconds for each parameter to decode one topk update and take its norm, one thread (measured: 20M, k 64)."""
ADD_S = 0.26e-9
"""Seconds for each parameter to add one topk update to the sum (measured likewise)."""
STEP_S = 15e-9
"""Seconds for each parameter for what a round costs however many updates it has: sum, step, hashes (likewise)."""
CALL_S = 1 / 2900
"""Seconds of the leader's processor for one small call (measured: 2,900 concurrent unary calls a second)."""
BEAT_S = 1.0
BEAT_BYTES = 400
"""A heartbeat and its answer without lists: both bodies, framing, TCP and IP headers."""
PEER_BYTES = 55
"""One PeerID in the list of members that answers a heartbeat."""
UPDATE_ID_BYTES = 75
"""One update's id in the list of updates that answers a heartbeat."""
GOSSIP_BYTES = 400
"""`run.gossip`: one update's id and who has it, with framing."""
CERTIFY_S = 0.25
"""Commit, one round trip to the witnesses, commit."""
CERTIFY_ENTRY_S = 0.0001
"""Of a witness for one receipt: parse, check the signature, store."""
WITNESSES = 4


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One simulated run."""

    peers: int = 100
    """Mean number of peers that are online."""
    hours: float = 3.0
    """Virtual time."""
    seed: int = 1
    scheme: str = "flat"
    """How updates become a state: `flat`, `lean`, `tree` or `ranges` (see `schemes` and `grouping`)."""
    group: int = 64
    """Members for each reducer or relay, where there are any."""
    parameters: int = 150_000_000
    bytes_per_parameter: float = 0.0305
    """Of one update with its framing; cautious: topk with k 64 needs 0.0215 itself."""
    density: float = 1 / 64
    """Share of the coordinates that one update holds: k 64 of each 4096."""
    inner_steps: int = 240
    """H: most inner steps of a member in a round; slower members stop at the time budget."""
    batch_size: int = 64
    """Slots of one inner step."""
    tokens_per_slot: int = 1024
    time_budget_s: float = 300.0
    ends: str = "own"
    """When a member's time budget begins: with its `own` first step, as in the daemon, or `together` with the open."""
    min_members: int = 2
    tflops: float = 12.0
    """Median speed in training, of which log-normal draws are made: a consumer GPU of the RTX 3060 class, the most
    common in Steam's hardware survey, has 25 to 50 TFLOP/s in half precision, of which training gets a third."""
    tflops_spread: float = 0.7
    """Sigma of the logarithm: one peer in six is twice as fast as the median or more."""
    download_mbit: float = 100.0
    """Median line, as of fixed broadband in the world (Ookla's Speedtest Global Index: about 100 Mbit/s)."""
    download_spread: float = 0.8
    upload_mbit: float = 25.0
    """Below the Index's median (about 50), since cable and DSL lines are asymmetric (FCC's Measuring Broadband America:
    10 to 35 Mbit/s on cable) and a run must not live on fibre alone."""
    upload_spread: float = 1.0
    latency_ms: float = 30.0
    """Median one-way delay between two homes."""
    latency_spread: float = 0.5
    line_share: float = 0.8
    """Part of its line that a volunteer gives."""
    leader_download_mbit: float = 500.0
    leader_upload_mbit: float = 100.0
    online_hours: float = 4.0
    """Mean session, Weibull; `inf`: nobody ever leaves. Of volunteers' hosts a third come and go at random, with heavy
    tails (Javadi, Kondo, Vincent, Anderson: statistical models of availability of SETI@home, 2009)."""
    online_shape: float = 0.6
    """Weibull shape; below 1 many sessions are short and a few very long (Stutzbach, Rejaie: churn in P2P, 2006)."""
    offline_hours: float = 4.0
    """Mean time away, exponential."""
    crash_share: float = 0.5
    """Part of the sessions that end without a goodbye."""
    cores: int = 4
    """Threads that decode and add updates, in each peer."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in POSITIVE and not value > 0:
                raise ValueError(f"{field.name} is {value}, wanted more than 0")
            if field.name in SHARES and not 0 <= value <= 1:
                raise ValueError(f"{field.name} is {value}, wanted from 0 to 1")
            if field.name.endswith(("_spread", "offline_hours")) and not 0 <= value < math.inf:
                raise ValueError(f"{field.name} is {value}, wanted a number of at least 0")
            if field.name not in {"online_hours", "scheme", "ends"} and not math.isfinite(value):
                raise ValueError(f"{field.name} is {value}, wanted a finite number")
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme is {self.scheme}, wanted one of {', '.join(SCHEMES)}")
        if self.ends not in ENDS:
            raise ValueError(f"ends is {self.ends}, wanted one of {', '.join(ENDS)}")
        if self.min_members > self.peers:
            raise ValueError(f"peers is {self.peers}, wanted at least min_members, which is {self.min_members}")

    @property
    def update_bytes(self) -> int:
        """Of one member's update."""
        return max(1, round(self.parameters * self.bytes_per_parameter))

    @property
    def state_bytes(self) -> int:
        """Of a snapshot: fp32, no momentum."""
        return 4 * self.parameters

    @property
    def quota(self) -> int:
        """Most slots of one member in a round."""
        return self.inner_steps * self.batch_size

    @property
    def slot_flop(self) -> float:
        """Of training one slot: 6 for each parameter and token."""
        return 6.0 * self.parameters * self.tokens_per_slot

    @property
    def churn(self) -> bool:
        """Whether peers come and go."""
        return math.isfinite(self.online_hours) and self.offline_hours > 0

    def support(self, updates: int) -> float:
        """Share of the coordinates that at least one of so many updates holds, if they choose independently."""
        return 1.0 - (1.0 - self.density) ** updates

    def mean_bytes(self, updates: int) -> float:
        """Of the mean of so many updates: a bit for each parameter, an int8 with a shared scale for each it holds."""
        return self.parameters * (1 / 8 + self.support(updates) * (1 + 2 / 64))

    def partial_bytes(self, updates: int) -> float:
        """Of a sum that is to be added to others: beside each value the weight it has, in one byte; or just the
        updates, where that is less."""
        return min(updates * self.update_bytes, self.mean_bytes(updates) + self.parameters * self.support(updates))
