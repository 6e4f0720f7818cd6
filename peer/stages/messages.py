"""What the machines of a run with stages are told (messages), what the leader orders, and what is to be done (effects).

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
from peer.rounds.log import OpenRound
from peer.rounds.messages import Cancel, Checked, Evaluate, Evaluated, Left, Log, Logged, LogGrew, Report, Unevaluated


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


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a replica does not serve a request."""

    code: str
    """STALE another state, BUSY no room, FROZEN an attempt that is over, else FP-452."""
    wait_s: float = 0.0
    """After so long there may be room."""
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
    """The stage that it holds; -1: none."""
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
    table: tuple[tuple[int, tuple[str, ...]], ...] = ()
    """Drivers that halted: who holds what was driven through all stages, as (microbatch, replicas of stages 1, 2, …)."""
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
class Halt:
    """Drivers: stop driving, and have these (stage, microbatch) replayed from what was recorded."""

    round: int
    attempt: Attempt
    gaps: tuple[tuple[int, int], ...] = ()
    gone: tuple[str, ...] = ()
    """Replicas that are known to be away."""


@dataclass(frozen=True, kw_only=True)
class Freeze:
    """Hold exactly this: undo what is beyond it, say what is lacking; if nothing is, write the update and sign for it."""

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


Order = Assign | Halt | Freeze | Cut


@dataclass(frozen=True, kw_only=True)
class Tell:
    """Send this order to a member; if it is lost, the next status brings it again."""

    account: str
    order: Order


@dataclass(frozen=True, kw_only=True)
class CheckUpdate:
    """Fetch the receipt's update, so that it outlives its maker, and look whether it is sound: answer with `Checked`."""

    receipt: StageReceipt


StageLeaderEffect = Tell | CheckUpdate | Evaluate | Log | Report

# ---------------------------------------------------------------- to a member's machine


@dataclass(frozen=True, kw_only=True)
class HoldsStage:
    """The worker holds a stage's state after `round`."""

    round: int
    stage: int
    state: str
    """Id of the stage's state."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """The worker did what an admitted request asked for; for a backward, its gradient is in the accumulator once."""

    tag: Tag


@dataclass(frozen=True, kw_only=True)
class Unserved:
    """The worker could not do what an admitted request asked for; the accumulator is what it was."""

    tag: Tag


@dataclass(frozen=True, kw_only=True)
class Undone:
    """The worker took these microbatches out of the accumulator."""

    round: int


@dataclass(frozen=True, kw_only=True)
class Wrote:
    """The update is written, the receipt signed and kept on disk."""

    receipt: StageReceipt


@dataclass(frozen=True, kw_only=True)
class Normed:
    """The worker summed the stage's updates of these receipts."""

    receipts: tuple[StageReceipt, ...]
    norm: str


@dataclass(frozen=True, kw_only=True)
class AppliedStage:
    """The worker took the step and holds the stage's state after `round`."""

    round: int
    receipts: tuple[StageReceipt, ...]
    state: str
    """Id of the stage's state."""


@dataclass(frozen=True, kw_only=True)
class WorkerLost:
    """The worker ended: what it held and had summed up is gone."""


@dataclass(frozen=True, kw_only=True)
class StageBroke:
    """An effect could not be carried out; it is tried again after a pause, or another way."""

    effect: ReplicaEffect
    reason: str


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A call was answered."""

    id: int
    value: str
    """Handle of what came back: the output, or the gradient of the input."""
    service_s: float = 0.0
    """How long the replica worked on it, …"""
    waited_s: float = 0.0
    """… how long it had waited there before, …"""
    queue_s: float = 0.0
    """… and how much work was queued when it answered."""


@dataclass(frozen=True, kw_only=True)
class Declined:
    """A call was refused; `refusal.code` is FP-453 if the answer was not what was asked for."""

    id: int
    refusal: Refusal


@dataclass(frozen=True, kw_only=True)
class Reset:
    """The line to the replica broke during a call: it is not answered any more."""

    id: int


DriverMessage = Answered | Declined | Reset
ReplicaMessage = (
    LogGrew | HoldsStage | Served | Unserved | Undone | Wrote | Normed | AppliedStage | WorkerLost | StageBroke
    | Assign | Halt | Freeze | Cut | Answered | Declined | Reset
)  # fmt: skip

# ---------------------------------------------------------------- from a member's machine


@dataclass(frozen=True, kw_only=True)
class LoadStage:
    """Fetch a stage's state after `round` and have the worker hold it: answer with `HoldsStage`."""

    round: int
    stage: int
    state: str
    """Id of the stage's state."""


@dataclass(frozen=True, kw_only=True)
class OpenStage:
    """Have the worker begin a round with an empty accumulator; no answer. Requests come after it."""

    round: int
    state: str
    """Id of the run's state."""
    stage: int


@dataclass(frozen=True, kw_only=True)
class Undo:
    """Take these microbatches out of the accumulator: answer with `Undone`."""

    round: int
    microbatches: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class WriteUpdate:
    """Write the accumulator as update and sign the receipt for it, before anything else is added: `Wrote`."""

    open: OpenRound
    stage: int
    served: str
    """The manifest of what is in it."""


@dataclass(frozen=True, kw_only=True)
class SumUpdates:
    """Fetch the stage's updates of these receipts, sum them, say the norm of the mean: answer with `Normed`."""

    round: int
    stage: int
    receipts: tuple[StageReceipt, ...]


@dataclass(frozen=True, kw_only=True)
class ApplyStage:
    """Apply the stage's updates of these receipts to the state before `round`: answer with `AppliedStage`.

    Without norms, find them out: from another replica, or from all stages' updates.
    """

    round: int
    stage: int
    receipts: tuple[StageReceipt, ...]
    norms: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Call:
    """Ask a replica, or our own worker: answer with `Answered`, `Declined` or `Reset`, or not at all."""

    id: int
    account: str
    tag: Tag
    input: str
    """Handle of the stage's input; stage 0: empty, the tokens."""
    gradient: str
    """Handle of the gradient of the stage's output; empty for a forward, and in the last stage, which has targets."""


@dataclass(frozen=True, kw_only=True)
class Say:
    """Send the leader a status now."""


ReplicaEffect = LoadStage | OpenStage | Undo | WriteUpdate | SumUpdates | ApplyStage | Call | Say
