"""What members tell the leader of a run with stages, what it orders, and what drivers ask of replicas.

A member says how it stands with every heartbeat and whenever that changes (`Status`); the leader answers with what it
has not taken yet (orders). So nothing depends on any single message, and a new leader learns everything from the next
heartbeats. What belongs together carries an attempt; the greater one is the newer.

Pure: frozen values.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from ledger.entries import StageReceipt
from peer.rounds.messages import Cancel, Checked, Evaluate, Evaluated, Left, Log, Logged, Report, Unevaluated


class Kind(StrEnum):
    """What a replica is asked to do with a microbatch."""

    FORWARD = "forward"
    BACKWARD = "backward"


class Attempt(NamedTuple):
    """One attempt of a leader to bring a round to its end; grows, whoever leads."""

    number: int
    leader: str
    """The leader's account and life, so that no two leaders make the same attempt."""


NO_ATTEMPT = Attempt(0, "")


@dataclass(frozen=True, kw_only=True)
class Tag:
    """What every request to a replica carries."""

    round: int
    state: str
    """Id of the run's state that the round starts from."""
    stage: int
    microbatch: int
    kind: Kind
    attempt: Attempt = NO_ATTEMPT
    """`NO_ATTEMPT` while the round is driven, else the one that has it replayed."""
    layer: int = -1
    """Of experts: the layer, in which a call does not count yet; -1: the whole microbatch."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a replica does not serve a request."""

    code: str
    """STALE another state, BUSY no room, WORKING already at it, FROZEN an attempt that is over, else FP-452."""
    wait_s: float = 0.0
    """After so long there may be room, or it may be done."""
    round: int = 0
    """STALE: the round after which the held state was."""
    state: str = ""
    """STALE: id of the run's state that is held, or empty."""


# ---------------------------------------------------------------- a member to the leader


@dataclass(frozen=True, kw_only=True)
class Status:
    """How a member stands: its heartbeat. Of two, the one with the greater (life, seq) is the newer."""

    account: str
    life: int
    """Grows with every start of the daemon."""
    seq: int
    """Grows with every status of one life."""
    stage: int = -1
    """The stage that it serves, or fetches to serve; -1: none."""
    state: str = ""
    """Id of the run's newest settled state that it holds its stage of; empty while it has none."""
    memory_bytes: int = 0
    """What it gives to serving."""
    microbatch_s: float = 0.0
    """What a microbatch took it lately, forward and backward; 0: not known."""
    round: int = 0
    """The round that the rest is about; 0: it takes part in none."""
    finished: bool = False
    """Drivers: none of its microbatches is under way or to be begun."""
    halted: Attempt = NO_ATTEMPT
    """Drivers: the newest attempt for which it stopped driving and closed all gaps."""
    losses: Attempt = NO_ATTEMPT
    """Drivers: how many losses it was told of, and by whom."""
    table: tuple[tuple[int, tuple[str, ...]], ...] = ()
    """Drivers that halted: who holds what went through all stages, as (microbatch, replicas of stages 1, 2, …); empty
    where nobody does, of a group of experts."""
    frozen: Attempt = NO_ATTEMPT
    """The newest attempt for which it was told what to hold, or what counts."""
    lacking: str = ""
    """What it shall hold and does not, as a manifest; empty: nothing, or it is not known yet."""
    receipt: StageReceipt | None = None
    cut: tuple[StageReceipt, ...] = ()
    """The receipts that it was told count."""
    norm: str = ""
    """Of its stage's mean gradient after these receipts."""
    armed: bool = False
    """Whether it was told the norms of all stages."""
    applied: str = ""
    """Id of its stage's state after these receipts."""


StageLeaderMessage = Status | Left | Checked | Evaluated | Unevaluated | Logged | Cancel

# ---------------------------------------------------------------- the leader to a member


@dataclass(frozen=True, kw_only=True)
class Assign:
    """Serve this stage from the next round on: fetch its state."""

    stage: int


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Drivers: these replicas lost what they held, one after the other; replay it elsewhere, besides driving on."""

    round: int
    leader: str
    accounts: tuple[str, ...]
    """All since the round began; an account that lost twice is named twice."""


@dataclass(frozen=True, kw_only=True)
class Halt:
    """Drivers: stop driving, and have these (stage, microbatch) replayed from what was recorded."""

    round: int
    attempt: Attempt
    gaps: tuple[tuple[int, int], ...] = ()
    gone: tuple[str, ...] = ()
    """Replicas that are known to be away."""


@dataclass(frozen=True, kw_only=True)
class Freeze:
    """Hold exactly this: undo what is beyond, say what is lacking; if nothing is, write the update and sign for it."""

    round: int
    attempt: Attempt
    manifest: str


@dataclass(frozen=True, kw_only=True)
class Cut:
    """These receipts count, in this order: fetch the stage's updates, say their norm; with all `norms`, apply them."""

    round: int
    attempt: Attempt
    receipts: tuple[StageReceipt, ...]
    norms: tuple[str, ...] = ()
    """Of all stages in their order, as soon as the leader has them."""


Order = Assign | Losses | Halt | Freeze | Cut


@dataclass(frozen=True, kw_only=True)
class Tell:
    """Send this order to a member; if it is lost, the next status brings it again."""

    account: str
    order: Order


@dataclass(frozen=True, kw_only=True)
class CheckUpdate:
    """Fetch the receipt's update, so that it outlives its maker, and look if it is sound: answer with `Checked`."""

    receipt: StageReceipt


StageLeaderEffect = Tell | CheckUpdate | Evaluate | Log | Report
