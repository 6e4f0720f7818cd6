"""One log inside the fold: its balance, what it owes to whom, what it claimed; and the money of a run.

Pure: no IO.
"""

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field

from .balances import Outcome, RunAccount
from .entries import Begin, Entry, Open
from .errors import EntryInvalid
from .merkle import Tree
from .rules import AccountRules, RunRules

MILLION = 10**6


class Owed:
    """What one log owes one payee, as running sums by entry index."""

    __slots__ = ("indices", "sums")

    def __init__(self) -> None:
        self.indices: list[int] = []
        self.sums: list[int] = [0]

    def add(self, index: int, amount: int) -> None:
        """Owe more, at a later entry."""
        self.indices.append(index)
        self.sums.append(self.sums[-1] + amount)

    def after(self, cursor: int, index: int | None = None) -> int:
        """The sum over entries in (cursor, index]."""
        end = len(self.indices) if index is None else bisect_right(self.indices, index)
        return max(0, self.sums[end] - self.sums[bisect_right(self.indices, cursor)])


@dataclass(kw_only=True)
class Money:
    """What a run's log has beside its balance."""

    reserved: int = 0
    live: bool = False  # the open round's reservation was within the balance
    burned: int = 0
    paid: dict[str, int] = field(default_factory=dict)
    refunded: dict[str, int] = field(default_factory=dict)
    funders: dict[str, int] = field(default_factory=dict)
    close_index: int = -1


@dataclass(kw_only=True)
class FoldedLog:
    """A log as far as the fold decided it."""

    origin: str
    owner: str
    rules: AccountRules | RunRules
    balance: int
    money: Money = field(default_factory=Money)  # used by runs
    issued: int = 0  # used by issuers
    tree: Tree = field(default_factory=Tree)
    queue: deque[Entry | EntryInvalid] = field(default_factory=deque)
    decided: int = 0
    invalid: Outcome | None = None
    pending: Outcome | None = None
    owed: dict[str, Owed] = field(default_factory=dict)
    cursors: dict[str, int] = field(default_factory=dict)
    closes_claimed: set[str] = field(default_factory=set)

    def owe(self, payee: str, index: int, amount: int) -> None:
        """Owe the payee this amount because of this entry."""
        if amount:
            self.owed.setdefault(payee, Owed()).add(index, amount)


class Void(Exception):
    """An entry turns out void; caught where entries are decided."""

    def __init__(self, rule: str, got: object, wanted: object) -> None:
        self.outcome = (rule, str(got), str(wanted))


def unreceived(sender: FoldedLog, run: FoldedLog) -> int:
    """What the account sent to the run and the run had not received when it closed."""
    owed = sender.owed.get(run.owner)
    return owed.after(run.cursors.get(sender.origin, -1)) if owed else 0


def open_round(log: FoldedLog, entry: Open) -> None:
    """Set the quotas' worth aside; what an unsettled open had set aside is burned."""
    money, begin = log.money, _begin(log)
    money.burned += money.reserved
    worth = sum(seat.quota * begin.tokens_per_slot * begin.price // MILLION for seat in entry.roster)
    money.live = worth <= log.balance
    money.reserved = worth if money.live else 0
    if not money.live:
        raise Void("roster", f"worth {worth}", f"at most {log.balance}, the run's balance at this entry")
    log.balance -= worth


def settle_round(log: FoldedLog, index: int) -> None:
    """Pay the receipts; what the quotas did not use returns to the run."""
    money, begin = log.money, _begin(log)
    if not money.live:
        raise Void("round", "one whose open was void", "a round that was paid for")
    left = money.reserved
    for receipt in log.rules.counted if isinstance(log.rules, RunRules) else ():
        amount = receipt.tokens * begin.price // MILLION
        left -= amount
        money.paid[receipt.account] = money.paid.get(receipt.account, 0) + amount
        log.owe(receipt.account, index, amount)
    log.balance += left
    money.reserved, money.live = 0, False


def close_run(log: FoldedLog, index: int) -> None:
    """Burn what is reserved, owe the rest to the funders pro rata, burn the dust."""
    money = log.money
    total, rest = sum(money.funders.values()), log.balance
    for funder, amount in money.funders.items():
        refund = rest * amount // total
        money.refunded[funder] = refund
        log.owe(funder, index, refund)
    money.burned += money.reserved + rest - sum(money.refunded.values())
    money.reserved, money.live, log.balance, money.close_index = 0, False, 0, index


def _begin(log: FoldedLog) -> Begin:
    assert isinstance(log.rules, RunRules)
    assert log.rules.begin is not None  # the rules let nothing come before it
    return log.rules.begin


def run_account(log: FoldedLog, rules: RunRules) -> RunAccount | None:
    """The run as the ledger shows it, once it has begun."""
    if rules.begin is None:
        return None
    money = log.money
    return RunAccount(
        run=rules.run, name=str(rules.begin.spec["name"]), submitter=str(rules.begin.spec["submitter"]),
        balance=log.balance, reserved=money.reserved, paid=dict(money.paid), refunded=dict(money.refunded),
        burned=money.burned, funders=dict(money.funders), rounds_settled=rules.settled,
        round_open=rules.open.round if rules.open else 0, slot_cursor=rules.slot_cursor, state=rules.state,
        closed=rules.closed,
    )  # fmt: skip
