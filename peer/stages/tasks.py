"""What a replica's machine is told (messages) and what it asks for (effects).

Pure: frozen values.
"""

from __future__ import annotations

from dataclasses import dataclass

from ledger.entries import StageReceipt
from peer.rounds.log import OpenRound
from peer.rounds.messages import LogGrew
from peer.stages.messages import Assign, Cut, Freeze, Halt, Losses, Refusal, Tag

# ---------------------------------------------------------------- messages


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
    kept: tuple[int, ...] = ()
    """Those that it could not take out beside the others."""


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
    account: str = ""
    """Of a call to our own trunk: the holder of experts that failed it."""


DriverMessage = Answered | Declined | Reset
ReplicaMessage = (
    LogGrew | HoldsStage | Served | Unserved | Undone | Wrote | Normed | AppliedStage | WorkerLost | StageBroke
    | Assign | Losses | Halt | Freeze | Cut | Answered | Declined | Reset
)  # fmt: skip

# ---------------------------------------------------------------- effects


@dataclass(frozen=True, kw_only=True)
class LoadStage:
    """Fetch a stage's state after `round` and have the worker hold it: answer with `HoldsStage`.

    Where nobody has it, an earlier one that is here will do; the rounds after it are applied then.
    """

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
    beside: bool = False
    """Requests are served meanwhile; what cannot be taken out by itself is kept."""


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
    holders: tuple[str, ...] = ()
    """Of a call to our own trunk: by group the account that serves its experts; empty: nobody does."""


@dataclass(frozen=True, kw_only=True)
class Say:
    """Send the leader a status now."""


ReplicaEffect = LoadStage | OpenStage | Undo | WriteUpdate | SumUpdates | ApplyStage | Call | Say
