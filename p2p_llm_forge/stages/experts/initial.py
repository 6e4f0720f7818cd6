"""Initial weights piece by piece: never more in memory than one piece and the experts of one layer.

Drawn as `stages.initial` does it, every module from the run's seed and its path, so the model is the same whatever it
is cut into.

Pure: sets torch's global seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from p2p_llm_forge.errors import SplitError
from p2p_llm_forge.stages import initial
from p2p_llm_forge.stages.experts.fused import TENSORS, Fused
from p2p_llm_forge.stages.experts.groups import Groups
from p2p_llm_forge.stages.experts.parity import WAY_OUT
from p2p_llm_forge.stages.experts.pieces import Piece, slice_name
from p2p_llm_forge.stages.experts.remote import Exchange
from p2p_llm_forge.stages.experts.trunk import build
from p2p_llm_forge.stages.skeleton import skeleton
from p2p_llm_forge.state import State


def states(config: Any, of: Sequence[Piece], fused: Sequence[Fused], groups: Groups, seed: int) -> Iterator[State]:
    """The initial state of each piece, the trunk's first.

    Raises:
        SplitError: the family's rule leaves a tensor without a value.
    """
    trunk = build(config, Exchange(_nobody, _nobody))
    initial.draw(trunk, seed)
    yield _checked(State.of_model(trunk, of[0].layout), of[0])
    del trunk
    whole = skeleton(config)
    for group, piece in enumerate(of[1:]):
        state = State.blank(piece.layout)
        spans = dict(zip(piece.layout.names, piece.layout.spans(), strict=True))
        first, last = groups.span(group)
        for layer in fused:
            module = whole.get_submodule(layer.name).to_empty(device="cpu")
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.fill_(torch.nan)
                initial.visit(module, layer.name, whole, seed, set())
                for tensor in TENSORS:
                    start, end, _ = spans[slice_name(f"{layer.name}.{tensor}", first, last)]
                    state.weights_P[start:end].copy_(module.get_parameter(tensor)[first:last].reshape(-1))
            module.to("meta")
        yield _checked(state, piece)


def _checked(state: State, piece: Piece) -> State:
    if not state.is_finite():
        raise SplitError(f"model: the family's rule leaves values of {piece.what} undrawn; {WAY_OUT}")
    return state


def _nobody(*_: object) -> list[Any]:
    raise AssertionError("nobody is asked while weights are drawn")
