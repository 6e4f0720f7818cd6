"""Work ahead: a member trains its next round before the settlement of this one is known.

It starts from A, the weights that the round would lead to if its own update alone counted: a function of the shared
state before the round and of that update's blob, so an auditor computes it from blobs only. What it lacks are the
others' last updates, which reach it one round later ("Eager Updates for Overlapped Communication", Kale et al., 2025).
The change A − local is encoded only when the fate of the own update is known, for only then is the residual.

Shapes: P parameters.

Pure: tensors only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from p2p_llm_forge import outer
from p2p_llm_forge.codec import Update
from p2p_llm_forge.settings import TrainingSpec
from p2p_llm_forge.state import State


@dataclass(frozen=True, kw_only=True)
class Work:
    """A training whose update is not written yet."""

    round: int
    """The round that it is for."""
    change_P: Tensor
    """fp32 [P] on the CPU."""
    reply: dict[str, Any]
    """What is answered of it."""


def start(before: State, own: Update, training: TrainingSpec, round_number: int) -> Tensor:
    """A [P]: `before` moved by `own` as if nobody else had delivered in round `round_number`; `before` stays as it is.

    With outer sgd at rate 1 it is the state less the own update.
    """
    alone = before.copy()
    outer.step(alone, outer.aggregate([own], [1], None), training, round_number)
    return alone.weights_P
