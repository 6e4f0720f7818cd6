"""What drivers and replicas say to each other: one strict model for each RPC body, and its meaning.

Pure: values only.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints

from peer.messages import MaybeBlob
from peer.runs.staged.messages import MICRO, AttemptText, Number, Stage
from peer.stages.messages import Kind, Refusal, Tag
from peer.wire import BlobId, Hash, Message, Natural

CallId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Sum = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]


class PartBody(Message):
    """`stage.part`: a part of what a `stage.pass` is given, sent before it."""

    run: Hash
    call: CallId
    index: Natural
    bytes: Natural
    """Of all parts together."""


class PassBody(Message):
    """`stage.pass`: make a pass; input and gradient, one after the other, are the payload or came in parts."""

    run: Hash
    call: CallId
    round: Natural
    state: BlobId
    stage: Stage
    microbatch: Number
    kind: Annotated[str, StringConstraints(pattern=r"^(forward|backward)$")]
    attempt: AttemptText
    tokens: Natural
    x: Natural
    """Bytes of the input."""
    gradient: Natural
    """Bytes of the gradient, or of the targets."""
    sum: Sum
    """Of both."""

    def tag(self) -> Tag:
        """What it is for."""
        return Tag(
            round=self.round, state=self.state, stage=self.stage, microbatch=self.microbatch, kind=Kind(self.kind),
            attempt=self.attempt.attempt(),
        )  # fmt: skip


class RefusalText(Message):
    """Why it is not made."""

    code: Annotated[str, StringConstraints(pattern=r"^(STALE|BUSY|WORKING|FROZEN|MISSING|FP-[0-9]{3})$")]
    wait_us: Natural = 0
    round: Natural = 0
    state: MaybeBlob = ""
    why: Annotated[str, StringConstraints(max_length=500)] = ""

    @classmethod
    def of(cls, refusal: Refusal, why: str = "") -> Self:
        """On the wire."""
        wait_us = round(max(0.0, refusal.wait_s) * MICRO)
        return cls(code=refusal.code, wait_us=wait_us, round=refusal.round, state=refusal.state, why=why[:500])

    def refusal(self) -> Refusal:
        """As the machines have it."""
        return Refusal(code=self.code, wait_s=self.wait_us / MICRO, round=self.round, state=self.state)


class PassAnswer(Message):
    """Answer of `stage.pass`: the first part of what came of it is the payload, the others are asked for."""

    refusal: RefusalText | None = None
    bytes: Natural = 0
    sum: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{32})?$")] = ""
    service_us: Natural = 0
    waited_us: Natural = 0
    queue_us: Natural = 0
    loss: Natural = 0
    """Of the last stage's look, in micro-nats a token over so many `tokens`."""
    tokens: Natural = 0


class LookBody(Message):
    """`stage.look`: the output for held-out samples, of no round; of the last stage their loss."""

    run: Hash
    call: CallId
    state: BlobId
    """Id of the stage's state."""
    x: Natural
    targets: Natural
    sum: Sum


class HeldOutQuery(Message):
    """`stage.held_out`: the leader asks a driver for the held-out loss of these states of the stages."""

    run: Hash
    states: Annotated[list[BlobId], Field(min_length=2, max_length=128)]


class MoreBody(Message):
    """`stage.more`: another part of what came of a pass."""

    run: Hash
    call: CallId
    index: Natural
