"""One stage of a model: its own layers with memory, of the rest only what it takes to run the model's own forward.

Parameters have the names that they have in the whole model, so a stage's state is a part of the whole one. Where input
and output embeddings are tied, the first and the last stage both hold the tensor under the whole model's one name.

Shapes: B sequences, L tokens, D hidden size, V rows of the vocabulary.

Pure: builds modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from p2p_llm_forge.errors import SplitError
from p2p_llm_forge.settings import OuterSpec
from p2p_llm_forge.stages import anatomy
from p2p_llm_forge.stages.anatomy import WAY_OUT, Anatomy
from p2p_llm_forge.stages.cut import Cut, check_stages
from p2p_llm_forge.stages.skeleton import materialise, skeleton
from p2p_llm_forge.stages.stubs import Blank, Edge, Enter, Leave, Past, Through
from p2p_llm_forge.state import Layout


class Stage(nn.Module):
    """A stage that runs. Not for two threads at once."""

    def __init__(self, *, index: int, stages: int, model: nn.Module, edge: Edge, names: dict[str, str]) -> None:
        super().__init__()
        self.index, self.stages = index, stages
        self.first, self.last = index == 0, index == stages - 1
        self.model = model
        self._edge = edge
        self._names = names  # Of those that have another name in the whole model.

    def forward(self, x: Tensor) -> Tensor:
        """One pass; what the model draws at random it draws from torch's global generator.

        Args:
            x: tokens int64 [B, L] for the first stage, hidden states [B, L, D] for the others.

        Returns:
            Logits [B, L, V] from the last stage, hidden states [B, L, D] from the others.
        """
        edge, tokens_BL = self._edge, x
        if not self.first:
            edge.arrive(x)
            tokens_BL = torch.zeros(x.shape[:2], dtype=torch.int64, device=x.device)
        try:
            if self.last:
                logits_BLV = self.model(input_ids=tokens_BL, use_cache=False).logits
                assert isinstance(logits_BLV, Tensor)
                return logits_BLV
            base: Any = self.model
            base.base_model(input_ids=tokens_BL, use_cache=False)
            assert edge.leaving is not None
            return edge.leaving
        finally:
            edge.clear()

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """As of the whole model, in its names."""
        for name, parameter in self.model.named_parameters("", recurse, remove_duplicate):
            whole = self._names.get(name, name)
            yield (f"{prefix}.{whole}" if prefix else whole), parameter


def build(config: Any, cut: Cut, index: int, known: Anatomy | None = None) -> Stage:
    """Stage `index` with zeros for weights; the weights of the other stages are never allocated.

    Args:
        known: the family's anatomy, where it was looked at before.

    Raises:
        SplitError: the model cannot be cut so.
    """
    stage = bare(config, cut, index, known)
    materialise(stage.model)
    return stage


def bare(config: Any, cut: Cut, index: int, known: Anatomy | None = None) -> Stage:
    """The stage without memory for its weights either: for its layout. Raises SplitError."""
    assert 0 <= index < cut.stages()
    if known is None:
        known = anatomy.of(config, cut.stages())
    whole = skeleton(config)
    listed = _listed(whole, known)
    check_stages(cut.stages(), len(listed))
    if cut.total() != len(listed):
        raise SplitError(f"cut: {cut.total()} layers, the model has {len(listed)}; cut it anew")
    names = {id(parameter): name for name, parameter in whole.named_parameters()}
    edge = Edge()
    _replace(whole, known, cut, index, edge)
    mine = {name: names[id(parameter)] for name, parameter in whole.named_parameters() if names[id(parameter)] != name}
    return Stage(index=index, stages=cut.stages(), model=whole, edge=edge, names=mine)


def _listed(whole: nn.Module, known: Anatomy) -> nn.ModuleList:
    try:
        listed = whole.get_submodule(known.layers)
    except AttributeError as exc:
        raise SplitError(f"model: it has no {known.layers}, as its small copy does; {WAY_OUT}") from exc
    assert isinstance(listed, nn.ModuleList)
    return listed


def _replace(whole: nn.Module, known: Anatomy, cut: Cut, index: int, edge: Edge) -> None:
    """Put stubs where the modules of other stages are."""
    listed, (start, end) = _listed(whole, known), cut.layers[index]
    for number, layer in enumerate(listed):
        if start <= number < end:
            continue
        stub: nn.Module = Through(layer, known.returns)
        if number == start - 1:
            stub = Enter(layer, known.returns, edge)
        elif number == end:
            stub = Leave(layer, known.returns, edge)
        listed[number] = stub
    for path in known.before if index > 0 else ():
        _put(whole, path, Blank(edge))
    for path in known.after if index < cut.stages() - 1 else ():
        _put(whole, path, Past())


def _put(whole: nn.Module, path: str, stub: nn.Module) -> None:
    owner, _, name = path.rpartition(".")
    setattr(whole.get_submodule(owner), name, stub)


def layout_of(stage: Stage, outer: OuterSpec) -> Layout:
    """The layout of the stage's own state."""
    return Layout.of(stage, outer)


def layouts(config: Any, cut: Cut, outer: OuterSpec, known: Anatomy | None = None) -> list[Layout]:
    """The layouts of all stages, without memory for any weights. Raises SplitError."""
    known = known or anatomy.of(config, cut.stages())
    return [layout_of(bare(config, cut, index, known), outer) for index in range(cut.stages())]
