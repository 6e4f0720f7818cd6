"""The section `pipeline` of a run spec: a model cut into stages, each of which several peers hold.

Pure: definitions and validation. Imports no torch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from p2p_llm_forge.settings import MembersSpec, Section, TrainingSpec


class PipelineSpec(Section):
    """How a model that no peer can hold alone is cut, and how the parts are run."""

    stages: int = Field(ge=2, le=64)
    """Parts that the layers are cut into, one after the other; at most as many as there are layers."""
    replicas: int = Field(default=2, ge=1, le=256)
    """A round opens once so many live peers hold each stage; with 1 a dead peer pauses the run."""
    microbatch_size: int = Field(default=4, ge=1, le=1 << 16)
    """Sequences that go through the stages together."""
    in_flight: int = Field(default=16, ge=1, le=256)
    """Microbatches that a driver has under way at once."""
    activations: Literal["int8", "bf16", "f32"] = "bf16"
    """How what goes from stage to stage travels: int8 about 1.06 bytes a value · bf16: 2 · f32: exact, 4."""
    layers: tuple[int, ...] | None = None
    """Layers of each stage, first to last; cut so that the dearest stage costs least when left out."""
    costs: Literal["estimated", "measured"] = "estimated"
    """What the cut goes by. estimated: operations, from the shapes · measured: seconds on the submitter's machine."""

    @model_validator(mode="after")
    def _check(self) -> PipelineSpec:
        if self.layers is None:
            return self
        if len(self.layers) != self.stages:
            raise ValueError(f"layers names {len(self.layers)} stages, stages is {self.stages}; make them agree")
        if min(self.layers) < 1:
            raise ValueError(f"layers {list(self.layers)}: every stage has at least one layer; set fewer stages")
        return self


def check(pipeline: PipelineSpec, training: TrainingSpec, members: MembersSpec, layers: int | None) -> None:
    """Refuse what does not go together.

    Args:
        layers: of the model, where its spec says it.

    Raises:
        ValueError: with the way out.
    """
    if training.mode != "synchronous":
        raise ValueError("pipeline shares one batch a round between the stages; set training.mode: synchronous")
    quota = training.inner_steps * training.batch_size
    if quota % pipeline.microbatch_size:
        raise ValueError(
            f"pipeline.microbatch_size {pipeline.microbatch_size} does not divide a driver's {quota} sequences a round "
            "(training.inner_steps times training.batch_size); set one that does"
        )
    seats = pipeline.stages * pipeline.replicas
    if seats > members.max:
        raise ValueError(
            f"pipeline needs {seats} members ({pipeline.stages} stages times {pipeline.replicas} replicas), "
            f"members.max is {members.max}; set members.max to {seats} or more, or fewer replicas"
        )
    if layers is not None and pipeline.stages > layers:
        raise ValueError(
            f"pipeline.stages {pipeline.stages} is more than model.layers {layers}; set {layers} stages or fewer"
        )
    if layers is not None and pipeline.layers is not None and sum(pipeline.layers) != layers:
        raise ValueError(
            f"pipeline.layers adds up to {sum(pipeline.layers)}, model.layers is {layers}; make them agree"
        )
