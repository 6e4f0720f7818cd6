"""Who needs which blobs of a store: what must stay, what stays while there is room, and in which order the rest goes.

An owner is a name with slashes, such as `<run>/files`. What an owner needs is never evicted. What an owner would keep
goes after everything that nobody named, in the order in which the owners came: so history goes from its oldest end.

Pure: names only; the store has the blobs.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile


class Pins:
    """What the owners of one store need, and what they would keep."""

    def __init__(self) -> None:
        """Nobody needs anything yet."""
        self._needed: dict[str, set[str]] = {}
        self._kept: dict[str, tuple[str, ...]] = {}

    def need(self, blobs: Iterable[str], owner: str) -> None:
        """Add to what an owner needs."""
        self._needed.setdefault(owner, set()).update(blobs)

    def keep(self, blobs: Iterable[str], owner: str) -> None:
        """What an owner would keep while there is room, instead of what it named before."""
        self._kept[owner] = tuple(dict.fromkeys(blobs))

    def drop(self, owner: str) -> None:
        """The owner needs and keeps nothing any more."""
        self._needed.pop(owner, None)
        self._kept.pop(owner, None)

    def owners(self, prefix: str) -> list[str]:
        """Who needs or keeps something, of the owners whose names begin so."""
        return [owner for owner in {**self._needed, **self._kept} if owner.startswith(prefix)]

    def evictable(self, blobs: Iterable[str]) -> list[str]:
        """Which of all the store's blobs may go, in which order: what nobody named, as given here; then history.

        The oldest owners are forgotten where nothing of theirs is left, so that long runs cost no time.
        """
        stored = dict.fromkeys(blobs)
        gone = list(takewhile(lambda owner: stored.keys().isdisjoint(self._kept[owner]), self._kept))
        for owner in gone:
            del self._kept[owner]
        needed = set().union(*self._needed.values())
        kept = dict.fromkeys(blob for blobs_of in self._kept.values() for blob in blobs_of if blob not in needed)
        unnamed = [blob for blob in stored if blob not in needed and blob not in kept]
        return unnamed + [blob for blob in kept if blob in stored]
