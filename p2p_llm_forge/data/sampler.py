"""The order in which slots read samples: a keyed permutation, without replacement, in O(1) memory.

`Permutation` is a balanced Feistel network over the next power of four, cycle-walked into the domain: walking stays
within one cycle of a bijection, so the restriction is a bijection too (Black & Rogaway, 2002).

Pure: arithmetic only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

ROUNDS = 6

Positions = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Permutation:
    """A pseudo-random permutation of 0..size-1."""

    size: int
    """Number of elements, 1 … 2^62."""
    label: str
    """What it is for and its seed; other labels give unrelated permutations."""
    half_bits: int = field(init=False)
    """Width of each Feistel half."""
    keys: tuple[int, ...] = field(init=False)
    """One 64-bit key a round."""

    def __post_init__(self) -> None:
        assert 1 <= self.size <= 1 << 62
        digest = hashlib.shake_256(f"p2p-llm-forge/sampler/v1\n{self.label}".encode()).digest(8 * ROUNDS)
        object.__setattr__(self, "half_bits", max(1, ((self.size - 1).bit_length() + 1) // 2))
        object.__setattr__(
            self, "keys", tuple(int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(ROUNDS))
        )

    def __call__(self, positions: npt.ArrayLike) -> Positions:
        """Where each position goes; every position must be below `size`."""
        out = np.asarray(positions, dtype=np.uint64).copy()
        assert out.size == 0 or int(out.max()) < self.size
        walking = np.arange(out.size)
        while walking.size:
            moved = self._network(out[walking])
            out[walking] = moved
            walking = walking[moved >= np.uint64(self.size)]
        return out

    def _network(self, values: Positions) -> Positions:
        bits, mask = np.uint64(self.half_bits), np.uint64((1 << self.half_bits) - 1)
        left, right = values >> bits, values & mask
        for key in self.keys:
            left, right = right, left ^ (_mix(right, key) & mask)
        return (left << bits) | right


def _mix(values: Positions, key: int) -> Positions:
    """SplitMix64's finaliser over value and key (Steele et al., 2014); wraps around by design."""
    mixed = values * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Maps a run's slots, and its held-out samples, to windows of the packed corpus."""

    seed: int
    """The run's seed."""
    train_slots: int
    """Slots per epoch."""
    held_out_slots: int
    """Windows that no slot ever reads."""

    def windows(self, start: int, count: int) -> Positions:
        """The windows of slots start … start+count-1; each epoch is a fresh permutation of the same windows."""
        slots = np.arange(start, start + count, dtype=np.uint64)
        epochs, positions = np.divmod(slots, np.uint64(self.train_slots))
        for epoch in np.unique(epochs):
            here = epochs == epoch
            order = Permutation(size=self.train_slots, label=f"epoch {self.seed} {epoch}")
            positions[here] = order(positions[here])
        return self._split()(positions)

    def held_out(self, count: int) -> Positions:
        """The first `count` held-out windows (fewer where there are fewer)."""
        count = min(count, self.held_out_slots)
        return self._split()(np.arange(self.train_slots, self.train_slots + count, dtype=np.uint64))

    def _split(self) -> Permutation:
        return Permutation(size=self.train_slots + self.held_out_slots, label=f"split {self.seed}")
