"""What a run's spec means for its rounds.

Pure: frozen values read from the spec.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The figures of a run that its round machines need."""

    network: str
    """Genesis id, 64 hex."""
    run: str
    """Run id, 64 hex."""
    rounds: int
    """Rounds to settle before the run is closed."""
    quota: int
    """Most slots of one member in one round: inner steps × batch size."""
    batch_size: int
    """Slots of one step; every quota is a multiple of it."""
    tokens_per_slot: int
    price: int
    """micro-credits per million tokens"""
    min_members: int
    max_members: int
    evaluate_every: int
    """Held-out loss after every so many rounds and after the last; 0: never."""
    time_budget_s: float
    """A member stops training after this long even if its quota is not used up."""
    max_tokens: int = 0
    """The round in which so many tokens are reached is the last; 0: no limit."""
    target_loss: int = 0
    """A held-out loss at or below this, in micro-nats, ends the run; 0: none does."""
    patience: int = 0
    """So many evaluations without a better held-out loss end the run; 0: never."""
    most_update_bytes: int = 1 << 53
    """No update is longer; one that claims to be is refused before anybody fetches it."""
    keep_last: int = 3
    """So many newest states are kept."""
    checkpoint_every: int = 0
    """The state after every so many rounds is kept for good; 0: only the initial one."""
    max_uncertified: int = 2
    """Rounds that may be opened beyond what is certified."""
    clipped: bool = True
    """Whether every update is scaled down to the median norm of its round."""
    overlap: bool = False
    """Members train the next round while this one is being settled."""
    lost_after_s: float = 3.0
    """A member without heartbeats for this long is dropped."""

    @property
    def first_deadline_s(self) -> float:
        """Deadline of a round while no delivery was ever timed."""
        return 2 * self.time_budget_s + 10

    def worth(self, slots: int) -> int:
        """What so many slots earn, in micro-credits: the ledger's own integer division."""
        return slots * self.tokens_per_slot * self.price // 1_000_000

    def seats_for(self, balance: int) -> int:
        """How many seats with whole quotas a balance of micro-credits can reserve."""
        worth = self.worth(self.quota)
        return self.max_members if worth == 0 else balance // worth
