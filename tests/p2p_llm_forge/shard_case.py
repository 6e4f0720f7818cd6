"""One shard, alone, and calls that it can answer."""

from pathlib import Path

import torch
from torch import Tensor

from p2p_llm_forge.stages.experts.call import Call
from p2p_llm_forge.stages.experts.fused import survey
from p2p_llm_forge.stages.experts.groups import Groups
from p2p_llm_forge.stages.experts.pieces import cut, pieces
from p2p_llm_forge.stages.experts.shard import ExpertShard
from p2p_llm_forge.stages.held import Held
from p2p_llm_forge.stages.tags import Tag

from .experts_case import CPU, SPEC, Whole, config_of


def made(folder: Path) -> ExpertShard:
    """Experts 2, 3, 4 of 8, in two layers, in round 5 with five microbatches."""
    config = config_of("mixtral")
    fused, state, groups = survey(config), Whole(config).state, Groups.of(8, 3)
    into = pieces(state.layout, fused, groups)
    cut(state, into)[2].write(folder / "initial")
    layouts = [piece.layout for piece in into]
    held = Held(folder / "initial", layouts, index=2, spec=SPEC, folder=folder / "states")
    shard = ExpertShard(
        held=held, span=groups.span(1), fused=fused, sequences=2, keep_bytes=1 << 20, device=CPU, folder=folder
    )
    shard.begin(5, 100, 5)
    return shard


def values(rows: int, seed: int) -> Tensor:
    """Normal numbers [S, 32]."""
    return torch.randn(rows, 32, generator=torch.Generator().manual_seed(seed))


def call(layer: int = 0, experts: tuple[int, ...] = (2, 4), counts: tuple[int, ...] = (3, 2), seed: int = 1) -> Call:
    """A question that the shard can answer."""
    return Call(layer=layer, holder="me", experts=experts, counts=counts, tokens_SD=values(sum(counts), seed))


def tag(shard: ExpertShard, microbatch: int = 0) -> Tag:
    """Of this round and state."""
    return Tag(round=5, microbatch=microbatch, state=shard.held.id, tokens=8)
