"""What the spec of a run with stages means for its rounds, beside what every run's does.

Pure: frozen values read from the spec.
"""

from __future__ import annotations

from dataclasses import dataclass

from peer.rounds.plan import Plan


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """The figures of a run with stages that its machines need."""

    plan: Plan
    """What it shares with other runs; `quota` is the most slots of one driver, a multiple of `microbatch`."""
    replicas: int
    """So many of every stage are there before a round is opened."""
    microbatch: int
    """Slots of one microbatch."""
    in_flight: int
    """Microbatches that a driver has under way."""
    shares: tuple[int, ...]
    """What of the model's work each stage does, in parts per million, in stage order."""
    needs_bytes: tuple[int, ...]
    """The memory that serving each stage takes, in stage order."""
    experts: int = 0
    """So many stages, the last ones, are groups of experts; the one stage before them, the trunk, drives."""

    @property
    def stages(self) -> int:
        """How many stages the model is cut into."""
        return len(self.shares)

    @property
    def needed(self) -> int:
        """So many stages, the first ones, a run cannot do without."""
        return self.stages - self.experts

    @property
    def last(self) -> int:
        """The stage that knows the loss."""
        return self.needed - 1

    def least(self, stage: int) -> int:
        """So many replicas of a stage there should be; a trunk needs one driver."""
        return self.replicas if stage or not self.experts else 1

    def opens_with(self, stage: int, round_number: int) -> int:
        """So many of them a round needs; groups of experts may be gone once the run is under way."""
        return self.least(stage) if stage < self.needed or round_number == 1 else 0
