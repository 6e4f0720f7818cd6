"""What a run with experts on several peers starts from: its groups, and the initial states of trunk and shards.

IO: writes one state file a piece, each whole or absent; reads a local model folder where the run starts from one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2p_llm_forge import memory, model
from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.errors import DoesNotFit, SpecError
from p2p_llm_forge.stages import costs
from p2p_llm_forge.stages.costs import Costs
from p2p_llm_forge.stages.experts import initial, parity
from p2p_llm_forge.stages.experts.fused import Fused, survey
from p2p_llm_forge.stages.experts.groups import Groups
from p2p_llm_forge.stages.experts.pieces import Piece, cut, estimate, pieces, shares
from p2p_llm_forge.stages.skeleton import skeleton
from p2p_llm_forge.stages.start import Written
from p2p_llm_forge.stages.whole import run_state_id
from p2p_llm_forge.state import Layout, State


@dataclass(frozen=True, kw_only=True)
class Placed:
    """What is known of a run's model from its spec and configuration."""

    whole: Layout
    """Of the whole model's state."""
    fused: tuple[Fused, ...]
    groups: Groups
    pieces: tuple[Piece, ...]
    """The trunk, and each group's shard."""
    chosen: int
    """Experts that the router chooses for a token."""

    @classmethod
    def of(cls, spec: RunSpec, config: Any) -> Placed:
        """Raises ModelError, SpecError: no such experts or groups."""
        assert spec.experts is not None
        fused = survey(config)
        groups = Groups.of(fused[0].experts, spec.experts.groups)
        whole = Layout.of(skeleton(config), spec.training.outer)
        routed = costs.routed_of(config)
        chosen = routed[0] if routed is not None else fused[0].experts
        if not 1 <= chosen <= fused[0].experts:
            most = fused[0].experts
            raise SpecError(f"model: {chosen} experts chosen for a token, but a layer has {most}; choose 1…{most}")
        return cls(whole=whole, fused=fused, groups=groups, pieces=pieces(whole, fused, groups), chosen=chosen)

    def most_pairs(self, spec: RunSpec) -> int:
        """Pairs of a token and an expert in a layer of a microbatch."""
        assert spec.experts is not None
        return spec.experts.microbatch_size * spec.data.sequence_length * self.chosen


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a run's experts are placed."""

    placed: Placed
    costs: Costs

    def needs_bytes(self, spec: RunSpec, config: Any) -> list[int]:
        """The memory that serving each piece takes."""
        assert spec.experts is not None
        pipeline, placed = spec.experts, self.placed
        tokens = pipeline.microbatch_size * spec.data.sequence_length
        microbatches = spec.training.inner_steps * spec.training.batch_size // pipeline.microbatch_size
        trunk = memory.estimate(
            config, sequences=pipeline.microbatch_size, sequence_length=spec.data.sequence_length,
            moments=len(spec.training.outer.moments), own_steps=False, overlap=False,
        )  # fmt: skip
        size = placed.pieces[0].layout.parameters
        at_once = min(pipeline.in_flight, microbatches)
        first = size * (28 + 8 * len(spec.training.outer.moments)) + at_once * trunk.activation_bytes
        rest = [
            estimate(piece, placed.fused, tokens=tokens, microbatches=microbatches, chosen=placed.chosen).total_bytes
            for piece in placed.pieces[1:]
        ]
        return [first, *rest]


def plan(spec: RunSpec, config: Any, budgets: Sequence[int]) -> Plan:
    """Group the experts, after those of a small model were found to compute elsewhere what they do at home.

    Args:
        budgets: bytes of memory of each peer that there is.

    Raises:
        ModelError, SpecError: no such experts or groups. SplitError: they compute something else. DoesNotFit.
    """
    placed = Placed.of(spec, config)
    parity.check(config, placed.groups.count)
    found = Plan(placed=placed, costs=costs.estimate(config, sequence_length=spec.data.sequence_length))
    most = max(budgets)
    for piece, need in zip(placed.pieces, found.needs_bytes(spec, config), strict=True):
        if need > most:
            raise DoesNotFit(
                f"experts: {piece.what}: {piece.layout.parameters:,} parameters need about {need / 2**30:.2f} GiB, the "
                f"largest of {len(budgets)} peers offers {most / 2**30:.2f} GiB; set more experts.groups, or have "
                "peers with more memory"
            )
    return found


def write(spec: RunSpec, config: Any, chosen: Plan, out: Path) -> Written:
    """Write `state.<index>.safetensors` for the trunk and every shard. Raises SplitError, ModelError, DiskError."""
    assert spec.experts is not None
    placed = chosen.placed
    paths: dict[str, Path] = {}
    ids: dict[str, str] = {}
    for index, state in enumerate(_states(spec, config, placed)):
        path = out / f"state.{index}.safetensors"
        state.write(path)
        paths[f"state.{index}"], ids[f"state.{index}"] = path, state.id()
    names = list(ids.values())
    told = {
        "shares": shares(placed.pieces, chosen.costs, chosen=placed.chosen, experts=placed.groups.experts),
        "states": names, "microbatch": spec.experts.microbatch_size, "experts": placed.groups.count,
    }  # fmt: skip
    return Written(paths=paths, ids={**ids, "state": run_state_id(names)}, stages=told)


def _states(spec: RunSpec, config: Any, placed: Placed) -> Iterator[State]:
    if spec.model.path is None:
        return initial.states(config, placed.pieces, placed.fused, placed.groups, spec.seed)
    return iter(cut(State.of_model(model.from_folder(spec.model.path), placed.whole), placed.pieces))
