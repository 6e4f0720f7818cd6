"""What the round machines are told (messages) and what they ask for (effects).

Pure: frozen values.
"""

from __future__ import annotations

from dataclasses import dataclass

from ledger.entries import Entry, Receipt
from peer.rounds.cut import ApplyCut, Cut
from peer.rounds.log import OpenRound, SettledRound

# ---------------------------------------------------------------- to the leader


@dataclass(frozen=True, kw_only=True)
class Beat:
    """A member's heartbeat, once a second."""

    account: str
    state: str
    """Id of the state its worker holds; empty while it has none."""


@dataclass(frozen=True, kw_only=True)
class Left:
    """A member said goodbye, or its connection is known to be gone."""

    account: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """A receipt arrived from the network (its sender's identity and its signature are already checked)."""

    receipt: Receipt
    took_s: float = 0.0
    """How long the training took, as the member says; 0 if it does not."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Our worker strictly decoded the update of a receipt."""

    account: str
    update: str
    refusal: tuple[str, str] | None
    """(code, reason) where the update was refused."""
    norm: int | None = None
    """Of the decoded update, in millionths; None where the worker did not tell it."""

    @property
    def unsound(self) -> bool:
        """Whether it was refused for what it holds (a code of the engine), not because it could not be had."""
        return self.refusal is not None and self.refusal[0].startswith("FP-1")


@dataclass(frozen=True, kw_only=True)
class Applied:
    """Our worker applied the receipts of the round and holds the state after it."""

    round: int
    state: str


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A held-out loss of the state after `round`."""

    round: int
    loss: int
    """micro-nats"""
    account: str = ""
    """The member that measured it; empty for our own worker."""


@dataclass(frozen=True, kw_only=True)
class Unevaluated:
    """A member that was asked for a held-out loss does not give one."""

    round: int
    account: str


@dataclass(frozen=True, kw_only=True)
class Logged:
    """What we asked to log is certified."""

    balance: int
    """The run account's spendable micro-credits after it."""


@dataclass(frozen=True, kw_only=True)
class Cancel:
    """The submitter wants the run to end now."""

    reason: str


LeaderMessage = Beat | Left | Delivered | Checked | Applied | Evaluated | Unevaluated | Logged | Cancel

# ---------------------------------------------------------------- from the leader


@dataclass(frozen=True, kw_only=True)
class Check:
    """Fetch the receipt's update, pass it on to the members, and have the worker decode it: answer with `Checked`."""

    receipt: Receipt


@dataclass(frozen=True, kw_only=True)
class ApplyRound:
    """Apply these receipts, in this order, to the open round's state: answer with `Applied`."""

    round: int
    receipts: tuple[Receipt, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure the held-out loss of the state after `round`: answer with `Evaluated`, or `Unevaluated` for a member."""

    round: int
    account: str = ""
    """The member to ask; empty for our own worker."""


@dataclass(frozen=True, kw_only=True)
class Log:
    """Append these entries as one, have them certified, tell the members: answer with `Logged`."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Something a person wants to know: event name and its fields."""

    event: str
    fields: dict[str, object]


LeaderEffect = Check | ApplyRound | Evaluate | Log | Report

# ---------------------------------------------------------------- to a member


@dataclass(frozen=True, kw_only=True)
class LogGrew:
    """The certified run log has news (the machine reads the shared `RunLog`)."""


@dataclass(frozen=True, kw_only=True)
class Holds:
    """The worker holds the state after `round`."""

    round: int
    state: str


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The worker trained for `seconds`; without a step `slots` is 0. `loss` is the mean, in micro-nats a token."""

    round: int
    update: str
    tokens: int
    slots: int
    loss: int
    steps: int
    leaves: str
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TrainedAhead:
    """The worker finished training ahead of a round and keeps the change; `slots` is 0 as in `Trained`."""

    round: int
    slots: int


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The leader answered our delivery; `refusal` is (code, reason) or None."""

    round: int
    refusal: tuple[str, str] | None


@dataclass(frozen=True, kw_only=True)
class Broke:
    """An effect could not be carried out; the machine tries again after a pause, by another way where there is one."""

    effect: MemberEffect
    reason: str


@dataclass(frozen=True, kw_only=True)
class Welcomed:
    """A leader took us in that did not know us: it has none of what we delivered before."""


@dataclass(frozen=True, kw_only=True)
class Paused:
    """The volunteer needs the machine: end the training under way, deliver what there is, and begin nothing more."""


MemberMessage = LogGrew | Holds | Trained | TrainedAhead | Answered | Broke | Welcomed | Paused | Cut

# ---------------------------------------------------------------- from a member


@dataclass(frozen=True, kw_only=True)
class Load:
    """Fetch the state after `round` as a snapshot and load it: answer with `Holds`."""

    round: int
    state: str


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Fetch the settled updates of this round and apply them: answer with `Holds`."""

    settled: SettledRound


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train on our seat of the open round: answer with `Trained`."""

    open: OpenRound
    start: int
    quota: int


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What work ahead starts from: the state before a round, moved by our own update of that round."""

    round: int
    """The round that is worked for, the one after it."""
    state: str
    """Id of the state."""
    update: str
    """Blob id."""
    start: int
    """First slot."""


@dataclass(frozen=True, kw_only=True)
class TrainAhead:
    """Train for a round that may not be open yet, and keep the change: answer with `TrainedAhead`."""

    basis: Basis
    quota: int


@dataclass(frozen=True, kw_only=True)
class Finish:
    """Write the update of what was trained ahead of this round: answer with `Trained`."""

    open: OpenRound


@dataclass(frozen=True, kw_only=True)
class ThrowAway:
    """What was trained ahead of this round does not count: tell people."""

    round: int
    slots: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Stop training at the end of the current step."""


@dataclass(frozen=True, kw_only=True)
class Deliver:
    """Sign the receipt, keep it on disk, then send it to the leader: answer with `Answered`."""

    open: OpenRound
    trained: Trained


@dataclass(frozen=True, kw_only=True)
class Redeliver:
    """Send the receipt that we signed for this round before a restart: answer with `Answered`."""

    round: int


MemberEffect = Load | Replay | ApplyCut | Train | TrainAhead | Finish | ThrowAway | Stop | Deliver | Redeliver
