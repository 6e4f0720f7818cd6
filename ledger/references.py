"""Which logs are worth keeping: those that certified entries of logs worth keeping refer to, from the genesis on.

Any key makes an account, so logs cost nothing to make; an account that owns credits, takes part in a run or is about to
be paid is named by somebody who does, and so on back to the accounts that the genesis names.

Pure: no IO.
"""

from collections.abc import Iterable

from .entries import Begin, Entry, Issue, Open, Recv, Send, StageOpen
from .rules import Terms


def named_by(entry: Entry, terms: Terms) -> tuple[str, ...]:
    """The origins of the logs that an entry refers to."""
    if isinstance(entry, Send | Issue):
        return (terms.origin(entry.to),)
    if isinstance(entry, Recv):
        return (entry.origin,)
    if isinstance(entry, Open | StageOpen):
        return tuple(terms.origin(seat.account) for seat in entry.roster)
    if isinstance(entry, Begin):
        accounts = dict.fromkeys((str(entry.spec["submitter"]), *entry.leaders))
        return tuple(terms.origin(account) for account in accounts)
    return ()


class References:
    """The logs that count, as certified entries become known in any order."""

    def __init__(self, terms: Terms) -> None:
        self._counting = {terms.origin(account) for account in (*terms.supply, *terms.issuers)}
        self._waiting: dict[str, set[str]] = {}  # what logs name that do not count themselves, so far

    def __contains__(self, origin: object) -> bool:
        return origin in self._counting

    def all(self) -> frozenset[str]:
        """All logs that count."""
        return frozenset(self._counting)

    def add(self, origin: str, named: Iterable[str]) -> None:
        """Certified entries of the log `origin` name these logs."""
        if origin not in self._counting:
            self._waiting.setdefault(origin, set()).update(named)
            return
        grown = list(named)
        while grown:
            found = grown.pop()
            if found not in self._counting:
                self._counting.add(found)
                grown.extend(self._waiting.pop(found, ()))
