"""One log inside the fold: its balance, what it owes to whom, what it claimed; and the money of a run.

What is owed is kept until it is claimed and then forgotten, so that memory follows what is open, not what ever was.

Pure: no IO.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from .balances import Outcome, RunAccount
from .effects import Claim, Effect, Give, Gives, Pay, Reserve, Start


@dataclass(kw_only=True)
class Money:
    """What a run's log has beside its balance."""

    begun: Start | None = None
    state: str = ""
    rounds_settled: int = 0
    round_open: int = 0
    slot_cursor: int = 0
    reserved: int = 0
    live: bool = False  # the open round's reservation was within the balance
    burned: int = 0
    paid: dict[str, int] = field(default_factory=dict)
    refunded: dict[str, int] = field(default_factory=dict)
    funders: dict[str, int] = field(default_factory=dict)
    close_index: int = -1


class Queue:
    """Effects that wait; those that were fed are only made when their turn comes."""

    __slots__ = ("_coming", "_made")

    def __init__(self) -> None:
        self._made: deque[Effect] = deque()
        self._coming: deque[Iterator[Effect]] = deque()

    def feed(self, effects: Iterable[Effect]) -> None:
        """Add effects to the end."""
        self._coming.append(iter(effects))

    def head(self) -> Effect | None:
        """The first one, if there is one."""
        made, coming = self._made, self._coming
        while not made and coming:
            effect = next(coming[0], None)
            if effect is None:
                coming.popleft()
            else:
                made.append(effect)
        return made[0] if made else None

    def pop(self) -> Effect:
        """Take the first one, which `head` gave."""
        return self._made.popleft()

    def put_back(self, effects: Sequence[Effect]) -> None:
        """Put effects before the first one."""
        self._made.extendleft(reversed(effects))

    def clear(self) -> None:
        """Forget them all."""
        self._made.clear()
        self._coming.clear()


@dataclass(kw_only=True)
class FoldedLog:
    """A log as far as the fold decided it."""

    origin: str
    owner: str
    balance: int
    money: Money = field(default_factory=Money)  # used by runs
    issued: int = 0  # used by issuers
    size: int = 0
    """How many entries are known."""
    queue: Queue = field(default_factory=Queue)
    """What they do, from the first undecided one on."""
    decided: int = 0
    invalid: Outcome | None = None
    pending: Claim | None = None
    """What it waits at."""
    owed: dict[str, array[int]] = field(default_factory=dict)
    """What is not claimed yet, by payee: entry, amount, entry, amount and so on."""
    cursors: dict[str, int] = field(default_factory=dict)
    closes_claimed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.is_run = self.owner.startswith("run/")

    def owe(self, payee: str, entry: int, amount: int) -> None:
        """Owe the payee this amount because of this entry."""
        if amount:
            owed = self.owed.get(payee)
            if owed is None:
                self.owed[payee] = array("q", (entry, amount))
            else:
                owed.append(entry)
                owed.append(amount)

    def give_all(self, gives: Gives) -> bool:
        """Decide all these sends, even those after a claim that is not decided yet, if the balance pays for all."""
        total = sum([sum(due[1::2]) for due in gives.owed.values()])
        if total > self.balance:
            return False
        self.balance -= total
        owed = self.owed
        for payee, due in gives.owed.items():
            if payee in owed:
                owed[payee].extend(due)
            else:
                owed[payee] = due
        return True

    def take_apart(self, gives: Gives) -> None:
        """Put these sends, which head the queue, between the claims one by one."""
        queue = self.queue
        queue.pop()
        items = [(to, *item) for to, due in gives.owed.items() for item in zip(due[::2], due[1::2], strict=True)]
        effects: list[Effect] = [Give(entry, to, amount, "") for to, entry, amount in items]
        last = max(effect.entry for effect in effects)
        while (between := queue.head()) is not None and between.entry < last:
            effects.append(queue.pop())
        queue.put_back(sorted(effects, key=attrgetter("entry")))

    @property
    def early(self) -> int:
        """What was given by sends after a claim that is not decided yet; they do not count so far."""
        return sum([sum(owed[1::2]) - self.owes(payee) for payee, owed in self.owed.items()]) if self.pending else 0

    def owes(self, payee: str) -> int:
        """What decided entries owe the payee and it did not claim."""
        owed = self.owed[payee]
        return sum(owed[1::2] if owed[-2] < self.decided else owed[1 : 2 * bisect_left(owed[::2], self.decided) : 2])

    def take(self, payee: str, upto: int) -> array[int]:
        """What entries up to `upto` owe the payee, who claims it now; it is forgotten."""
        owed = self.owed.get(payee)
        if owed is None:
            return array("q")
        if owed[-2] <= upto:
            del self.owed[payee]
            return owed
        end = 2 * bisect_right(owed[::2], upto)
        taken = owed[:end]
        del owed[:end]
        return taken


class Void(Exception):
    """An entry turns out void; caught where entries are decided."""

    def __init__(self, rule: str, got: object, wanted: object) -> None:
        self.outcome = (rule, str(got), str(wanted))


def unreceived(sender: FoldedLog, run: FoldedLog) -> int:
    """What the account sent to the run and the run had not received when it closed."""
    owed = sender.owed.get(run.owner)
    return sum(owed[1::2]) if owed else 0


def open_round(log: FoldedLog, effect: Reserve) -> int:
    """Set the quotas' worth aside; what an unsettled open had set aside is burned: how much that was."""
    money = log.money
    burned = money.reserved
    money.burned += burned
    money.round_open, money.slot_cursor = effect.round, effect.slot_cursor
    money.live = effect.worth <= log.balance
    money.reserved = effect.worth if money.live else 0
    log.balance -= money.reserved
    return burned


def settle_round(log: FoldedLog, effect: Pay) -> int:
    """Pay the receipts; what the quotas did not use returns to the run: how much that was."""
    money = log.money
    money.round_open, money.rounds_settled, money.state = 0, effect.round, effect.state
    if not money.live:
        raise Void("round", "one whose open was void", "a round that was paid for")
    left = money.reserved
    for account, amount in effect.payments:
        left -= amount
        money.paid[account] = money.paid.get(account, 0) + amount
        log.owe(account, effect.entry, amount)
    log.balance += left
    money.reserved, money.live = 0, False
    return left


def close_run(log: FoldedLog, index: int) -> tuple[int, int]:
    """Burn what is reserved, owe the rest to the funders pro rata, burn the dust: (what was reserved, the dust)."""
    money = log.money
    total, rest, reserved = sum(money.funders.values()), log.balance, money.reserved
    for funder, amount in money.funders.items():
        refund = rest * amount // total
        money.refunded[funder] = refund
        log.owe(funder, index, refund)
    dust = rest - sum(money.refunded.values())
    money.burned += reserved + dust
    money.reserved, money.live, log.balance, money.close_index, money.round_open = 0, False, 0, index, 0
    return reserved, dust


def run_account(log: FoldedLog) -> RunAccount | None:
    """The run as the ledger shows it, once it has begun."""
    money = log.money
    if money.begun is None:
        return None
    return RunAccount(
        run=log.owner.removeprefix("run/"), name=money.begun.name, submitter=money.begun.submitter,
        balance=log.balance, reserved=money.reserved, paid=dict(money.paid), refunded=dict(money.refunded),
        burned=money.burned, funders=dict(money.funders), rounds_settled=money.rounds_settled,
        round_open=money.round_open, slot_cursor=money.slot_cursor, state=money.state or money.begun.state,
        closed=money.close_index >= 0,
    )  # fmt: skip
