"""Tensors that the first and the last stage both hold, with the same value, moments and gradient.

Shapes: P parameters of a stage.

Pure: layouts and tensors in and out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    stage: int, own: Iterable[Tensor], other: Iterable[Tensor], tied: Sequence[Tie], parameters: int
) -> Tensor:
    """The sum [P] of a stage's updates in receipt order; of tied tensors over both stages' updates, the first's first.

    Args:
        stage: 0 for the first stage, anything else for the last.
        own: the stage's updates [P] in receipt order; each is needed only while it is looked at.
        other: those of the stage at the other end, in receipt order; not looked at where nothing is tied.
        tied: what both hold.
        parameters: P.
    """
    sum_P = torch.zeros(parameters)
    mine = [tie.first if stage == 0 else tie.last for tie in tied]
    there = [tie.last if stage == 0 else tie.first for tie in tied]
    ours: list[list[Tensor]] = []
    for update_P in own:
        sum_P.add_(update_P)
        ours.append([update_P[span].clone() for span in mine])
    theirs = [[update_P[span].clone() for span in there] for update_P in other] if tied else []
    for number, span in enumerate(mine):
        total = sum_P[span].zero_()
        for parts in (*ours, *theirs) if stage == 0 else (*theirs, *ours):
            total.add_(parts[number])
    return sum_P
