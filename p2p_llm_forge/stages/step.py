"""A stage's part of the round's one step: its mean gradient, the norm over all stages, clipping and AdamW.

All of it is in fp32 in receipt order, by the operations of `outer`, so that replicas of a stage end with the same bits.
Where input and output embeddings are tied, the first and the last stage hold one tensor. Its gradient is the sum over
the receipts of both stages, the first stage's receipts first; both have both, so both copies stay the same to the bit,
and the norm counts it in the first stage only.

Shapes: P parameters of the stage.

Pure: `step` changes the state it is given, nothing else.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from p2p_llm_forge import outer
from p2p_llm_forge.codec import Update
from p2p_llm_forge.errors import UpdateError
from p2p_llm_forge.settings import TrainingSpec
from p2p_llm_forge.stages.tied import Tie, sum_gradients, ties
from p2p_llm_forge.state import Layout, State


@dataclass(frozen=True, kw_only=True)
class Partner:
    """The stage that shares tensors with this one: the last stage's is the first, and the other way round."""

    layout: Layout
    """Its layout."""
    stage: int
    """Which stage this one is."""
    ties: tuple[Tie, ...]
    """What they share; something."""

    @classmethod
    def of(cls, layouts: Sequence[Layout], stage: int) -> Self | None:
        """That of a stage of these layouts; None if it shares nothing."""
        other = {0: -1, len(layouts) - 1: 0}.get(stage)
        shared = ties(layouts)
        return None if other is None or not shared else cls(layout=layouts[other], stage=stage, ties=shared)


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A stage's mean gradient of a round."""

    values_P: Tensor
    """The gradient; a step uses it up."""
    norm: float
    """Its norm; what is shared counts in the first stage only."""


def mean(
    own: Iterable[Update], theirs: Iterable[Update], tokens: int, partner: Partner | None, parameters: int
) -> Mean:
    """The mean gradient over the round's tokens.

    Args:
        own: updates of the stage's replicas in receipt order; dense. One at a time is needed in memory.
        theirs: those of the partner's replicas; none if there is no partner.
        tokens: of the round, positive.
        parameters: P.
    """
    stage, shared = (partner.stage, partner.ties) if partner else (0, ())
    sum_P = sum_gradients(
        stage, (update.values for update in own), (update.values for update in theirs), shared, parameters
    )
    sum_P.div_(torch.tensor(tokens, dtype=torch.float32))
    counted_P = sum_P if stage == 0 or not shared else sum_P.clone()
    for tie in shared if stage else ():
        counted_P[tie.last].zero_()
    return Mean(values_P=sum_P, norm=outer.norm(Update(parameters=sum_P.numel(), values=counted_P, indices=None)))


def whole_norm(norms: Sequence[float]) -> float:
    """The norm of the whole model's gradient, from its stages' in stage order."""
    total = 0.0
    for norm in norms:
        total += norm * norm
    return math.sqrt(total)


def step(state: State, found: Mean, norms: Sequence[float], spec: TrainingSpec, round_number: int) -> None:
    """Move the stage's state by its mean gradient, clipped by the norm over all stages."""
    factor = outer.clip_factor(spec.grad_clip, whole_norm(norms))
    outer.adamw(state, found.values_P, spec, round_number, factor)


def norm_hex(norm: float) -> str:
    """A norm as it travels: its eight bytes, the highest first."""
    return struct.pack(">d", norm).hex()


def norm_of_hex(text: str) -> float:
    """What `norm_hex` gave. Raises UpdateError where that is no norm."""
    try:
        (norm,) = struct.unpack(">d", bytes.fromhex(text))
    except (ValueError, struct.error) as exc:
        raise UpdateError(f"norm {text[:20]!r}: expected 16 hex digits") from exc
    if not 0.0 <= norm < math.inf or norm_hex(norm) != text:
        raise UpdateError(f"norm {text!r}: is {norm}, expected a finite number, 0 or more")
    return float(norm)
