"""The whole model's state and its stages' states: ids, cutting one into the others, putting them together again.

The run's state id is `<R>-<B>`: the RFC 6962 root over the ASCII ids of the stages' states in order, and the sum of
their bytes. A state of a stage holds the moments of its own parameters, and the same count of steps.

Shapes: P distinct parameters.

Pure: states in and out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from p2p_llm_forge.blobs import leaf_hash, merkle_root
from p2p_llm_forge.errors import StateError
from p2p_llm_forge.stages.parity import same_bits
from p2p_llm_forge.stages.skeleton import skeleton
from p2p_llm_forge.stages.tied import spans
from p2p_llm_forge.state import Layout, State

_STATE_ID = re.compile(r"[0-9a-f]{64}-[1-9][0-9]{0,15}")


def run_state_id(stage_ids: Sequence[str]) -> str:
    """The id of the state that the stages' states make up.

    Raises:
        StateError: one of them is no state id.
    """
    for index, name in enumerate(stage_ids):
        if not _STATE_ID.fullmatch(name):
            raise StateError(f"stage {index}: {name[:80]!r} is no state id, expected 64 hex digits, a dash, a length")
    root = merkle_root(leaf_hash(name.encode()) for name in stage_ids)
    return f"{root.hex()}-{sum(int(name.partition('-')[2]) for name in stage_ids)}"


def whole_layout(layouts: Sequence[Layout]) -> Layout:
    """The layout that the stages' layouts make up.

    Raises:
        StateError: a tensor that several stages hold has another shape in one of them, or they step differently.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    first = layouts[0]
    for index, layout in enumerate(layouts):
        if (layout.moments, layout.counters) != (first.moments, first.counters):
            raise StateError(f"stage {index}: it has another outer optimizer than stage 0; use one run's states")
        for name, shape in zip(layout.names, layout.shapes, strict=True):
            if shapes.setdefault(name, shape) != shape:
                raise StateError(f"stage {index}: {name} has shape {list(shape)}, elsewhere {list(shapes[name])}")
    names = tuple(sorted(shapes))
    return Layout(
        names=names, shapes=tuple(shapes[name] for name in names), moments=first.moments, counters=first.counters
    )


def cut_state(whole: State, layouts: Sequence[Layout]) -> list[State]:
    """The stages' states, with what the outer optimizer remembers. Tied tensors come into both of their stages."""
    return [_take(whole, layout) for layout in layouts]


def _take(whole: State, layout: Layout) -> State:
    part = State.blank(layout)
    there = spans(whole.layout)
    for name, here in spans(layout).items():
        for source_P, target_P in _pairs(whole, part):
            target_P[here] = source_P[there[name]]
    for counter in layout.counters:
        part.outer[counter].copy_(whole.outer[counter])
    return part


def _pairs(left: State, right: State) -> Iterator[tuple[Tensor, Tensor]]:
    """What has one value per parameter, of both."""
    yield left.weights_P, right.weights_P
    for name in left.layout.moments:
        yield left.outer[name], right.outer[name]


def assemble(parts: Sequence[State]) -> State:
    """The whole state of the stages' states, in order.

    Raises:
        StateError: copies of a tied tensor differ, or the stages' counts of steps do, naming which.
    """
    whole = State.blank(whole_layout([part.layout for part in parts]))
    there, seen = spans(whole.layout), dict[str, int]()
    for index, part in enumerate(parts):
        for name, here in spans(part.layout).items():
            for source_P, target_P in _pairs(part, whole):
                if name not in seen:
                    target_P[there[name]] = source_P[here]
                elif not same_bits(target_P[there[name]], source_P[here]):
                    raise StateError(
                        f"stage {index}: its copy of {name} is not that of stage {seen[name]}; "
                        "take both stages' states of one round"
                    )
            seen.setdefault(name, index)
        for counter in part.layout.counters:
            if index and not torch.equal(whole.outer[counter], part.outer[counter]):
                found, wanted = float(part.outer[counter]), float(whole.outer[counter])
                raise StateError(f"stage {index}: outer.{counter} is {found}, in stage 0 {wanted}; take one round's")
            whole.outer[counter].copy_(part.outer[counter])
    return whole


def model_of(config: Any, state: State) -> nn.Module:
    """The whole model with these weights, which it shares with the state: memory for them is needed once.

    Raises:
        StateError: it is the state of another model. ModelError: the configuration builds none.
    """
    built = skeleton(config)
    named = dict(built.named_parameters())
    wanted = {name: tuple(parameter.shape) for name, parameter in named.items()}
    if dict(zip(state.layout.names, state.layout.shapes, strict=True)) != wanted:
        raise StateError("state: its tensors are not those of this model; take the states of this run")
    where = spans(state.layout)
    made = {
        id(parameter): nn.Parameter(state.weights_P[where[name]].view(parameter.shape))
        for name, parameter in named.items()
    }
    for module in built.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            setattr(module, name, made.get(id(parameter), parameter))
    return built
