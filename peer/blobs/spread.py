"""Whom we gave a blob to, so that those who come later can be sent on to them: nobody uploads a blob to everybody.

The first few are served. Whoever comes later is told of some of those; if it comes back, because they did not help, it
is served as soon as few others are being served. So a blob spreads like a tree, its maker sends it a few times only.

Pure: the time and the rng are given.
"""

from __future__ import annotations

from collections import OrderedDict
from random import Random

FREE = 3
"""So many peers get a blob of us without being sent on."""
SEATS = 2
"""Of those that came back, so many are served at the same time."""
SEAT_S = 1.0
"""Whoever asked for a part of the blob in the last so many seconds is being served."""
BACK_S = 0.5
"""Who comes back sooner has asked nobody else."""
NAMES = 4
_MOST_BLOBS = 512
_MOST_PEERS = 1024


class _Given:
    """One blob's takers; owned by `Spread`."""

    def __init__(self) -> None:
        self.to: OrderedDict[str, float] = OrderedDict()
        """By peer: when it asked last."""
        self.sent_on: OrderedDict[str, float] = OrderedDict()
        """By peer: when it was sent on first."""


class Spread:
    """Who was given what of late."""

    def __init__(self, rng: Random) -> None:
        """Nobody yet."""
        self._rng = rng
        self._blobs: OrderedDict[str, _Given] = OrderedDict()

    def others(self, blob: str, peer: str, now: float) -> list[str]:
        """Whom `peer` is to ask instead of us; empty if it is to be served."""
        given = self._blobs.setdefault(blob, _Given())
        self._blobs.move_to_end(blob)
        if len(self._blobs) > _MOST_BLOBS:
            self._blobs.popitem(last=False)
        if peer in given.to or len(given.to) < FREE or self._may_stay(given, peer, now):
            given.to[peer] = now
            given.to.move_to_end(peer)
            _shorten(given.to)
            return []
        given.sent_on.setdefault(peer, now)
        _shorten(given.sent_on)
        return self._rng.sample(list(given.to), min(NAMES, len(given.to)))

    def _may_stay(self, given: _Given, peer: str, now: float) -> bool:
        """Whether it came back after it had been sent on, and there is a seat for it."""
        served = sum(now - asked < SEAT_S for asked in given.to.values())
        return now - given.sent_on.get(peer, now) >= BACK_S and served < SEATS


def _shorten(peers: OrderedDict[str, float]) -> None:
    while len(peers) > _MOST_PEERS:
        peers.popitem(last=False)
