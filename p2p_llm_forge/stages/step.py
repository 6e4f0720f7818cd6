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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from p2p_llm_forge import outer
from p2p_llm_forge.codec import Update
from p2p_llm_forge.errors import UpdateError
from p2p_llm_forge.settings import TrainingSpec
from p2p_llm_forge.state import Layout, State


@dataclass(frozen=True, kw_only=True)
class Tie:
    """What the first and the last stage share, seen from one of them."""

    other: Layout
    """The other's layout."""
    first: bool
    """Whether the one that sees it is the first stage."""
    spans: tuple[tuple[int, int, int], ...]
    """Where each tensor lies: start and end in our own vector, start in the other's."""

    @classmethod
    def of(cls, own: Layout, other: Layout, *, first: bool) -> Self | None:
        """What these two stages share; None if nothing."""
        places = dict(zip(other.names, zip(other.spans(), other.shapes, strict=True), strict=True))
        spans = []
        for name, (start, end, _), shape in zip(own.names, own.spans(), own.shapes, strict=True):
            if name in places:
                (there, _, _), theirs = places[name]
                assert theirs == shape
                spans.append((start, end, there))
        return cls(other=other, first=first, spans=tuple(spans)) if spans else None


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A stage's mean gradient of a round."""

    values_P: Tensor
    """The gradient; a step uses it up."""
    norm: float
    """Its norm; what is shared counts in the first stage only."""


def mean(own: Sequence[Update], theirs: Sequence[Update], tokens: int, layout: Layout, tie: Tie | None) -> Mean:
    """The mean gradient over the round's tokens.

    Args:
        own: updates of the stage's replicas in receipt order; dense.
        theirs: those of the stage with which it shares tensors; none if there is no such stage.
        tokens: of the round, positive.
    """
    sum_P = torch.zeros(layout.parameters)
    for update in own:
        assert update.indices is None
        sum_P.add_(update.values)
    for start, end, there in tie.spans if tie else ():
        before, after = (own, theirs) if tie and tie.first else (theirs, own)
        starts = (start, there) if tie and tie.first else (there, start)
        shared = sum_P[start:end].zero_()
        for updates, at in zip((before, after), starts, strict=True):
            for update in updates:
                shared.add_(update.values[at : at + end - start])
    sum_P.div_(torch.tensor(tokens, dtype=torch.float32))
    return Mean(values_P=sum_P, norm=_norm(sum_P, tie))


def _norm(values_P: Tensor, tie: Tie | None) -> float:
    counted_P = values_P
    if tie and not tie.first:
        counted_P = values_P.clone()
        for start, end, _ in tie.spans:
            counted_P[start:end].zero_()
    return outer.norm(Update(parameters=counted_P.numel(), values=counted_P, indices=None))


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
