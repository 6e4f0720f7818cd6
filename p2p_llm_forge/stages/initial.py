"""Initial weights stage by stage: never more than one stage in memory, and the same whatever the cut.

Every module draws from its own seed, hashed from the run's seed and its path, by the family's own rule. A tied tensor
of the last stage is a copy of the first stage's.

Pure: sets torch's global seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from p2p_llm_forge.errors import SplitError
from p2p_llm_forge.finite import is_finite
from p2p_llm_forge.settings import OuterSpec
from p2p_llm_forge.stages import split, tied
from p2p_llm_forge.stages.anatomy import WAY_OUT, Anatomy
from p2p_llm_forge.stages.cut import Cut
from p2p_llm_forge.state import State


def states(config: Any, cut: Cut, outer: OuterSpec, seed: int, known: Anatomy) -> Iterator[State]:
    """The initial state of each stage, first to last.

    Raises:
        SplitError: the family's rule leaves a tensor without a value.
    """
    ends = [split.layout_of(split.bare(config, cut, index, known), outer) for index in (0, cut.stages() - 1)]
    copies: dict[str, Tensor] = {}
    for index in range(cut.stages()):
        stage = split.build(config, cut, index, known)
        draw(stage.model, seed)
        state = State.of_model(stage, split.layout_of(stage, outer))
        del stage
        where = tied.spans(state.layout)
        if index == 0:
            copies = {tie.name: state.weights_P[tie.first].clone() for tie in tied.ties(ends)}
        for name in copies if index == cut.stages() - 1 else ():
            state.weights_P[where[name]] = copies[name]
        for name, here in where.items():
            if not is_finite(state.weights_P[here]):
                raise SplitError(f"model: the family's rule leaves {name} without a value; {WAY_OUT}")
        yield state


def draw(built: nn.Module, seed: int) -> None:
    """Give all parameters their initial values, in place."""
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.fill_(torch.nan)
        visit(built, "", built, seed, set())


def visit(module: nn.Module, path: str, owner: Any, seed: int, drawn: set[nn.Parameter]) -> None:
    """Children first, as `transformers` does it; `owner` is the model whose rule holds here.

    A tied tensor is drawn where it is met first.
    """
    from transformers import PreTrainedModel

    if isinstance(module, PreTrainedModel):
        owner = module
    for name, child in module.named_children():
        visit(child, f"{path}.{name}" if path else name, owner, seed, drawn)
    own = list(module.parameters(recurse=False))
    before = [(parameter, parameter.clone()) for parameter in own if parameter in drawn]
    torch.manual_seed(_seed(seed, path))
    owner._init_weights(module)
    for parameter, values in before:
        parameter.copy_(values)
    drawn.update(own)


def _seed(seed: int, path: str) -> int:
    digest = hashlib.sha256(f"p2p-llm-forge/weights/v1\n{seed} {path}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
