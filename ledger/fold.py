"""The fold: certified prefixes of logs in, balances and runs out; the same for every order of delivery.

Each entry is decided once, from its log before it and from the log prefixes that it names by root. A `recv` whose
source is not known far enough is pending, and with it the rest of its log; nothing else waits. Decisions never change
when prefixes grow, so the fold can be extended entry by entry. A log counts up to its first invalid entry.

Pure: no IO.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from .balances import Ledger, Outcome, RunAccount, conservation
from .entries import Close, Entry, Issue, Open, Recv, Send, Settle, parse
from .errors import CodecInvalid, EntryInvalid
from .fold_log import FoldedLog, Void, close_run, open_round, run_account, settle_round, unreceived
from .merkle import leaf_hash
from .rules import AccountRules, RunRules, Terms, rules_of

__all__ = ["Fold", "Ledger", "Outcome", "RunAccount", "Terms", "conservation", "fold"]


def fold(prefixes: Mapping[str, Iterable[bytes | Entry]], terms: Terms, *, signatures: bool = True) -> Ledger:
    """The ledger of these prefixes, by origin; `signatures=False` where they were checked before.

    Raises:
        EntryInvalid: an origin is not of this network.
    """
    state = Fold(terms, signatures=signatures)
    for origin, entries in prefixes.items():
        state.extend(origin, entries)
    return state.ledger()


class Fold:
    """The fold as a thing that grows: feed it prefixes' continuations in any order, ask for the ledger at any time."""

    def __init__(self, terms: Terms, *, signatures: bool = True) -> None:
        self.terms = terms
        self._signatures = signatures
        self._logs: dict[str, FoldedLog] = {}
        self._waiting: dict[str, set[str]] = {}  # source origin -> origins of logs that wait for it
        self._voids: list[Outcome] = []
        self._cached: Ledger | None = None

    def size(self, origin: str) -> int:
        """How many entries of this log were fed."""
        log = self._logs.get(origin)
        return log.tree.size if log else 0

    def extend(self, origin: str, entries: Iterable[bytes | Entry]) -> None:
        """Feed the next certified entries of a log.

        Raises:
            EntryInvalid: the origin is not of this network.
        """
        log = self._logs.get(origin)
        if log is None:
            rules = rules_of(self.terms, origin, signatures=self._signatures)
            balance = self.terms.supply.get(rules.owner, 0)
            log = self._logs[origin] = FoldedLog(origin=origin, owner=rules.owner, rules=rules, balance=balance)
        for item in entries:
            if isinstance(item, bytes):
                data, entry = item, _parsed(item) if log.invalid is None else None
            else:
                data, entry = item.encode(), item
            log.tree.append(leaf_hash(data))
            if log.invalid is None and entry is not None:
                log.queue.append(entry)
        self._cached = None
        self._decide(log)
        grown = [origin]
        while grown:
            for waiting in sorted(self._waiting.pop(grown.pop(), ())):
                if self._decide(self._logs[waiting]):
                    grown.append(waiting)

    def _decide(self, log: FoldedLog) -> bool:
        """Decide as many entries of the log as can be; whether there were any."""
        before, log.pending = log.decided, None
        while log.queue and log.invalid is None:
            entry, index = log.queue[0], log.decided
            try:
                if isinstance(entry, EntryInvalid):
                    raise entry
                if log.rules.size == index:  # else it was accepted before it had to wait
                    log.rules.apply(entry)
            except EntryInvalid as exc:
                log.invalid = Outcome(origin=log.origin, index=index, rule=exc.rule, got=exc.got, wanted=exc.wanted)
                log.queue.clear()
                return True
            if isinstance(entry, Recv):
                log.pending = self._missing(log, entry)
                if log.pending is not None:
                    self._waiting.setdefault(entry.origin, set()).add(log.origin)
                    return log.decided > before
            try:
                self._effect(log, index, entry)
            except Void as void:
                rule, got, wanted = void.outcome
                self._voids.append(Outcome(origin=log.origin, index=index, rule=rule, got=got, wanted=wanted))
            log.queue.popleft()
            log.decided += 1
        return log.decided > before

    def _missing(self, log: FoldedLog, entry: Recv) -> Outcome | None:
        """What a recv waits for, if anything."""
        source = self._logs.get(entry.origin)
        known = source.tree.size if source else 0
        if source is None or known < entry.size:
            rule, got, wanted = "size", f"{entry.origin} known up to {known}", f"up to {entry.size}"
        elif source.invalid is None and source.decided <= entry.index and _root_fits(source, entry):
            rule, got, wanted = "index", f"{entry.origin} decided up to {source.decided}", f"above {entry.index}"
        else:
            return None
        return Outcome(origin=log.origin, index=log.decided, rule=rule, got=got, wanted=wanted)

    def _effect(self, log: FoldedLog, index: int, entry: Entry) -> None:
        if isinstance(entry, Send):
            self._send(log, index, entry)
        elif isinstance(entry, Recv):
            self._recv(log, index, entry)
        elif isinstance(entry, Issue):
            left = self.terms.issuers[log.owner] - log.issued
            if entry.amount > left:
                raise Void("issue", entry.amount, f"at most {left}, what is left of the budget")
            log.issued += entry.amount
            log.owe(entry.to, index, entry.amount)
        elif isinstance(entry, Open):
            open_round(log, entry)
        elif isinstance(entry, Settle):
            settle_round(log, index)
        elif isinstance(entry, Close):
            close_run(log, index)

    def _send(self, log: FoldedLog, index: int, entry: Send) -> None:
        if entry.amount > log.balance:
            raise Void("amount", entry.amount, f"at most {log.balance}, the balance at this entry")
        if entry.to in log.closes_claimed:
            raise Void("to", entry.to, "a run whose close this account has not claimed")
        log.balance -= entry.amount
        log.owe(entry.to, index, entry.amount)

    def _recv(self, log: FoldedLog, index: int, entry: Recv) -> None:
        source = self._logs[entry.origin]
        if not _root_fits(source, entry):
            wanted = f"{source.tree.root(entry.size).hex()}, that of {entry.origin} at {entry.size}"
            raise Void("root", entry.root, wanted)
        cursor = log.cursors.get(entry.origin, -1)
        if entry.index <= cursor:
            raise Void("index", entry.index, f"above {cursor}, the last claim on {entry.origin}")
        owed = source.owed.get(log.owner)
        amount = owed.after(cursor, entry.index) if owed else 0
        if isinstance(log.rules, RunRules):
            if amount:
                log.money.funders[source.owner] = log.money.funders.get(source.owner, 0) + amount
        elif cursor < source.money.close_index <= entry.index:  # the claim that first covers the close, and no other
            log.closes_claimed.add(source.owner)
            amount += unreceived(log, source)
        log.cursors[entry.origin] = entry.index
        log.balance += amount

    def ledger(self) -> Ledger:
        """The ledger of what was fed so far."""
        if self._cached is None:
            self._cached = self._ledger()
        return self._cached

    def _ledger(self) -> Ledger:
        logs = [self._logs[origin] for origin in sorted(self._logs)]
        accounts = [log for log in logs if isinstance(log.rules, AccountRules)]
        runs = {log.rules.run: run_account(log, log.rules) for log in logs if isinstance(log.rules, RunRules)}
        return Ledger(
            balances={**self.terms.supply, **{log.owner: log.balance for log in accounts}},
            claimable=self._claimable(logs),
            runs={run: account for run, account in runs.items() if account is not None},
            voids=tuple(sorted(self._voids, key=lambda void: (void.origin, void.index))),
            pendings=tuple(replace(log.pending, behind=len(log.queue) - 1) for log in logs if log.pending),
            invalid=tuple(replace(log.invalid, behind=log.tree.size - log.decided - 1) for log in logs if log.invalid),
            decided={log.origin: log.decided for log in logs},
            issued=sum(self.terms.supply.values()) + sum(log.issued for log in accounts),
            burned=sum(log.money.burned for log in logs),
        )

    def _claimable(self, logs: list[FoldedLog]) -> dict[str, dict[str, int]]:
        claimable: dict[str, dict[str, int]] = {}
        for source in logs:
            for payee, owed in source.owed.items():
                log = self._logs.get(self.terms.origin(payee))
                if log is not None and log.money.close_index >= 0:  # what a closed run had not received goes back
                    amount = 0 if payee in source.closes_claimed else unreceived(source, log)
                    payee, origin = source.owner, log.origin
                else:
                    amount = owed.after(log.cursors.get(source.origin, -1) if log else -1)
                    origin = source.origin
                if amount:
                    sources = claimable.setdefault(payee, {})
                    sources[origin] = sources.get(origin, 0) + amount
        return claimable


def _parsed(data: bytes) -> Entry | EntryInvalid:
    try:
        return parse(data)
    except CodecInvalid as exc:
        return EntryInvalid(rule="encoding", got=exc.message, wanted="the canonical bytes of an entry")
    except EntryInvalid as exc:
        return exc


def _root_fits(source: FoldedLog, entry: Recv) -> bool:
    return source.tree.root(entry.size).hex() == entry.root


