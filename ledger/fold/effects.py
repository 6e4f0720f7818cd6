"""What one entry does to money, read from its log alone: parsing, rules and signatures, but no other log.

A `LogReader` is fed the entries of one log in order and gives an effect for each that has to do with money, and one for
the first that breaks a rule. So logs can be read side by side, and `fold` needs nothing but the effects.

Pure: no IO.
"""

from array import array
from typing import NamedTuple, TypeAlias

from ledger.entries import Begin, Close, Entry, Issue, Open, Recv, Send, Settle, StageOpen, StageSettle, parse
from ledger.errors import CodecInvalid, EntryInvalid
from ledger.receipt import AnyReceipt
from ledger.rules import AccountRules, RunRules
from ledger.stages import worth

ACCOUNT = 64
"""The length of an account; "run/…" is longer."""


class Give(NamedTuple):
    """A send."""

    entry: int
    to: str
    amount: int
    memo: str


class Gives(NamedTuple):
    """Sends to accounts with nothing but claims and entries without effect between; their memos are left out.

    If the balance before the first pays for them all, none is void: a claim between them can only add to it.
    """

    entry: int
    """The first."""
    owed: "dict[str, array[int]]"
    """By payee: entry, amount, entry, amount and so on."""


class Make(NamedTuple):
    """An issue."""

    entry: int
    to: str
    amount: int


class Claim(NamedTuple):
    """A recv: all that `origin`, whose root at `size` is `root`, owes up to entry `upto`."""

    entry: int
    origin: str
    upto: int
    size: int
    root: bytes


class Start(NamedTuple):
    """A begin."""

    entry: int
    name: str
    submitter: str
    state: str


class Reserve(NamedTuple):
    """An open: the worth of its quotas in micro-credits, and the first slot that was never given out."""

    entry: int
    worth: int
    round: int
    slot_cursor: int


class Pay(NamedTuple):
    """A settle: what each receipt that counts earns, as (account, micro-credits)."""

    entry: int
    payments: tuple[tuple[str, int], ...]
    round: int
    state: str


class Finish(NamedTuple):
    """A close."""

    entry: int


class Broken(NamedTuple):
    """The first entry that breaks a rule; nothing from it on counts."""

    entry: int
    rule: str
    got: str
    wanted: str


Effect: TypeAlias = Give | Gives | Make | Claim | Start | Reserve | Pay | Finish | Broken


class LogReader:
    """Reads one log; after a `Broken` it reads nothing more."""

    def __init__(self, rules: AccountRules | RunRules) -> None:
        self.rules = rules
        self.broken: EntryInvalid | None = None
        """What the first bad entry breaks."""

    def read(self, item: bytes | Entry) -> Effect | None:
        """What the next entry does; None where it moves no money."""
        if self.broken is not None:
            return None
        try:
            entry = parse(item) if isinstance(item, bytes) else item
            return self.effect(entry)
        except CodecInvalid as exc:
            wanted = "the canonical bytes of an entry"
            self.broken = EntryInvalid(rule="encoding", got=exc.message, wanted=wanted, index=self.rules.size)
        except EntryInvalid as exc:
            self.broken = exc.at(self.rules.size)
        return Broken(self.rules.size, self.broken.rule, self.broken.got, self.broken.wanted)

    def effect(self, entry: Entry) -> Effect | None:
        """What this entry does as the next one; None where it moves no money.

        Raises:
            EntryInvalid: it may not come next; nothing changed.
        """
        rules = self.rules
        index = rules.size
        rules.apply(entry)
        if isinstance(entry, Send):
            return Give(index, entry.to, entry.amount, entry.memo)
        if isinstance(entry, Recv):
            return Claim(index, entry.origin, entry.index, entry.size, bytes.fromhex(entry.root))
        if isinstance(entry, AnyReceipt):
            return None
        if isinstance(entry, Issue):
            return Make(index, entry.to, entry.amount)
        if isinstance(rules, RunRules) and rules.begin is not None:
            return _of_run(rules, rules.begin, index, entry)
        return None

    def collect(self, entry: Entry, collected: "Collected") -> None:
        """As `effect`, but what the entry does is added to what was collected.

        Raises:
            EntryInvalid: it may not come next; nothing changed.
        """
        if type(entry) is not Send or len(entry.to) != ACCOUNT:
            effect = self.effect(entry)
            if effect is not None:
                collected.add(effect)
            return
        index = self.rules.size
        self.rules.apply(entry)
        owed = collected.owed
        if owed is None:
            owed = collected.begin(index)
        if due := owed.get(entry.to):
            due.append(index)
            due.append(entry.amount)
        else:
            owed[entry.to] = array("q", (index, entry.amount))


class Collected:
    """Effects of entries of one log in a row, sends to accounts as few `Gives`: quicker to tell and to fold."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self.owed: dict[str, array[int]] | None = None
        """What the `Gives` holds to which the next send to an account belongs, if there is one."""

    def add(self, effect: Effect) -> None:
        """Add an effect that is no send to an account."""
        self.effects.append(effect)
        if type(effect) is not Claim:
            self.owed = None

    def begin(self, index: int) -> "dict[str, array[int]]":
        """Add a `Gives` for the send at this entry and others after it; what it is to hold."""
        gives = Gives(index, {})
        self.effects.append(gives)
        self.owed = gives.owed
        return gives.owed


def _of_run(rules: RunRules, begin: Begin, index: int, entry: Entry) -> Effect | None:
    """What an entry of a run's log does, the rules being those after it."""
    price, per_slot = begin.price, begin.tokens_per_slot
    if isinstance(entry, Open):
        reserved = sum(worth(seat.quota * per_slot, price) for seat in entry.roster)
        return Reserve(index, reserved, entry.round, rules.slot_cursor)
    if isinstance(entry, StageOpen):
        return Reserve(index, worth(entry.slots.count * per_slot, price), entry.round, rules.slot_cursor)
    if isinstance(entry, Settle | StageSettle):
        payments = tuple((account, worth(tokens, price, share)) for account, tokens, share in rules.counted)
        return Pay(index, payments, entry.round, entry.state)
    if isinstance(entry, Begin):
        return Start(index, str(begin.spec["name"]), str(begin.spec["submitter"]), begin.state)
    return Finish(index) if isinstance(entry, Close) else None
