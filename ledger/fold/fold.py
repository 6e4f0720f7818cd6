"""The fold: certified prefixes of logs in, balances and runs out; the same for every order of delivery.

Each entry is decided once, from its log before it and from the log prefixes that it names by root. A `recv` whose
source is not known far enough is pending, and with it the rest of its log; nothing else waits. Decisions never change
when prefixes grow, so the fold can be extended entry by entry. A log counts up to its first invalid entry.

What an entry does is read from its log alone (`effects`), what comes of it is decided over all logs (`accounting`).

Pure: no IO.
"""

from collections.abc import Iterable, Mapping

from ledger.entries import Entry
from ledger.merkle import Tree, leaf_hash
from ledger.rules import Terms, rules_of

from .accounting import EffectFold, Watch
from .balances import Ledger, Movement, Outcome, RunAccount, conservation
from .effects import LogReader

__all__ = ["Fold", "Ledger", "Movement", "Outcome", "RunAccount", "Terms", "Watch", "conservation", "fold"]


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
    """The fold of entries: feed it prefixes' continuations in any order, ask for the ledger at any time."""

    def __init__(self, terms: Terms, *, signatures: bool = True, watch: Watch | None = None) -> None:
        """`watch` is told of each movement of money when it is decided, each once."""
        self.terms = terms
        self._signatures = signatures
        self._trees: dict[str, Tree] = {}
        self._readers: dict[str, LogReader] = {}
        self._money = EffectFold(terms, self._root, watch=watch)

    def _root(self, origin: str, size: int) -> bytes:
        return self._trees[origin].root(size)

    def size(self, origin: str) -> int:
        """How many entries of this log were fed."""
        return self._money.size(origin)

    def extend(self, origin: str, entries: Iterable[bytes | Entry]) -> None:
        """Feed the next certified entries of a log.

        Raises:
            EntryInvalid: the origin is not of this network.
        """
        reader = self._readers.get(origin)
        if reader is None:
            reader = LogReader(rules_of(self.terms, origin, signatures=self._signatures))
            self._readers[origin], self._trees[origin] = reader, Tree()
        tree, effects = self._trees[origin], []
        for item in entries:
            tree.append(leaf_hash(item if isinstance(item, bytes) else item.encode()))
            effect = reader.read(item)
            if effect is not None:
                effects.append(effect)
        self._money.feed(origin, tree.size, effects)

    def ledger(self) -> Ledger:
        """The ledger of what was fed so far."""
        return self._money.ledger()
