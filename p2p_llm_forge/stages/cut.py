"""Where the layers are cut: contiguous stages, the dearest of which costs as little as possible.

Among the cuts with the same dearest stage the one with the smallest sum of squares is taken, so that the others are
even too. Integers only, so every machine cuts alike.

Pure: integers in, a cut out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from p2p_llm_forge.errors import SplitError


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Which layers each stage holds."""

    layers: tuple[tuple[int, int], ...]
    """Half-open layer range of each stage: contiguous, from 0, none empty."""

    def __post_init__(self) -> None:
        at = 0
        for start, end in self.layers:
            assert start == at < end
            at = end
        assert at > 0

    @classmethod
    def of_counts(cls, counts: Sequence[int]) -> Cut:
        """From the number of layers of each stage."""
        ends = list(accumulate(counts))
        return cls(layers=tuple(zip([0, *ends[:-1]], ends, strict=True)))

    def stages(self) -> int:
        """How many."""
        return len(self.layers)

    def total(self) -> int:
        """Layers in all."""
        return self.layers[-1][1]


def even(layers: int, stages: int) -> Cut:
    """As many layers in each stage, give or take one. Raises SplitError."""
    return balanced([1] * layers, 0, 0, stages)


def balanced(
    layers: Sequence[int], first: int, last: int, stages: int, bounds: tuple[Sequence[int], int, int, int] | None = None
) -> Cut:
    """The best cut into `stages` stages.

    Args:
        layers: what each layer costs, 0 or more.
        first: what the first stage has besides its layers.
        last: what the last stage has besides its layers.
        bounds: the same three in bytes, and how many bytes a stage may have at most.

    Raises:
        SplitError: more stages than layers, or no cut within the bound.
    """
    check_stages(stages, len(layers))
    limits = [_Weights(layers, first, last)]
    if bounds is not None:
        sizes = _Weights(bounds[0], bounds[1], bounds[2])
        least = _smallest_limit([sizes], [0], stages)
        if least > bounds[3]:
            raise SplitError(
                f"pipeline: no cut into {stages} stages keeps each within {bounds[3]} bytes, the best one needs "
                f"{least}; set more stages, or have peers with more memory"
            )
        limits.append(sizes)
    caps = [0] if bounds is None else [0, bounds[3]]
    caps[0] = _smallest_limit(limits, caps, stages)
    return _evenest(limits, caps, stages)


def smallest_largest(layers: Sequence[int], first: int, last: int, stages: int) -> int:
    """What the largest stage of the best cut has: the smallest memory that would do for every stage.

    Raises:
        SplitError: more stages than layers.
    """
    check_stages(stages, len(layers))
    return _smallest_limit([_Weights(layers, first, last)], [0], stages)


def check_stages(stages: int, layers: int) -> None:
    """Refuse more stages than layers. Raises SplitError."""
    if not 1 <= stages <= layers:
        raise SplitError(f"pipeline.stages: {stages}, the model has {layers} layers; set {layers} stages or fewer")


class _Weights:
    """Sums over ranges of layers, with what the first and the last stage have besides."""

    def __init__(self, layers: Sequence[int], first: int, last: int) -> None:
        self._sums = [0, *accumulate(layers)]
        self._first, self._last = first, last
        self.count = len(layers)

    def of(self, start: int, end: int) -> int:
        found = self._sums[end] - self._sums[start]
        return found + (self._first if start == 0 else 0) + (self._last if end == self.count else 0)


def _fits(limits: Sequence[_Weights], caps: Sequence[int], start: int, end: int) -> bool:
    return all(weights.of(start, end) <= cap for weights, cap in zip(limits, caps, strict=True))


def _feasible(limits: Sequence[_Weights], caps: Sequence[int], stages: int) -> bool:
    """Whether `stages` stages are enough when each takes as many layers as its caps allow.

    Fewer would do as well, since any stage of several layers can be cut again.
    """
    at, count = 0, limits[0].count
    for _ in range(stages):
        end = at
        while end < count and _fits(limits, caps, at, end + 1):
            end += 1
        if end == count:
            return True
        if end == at:
            return False
        at = end
    return False


def _smallest_limit(limits: Sequence[_Weights], caps: Sequence[int], stages: int) -> int:
    """The smallest cap of the first weights that leaves a cut, with the other caps as they are."""
    low, high = 0, limits[0].of(0, limits[0].count)
    while low < high:
        middle = (low + high) // 2
        if _feasible(limits, [middle, *caps[1:]], stages):
            high = middle
        else:
            low = middle + 1
    return low


def _evenest(limits: Sequence[_Weights], caps: Sequence[int], stages: int) -> Cut:
    """Of the cuts within the caps, the one with the smallest sum of squares of the first weights."""
    count = limits[0].count
    best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}  # layers cut off so far → (sum, ends)
    for stage in range(stages):
        found: dict[int, tuple[int, tuple[int, ...]]] = {}
        for start, (total, ends) in best.items():
            for end in range(start + 1, count - (stages - stage - 1) + 1):
                if not _fits(limits, caps, start, end):
                    # The rest of the last stage only ever grows; the last layer brings the head along.
                    break
                candidate = (total + limits[0].of(start, end) ** 2, (*ends, end))
                if end not in found or candidate < found[end]:
                    found[end] = candidate
        best = found
    ends = best[count][1]
    return Cut(layers=tuple(zip([0, *ends[:-1]], ends, strict=True)))
