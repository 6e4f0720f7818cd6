"""What a daemon asks of a worker that drives a trunk or holds a shard, besides what it asks about any stage.

While a `trunk_drive` or `trunk_evaluate` is under way the worker asks for the experts of each layer by events
{"event": "ask", "ask": number, "kind": "forward" | "backward", "calls": [{"holder", "layer", "experts", "counts",
"bytes"}, …]}: the tokens of the calls lie one after the other in the place `x`, the gradients of a backward in
`gradient`. Each is as long as "bytes" says, and so is its reply, which the daemon puts into `reply`, in the same order,
before its `trunk_answer`.

Pure: definitions only.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from p2p_llm_forge.protocol import Request
from p2p_llm_forge.stages.requests import Place, StageRequest, Tagged

MOST_LAYERS = 1024
_Number = Annotated[int, Field(ge=0, lt=1 << 31)]
Holder = Annotated[str, Field(max_length=64)]


class TrunkDrive(Tagged):
    """Forward and backward of a microbatch: "loss", and "lost" to experts that are dead; or it "failed" by a "holder"
    ("why"), and nothing changed."""

    do: Literal["trunk_drive"]
    holders: list[Holder] = Field(min_length=1, max_length=127)
    """By group who serves it; empty: nobody."""
    x: Place
    gradient: Place
    reply: Place


class TrunkAnswer(StageRequest):
    """The replies to an `ask` lie in their place; or this holder failed."""

    do: Literal["trunk_answer"]
    ask: int = Field(ge=0)
    failed: Holder = ""


class Evaluation(StageRequest):
    """Without dropout, of no round; "stale" is answered if another state is held."""

    state: str = Field(min_length=1, max_length=100)
    """Id of the piece's state."""


class TrunkEvaluate(Evaluation):
    """A microbatch of held-out sequences: "loss" in micro-nats a token over so many "tokens", none beyond the last
    sequence; or it "failed" as a `trunk_drive` does. It asks for experts as that does."""

    do: Literal["trunk_evaluate"]
    start: int = Field(ge=0, le=(1 << 53) - 1)
    """The first of its held-out sequences."""
    holders: list[Holder] = Field(min_length=1, max_length=127)
    """By group who serves it."""
    x: Place
    reply: Place


class _Layer(StageRequest):
    """What of a layer a holder is asked; the tokens are at `x`."""

    layer: int = Field(ge=0, lt=MOST_LAYERS)
    experts: list[_Number] = Field(min_length=1, max_length=1 << 16)
    counts: list[_Number] = Field(min_length=1, max_length=1 << 16)
    x: Place
    reply: Place


class ExpertEvaluate(_Layer, Evaluation):
    """The outputs of these experts, which count nowhere."""

    do: Literal["expert_evaluate"]


class ExpertPass(_Layer, Tagged):
    """For a microbatch of the round."""


class ExpertForward(ExpertPass):
    """The outputs of these experts."""

    do: Literal["expert_forward"]


class ExpertBackward(ExpertPass):
    """The gradients of the tokens; those of the experts are counted in place of an earlier call's for this layer."""

    do: Literal["expert_backward"]
    gradient: Place


class Counted(BaseModel):
    """A backward call."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    layer: int = Field(ge=0, lt=MOST_LAYERS)
    sum: str = Field(min_length=64, max_length=64)
    """SHA-256 over what was asked, tokens and gradients as they travelled."""


class ExpertCount(Tagged):
    """Hold of a microbatch exactly these backward calls; "missing" where one of them is not here."""

    do: Literal["expert_count"]
    calls: list[Counted] = Field(max_length=MOST_LAYERS)


COMMANDS: dict[str, type[Request]] = {
    get_args(kind.model_fields["do"].annotation)[0]: kind
    for kind in (TrunkDrive, TrunkAnswer, TrunkEvaluate, ExpertForward, ExpertBackward, ExpertEvaluate, ExpertCount)
}
