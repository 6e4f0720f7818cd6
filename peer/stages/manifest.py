"""Sets of microbatches of one round as bitmaps: bit j stands for microbatch j.

On the wire and in receipts a set is hex, the whole round's microbatches wide: ceil(n / 4) lowercase digits, of which
the last holds microbatches 0 to 3.

Pure: no state.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_

from peer.errors import RoundError

UNREADABLE = "FP-450"
MOST_MICROBATCHES = 1 << 14
"""Of one round; so a bitmap fits into an entry of the log."""
HEX = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Some of the microbatches 0 … size − 1 of a round."""

    bits: int
    size: int
    """How many microbatches the round has."""

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MOST_MICROBATCHES:
            raise RoundError(UNREADABLE, f"manifest: {self.size} microbatches, wanted 1 to {MOST_MICROBATCHES}")
        if self.bits < 0 or self.bits >> self.size:
            raise RoundError(UNREADABLE, f"manifest: bit {self.bits.bit_length() - 1} of {self.size} microbatches")

    @classmethod
    def of(cls, microbatches: Iterable[int], size: int) -> Manifest:
        """The set of these microbatches.

        Raises:
            RoundError: FP-450, one that the round does not have.
        """
        bits = 0
        for microbatch in microbatches:
            if not 0 <= microbatch < size:
                raise RoundError(UNREADABLE, f"manifest: microbatch {microbatch}, the round has {size}")
            bits |= 1 << microbatch
        return cls(bits=bits, size=size)

    @classmethod
    def read(cls, text: str, size: int) -> Manifest:
        """Read the hex form, strictly.

        Raises:
            RoundError: FP-450, a wrong length, another digit, or a microbatch that the round does not have.
        """
        wanted = -(-size // 4)
        if type(text) is not str or len(text) != wanted or HEX.fullmatch(text) is None:
            raise RoundError(UNREADABLE, f"manifest: {str(text)[:40]!r}, wanted {wanted} lowercase hex digits")
        return cls(bits=int(text, 16), size=size)

    @property
    def hex(self) -> str:
        """The canonical form that `read` takes."""
        return f"{self.bits:0{-(-self.size // 4)}x}"

    def __len__(self) -> int:
        return self.bits.bit_count()

    def __contains__(self, microbatch: int) -> bool:
        return microbatch >= 0 and bool(self.bits >> microbatch & 1)

    def __iter__(self) -> Iterator[int]:
        bits = self.bits
        while bits:
            lowest = bits & -bits
            yield lowest.bit_length() - 1
            bits ^= lowest

    def __sub__(self, other: Manifest) -> Manifest:
        return Manifest(bits=self.bits & ~other.bits, size=self._same(other))

    def __or__(self, other: Manifest) -> Manifest:
        return Manifest(bits=self.bits | other.bits, size=self._same(other))

    def __and__(self, other: Manifest) -> Manifest:
        return Manifest(bits=self.bits & other.bits, size=self._same(other))

    def _same(self, other: Manifest) -> int:
        if self.size != other.size:
            raise RoundError(UNREADABLE, f"manifests of {self.size} and of {other.size} microbatches")
        return self.size


def cover(manifests: Iterable[Manifest], size: int) -> Manifest:
    """What is in at least one of them."""
    return reduce(or_, manifests, Manifest(bits=0, size=size))


def double(manifests: Iterable[Manifest], size: int) -> Manifest:
    """What is in more than one of them."""
    seen = twice = Manifest(bits=0, size=size)
    for manifest in manifests:
        twice, seen = twice | (seen & manifest), seen | manifest
    return twice


def missing(manifests: Iterable[Manifest], wanted: Manifest) -> Manifest:
    """What of `wanted` is in none of them."""
    return wanted - cover(manifests, wanted.size)


def check_cover(by_stage: Iterable[Iterable[Manifest]], size: int) -> Manifest:
    """The set that every stage served, each microbatch exactly once in each stage.

    Raises:
        RoundError: FP-451, naming the stage and the microbatches that two replicas hold, or that none does.
    """
    stages = [list(manifests) for manifests in by_stage]
    served = [cover(manifests, size) for manifests in stages]
    wanted = cover(served, size)
    for stage, manifests in enumerate(stages):
        if twice := double(manifests, size):
            raise RoundError("FP-451", f"stage {stage}: microbatches {_named(twice)} are held by two replicas")
        if lost := wanted - served[stage]:
            raise RoundError("FP-451", f"stage {stage}: microbatches {_named(lost)} are held by no replica")
    return wanted


def _named(manifest: Manifest) -> str:
    """The first few of them, for people."""
    numbers = [str(microbatch) for microbatch in manifest]
    return ", ".join(numbers[:8]) + (" …" if numbers[8:] else "")
