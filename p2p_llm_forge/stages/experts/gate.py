"""What is left of the router's choice where experts are dead: they are masked, the others weigh as much as all did.

A token keeps the sum of its weights as the router gave it (1 where the model normalises them), shared by its living
experts in the router's proportions. Where none lives the experts add nothing to the token. A token that lost nothing
keeps its weights bit for bit. The load-balance loss is over the router's logits, which nothing here changes.

Shapes: T tokens, K experts chosen for each.

Pure: the same choice for the same arguments, so recomputation agrees.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Lost:
    """What dead experts cost the tokens of one layer, or of several added up."""

    tokens: int = 0
    """Tokens that were routed."""
    weakened: int = 0
    """Those that lost an expert."""
    silenced: int = 0
    """Those that lost all of theirs."""
    weight: float = 0.0
    """Routed weight that was lost, before it was shared out."""
    routed: float = 0.0
    """All routed weight."""

    @property
    def share(self) -> float:
        """The lost part of the routed weight."""
        return self.weight / self.routed if self.routed else 0.0

    def __add__(self, other: Lost) -> Lost:
        return Lost(
            tokens=self.tokens + other.tokens,
            weakened=self.weakened + other.weakened,
            silenced=self.silenced + other.silenced,
            weight=self.weight + other.weight,
            routed=self.routed + other.routed,
        )


def living(index_TK: Tensor, dead: Collection[int]) -> Tensor:
    """Which of the chosen experts are alive: bool [T, K]."""
    return ~torch.isin(index_TK, torch.tensor(sorted(dead), dtype=index_TK.dtype, device=index_TK.device))


def renormalised(weights_TK: Tensor, alive_TK: Tensor) -> Tensor:
    """The weights of the living in place of the router's; 0 for the dead."""
    kept_TK = torch.where(alive_TK, weights_TK, 0.0)
    kept_T1 = kept_TK.sum(dim=-1, keepdim=True)
    some_T1 = kept_T1 > 0.0
    scale_T1 = torch.where(some_T1, weights_TK.sum(dim=-1, keepdim=True), 0.0) / torch.where(some_T1, kept_T1, 1.0)
    return torch.where(alive_TK.all(dim=-1, keepdim=True), weights_TK, kept_TK * scale_T1)


@torch.no_grad()
def count(weights_TK: Tensor, alive_TK: Tensor | None) -> Lost:
    """What the dead cost these tokens; nothing where all are alive (None)."""
    weights_TK = weights_TK.double()
    tokens, routed = len(weights_TK), float(weights_TK.sum())
    if alive_TK is None:
        return Lost(tokens=tokens, routed=routed)
    return Lost(
        tokens=tokens,
        weakened=int((~alive_TK).any(dim=-1).sum()),
        silenced=int((~alive_TK).all(dim=-1).sum()),
        weight=float(torch.where(alive_TK, 0.0, weights_TK).sum()),
        routed=routed,
    )
