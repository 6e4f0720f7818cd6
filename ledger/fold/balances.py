"""What the fold finds: balances, claims, runs, and which entries had no effect and why.

Pure: no IO.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """An entry without effect (void), not yet decided (pending), or breaking a rule (invalid)."""

    origin: str
    """The log."""
    index: int
    """The entry."""
    rule: str
    """What decided it."""
    got: str
    """What the entry asks or holds."""
    wanted: str
    """What would have let it pass."""
    behind: int = 0
    """Later entries of the log that share its fate."""

    @property
    def reason(self) -> str:
        """Why, in words."""
        return f"{self.rule} is {self.got}, wanted {self.wanted}"

    def __str__(self) -> str:
        return f"{self.origin} entry {self.index}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Movement:
    """One thing that an entry did for one owner; micro-credits throughout."""

    origin: str
    """The log of the entry; for a supply, the owner's."""
    index: int
    """The entry; -1 for a supply, which the genesis gives."""
    kind: str
    """One of `KINDS`."""
    owner: str
    """Whom it concerns: an account, or "run/<run id>"."""
    delta: int
    """By how much it changed what the owner can spend."""
    amount: int
    """How much it is about: what becomes claimable, is set aside or burned, where nothing was spent or received."""
    note: str = ""
    """Why, or from or to whom, in words."""
    causes: tuple[tuple[str, int, int], ...] = ()
    """For a receive, what it claimed: (log, entry, amount)."""


KINDS = (
    "supply", "send", "owe", "receive", "issue", "reserve", "earn", "return", "burn", "refund", "void", "pending",
    "invalid",
)  # fmt: skip
"""owe, earn and a funder's refund: claimable from then on; reserve, return and burn: of a run."""


@dataclass(frozen=True, kw_only=True)
class RunAccount:
    """One run: its money and how far it got."""

    run: str
    """The run id."""
    name: str
    """From its spec."""
    submitter: str
    """From its spec."""
    balance: int
    """Free micro-credits."""
    reserved: int
    """Micro-credits set aside for the open round."""
    paid: Mapping[str, int]
    """Micro-credits earned by each account, claimed or not."""
    refunded: Mapping[str, int]
    """Micro-credits returned to each funder at the close, claimed or not."""
    burned: int
    """Micro-credits lost to unsettled rounds and rounding."""
    funders: Mapping[str, int]
    """Micro-credits received from each account."""
    rounds_settled: int
    """The last settled round."""
    round_open: int
    """The open round, 0 when none is."""
    slot_cursor: int
    """All slots below were given out."""
    state: str
    """The id of the state after the last settled round."""
    closed: bool
    """Whether a close ended it."""


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The fold of a set of certified prefixes; equal sets give equal ledgers. Amounts are micro-credits."""

    balances: Mapping[str, int]
    """What each account can spend."""
    claimable: Mapping[str, Mapping[str, int]]
    """What each account or "run/<run id>" may yet receive, by the origin of the log to name in the recv."""
    runs: Mapping[str, RunAccount]
    """Runs by id."""
    voids: tuple[Outcome, ...]
    """Entries without effect."""
    pendings: tuple[Outcome, ...]
    """The first undecided entry of each log that has one."""
    invalid: tuple[Outcome, ...]
    """The first invalid entry of each log that has one."""
    decided: Mapping[str, int]
    """How many entries of each log are decided."""
    issued: int
    """All that ever came into being: supply and issues."""
    burned: int
    """All that ceased to be."""

    @property
    def unclaimed(self) -> int:
        """All that is sent, paid or refunded but not received."""
        return sum(sum(sources.values()) for sources in self.claimable.values())


def conservation(ledger: Ledger) -> bool:
    """Whether balances + runs' balances + reserved + unclaimed + burned is exactly what was issued."""
    in_runs = sum(run.balance + run.reserved for run in ledger.runs.values())
    return sum(ledger.balances.values()) + in_runs + ledger.unclaimed + ledger.burned == ledger.issued
