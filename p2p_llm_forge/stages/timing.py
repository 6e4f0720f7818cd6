"""What the parts of a model cost on this machine: one layer of each kind, the embedding and the head, timed.

Never more than one layer with the embedding or the head is in memory.

IO: none but the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from p2p_llm_forge import model
from p2p_llm_forge.stages import split
from p2p_llm_forge.stages.anatomy import Anatomy
from p2p_llm_forge.stages.costs import Costs
from p2p_llm_forge.stages.cut import Cut

REPEATS = 3


def measure(
    config: Any, estimated: Costs, known: Anatomy, *, sequences: int, sequence_length: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Costs:  # fmt: skip
    """The same costs with seconds a microbatch, forward and backward; as they are where there are no inner layers.

    Layers that hold as much and cost as much by the estimate are of one kind.
    """
    count = len(estimated.layers)
    if count < 3:
        return estimated
    shape = sequences, sequence_length

    def timed(number: int) -> float:
        return _seconds(_alone(config, known, number, count), config, shape, clock)

    kinds: dict[Any, float] = {}
    for number in range(1, count - 1):
        if estimated.layers[number] not in kinds:
            kinds[estimated.layers[number]] = timed(number)
    with_embedding, with_head = timed(0), timed(count - 1)
    first = kinds.get(estimated.layers[0], with_embedding)
    last = kinds.get(estimated.layers[-1], with_head)
    seconds = [first, *(kinds[layer] for layer in estimated.layers[1:-1]), last]
    return estimated.measured(max(with_embedding - first, 0.0), seconds, max(with_head - last, 0.0))


def _alone(config: Any, known: Anatomy, number: int, count: int) -> split.Stage:
    """A stage of this one layer."""
    counts = [many for many in (number, 1, count - number - 1) if many]
    return split.build(config, Cut.of_counts(counts), 1 if number else 0, known)


def _seconds(stage: split.Stage, config: Any, shape: tuple[int, int], clock: Callable[[], float]) -> float:
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in stage.parameters():
            parameter.normal_(0.0, 0.02, generator=drawn)
    tokens_BL = torch.randint(0, model.vocabulary(config), shape, generator=drawn)
    width = int(config.get_text_config(decoder=True).hidden_size)
    hidden_BLD = torch.randn(*shape, width, generator=drawn)
    return min(_pass(stage, tokens_BL if stage.first else hidden_BLD, clock) for _ in range(REPEATS))


def _pass(stage: split.Stage, x: Tensor, clock: Callable[[], float]) -> float:
    x = x if stage.first else x.detach().requires_grad_()
    began = clock()
    stage(x).sum().backward()
    return clock() - began
