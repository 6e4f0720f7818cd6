"""The section of a run spec that places a model's experts on several peers.
Pure: definitions and validation. Imports no torch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from p2p_llm_forge.settings import MembersSpec, Section, TrainingSpec


class ExpertsSpec(Section):
    """How a mixture of experts is shared out: the trunk to its drivers, each group of experts to its replicas."""

    groups: int = Field(ge=1, le=127)
    """Groups of neighbouring experts, at most as many as a layer has; a peer holds one group, of every layer."""
    replicas: int = Field(default=2, ge=1, le=256)
    """So many live replicas of each group before a run starts. Where all replicas of a group die later, the run goes on
    without its experts, and shows what that costs."""
    microbatch_size: int = Field(default=4, ge=1, le=1 << 20)
    """Sequences that a driver takes through the model at once."""
    in_flight: int = Field(default=2, ge=1, le=64)
    """Microbatches that a driver has under way: one goes on while others wait for their experts. Each takes the memory
    of its activations."""
    activations: Literal["int8", "bf16", "f32"] = "bf16"
    """How tokens and their gradients travel."""


def check(experts: ExpertsSpec, training: TrainingSpec, members: MembersSpec) -> None:
    """Refuse what does not go with the way the members train. Raises ValueError, with the way out."""
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
    seats = experts.groups * experts.replicas + 1
    if seats > members.max:
        raise ValueError(
            f"experts needs {seats} members ({experts.groups} groups times {experts.replicas} replicas, and a driver), "
            f"members.max is {members.max}; set members.max to {seats} or more, or fewer replicas"
        )
