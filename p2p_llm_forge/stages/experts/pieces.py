"""Cuts a whole model's state into that of the trunk and those of the expert shards, and puts it together again.

The trunk is all but the experts; a shard holds one group's slices `NAME[first:last]` of every fused tensor NAME, and
of its moments. Each piece is a canonical state file with an id of its own; the run's state id is `run_state_id` over
these, the trunk's first. Slices run along the first dimension, so every tensor is one span of the whole's flat vectors.

A group that nobody served for a while has taken fewer steps than the trunk. Its weights belong to the whole model all
the same; only the optimizer's state of such pieces does not go together.

Pure: tensors only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from torch import Tensor

from p2p_llm_forge.errors import StateError
from p2p_llm_forge.memory import Estimate
from p2p_llm_forge.stages.costs import Costs, per_million
from p2p_llm_forge.stages.experts.fused import TENSORS, Fused
from p2p_llm_forge.stages.experts.groups import Groups
from p2p_llm_forge.state import Layout, State


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The trunk, or one shard."""

    what: str
    """For messages: `trunk`, or `experts 4:8`."""
    layout: Layout
    """Of its state."""
    spans: tuple[tuple[int, int], ...]
    """Where each of its tensors lies in the whole's flat vectors."""


def slice_name(name: str, first: int, last: int) -> str:
    """The name of a slice of a fused tensor."""
    return f"{name}[{first}:{last}]"


_Slice = tuple[str, tuple[int, ...], tuple[int, int]]
"""Name, shape and span of a tensor of a piece."""


def pieces(whole: Layout, fused: Sequence[Fused], groups: Groups) -> tuple[Piece, ...]:
    """The trunk and the shards, in the order of their ids in the run's state id."""
    assert all(layer.experts == groups.experts for layer in fused)
    tensors = {f"{layer.name}.{tensor}" for layer in fused for tensor in TENSORS}
    assert tensors <= set(whole.names)
    trunk: list[_Slice] = []
    shards: list[list[_Slice]] = [[] for _ in range(groups.count)]
    for name, shape, (start, end, _) in zip(whole.names, whole.shapes, whole.spans(), strict=True):
        if name not in tensors:
            trunk.append((name, shape, (start, end)))
            continue
        row = math.prod(shape[1:])
        for group, shard in enumerate(shards):
            first, last = groups.span(group)
            span = (start + first * row, start + last * row)
            shard.append((slice_name(name, first, last), (last - first, *shape[1:]), span))
    named = [("experts {}:{}".format(*groups.span(group)), shard) for group, shard in enumerate(shards)]
    return tuple(_piece(what, sorted(slices), whole) for what, slices in [("trunk", trunk), *named])


def _piece(what: str, slices: Sequence[_Slice], whole: Layout) -> Piece:
    layout = Layout(
        names=tuple(name for name, _, _ in slices),
        shapes=tuple(shape for _, shape, _ in slices),
        moments=whole.moments,
        counters=whole.counters,
    )
    return Piece(what=what, layout=layout, spans=tuple(span for _, _, span in slices))


def cut(whole: State, into: Sequence[Piece]) -> list[State]:
    """The states of the pieces, bit for bit."""
    states = []
    for piece in into:
        state = State.blank(piece.layout)
        for from_P, to_P in _vectors(whole, state):
            for (start, end), (own_start, own_end, _) in zip(piece.spans, piece.layout.spans(), strict=True):
                to_P[own_start:own_end].copy_(from_P[start:end])
        for name in piece.layout.counters:
            state.outer[name].copy_(whole.outer[name])
        states.append(state)
    return states


def assemble(states: Sequence[State], of: Sequence[Piece], whole: Layout, *, weights_only: bool = False) -> State:
    """The whole model's state from those of all its pieces, in their order.

    Args:
        weights_only: leave the optimizer's state as that of a new run.

    Raises:
        StateError: a state is that of another piece, or has taken another number of steps than the trunk.
    """
    if len(states) != len(of):
        raise StateError(f"state: {len(states)} pieces, wanted {len(of)}: the trunk and every group of experts")
    state = State.blank(whole)
    for held, piece in zip(states, of, strict=True):
        if held.layout != piece.layout:
            raise StateError(f"state of {piece.what}: holds other tensors; fetch that of this run")
        for to_P, from_P in islice(_vectors(state, held), 1 if weights_only else None):
            for (start, end), (own_start, own_end, _) in zip(piece.spans, piece.layout.spans(), strict=True):
                to_P[start:end].copy_(from_P[own_start:own_end])
    if not weights_only:
        _take_counters(state, states, of)
    return state


def _take_counters(state: State, states: Sequence[State], of: Sequence[Piece]) -> None:
    for name in state.layout.counters:
        first = float(states[0].outer[name])
        for held, piece in zip(states, of, strict=True):
            if (found := float(held.outer[name])) != first:
                raise StateError(
                    f"state of {piece.what}: outer.{name} is {found:.0f}, that of the {of[0].what} {first:.0f}; "
                    "assemble the weights only"
                )
        state.outer[name].copy_(states[0].outer[name])


def _vectors(left: State, right: State) -> Iterator[tuple[Tensor, Tensor]]:
    """The vectors of one value per parameter of two states, side by side; the weights first."""
    yield left.weights_P, right.weights_P
    for name in left.layout.moments:
        yield left.outer[name], right.outer[name]


def estimate(piece: Piece, fused: Sequence[Fused], *, tokens: int, microbatches: int, chosen: int) -> Estimate:
    """What serving a shard takes on one peer, in bytes.

    Args:
        tokens: of a microbatch.
        microbatches: of a round, that this replica serves.
        chosen: experts that the router chooses for a token; all of them may be in this shard.
    """
    size = piece.layout.parameters
    pairs = tokens * min(chosen, piece.layout.shapes[0][0])
    # One layer's gate, up and product with their gradients; tokens, gradients and replies of all layers, kept until the
    # round ends.
    values = max(6 * layer.inner for layer in fused) + microbatches * sum(3 * layer.hidden for layer in fused)
    return Estimate(
        parameters=size,
        weights_bytes=8 * size,
        state_bytes=size * (20 + 8 * len(piece.layout.moments)),
        activation_bytes=4 * pairs * values,
    )


def shares(of: Sequence[Piece], costs: Costs, *, chosen: int, experts: int) -> list[int]:
    """Each piece's part of the whole model's work in parts per million, the trunk's first; they add up to a million.

    Every expert counts as chosen equally often, which is what the load-balance loss drives at: a run's prices are fixed
    before anybody knows which ones will be popular.

    Args:
        costs: of the whole model, estimated.
        chosen: experts that the router chooses for a token, of so many `experts` of a layer.
    """
    groups = [6 * piece.layout.parameters * chosen // experts for piece in of[1:]]
    whole = sum(cost.work for cost in (costs.embedding, *costs.layers, costs.head))
    return per_million([whole - sum(groups), *groups])
