"""The section of a run spec that places a model's experts on several peers.

Not part of `RunSpec` yet: it becomes one, as `experts`, once the daemon runs it.

Pure: definitions and validation. Imports no torch.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from p2p_llm_forge.settings import Section, TrainingSpec


class ExpertsSpec(Section):
    """How a mixture of experts is shared out: the trunk to its drivers, each group of experts to its replicas."""

    groups: int = Field(ge=1, le=1024)
    """Groups of neighbouring experts, at most as many as a layer has; a peer holds one group, of every layer."""
    replicas: int = Field(default=2, ge=1, le=1024)
    """So many live replicas of each group before a run starts. Where all replicas of a group die later, the run goes on
    without its experts, and shows what that costs."""
    microbatch_size: int = Field(default=4, ge=1, le=1 << 20)
    """Sequences that a driver takes through the model at once."""
    in_flight: int = Field(default=2, ge=1, le=64)
    """Microbatches that a driver has under way."""
    activations: Literal["int8", "bf16", "f32"] = "bf16"
    """How tokens and their gradients travel."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.groups * self.replicas > 4096:
            raise ValueError(f"groups {self.groups} x replicas {self.replicas}: more than 4096 peers; set fewer")
        return self


def check(experts: ExpertsSpec, training: TrainingSpec) -> None:
    """Refuse what does not go with the way the members train. Raises ValueError."""
    if training.mode != "synchronous":
        raise ValueError(
            "experts on several peers share one batch; set training.mode: synchronous, or leave experts out"
        )
    quota = training.inner_steps * training.batch_size
    if quota % experts.microbatch_size:
        raise ValueError(
            f"experts.microbatch_size {experts.microbatch_size} does not divide a driver's {quota} sequences "
            "(training.inner_steps x training.batch_size)"
        )
