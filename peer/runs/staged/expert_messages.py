"""What a driver asks of a peer that holds experts: `stage.expert`, answered and sent in parts as `stage.pass` is.

Pure: values only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated

from pydantic import Field

from peer.runs.staged.bodies import LookBody, PassBody
from peer.stages.messages import Tag
from peer.wire import Hash, Message, Natural

MOST_LAYERS = 1024
MOST_EXPERTS = 1 << 12
Numbers = Annotated[list[Natural], Field(max_length=MOST_EXPERTS)]


class Counted(Message):
    """A backward call that a microbatch is made of."""

    layer: Annotated[int, Field(ge=0, lt=MOST_LAYERS)]
    sum: Hash
    """SHA-256 over what was asked, as it travelled."""


class ExpertBody(PassBody):
    """`stage.expert`: a layer's pass; without a layer: count the microbatch, which is made of these calls."""

    layer: Annotated[int, Field(ge=0, lt=MOST_LAYERS)] | None = None
    experts: Numbers = Field(default_factory=list)
    counts: Numbers = Field(default_factory=list)
    calls: Annotated[list[Counted], Field(max_length=MOST_LAYERS)] = Field(default_factory=list)

    def tag(self) -> Tag:
        """What it is for."""
        tag = super().tag()
        return tag if self.layer is None else Tag(**{**vars(tag), "layer": self.layer})


class ExpertLookBody(LookBody):
    """`stage.look`: a layer's outputs for tokens of held-out samples."""

    layer: Annotated[int, Field(ge=0, lt=MOST_LAYERS)]
    experts: Numbers
    counts: Numbers


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a trunk's worker asks of one holder in one layer."""

    holder: str
    layer: int
    experts: list[int]
    counts: list[int]
    x: bytes = field(repr=False)
    """The tokens."""
    gradient: bytes = field(default=b"", repr=False)
    """Backward: of the outputs."""

    @property
    def sum(self) -> str:
        """As the holder's worker reckons it."""
        found = sha256(repr((self.layer, self.experts, self.counts)).encode())
        found.update(self.x)
        found.update(self.gradient)
        return found.hexdigest()
