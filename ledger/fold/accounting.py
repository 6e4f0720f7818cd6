"""The money of the fold: effects of entries in, balances and runs out; the same for every order of delivery.

Each effect is decided once, from its log before it and from the log prefixes that it names by root. A claim whose
source is not known far enough is pending, and with it the rest of its log; nothing else waits. Decisions never change
when logs grow. A log counts up to its first invalid entry.

Pure: no IO.
"""

from array import array
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from ledger.rules import Terms

from .balances import Ledger, Movement, Outcome
from .effects import Broken, Claim, Effect, Give, Gives, Make, Pay, Reserve, Start
from .log import FoldedLog, Void, close_run, open_round, run_account, settle_round, unreceived

Watch = Callable[[Movement], None]
"""Told of each movement of money when it is decided, each once."""
_NOTHING = array("q")
_Effect = TypeVar("_Effect", bound=Effect)


class EffectFold:
    """The fold of effects: feed it logs' continuations in any order, ask for the ledger at any time."""

    def __init__(
        self, terms: Terms, roots: Callable[[str, int], bytes], *, watch: Watch | None = None,
        used: Callable[[str, int], None] | None = None,
    ) -> None:  # fmt: skip
        """`roots` gives the root of a fed log at a size up to the fed one; `watch` is told of each movement.

        `used` is told the log and size of each claim that is decided, which will not be asked for on its behalf again.
        """
        self.terms = terms
        self._roots = roots
        self._watch = watch
        self._used = used
        self._logs: dict[str, FoldedLog] = {}
        self._waiting: dict[str, set[str]] = {}  # source origin -> origins of logs that wait for it
        self._voids: list[Outcome] = []
        self._cached: Ledger | None = None
        for account, amount in terms.supply.items() if watch else ():
            self._tell("supply", terms.origin(account), -1, account, amount, amount)

    def size(self, origin: str) -> int:
        """How many entries of this log were fed."""
        log = self._logs.get(origin)
        return log.size if log else 0

    def feed(self, origin: str, size: int, effects: Iterable[Effect]) -> None:
        """The log is known up to `size` now, and these are the effects of the entries that are new.

        Raises:
            EntryInvalid: the origin is not of this network.
        """
        log = self._logs.get(origin)
        if log is None:
            owner = self.terms.owner(origin)
            log = FoldedLog(origin=origin, owner=owner, balance=self.terms.supply.get(owner, 0))
            self._logs[origin] = log
        log.queue.feed(effects)
        log.size = size
        self._cached = None
        self._decide(log)
        grown = [origin]
        while grown:
            for waiting in sorted(self._waiting.pop(grown.pop(), ())):
                if self._decide(self._logs[waiting]):
                    grown.append(waiting)

    def _decide(self, log: FoldedLog) -> bool:
        """Decide as many entries of the log as can be; whether there were any."""
        before, log.pending, queue = log.decided, None, log.queue
        while (effect := queue.head()) is not None:
            log.decided = effect.entry  # those between have no effect
            if isinstance(effect, Gives):
                if self._watch or not log.give_all(effect):
                    log.take_apart(effect)
                    continue
            elif isinstance(effect, Claim):
                if self._missing(effect) is not None:
                    log.pending = effect
                    self._waiting.setdefault(effect.origin, set()).add(log.origin)
                    return log.decided > before
                self._try(self._claim, log, effect)
            elif isinstance(effect, Broken):
                log.invalid = self._without("invalid", log, *effect)
                queue.clear()
                return True
            else:
                self._try(self._apply, log, effect)
            queue.pop()
        if log.invalid is None:
            log.decided = log.size
        return log.decided > before

    def _try(self, decide: Callable[[FoldedLog, _Effect], None], log: FoldedLog, effect: _Effect) -> None:
        try:
            decide(log, effect)
        except Void as void:
            self._voids.append(self._without("void", log, effect.entry, *void.outcome))

    def _without(self, kind: str, log: FoldedLog, index: int, rule: str, got: str, wanted: str) -> Outcome:
        outcome = Outcome(origin=log.origin, index=index, rule=rule, got=got, wanted=wanted)
        if self._watch:
            self._tell(kind, log.origin, index, log.owner, 0, 0, outcome.reason)
        return outcome

    def _missing(self, claim: Claim) -> str | None:
        """Which rule a recv waits for, if any."""
        source = self._logs.get(claim.origin)
        if source is None or source.size < claim.size:
            return "size"
        if source.decided > claim.upto or source.invalid is not None:
            return None
        return "index" if self._roots(claim.origin, claim.size) == claim.root else None

    def _pending(self, log: FoldedLog, claim: Claim) -> Outcome:
        """What the recv that this log waits at waits for."""
        source = self._logs.get(claim.origin)
        if self._missing(claim) == "index" and source is not None:
            rule, got, wanted = "index", f"{claim.origin} decided up to {source.decided}", f"above {claim.upto}"
        else:
            known = source.size if source else 0
            rule, got, wanted = "size", f"{claim.origin} known up to {known}", f"up to {claim.size}"
        return Outcome(origin=log.origin, index=claim.entry, rule=rule, got=got, wanted=wanted, behind=_behind(log))

    def _apply(self, log: FoldedLog, effect: Effect) -> None:
        if isinstance(effect, Give):
            self._give(log, effect)
        elif isinstance(effect, Make):
            left = self.terms.issuers[log.owner] - log.issued
            if effect.amount > left:
                raise Void("issue", effect.amount, f"at most {left}, what is left of the budget")
            log.issued += effect.amount
            log.owe(effect.to, effect.entry, effect.amount)
            if self._watch:
                self._tell("issue", log.origin, effect.entry, log.owner, 0, effect.amount, f"to {effect.to}")
                self._tell("owe", log.origin, effect.entry, effect.to, 0, effect.amount, f"from {log.owner}")
        elif isinstance(effect, Start):
            log.money.begun = effect
        elif isinstance(effect, Reserve):
            self._reserve(log, effect)
        elif isinstance(effect, Pay):
            self._pay(log, effect)
        else:
            self._finish(log, effect.entry)

    def _give(self, log: FoldedLog, effect: Give) -> None:
        index, to, amount, memo = effect
        if amount > log.balance:
            raise Void("amount", amount, f"at most {log.balance}, the balance at this entry")
        if to in log.closes_claimed:
            raise Void("to", to, "a run whose close this account has not claimed")
        log.balance -= amount
        log.owe(to, index, amount)
        if self._watch:
            said = f": {memo}" if memo else ""
            self._tell("send", log.origin, index, log.owner, -amount, amount, f"to {to}{said}")
            self._tell("owe", log.origin, index, to, 0, amount, f"from {log.owner}{said}")

    def _claim(self, log: FoldedLog, claim: Claim) -> None:
        source = self._logs[claim.origin]
        root = self._roots(claim.origin, claim.size)
        if self._used is not None:
            self._used(claim.origin, claim.size)
        if root != claim.root:
            raise Void("root", claim.root.hex(), f"{root.hex()}, that of {claim.origin} at {claim.size}")
        cursor = log.cursors.get(claim.origin, -1)
        if claim.upto <= cursor:
            raise Void("index", claim.upto, f"above {cursor}, the last claim on {claim.origin}")
        taken = source.take(log.owner, claim.upto)
        amount = sum(taken[1::2])
        back = _NOTHING
        if log.is_run:
            if amount:
                log.money.funders[source.owner] = log.money.funders.get(source.owner, 0) + amount
        elif cursor < source.money.close_index <= claim.upto:  # the claim that first covers the close, and no other
            log.closes_claimed.add(source.owner)
            amount += unreceived(log, source)
            back = log.take(source.owner, log.size)
        log.cursors[claim.origin] = claim.upto
        log.balance += amount
        if self._watch:
            pairs = ((claim.origin, taken), (log.origin, back))
            causes = [(origin, *item) for origin, items in pairs for item in zip(items[::2], items[1::2], strict=True)]
            note = f"from {source.owner}" if amount else f"nothing more is owed by {source.owner}"
            self._tell("receive", log.origin, claim.entry, log.owner, amount, amount, note, tuple(causes))

    def _reserve(self, log: FoldedLog, effect: Reserve) -> None:
        burned = open_round(log, effect)
        if self._watch and burned:
            self._tell("burn", log.origin, effect.entry, log.owner, 0, burned, "set aside and never settled")
        if not log.money.live:
            raise Void("roster", f"worth {effect.worth}", f"at most {log.balance}, the run's balance at this entry")
        if self._watch:
            note = f"set aside for round {effect.round}"
            self._tell("reserve", log.origin, effect.entry, log.owner, -effect.worth, effect.worth, note)

    def _pay(self, log: FoldedLog, effect: Pay) -> None:
        left = settle_round(log, effect)
        if self._watch:
            for account, amount in effect.payments:
                self._tell("earn", log.origin, effect.entry, account, 0, amount, f"round {effect.round} of {log.owner}")
            note = f"not used in round {effect.round}"
            self._tell("return", log.origin, effect.entry, log.owner, left, left, note)

    def _finish(self, log: FoldedLog, index: int) -> None:
        reserved, dust = close_run(log, index)
        if not self._watch:
            return
        refunds = log.money.refunded
        for amount, delta, note in ((reserved, 0, "set aside and never settled"), (dust, -dust, "left by rounding")):
            if amount:
                self._tell("burn", log.origin, index, log.owner, delta, amount, note)
        total = sum(refunds.values())
        self._tell("refund", log.origin, index, log.owner, -total, total, "to the funders, pro rata")
        for funder, amount in refunds.items():
            self._tell("refund", log.origin, index, funder, 0, amount, f"from {log.owner}, which closed")

    def _tell(
        self, kind: str, origin: str, index: int, owner: str, delta: int, amount: int, note: str = "",
        causes: tuple[tuple[str, int, int], ...] = (),
    ) -> None:  # fmt: skip
        assert self._watch is not None
        self._watch(
            Movement(
                origin=origin, index=index, kind=kind, owner=owner, delta=delta, amount=amount, note=note, causes=causes
            )
        )

    def ledger(self) -> Ledger:
        """The ledger of what was fed so far."""
        if self._cached is None:
            self._cached = self._ledger()
        return self._cached

    def _ledger(self) -> Ledger:
        logs = [self._logs[origin] for origin in sorted(self._logs)]
        accounts = [log for log in logs if not log.is_run]
        runs = {log.owner.removeprefix("run/"): run_account(log) for log in logs if log.is_run}
        return Ledger(
            balances={**self.terms.supply, **{log.owner: log.balance + log.early for log in accounts}},
            claimable=self._claimable(logs),
            runs={run: account for run, account in runs.items() if account is not None},
            voids=tuple(sorted(self._voids, key=lambda void: (void.origin, void.index))),
            pendings=tuple(self._pending(log, log.pending) for log in logs if log.pending),
            invalid=tuple(replace(log.invalid, behind=_behind(log)) for log in logs if log.invalid),
            decided={log.origin: log.decided for log in logs},
            issued=sum(self.terms.supply.values()) + sum(log.issued for log in accounts),
            burned=sum(log.money.burned for log in logs),
        )

    def _claimable(self, logs: list[FoldedLog]) -> dict[str, dict[str, int]]:
        claimable: dict[str, dict[str, int]] = {}
        owners = {log.owner: log for log in logs}
        for source in logs:
            for payee in source.owed:
                log = owners.get(payee)
                if log is not None and log.money.close_index >= 0:  # what a closed run had not received goes back
                    amount = 0 if payee in source.closes_claimed else unreceived(source, log)
                    payee, origin = source.owner, log.origin
                else:
                    amount, origin = source.owes(payee), source.origin
                if amount:
                    sources = claimable.setdefault(payee, {})
                    sources[origin] = sources.get(origin, 0) + amount
        return {payee: dict(sorted(claimable[payee].items())) for payee in sorted(claimable)}


def _behind(log: FoldedLog) -> int:
    return log.size - log.decided - 1
