"""However entries are delivered — shuffled, repeated, in pieces, part here and part there — the state is the same.

IO: SQLite files in a temporary folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import Behind
from ledger.fold.fold import Ledger, fold
from ledger.merkle import Tree, leaf_hash
from ledger.store.store import Store
from tests.sim.ledger_replicas_stores import library


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Entries of a log, under a certificate that may cover more."""

    origin: str
    start: int
    end: int
    size: int
    """Of the certificate."""

    def give(self, store: Store) -> bool:
        """Deliver it; whether the store could use it yet."""
        log, proof = library().logs[self.origin], None
        if self.end < self.size:
            proof = tree_of(self.origin).consistency_proof(self.end, self.size)
        try:
            entries = log.entries[self.start : self.end]
            store.accept(self.origin, self.start, entries, log.certificates[self.size], proof)
        except Behind:
            return False
        return True


@cache
def tree_of(origin: str) -> Tree:
    return Tree(map(leaf_hash, library().logs[origin].entries))


@cache
def truth() -> Ledger:
    """The fold of everything."""
    logs = library().logs
    return fold({origin: log.entries for origin, log in logs.items()}, library().genesis.terms, signatures=False)


@st.composite
def deliveries(draw: st.DrawFn) -> list[Piece]:
    """All of every log in pieces; some are given again, all in any order."""
    pieces = []
    for origin, log in library().logs.items():
        size = len(log.entries)
        cuts = sorted({0, size, *draw(st.lists(st.integers(1, size), max_size=3))})
        for start, end in pairwise(cuts):
            covering = [at for at in log.certificates if at >= end]
            pieces.append(Piece(origin=origin, start=start, end=end, size=draw(st.sampled_from(covering))))
    again = draw(st.lists(st.sampled_from(pieces), max_size=5))
    return draw(st.permutations(pieces + again))


def deliver(store: Store, pieces: Sequence[Piece]) -> None:
    """Give what came too early again, until nothing more can be used."""
    waiting = list(pieces)
    while waiting:
        left = [piece for piece in waiting if not piece.give(store)]
        if len(left) == len(waiting):
            return
        waiting = left


@contextmanager
def stores(count: int) -> Iterator[list[Store]]:
    """So many empty ones."""
    with tempfile.TemporaryDirectory() as folder:
        opened = [
            Store.open(Path(folder) / f"{number}.db", library().genesis, create=True) for number in range(count)
        ]
        try:
            yield opened
        finally:
            for store in opened:
                store.close()


def known(store: Store) -> dict[str, tuple[int, int, bool]]:
    return {origin: store.known(origin) for origin in store.origins()}


@settings(max_examples=20, deadline=None)
@given(deliveries(), st.integers(0, 2**32))
def test_shuffled_repeated_and_partitioned_delivery_gives_the_same_state(pieces: list[Piece], split: int) -> None:
    one_side = [piece for number, piece in enumerate(pieces) if split >> (number % 32) & 1]
    other_side = [piece for number, piece in enumerate(pieces) if not split >> (number % 32) & 1]
    with stores(2) as (one, other):
        deliver(one, one_side)
        deliver(other, other_side)
        deliver(one, one_side + other_side)
        deliver(other, pieces)
        assert known(one) == known(other)
        assert {origin: certified for origin, (_, certified, _) in known(one).items()} == {
            origin: len(log.entries) for origin, log in library().logs.items()
        }
        assert one.ledger() == other.ledger() == truth()
