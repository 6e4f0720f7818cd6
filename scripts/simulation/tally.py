"""What is counted while a run is simulated, and the figures that come of it.

Every byte is sent by one role and received by another, so both sums are equal. `members` are all peers but the leader.

Pure: no IO.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from statistics import mean, median
from typing import Any

from ledger.entries import Receipt
from scripts.simulation.people import HOUR_S, MBIT
from scripts.simulation.settings import CALL_S, Settings

MB = 1e6


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one simulated run came to."""

    scheme: str
    peers: int
    """Wanted online on average; `online` were."""
    online: float
    rounds: int
    rounds_per_hour: float
    round_median_s: float
    """From settle to settle."""
    round_p95_s: float
    started_s: float
    """Median, from the certified open to a member's first step: fetching and applying the round before it."""
    delivered_s: float
    """Median, from the open to a member's receipt."""
    cut_s: float
    """Median, from the open to the cut; beyond `delivered_s` it is waiting for the slower."""
    combined_s: float
    """Median, from the cut until the leader holds the next state."""
    utilisation: float
    """Time spent training by online peers over the time that they were online."""
    efficiency: float
    """Tokens settled over what all online peers could have trained."""
    tokens_per_hour: float
    settled_per_round: float
    """Receipts that counted."""
    dropped_per_round: float
    """Members of a roster that fell silent or said goodbye before it was settled."""
    member_up_mb_per_hour: float
    """Of one member online."""
    member_down_mb_per_hour: float
    leader_up_mb_per_hour: float
    leader_down_mb_per_hour: float
    reducer_down_mb_per_hour: float
    """Of one reducer, only what it reduces."""
    reducers_replaced: int
    log_mb_per_hour: float
    beats_mbit: float
    """What the leader sends in answers to heartbeats, Mbit/s."""
    leader_calls_per_s: float
    """Heartbeats, receipts, gossip and news."""
    leader_load: float
    """The most that is asked of its upload, download or calls over what there is; above 1 it would fall over, and the
    other figures are too good."""
    snapshots_per_hour: float
    open_entry_bytes: int
    """The longest; the ledger takes 16,384."""
    slots_settled: int

    def encode(self) -> dict[str, Any]:
        """For the result file."""
        return asdict(self)


class Tally:
    """Counts. Written by the world's leader, members and scheme."""

    def __init__(self) -> None:
        self.up: defaultdict[str, float] = defaultdict(float)
        """Bytes by role."""
        self.down: defaultdict[str, float] = defaultdict(float)
        self.online_s = 0.0
        """Of all members together."""
        self.training_s = 0.0
        self.could_train_slots = 0.0
        self.rounds_s: list[float] = []
        self.phases: dict[str, list[float]] = {"started": [], "delivered": [], "cut": [], "combined": []}
        self.settled: list[int] = []
        """Receipts of each round."""
        self.slots = 0
        self.tokens = 0
        self.dropped = 0
        self.snapshots = 0
        self.calls = 0.0
        self.log_bytes = 0.0
        self.beat_bytes = 0.0
        self.reduced_bytes = 0.0
        self.reducer_s = 0.0
        self.replaced = 0
        self.open_bytes = 0
        self._next_slot = 0

    def moved(self, source: str, target: str, amount: float) -> None:
        """So many bytes went from one role to another."""
        self.up[source] += amount
        self.down[target] += amount

    def round(self, seconds: float, receipts: tuple[Receipt, ...]) -> None:
        """A round was settled; no slot may be credited twice."""
        self.rounds_s.append(seconds)
        self.settled.append(len(receipts))
        for receipt in sorted(receipts, key=lambda receipt: receipt.slots.start):
            assert receipt.slots.start >= self._next_slot, f"slot {receipt.slots.start} credited twice"
            self._next_slot = receipt.slots.start + receipt.slots.count
            self.slots += receipt.slots.count
            self.tokens += receipt.tokens

    def figures(self, settings: Settings) -> Figures:
        """What all of it came to."""
        hours, ordered = settings.hours, sorted(self.rounds_s)
        online = self.online_s / (hours * HOUR_S)
        could = self.could_train_slots * settings.tokens_per_slot
        rounds = len(ordered)
        member_hours = max(1e-9, online * hours)
        return Figures(
            scheme=settings.scheme,
            peers=settings.peers,
            online=online,
            rounds=rounds,
            rounds_per_hour=rounds / hours,
            round_median_s=median(ordered) if ordered else 0.0,
            round_p95_s=ordered[min(rounds - 1, int(0.95 * rounds))] if ordered else 0.0,
            started_s=self._phase("started"),
            delivered_s=self._phase("delivered"),
            cut_s=self._phase("cut"),
            combined_s=self._phase("combined"),
            utilisation=self.training_s / self.online_s if self.online_s else 0.0,
            efficiency=self.tokens / could if could else 0.0,
            tokens_per_hour=self.tokens / hours,
            settled_per_round=mean(self.settled) if self.settled else 0.0,
            dropped_per_round=self.dropped / max(1, rounds),
            member_up_mb_per_hour=self.up["members"] / MB / member_hours,
            member_down_mb_per_hour=self.down["members"] / MB / member_hours,
            leader_up_mb_per_hour=self.up["leader"] / MB / hours,
            leader_down_mb_per_hour=self.down["leader"] / MB / hours,
            reducer_down_mb_per_hour=self.reduced_bytes / MB / max(1e-9, self.reducer_s / HOUR_S),
            reducers_replaced=self.replaced,
            log_mb_per_hour=self.log_bytes / MB / hours,
            beats_mbit=self.beat_bytes * 8 / 1e6 / (hours * HOUR_S),
            leader_calls_per_s=self.calls / (hours * HOUR_S),
            leader_load=max(
                self.up["leader"] / (settings.leader_upload_mbit * MBIT),
                self.down["leader"] / (settings.leader_download_mbit * MBIT),
                self.calls * CALL_S,
            )
            / (hours * HOUR_S),
            snapshots_per_hour=self.snapshots / hours,
            open_entry_bytes=self.open_bytes,
            slots_settled=self.slots,
        )

    def _phase(self, name: str) -> float:
        return median(self.phases[name]) if self.phases[name] else 0.0
