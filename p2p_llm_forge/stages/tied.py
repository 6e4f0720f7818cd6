"""Tensors that the first and the last stage both hold, with the same value, moments and gradient.

Shapes: P parameters of a stage.

Pure: layouts and tensors in and out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from p2p_llm_forge.state import Layout


@dataclass(frozen=True, kw_only=True)
class Tie:
    """One such tensor."""

    name: str
    """In the whole model."""
    first: slice
    """Where it lies in the flat weights of the first stage."""
    last: slice
    """And of the last one."""


def ties(layouts: Sequence[Layout]) -> tuple[Tie, ...]:
    """Of the stages with these layouts, in order of name."""
    first, last = spans(layouts[0]), spans(layouts[-1])
    if len(layouts) == 1:
        return ()
    return tuple(Tie(name=name, first=span, last=last[name]) for name, span in first.items() if name in last)


def spans(layout: Layout) -> dict[str, slice]:
    """Where each tensor lies in the flat weights."""
    return {name: slice(start, end) for name, (start, end, _) in zip(layout.names, layout.spans(), strict=True)}


def sum_gradients(
    stage: int, own: Sequence[Tensor], other: Sequence[Tensor], tied: Sequence[Tie], parameters: int
) -> Tensor:
    """The sum [P] of a stage's updates in receipt order; of tied tensors over both stages' updates, the first's first.

    Args:
        stage: 0 for the first stage, anything else for the last.
        own: the stage's updates [P] in receipt order.
        other: those of the stage at the other end, in receipt order; not used where nothing is tied.
        tied: what both hold.
        parameters: P.
    """
    sum_P = torch.zeros(parameters)
    for update_P in own:
        sum_P.add_(update_P)
    for tie in tied:
        mine, there = (tie.first, tie.last) if stage == 0 else (tie.last, tie.first)
        parts = [update_P[mine] for update_P in own], [update_P[there] for update_P in other]
        total = torch.zeros(mine.stop - mine.start)
        for part in (*parts[0], *parts[1]) if stage == 0 else (*parts[1], *parts[0]):
            total.add_(part)
        sum_P[mine] = total
    return sum_P
