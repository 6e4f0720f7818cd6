"""What leaders say that a round is cut with, sometimes not the truth, and what came of it.

Pure: randomness is the world's.
"""

from __future__ import annotations

import random
from collections import Counter

from peer.rounds.cut import Counted, Cut
from peer.rounds.messages import ApplyRound


class Guesses:
    """All members' guesses of one world."""

    def __init__(self, rng: random.Random, false_cuts: float) -> None:
        self._rng = rng
        self._false_cuts = false_cuts
        self._states: dict[int, list[str]] = {}

    def told(self, effect: ApplyRound) -> Cut:
        """What a leader says to one and all."""
        counted = [Counted(account=r.account, update=r.update, tokens=r.tokens) for r in effect.receipts]
        if self._rng.random() < self._false_cuts:
            self._rng.shuffle(counted)
            del counted[1:]
        return Cut(round=effect.round, counted=tuple(counted))

    def made(self, round_number: int, state: str) -> None:
        """A member came to this state."""
        self._states.setdefault(round_number, []).append(state)

    def settled(self, round_number: int, state: str) -> Counter[str]:
        """How many of them were right, and how many were not."""
        made = self._states.get(round_number, [])
        return Counter("guessed right" if guess == state else "guessed wrong" for guess in made)
