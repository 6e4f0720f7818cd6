"""The learning rate over the rounds of a run.

Where the outer step uses it, all members must compute the same bits, so the cosine is made of additions and
multiplications alone: those of the C library differ between systems in the last place.

Pure: arithmetic.
"""

from __future__ import annotations

import math

from p2p_llm_forge.settings import TrainingSpec


def learning_rate(spec: TrainingSpec, progress: float) -> float:
    """Linear warm-up over the first rounds, then a cosine to the last; `progress` counts rounds done."""
    if progress < spec.warmup_rounds:
        return spec.learning_rate * max(progress / spec.warmup_rounds, 0.02)
    span = max(spec.rounds - spec.warmup_rounds, 1)
    falling = half_cosine(min((progress - spec.warmup_rounds) / span, 1.0))
    floor = spec.min_learning_rate_ratio
    return spec.learning_rate * (floor + (1.0 - floor) * falling)


def half_cosine(fraction: float) -> float:
    """(1 + cos(π · fraction)) / 2 for a fraction of 0 … 1, the same double on every machine."""
    # cos² of half the angle, by the Taylor series of the sine of its complement, which is at most π / 2.
    angle = math.pi * 0.5 * (1.0 - fraction)
    total = term = angle
    for number in range(2, 26, 2):
        term *= -(angle * angle) / (number * (number + 1))
        total += term
    return min(total * total, 1.0)


def power(base: float, exponent: int) -> float:
    """base ^ exponent by squaring, the same double on every machine."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result
