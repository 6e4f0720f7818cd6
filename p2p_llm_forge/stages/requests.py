"""What a daemon asks of its worker about a stage; tensors lie in the memory that both share, at a `Place`.

Every pass is answered with {"answer": "done" | "stale" | "busy" | "missing", "queue": requests waiting, "service_us":
mean time of such a pass, "took_us": time of this one, …}: done with "bytes" at the place of the reply and "loss" in
micro-nats a token; stale with "round" and "state" as they are held; busy with "wait_s", after which it may go better;
missing where the input, or input and gradient, have to be sent again. Anything else is an error.

Pure: definitions only.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from p2p_llm_forge.protocol import Contribution, Request, Round

MOST_MICROBATCHES = 1 << 16
MOST_UPDATES = 1024
_NUMBER = Field(ge=0, lt=MOST_MICROBATCHES)
_SLOT = Field(ge=0, le=(1 << 53) - 1)
_ID = Field(min_length=1, max_length=100)


class Place(BaseModel):
    """A part of the shared memory."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    at: int = Field(ge=0, le=1 << 46)
    """Where it begins."""
    bytes: int = Field(ge=0, le=1 << 40)
    """How long what lies there is; of a reply, how long it may be."""


class StageRequest(Request):
    """What every request about a stage is."""


class StageOpen(StageRequest):
    """Build one stage and load its state."""

    do: Literal["stage_open"]
    config: dict[str, Any]
    """`RunSpec.canonical()`, with `pipeline.layers` or `experts`."""
    model: str
    """Path of the model blob."""
    manifest: str
    """Path of the manifest blob."""
    shards: list[str]
    """Paths of the shards in the manifest's order; may be empty where nothing is read."""
    stage: int = Field(ge=0, lt=128)
    """Which one to hold."""
    state: str
    """Path of its state."""
    keep_bytes: int = Field(default=256 << 20, ge=0)
    """For inputs, replies and records of the round under way."""
    memory_bytes: int | None = Field(default=None, ge=0)
    """Memory to stay within; what is free now when left out."""
    keep_passes: int = Field(default=0, ge=0, le=1024)
    """Forward passes that are kept whole, which takes the memory of their activations and spares their backward a
    forward pass."""


class StageLoad(StageRequest):
    """Go on with another state of the same stage."""

    do: Literal["stage_load"]
    state: str
    """Path of the state."""


class StageBegin(StageRequest):
    """Serve a round; asked again, nothing that was done is lost unless it is to begin anew."""

    do: Literal["stage_begin"]
    round: int = Round
    start: int = _SLOT
    """First slot of microbatch 0."""
    microbatches: int = Field(ge=1, le=MOST_MICROBATCHES)
    """How many the round has."""
    anew: Literal[0, 1] = 0
    """1: with nothing done."""


class StageRead(StageRequest):
    """Tokens and targets of a microbatch, from our shards; answered with how long both are ("bytes", "targets") and how
    many "tokens" have a target: of held-out ones the last microbatch may have fewer, or none."""

    do: Literal["stage_read"]
    start: int = _SLOT
    """Its first slot."""
    held_out: Literal[0, 1] = 0
    """1: of those that are never trained on, from 0."""
    reply: Place
    """Where the tokens go."""
    targets: Place
    """Where the targets go."""


class Tagged(StageRequest):
    """What a pass is for."""

    round: int = Round
    microbatch: int = _NUMBER
    state: str = _ID
    """Id of the stage's state."""
    tokens: int = Field(ge=1, le=1 << 40)
    """How many tokens of it have a target."""


class StageForward(Tagged):
    """The output for this input."""

    do: Literal["stage_forward"]
    x: Place
    reply: Place


class StageBackward(Tagged):
    """The gradient of the input, for the gradient of the output or, of the last stage, for the targets."""

    do: Literal["stage_backward"]
    x: Place | None = None
    """The input, unless forward was given it."""
    gradient: Place
    reply: Place


class StageUndo(Tagged):
    """Take a microbatch out of the sum of gradients again."""

    do: Literal["stage_undo"]
    x: Place | None = None
    """Its input, in case it is not kept."""
    gradient: Place | None = None
    """The same."""


class StageEvaluate(StageRequest):
    """The output without dropout, of no round; of the last stage "loss" in micro-nats a token over so many "tokens"."""

    do: Literal["stage_evaluate"]
    state: str = _ID
    """Id of the stage's state; "stale" is answered if another is held."""
    x: Place
    targets: Place | None = None
    """The last stage's."""
    reply: Place


class StageConfirm(StageRequest):
    """These microbatches' replies have arrived."""

    do: Literal["stage_confirm"]
    round: int = Round
    microbatches: list[int] = Field(max_length=MOST_MICROBATCHES)


class StageManifest(StageRequest):
    """Which microbatches are done: "round", "state", "done"."""

    do: Literal["stage_manifest"]


class StageFreeze(StageRequest):
    """Undo what is done beyond this manifest; answered with what is "lacking"."""

    do: Literal["stage_freeze"]
    round: int = Round
    manifest: list[int] = Field(max_length=MOST_MICROBATCHES)


class StageWrite(StageRequest):
    """Write the update over exactly this manifest."""

    do: Literal["stage_write"]
    round: int = Round
    manifest: list[int] = Field(min_length=1, max_length=MOST_MICROBATCHES)


class Settling(StageRequest):
    """What a step is made of."""

    state: str = _ID
    """Id of the stage's state before the step."""
    updates: list[Contribution] = Field(min_length=1, max_length=MOST_UPDATES)
    """The stage's, in receipt order."""
    tied: list[Contribution] = Field(default_factory=list, max_length=MOST_UPDATES)
    """Those of the stage that shares a tensor with it, in receipt order."""
    whole: int = Field(default=0, ge=0, le=(1 << 53) - 1)
    """Of a group of experts, which may have served less: the round's tokens."""


class StageNorm(Settling):
    """The norm of the stage's mean gradient, 16 hex digits."""

    do: Literal["stage_norm"]
    stage: int | None = Field(default=None, ge=0, lt=128)
    """Whose `updates` and `tied` these are, if not our own stage's; `state` is ours all the same."""


class StageApply(Settling):
    """Take the round's step and write the stage's new state."""

    do: Literal["stage_apply"]
    round: int = Round
    norms: list[str] = Field(min_length=2, max_length=128)
    """Of all stages, in order."""


class StageCheck(StageRequest):
    """Decode an update of any stage strictly."""

    do: Literal["stage_check"]
    stage: int = Field(ge=0, lt=128)
    update: Contribution


class StageExport(StageRequest):
    """Write the whole model as a Hugging Face folder; no stage need be open."""

    do: Literal["stage_export"]
    config: dict[str, Any]
    """`RunSpec.canonical()`, with `pipeline.layers` or `experts`."""
    model: str
    """Path of the model blob."""
    tokenizer: str
    """Path of the tokenizer blob."""
    states: list[str] = Field(min_length=2, max_length=128)
    """Paths of the stages' states, in their order."""
    to: str = Field(min_length=1)
    """Folder to make; it may exist only if it is empty."""


KINDS: tuple[type[StageRequest], ...] = (
    StageOpen, StageLoad, StageBegin, StageRead, StageForward, StageBackward, StageUndo, StageEvaluate, StageConfirm,
    StageManifest, StageFreeze, StageWrite, StageNorm, StageApply, StageCheck, StageExport,
)  # fmt: skip
COMMANDS: dict[str, type[Request]] = {get_args(kind.model_fields["do"].annotation)[0]: kind for kind in KINDS}
