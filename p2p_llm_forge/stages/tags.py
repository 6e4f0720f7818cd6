"""What a replica is of, what it is asked, and what it answers.

Pure: definitions only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from p2p_llm_forge.stages import activations
from p2p_llm_forge.stages.activations import Kind


@dataclass(frozen=True, kw_only=True)
class Part:
    """Which stage of what."""

    index: int
    """The stage, from 0."""
    stages: int
    """How many there are; 2 or more."""
    sequences: int
    """Of a microbatch."""
    length: int
    """Tokens of a sequence."""
    width: int
    """Hidden size."""
    vocabulary: int
    """Every token is below this."""
    activations: Kind
    """How hidden values and their gradients travel."""
    seed: int
    """The run's."""

    @property
    def first(self) -> bool:
        """Whether it takes tokens."""
        return self.index == 0

    @property
    def last(self) -> bool:
        """Whether it takes targets."""
        return self.index == self.stages - 1

    @property
    def tensor_bytes(self) -> int:
        """The longest tensor that travels to or from it."""
        hidden = activations.encoded_bytes(self.activations, (self.sequences, self.length, self.width))
        return max(hidden, activations.encoded_bytes("tokens", (self.sequences, self.length)))


@dataclass(frozen=True, kw_only=True)
class Tag:
    """Which microbatch, and from which weights."""

    round: int
    """The round."""
    microbatch: int
    """Its number in the round."""
    state: str
    """Id of the stage's state."""
    tokens: int
    """How many tokens of it have a target."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What comes back of a request that is well-formed."""

    kind: Literal["done", "stale", "busy", "missing"]
    """stale: another round or state is held · busy: no room now · missing: send the input (or all) again."""
    data: bytes = b""
    """done: the output, or the gradient of the input (nothing of the first stage)."""
    loss: int = 0
    """done: mean loss in micro-nats a token, of the last stage's backward."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """A microbatch whose gradient is in the sum."""

    tokens: int
    """That had a target."""
    digest: bytes
    """Of input and gradient."""
    losses: tuple[int, ...]
    """Mean loss of each sequence in micro-nats; zeros but in the last stage."""

    @property
    def loss(self) -> int:
        """Their mean."""
        return round(sum(self.losses) / len(self.losses))


@dataclass(frozen=True, kw_only=True)
class Written:
    """An update, and what it is over."""

    path: Path
    """Its file."""
    tokens: int
    """That had a target."""
    loss: int
    """Mean loss in micro-nats a token; 0 but in the last stage."""
    leaves: str
    """Merkle root over slots and losses."""
