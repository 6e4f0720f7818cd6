"""Which entry may follow in a log: the rules that need nothing but the log itself and the network's terms.

An entry that breaks one makes its log invalid from there on; no witness cosigns it. Whether a valid entry has an effect
(enough balance, a known source) is the fold's to say.

Pure: no IO; an `apply` that raises has changed nothing.
"""

from copy import copy
from typing import Self

from . import rounds
from .entries import (
    Audit,
    Begin,
    Close,
    Entry,
    Open,
    Receipt,
    Recv,
    Settle,
    StageOpen,
    StageReceipt,
    Stages,
    StageSettle,
    run_id,
)
from .errors import EntryInvalid
from .logrules import AccountRules, LogRules, Terms
from .receipt import AnyReceipt, check_signature
from .stages import WHOLE
from .values import same

__all__ = ["AccountRules", "RunRules", "Terms", "rules_of"]

STAGED = (StageOpen, StageReceipt, StageSettle)
"""What only rounds of a run with stages are of."""


class RunRules(LogRules):
    """A run's log: begin, then rounds of open, receipts and settle; close ends it.

    The rounds of a run with stages are of entries of their own, and of no others.
    """

    allowed = (Begin, Recv, Open, Receipt, Audit, Settle, Close, *STAGED)

    def __init__(self, terms: Terms, owner: str, *, signatures: bool = True) -> None:
        super().__init__(terms, owner, signatures=signatures)
        self.run = owner.removeprefix("run/")
        self.begin: Begin | None = None
        self.stages: Stages | None = None
        """How the run's model is cut, if it is."""
        self.state = ""
        """The id of the state after the last settled round."""
        self.settled = 0
        """The last settled round."""
        self.slot_cursor = 0
        """All slots below were given out."""
        self.open: Open | StageOpen | None = None
        """The round that is open."""
        self.receipts: dict[int, AnyReceipt] = {}
        """Receipts of the open round by their index."""
        self.counted: tuple[tuple[str, int, int], ...] = ()
        """Account, tokens and share of the price of each receipt that the last settle names."""
        self.closed = False
        self.deferred: list[tuple[int, AnyReceipt]] | None = None
        """Where receipts are put, with their entry's index, whose signatures somebody checks afterwards."""

    @property
    def writers(self) -> tuple[str, ...]:
        """The leaders listed in the spec."""
        return self.begin.leaders if self.begin else ()

    def copy(self) -> Self:
        """An independent copy, to try entries on."""
        twin = copy(self)
        twin.receipts = dict(self.receipts)
        return twin

    def _apply(self, entry: Entry) -> None:
        if self.closed:
            raise EntryInvalid(rule="order", got=f"{entry.type} after close", wanted="nothing")
        if isinstance(entry, AnyReceipt) and self.begin is not None:  # first, as most entries are
            self.check_receipt(entry)
            self.receipts[self.size] = entry
        elif isinstance(entry, Begin):
            self._begin(entry)
        elif self.begin is None:
            raise EntryInvalid(rule="order", got=entry.type, wanted="begin as the first entry")
        elif isinstance(entry, Open | StageOpen):
            self._open(entry)
        elif isinstance(entry, Settle | StageSettle):
            self._settle(entry)
        elif isinstance(entry, Close):
            same("state", entry.state, self.state)
            self.open, self.receipts, self.closed = None, {}, True
        elif isinstance(entry, Recv) and self.check_source(entry).startswith("run/"):
            raise EntryInvalid(rule="origin", got=entry.origin, wanted="the log of an account that sent to this run")

    def _begin(self, entry: Begin) -> None:
        if self.begin is not None:
            raise EntryInvalid(rule="order", got="a second begin", wanted="begin only as the first entry")
        same("run id", run_id(entry.spec), self.run)
        for leader in entry.leaders:
            self.check_key(leader)
        self.begin, self.stages, self.state = entry, entry.stages, entry.state

    def _open(self, entry: Open | StageOpen) -> None:
        self._check_kind(entry)
        same("round", entry.round, self.settled + 1)
        same("state", entry.state, self.state)
        accounts = [seat.account for seat in entry.roster]
        if len(set(accounts)) != len(accounts):
            raise EntryInvalid(rule="roster", got="an account twice", wanted="distinct accounts")
        if isinstance(entry, StageOpen):
            assert self.stages is not None  # as its kind was checked
            end = rounds.check_stages(entry, self.stages, self.slot_cursor)
        else:
            end = rounds.check_slots(entry, self.slot_cursor)
        for account in accounts:
            self.check_key(account)
        self.open, self.receipts, self.slot_cursor = entry, {}, end

    def _check_kind(self, entry: Entry) -> None:
        """Check that this run's rounds are of such entries."""
        if isinstance(entry, STAGED) == (self.stages is None):
            name = entry.type.removeprefix("stage_")
            wanted = f"{name}: the spec has no stages" if self.stages is None else f"stage_{name}: the spec has stages"
            raise EntryInvalid(rule="type", got=entry.type, wanted=wanted)

    def check_receipt(self, receipt: AnyReceipt) -> None:
        """Check that a receipt may be the next entry: what a leader asks before it takes one.

        Raises:
            EntryInvalid: `rule` names what is wrong.
        """
        self._check_kind(receipt)
        same("network", receipt.network, self.terms.network)
        same("run", receipt.run, self.run)
        if self.begin is None or self.open is None:
            raise EntryInvalid(rule="round", got=receipt.round, wanted="an open round: none is open")
        same("round", receipt.round, self.open.round)
        seat = next((seat for seat in self.open.roster if seat.account == receipt.account), None)
        if seat is None:
            raise EntryInvalid(rule="account", got=receipt.account, wanted="a member on the round's roster")
        same("state_in", receipt.state_in, self.open.state)
        start, count = receipt.slots
        if isinstance(receipt, StageReceipt):
            assert isinstance(self.open, StageOpen)
            assert self.stages is not None  # as its kind was checked
            rounds.check_served(receipt, self.open, self.stages)
        elif start != seat.slot_start or count > seat.quota:
            got, wanted = f"{count} from {start}", f"at most {seat.quota} from {seat.slot_start}"
            raise EntryInvalid(rule="slots", got=got, wanted=wanted)
        same("tokens", receipt.tokens, count * self.begin.tokens_per_slot)
        for index, other in self.receipts.items():
            if other.account == receipt.account:
                got = f"{count} from {start}, used by entry {index} already"
                raise EntryInvalid(rule="slots", got=got, wanted="one receipt per member and round")
        if self.deferred is not None:
            self.deferred.append((self.size, receipt))
        elif self.signatures:
            check_signature(receipt)

    def _settle(self, entry: Settle | StageSettle) -> None:
        self._check_kind(entry)
        if self.open is None:
            raise EntryInvalid(rule="round", got=entry.round, wanted="an open round: none is open")
        same("round", entry.round, self.open.round)
        for index in entry.receipts:
            if index not in self.receipts:
                raise EntryInvalid(rule="receipts", got=index, wanted="indices of receipts of the open round")
        if entry.validation and entry.validation[0] > entry.round:
            raise EntryInvalid(rule="validation", got=f"of round {entry.validation[0]}", wanted=f"≤ {entry.round}")
        receipts = [self.receipts[index] for index in entry.receipts]
        shares = [WHOLE] * len(receipts)
        if isinstance(entry, StageSettle):
            assert self.stages is not None  # as its kind was checked
            staged = [receipt for receipt in receipts if isinstance(receipt, StageReceipt)]
            rounds.check_cover(entry, staged, self.stages)
            shares = [self.stages.shares[receipt.stage] for receipt in staged]
        counted = zip(receipts, shares, strict=True)
        self.counted = tuple((receipt.account, receipt.tokens, share) for receipt, share in counted)
        self.open, self.receipts = None, {}
        self.settled, self.state = entry.round, entry.state


def rules_of(terms: Terms, origin: str, *, signatures: bool = True) -> AccountRules | RunRules:
    """The rules of a log at its start; `signatures=False` where they and the keys were checked before.

    Raises:
        EntryInvalid: no log of this network can have that origin.
    """
    owner = terms.owner(origin)
    kind = RunRules if owner.startswith("run/") else AccountRules
    return kind(terms, owner, signatures=signatures)
