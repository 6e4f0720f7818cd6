"""What the parts of a model cost: floating-point operations a token, and parameters, from shapes alone.

Forward and backward take about six operations a parameter and token, but for embeddings, which are looked up, and for
experts, of which a token meets few; attention adds its scores. Measured times may take the operations' place.

Pure: builds models without memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from p2p_llm_forge import model
from p2p_llm_forge.stages import anatomy, cut
from p2p_llm_forge.stages.anatomy import Anatomy
from p2p_llm_forge.stages.cut import Cut

MILLION = 1_000_000
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one part, or of several together."""

    work: int
    """Operations a token, forward and backward; or nanoseconds, where they were measured."""
    parameters: int
    """That it holds."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Of all parts of a model."""

    embedding: Cost
    """What the first stage has besides layers."""
    layers: tuple[Cost, ...]
    """Each layer."""
    head: Cost
    """What the last stage has besides layers; the tied embedding is counted here too, as both stages hold it."""
    tied_parameters: int
    """Counted twice."""

    @property
    def parameters(self) -> int:
        """Distinct ones of the whole model."""
        return sum(part.parameters for part in self._all()) - self.tied_parameters

    def stage(self, layers: Cut, index: int) -> Cost:
        """What one stage comes to."""
        start, end = layers.layers[index]
        parts = list(self.layers[start:end])
        parts += [self.embedding] if index == 0 else []
        parts += [self.head] if index == layers.stages() - 1 else []
        return Cost(work=sum(part.work for part in parts), parameters=sum(part.parameters for part in parts))

    def cut(self, stages: int, limit: int | None = None) -> Cut:
        """The cut whose dearest stage costs least.

        Args:
            limit: parameters that a stage may have at most.

        Raises:
            SplitError: more stages than layers, or no cut within the limit.
        """
        work = [part.work for part in self.layers], self.embedding.work, self.head.work
        sizes = [part.parameters for part in self.layers], self.embedding.parameters, self.head.parameters
        return cut.balanced(*work, stages, None if limit is None else (*sizes, limit))

    def smallest_stage(self, stages: int) -> int:
        """Parameters of the largest stage of the cut in which that is least. Raises SplitError."""
        sizes = [part.parameters for part in self.layers], self.embedding.parameters, self.head.parameters
        return cut.smallest_largest(*sizes, stages)

    def shares(self, layers: Cut) -> list[int]:
        """Each stage's part of the whole work in parts per million; they add up to a million."""
        return per_million([self.stage(layers, index).work for index in range(layers.stages())])

    def measured(self, embedding_s: float, layers_s: Sequence[float], head_s: float) -> Costs:
        """The same with seconds in place of operations."""
        assert len(layers_s) == len(self.layers)
        pairs = zip(self.layers, layers_s, strict=True)
        return replace(
            self,
            embedding=replace(self.embedding, work=round(embedding_s * 1e9)),
            layers=tuple(replace(part, work=round(seconds * 1e9)) for part, seconds in pairs),
            head=replace(self.head, work=round(head_s * 1e9)),
        )

    def _all(self) -> Iterator[Cost]:
        yield from (self.embedding, *self.layers, self.head)


def per_million(work: Sequence[int]) -> list[int]:
    """Each one's part of all of it, at least 1, as the ledger wants it; they add up to a million."""
    work = [max(each, 1) for each in work]
    parts = [each * MILLION // sum(work) for each in work]
    rests = sorted(range(len(work)), key=lambda index: (-(work[index] * MILLION % sum(work)), index))
    for index in rests[: MILLION - sum(parts)]:
        parts[index] += 1
    for index in [index for index, part in enumerate(parts) if part == 0]:
        parts[index] += 1
        parts[parts.index(max(parts))] -= 1
    return parts


def estimate(config: Any, *, sequence_length: int, stages: int = 2, known: Anatomy | None = None) -> Costs:
    """From the shapes; nothing of the model's size is allocated.

    Raises:
        SplitError: the model cannot be cut.
    """
    known = known or anatomy.of(config, stages)
    drawn = torch.random.get_rng_state()
    with torch.device("meta"):
        whole = model.from_config(config)
    torch.random.set_rng_state(drawn)
    active = active_of(config)
    scores = 6 * sequence_length * int(getattr(config.get_text_config(decoder=True), "hidden_size", 0) or 0)
    layers = whole.get_submodule(known.layers).children()
    before = _parameters(whole, known.before)
    after = _parameters(whole, known.after)
    return Costs(
        embedding=Cost(work=0, parameters=sum(before.values())),
        layers=tuple(_layer(layer, active, scores) for layer in layers),
        head=Cost(work=6 * sum(after.values()), parameters=sum(after.values())),
        tied_parameters=sum(size for key, size in after.items() if key in before),
    )


def _parameters(whole: nn.Module, paths: Sequence[str]) -> dict[int, int]:
    return {id(parameter): parameter.numel() for path in paths for parameter in whole.get_submodule(path).parameters()}


def _layer(layer: nn.Module, active: tuple[int, int] | None, scores: int) -> Cost:
    work = scores
    for name, parameter in layer.named_parameters():
        fused = active is not None and parameter.ndim == 3 and parameter.shape[0] == active[1]
        listed = ".experts." in name and parameter.ndim < 3
        used = active if active is not None and (fused or listed) else (1, 1)
        work += 6 * math.ceil(parameter.numel() * used[0] / used[1])
    return Cost(work=work, parameters=sum(parameter.numel() for parameter in layer.parameters()))


def active_of(config: Any) -> tuple[int, int] | None:
    """How many experts a token meets, of how many; None where it meets all that there is."""
    routed = routed_of(config)
    return routed if routed is not None and 0 < routed[0] <= routed[1] else None


def routed_of(config: Any) -> tuple[int, int] | None:
    """How many experts are to be chosen for a token, of how many; as they were set, be it possible or not."""
    text = config.get_text_config(decoder=True)
    chosen, experts = (
        next((value for name in names if (value := getattr(text, name, None))), None) for names in (_CHOSEN, _EXPERTS)
    )
    return (chosen, experts) if isinstance(chosen, int) and isinstance(experts, int) else None
