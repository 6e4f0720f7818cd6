"""Whether the stages fit the peers, and if not, what would do.

Pure: figures in, a refusal out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from p2p_llm_forge import model
from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.errors import DoesNotFit
from p2p_llm_forge.memory import Estimate
from p2p_llm_forge.stages.costs import Costs
from p2p_llm_forge.stages.cut import Cut


def of_stage(config: Any, costs: Costs, cut: Cut, index: int, spec: RunSpec) -> Estimate:
    """What a replica of a stage needs."""
    start, end = cut.layers[index]
    last = index == cut.stages() - 1
    return _estimate(config, costs.stage(cut, index).parameters, end - start, last, spec)


def _estimate(config: Any, parameters: int, layers: int, last: bool, spec: RunSpec) -> Estimate:
    """As `memory.estimate` reckons, for some of the layers."""
    assert spec.pipeline is not None
    hidden = int(getattr(config.get_text_config(decoder=True), "hidden_size", 0) or 0)
    tokens = spec.pipeline.microbatch_size * spec.data.sequence_length
    kept = 2 * spec.pipeline.in_flight * 4 * hidden  # an input and an answer of every microbatch under way
    return Estimate(
        parameters=parameters,
        weights_bytes=8 * parameters,
        state_bytes=parameters * (20 + 8 * len(spec.training.outer.moments)),
        activation_bytes=tokens * (layers * hidden * 68 + kept + (model.vocabulary(config) * 12 if last else 0)),
    )


def check(config: Any, costs: Costs, cut: Cut, spec: RunSpec, budgets: Sequence[int]) -> None:
    """Refuse stages that no peer can hold.

    Args:
        budgets: bytes of memory of each peer that there is; at least one.

    Raises:
        DoesNotFit: naming the first such stage and the smallest memory that would do.
    """
    most = max(budgets)
    for index in range(cut.stages()):
        need = of_stage(config, costs, cut, index, spec)
        if need.total_bytes > most:
            raise DoesNotFit(
                f"pipeline: stage {index} of {cut.stages()}: {need.parameters:,} parameters need about "
                f"{_gib(need.total_bytes)}, the largest of {len(budgets)} peers offers {_gib(most)}; "
                f"{_way_out(config, costs, cut, spec, most)}"
            )


def smallest_memory(config: Any, costs: Costs, cut: Cut, spec: RunSpec) -> int:
    """Bytes that would do for every stage of this cut."""
    return max(of_stage(config, costs, cut, index, spec).total_bytes for index in range(cut.stages()))


def _way_out(config: Any, costs: Costs, cut: Cut, spec: RunSpec, most: int) -> str:
    needed = smallest_memory(config, costs, cut, spec)
    least = f"with this cut the smallest memory that would do is {_gib(needed)} a peer"
    for stages in range(cut.stages() + 1, min(len(costs.layers), 64) + 1):
        if smallest_memory(config, costs, costs.cut(stages, costs.smallest_stage(stages)), spec) <= most:
            return f"{least}; set pipeline.stages: {stages}, or have peers with more memory"
    return f"{least}, and no number of stages fits; have peers with more memory, or choose a smaller model"


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
