"""What a pipeline run starts from: where its model is cut, and the initial state of each stage.

IO: writes one state file a stage, each whole or absent; reads a local model folder where the run starts from one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2p_llm_forge import model
from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.errors import SplitError
from p2p_llm_forge.stages import costs, fit, initial, parity, split, timing, whole
from p2p_llm_forge.stages.anatomy import Anatomy
from p2p_llm_forge.stages.costs import Costs
from p2p_llm_forge.stages.cut import Cut
from p2p_llm_forge.state import Layout, State


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a run's model is cut."""

    known: Anatomy
    costs: Costs
    cut: Cut

    def needs_bytes(self, spec: RunSpec, config: Any) -> list[int]:
        """The memory that serving each stage takes."""
        stages = range(self.cut.stages())
        return [fit.of_stage(config, self.costs, self.cut, index, spec).total_bytes for index in stages]

    def pinned(self, spec: RunSpec) -> RunSpec:
        """The spec that says where the model is cut, so that nobody reckons it anew."""
        assert spec.pipeline is not None
        layers = tuple(end - start for start, end in self.cut.layers)
        return spec.model_copy(update={"pipeline": spec.pipeline.model_copy(update={"layers": layers})})


@dataclass(frozen=True, kw_only=True)
class Written:
    """The initial states."""

    paths: dict[str, Path]
    """state.0, state.1, …"""
    ids: dict[str, str]
    """Their ids, and under `state` that of them all."""
    stages: dict[str, Any]
    """What the ledger is told: each stage's share of the work in parts per million, the stages' states, sequences of a
    microbatch."""


def plan(spec: RunSpec, config: Any, budgets: Sequence[int]) -> Plan:
    """Cut the model, after the stages of a small one were found to compute what that does.

    Args:
        budgets: bytes of memory of each peer that there is.

    Raises:
        SplitError: the model cannot be cut so. DoesNotFit: a stage fits none of these peers.
    """
    pipeline = spec.pipeline
    assert pipeline is not None
    known = parity.check(config, pipeline.stages)
    found = costs.estimate(config, sequence_length=spec.data.sequence_length, known=known)
    if pipeline.costs == "measured":
        found = timing.measure(
            config, found, known,
            sequences=pipeline.microbatch_size, sequence_length=spec.data.sequence_length,
        )  # fmt: skip
    where = found.cut(pipeline.stages) if pipeline.layers is None else Cut.of_counts(pipeline.layers)
    if where.total() != len(found.layers):
        raise SplitError(f"pipeline.layers: {where.total()} in all, the model has {len(found.layers)}; make them agree")
    fit.check(config, found, where, spec, budgets)
    return Plan(known=known, costs=found, cut=where)


def cut_of(spec: RunSpec) -> Cut:
    """The cut that a run's canonical spec names. Raises SplitError where it names none."""
    if spec.pipeline is None or spec.pipeline.layers is None:
        raise SplitError("pipeline.layers: missing; prepare the run, which writes down where the model is cut")
    return Cut.of_counts(spec.pipeline.layers)


def write(spec: RunSpec, config: Any, chosen: Plan, out: Path) -> Written:
    """Write `state.<index>.safetensors` for every stage. Raises SplitError, ModelError, DiskError."""
    paths: dict[str, Path] = {}
    ids: dict[str, str] = {}
    for index, state in enumerate(_states(spec, config, chosen)):
        path = out / f"state.{index}.safetensors"
        state.write(path)
        paths[f"state.{index}"], ids[f"state.{index}"] = path, state.id()
    names = list(ids.values())
    assert spec.pipeline is not None
    told = {"shares": chosen.costs.shares(chosen.cut), "states": names, "microbatch": spec.pipeline.microbatch_size}
    return Written(paths=paths, ids={**ids, "state": whole.run_state_id(names)}, stages=told)


def _states(spec: RunSpec, config: Any, chosen: Plan) -> Iterator[State]:
    outer = spec.training.outer
    if spec.model.path is None:
        return initial.states(config, chosen.cut, outer, spec.seed, chosen.known)
    trained = model.from_folder(spec.model.path)
    everything = State.of_model(trained, Layout.of(trained, outer))
    layouts = split.layouts(config, chosen.cut, outer, chosen.known)
    return iter(whole.cut_state(everything, layouts))
