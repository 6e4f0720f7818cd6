"""Combines the round's updates and moves the shared weights: bit-identical on every machine.

The mean of a coordinate is over the members that sent it, weighted by their tokens, after each update was scaled
down to the median norm. In mode synchronous it is the sum of all updates over all tokens: the gradient of the round's
one batch, which AdamW follows. Everything is in fp32 in receipt order, by separate elementwise mul, add, sub, div,
sqrt and `index_add_` on unique indices, which round the same for any thread count and instruction set; `sum`, `norm`,
`addcmul`, `lerp` and `alpha=` do not and are not used. Norms are integer sums of fixed-point squares, which no order
can change. Factors are doubles made by adding, multiplying, dividing and roots, never by `pow` or `cos`.

Shapes: P parameters, N values sent.

Pure: `step` changes the state it is given, nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from p2p_llm_forge.codec import Update
from p2p_llm_forge.errors import UpdateError
from p2p_llm_forge.schedule import learning_rate, power
from p2p_llm_forge.settings import TrainingSpec
from p2p_llm_forge.state import State

EPSILON = 1e-8
"""AdamW's, as `torch.optim.AdamW` has it."""
_BLOCK = 1 << 20
_FEW = 8
"""Where less than this part of the values was sent, only those are divided, which is quicker."""


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


def combine(updates: Sequence[Update], tokens: Sequence[int], norms: Sequence[float], spec: TrainingSpec) -> Tensor:
    """What the round's updates, in receipt order, come to in the run's mode [P]."""
    if spec.mode == "synchronous":
        return gradient(updates, tokens)
    return aggregate(updates, tokens, norms if spec.clip_updates else None)


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
    sent = [update.indices for update in updates if update.indices is not None]
    if len(sent) == len(updates) and sum(update.count for update in updates) < size // _FEW:
        sent_N = torch.cat(sent)  # a coordinate that several sent is in it so often, each time with the same quotient
        sum_P[sent_N] = sum_P[sent_N] / weight_P[sent_N]
        return sum_P
    # Where nobody sent, 0 / 1.
    return sum_P.div_(torch.where(weight_P > 0.0, weight_P, 1.0))


def gradient(updates: Sequence[Update], tokens: Sequence[int]) -> Tensor:
    """The mean gradient [P] over all tokens of the round, from each member's sum over its own.

    Args:
        updates: in receipt order; at least one, all dense and of the same P.
        tokens: how many each sum is over, positive.
    """
    assert len(updates) == len(tokens) > 0
    assert min(tokens) > 0
    sum_P = torch.zeros(updates[0].parameters)
    for update in updates:
        assert update.indices is None
        sum_P.add_(update.values)
    return sum_P.div_(torch.tensor(sum(tokens), dtype=torch.float32))


def step(state: State, mean_P: Tensor, spec: TrainingSpec, round_number: int) -> None:
    """weights ← weights − lr · direction, in place; `mean_P` is used up.

    sgd: direction = mean. nesterov: momentum ← μ · momentum + mean, direction = mean + μ · momentum.
    adamw: clipped, decayed and stepped as `torch.optim.AdamW` does it.
    """
    if spec.outer.kind == "adamw":
        found = norm(Update(parameters=mean_P.numel(), values=mean_P, indices=None))
        adamw(state, mean_P, spec, round_number, clip_factor(spec.grad_clip, found))
        return
    direction_P = mean_P
    if spec.outer.kind == "nesterov":
        momentum_P = state.outer["momentum"]
        momentum_P.mul_(spec.outer.momentum)
        momentum_P.add_(mean_P)
        direction_P = mean_P.add_(momentum_P * spec.outer.momentum)
    direction_P.mul_(spec.outer.learning_rate)
    state.weights_P.sub_(direction_P)


def clip_factor(limit: float, found: float) -> float:
    """What a gradient of this norm is multiplied by so that its norm is within the limit; a limit of 0 is none."""
    return limit / found if 0.0 < limit < found else 1.0


def adamw(state: State, gradient_P: Tensor, spec: TrainingSpec, round_number: int, factor: float) -> None:
    """One step (Loshchilov and Hutter, 2019) by `factor` times the gradient, which is used up; weight decay on
    matrices only."""
    rate = learning_rate(spec, round_number)
    if factor != 1.0:
        gradient_P.mul_(factor)
    first_P, second_P, steps = (state.outer[name] for name in ("first_moment", "second_moment", "steps"))
    steps.add_(1.0)
    done = int(steps)
    for start, end, dimensions in state.layout.spans():
        if dimensions >= 2:
            state.weights_P[start:end].mul_(1.0 - rate * spec.weight_decay)
    first, second = spec.betas
    first_P.mul_(first)
    first_P.add_(gradient_P * (1.0 - first))
    second_P.mul_(second)
    second_P.add_(gradient_P.mul_(gradient_P).mul_(1.0 - second))
    scale_P = second_P.sqrt()
    scale_P.div_(math.sqrt(1.0 - power(second, done)))
    scale_P.add_(EPSILON)
    direction_P = first_P / scale_P
    direction_P.mul_(rate / (1.0 - power(first, done)))
    state.weights_P.sub_(direction_P)
