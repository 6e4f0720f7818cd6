"""Combines the round's updates and moves the shared weights: bit-identical on every machine.

The mean of a coordinate is over the members that sent it, weighted by their tokens, after each update was scaled
down to the median norm. Everything is in fp32 in receipt order, by separate elementwise mul, add, sub, div and
`index_add_` on unique indices, which round the same for any thread count and instruction set; `sum`, `norm`,
`addcmul`, `lerp` and `alpha=` do not and are not used. Norms are integer sums of fixed-point squares, which no order
can change.

Shapes: P parameters, N values sent.

Pure: `step` changes the tensors it is given, nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from p2p_llm_forge.codec import Update
from p2p_llm_forge.errors import UpdateError
from p2p_llm_forge.settings import OuterSpec

_BLOCK = 1 << 20


def norm(update: Update) -> float:
    """The Euclidean norm, the same double on every machine (relative error below 2^-15).

    Values are scaled by a power of two so that the sum of their squares stays below 2^62, and rounded to integers.
    """
    values_N = update.values
    peak = float(values_N.abs().max()) if values_N.numel() else 0.0
    if peak == 0.0:
        return 0.0
    exponent = math.frexp(peak)[1]  # every |value| is below 2^exponent
    bits = (62 - values_N.numel().bit_length()) // 2
    total = 0
    for at in range(0, values_N.numel(), _BLOCK):
        fixed = (values_N[at : at + _BLOCK].double() * 2.0 ** (bits - exponent)).to(torch.int64)
        total += int((fixed * fixed).sum())
    return math.ldexp(math.sqrt(total), exponent - bits)


def check_norm(update: Update, max_rms: float) -> float:
    """The norm, if the root mean square over all P parameters is within bounds. Raises UpdateError."""
    found = norm(update)
    limit = max_rms * math.sqrt(update.parameters)
    if found > limit:
        raise UpdateError(f"update: over-norm: {found:.6g}, at most {limit:.6g} (training.max_update_rms)")
    return found


def clip_factors(norms: Sequence[float]) -> list[float]:
    """What each update is multiplied by so that no norm exceeds the median."""
    ordered, middle = sorted(norms), len(norms) // 2
    median = ordered[middle] if len(norms) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return [1.0 if found <= median else median / found for found in norms]


def aggregate(updates: Sequence[Update], tokens: Sequence[int], norms: Sequence[float] | None) -> Tensor:
    """The members' mean update [P], 0 where nobody sent anything.

    Args:
        updates: in receipt order; at least one, all of the same P.
        tokens: each member's weight, positive.
        norms: each update's `norm`, to clip to their median; None does not clip.
    """
    assert len(updates) == len(tokens) > 0
    assert min(tokens) > 0
    size = updates[0].parameters
    factors = [1.0] * len(updates) if norms is None else clip_factors(norms)
    most = max(tokens)
    sum_P, weight_P = torch.zeros(size), torch.zeros(size)
    for update, count, factor in zip(updates, tokens, factors, strict=True):
        weight = torch.tensor(count / most, dtype=torch.float32)
        scale = torch.tensor(count / most * factor, dtype=torch.float32)
        scaled_N = update.values * scale
        if update.indices is None:
            sum_P.add_(scaled_N)
            weight_P.add_(weight)
        else:
            sum_P.index_add_(0, update.indices, scaled_N)
            weight_P.index_add_(0, update.indices, weight.expand(update.count))
    # Where nobody sent, 0 / 1.
    return sum_P.div_(torch.where(weight_P > 0.0, weight_P, 1.0))


def step(weights_P: Tensor, momentum_P: Tensor | None, mean_P: Tensor, spec: OuterSpec) -> None:
    """weights ← weights − lr · direction, in place; `mean_P` is used up.

    sgd: direction = mean. nesterov: momentum ← μ · momentum + mean, direction = mean + μ · momentum.
    """
    direction_P = mean_P
    if spec.kind == "nesterov":
        assert momentum_P is not None
        momentum_P.mul_(spec.momentum)
        momentum_P.add_(mean_P)
        direction_P = mean_P.add_(momentum_P * spec.momentum)
    direction_P.mul_(spec.learning_rate)
    weights_P.sub_(direction_P)
