"""All members of a run in one process: the engine's own steps, codecs, aggregation and outer step, no files between.

What a member does here is what `p2p_llm_forge.engine` does with the same spec, bit by bit; a test compares the states.
Nobody misses a round, so what a member carries is what it did not send, decayed once (`p2p_llm_forge.carry`). All
members hold the same shared weights, so these are moved once and not by each of them.

Shapes: P parameters.

IO: reads the corpus, writes the run's blobs into a folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from p2p_llm_forge import codec, model, outer
from p2p_llm_forge.blobs import read_blob
from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.data.sampler import Sampler
from p2p_llm_forge.data.shards import Shards
from p2p_llm_forge.inner import InnerTrainer, Read
from p2p_llm_forge.prepare import prepare
from p2p_llm_forge.state import Layout, State

CPU = torch.device("cpu")
MEMORY_BYTES = 1 << 40
"""What a run may need: it is known to be small."""
ALL = 1 << 30
"""Held-out sequences."""


@dataclass(kw_only=True)
class Member:
    """One member between two rounds."""

    inner: InnerTrainer
    owed_P: Tensor | None = None
    """What it did not send yet."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """What became of a run."""

    looked: list[int] = field(default_factory=list)
    """Tokens that all members had trained on at each look."""
    losses: list[float] = field(default_factory=list)
    """Held-out loss in nats at each look."""
    tokens: int = 0
    """Tokens that all members trained on."""
    sent_bytes: int = 0
    """Bytes of all members' updates."""


class Swarm:
    """The members of one run, and the shared state."""

    def __init__(
        self, spec: RunSpec, folder: Path, *, shares: Sequence[float] = (1.0,) * 4, by_tokens: bool = True
    ) -> None:
        """Prepare the run.

        Args:
            spec: with an absolute data.path.
            folder: for the run's blobs.
            shares: how much of `inner_steps` each member does in a round, at most 1.
            by_tokens: weigh updates by their tokens, as runs do; otherwise all alike.
        """
        made = prepare(spec, folder, MEMORY_BYTES, lambda *_: None)
        training = spec.training
        config = model.config_from_blob(read_blob(made.paths["model"], model.LIMIT_BYTES, "model blob"))
        self.spec, self.by_tokens = spec, by_tokens
        self.layout = Layout.of(model.build(config, spec.seed), training.outer)
        self.state = State.load(made.paths["state"], self.layout)
        self._shards = Shards(made.manifest, made.shard_paths)
        self._sampler = Sampler(
            seed=spec.seed, train_slots=made.manifest.train_slots, held_out_slots=made.manifest.held_out_slots
        )
        self.members = [
            Member(inner=InnerTrainer(model.build(config, spec.seed), self.layout, training, CPU)) for _ in shares
        ]
        self.quotas = [max(1, math.floor(training.inner_steps * share)) * training.batch_size for share in shares]
        self.tokens = self.sent_bytes = self._next_slot = 0

    def round(self, number: int) -> None:
        """Everybody trains on its slots; then the shared weights move."""
        training = self.spec.training
        updates: list[codec.Update] = []
        for member, quota in zip(self.members, self.quotas, strict=True):
            updates.append(self._train(member, quota, number))
            self._next_slot += quota
        norms = [outer.check_norm(update, self.spec.max_update_rms) for update in updates]
        weights = self.quotas if self.by_tokens else [1] * len(updates)
        mean_P = outer.combine(updates, weights, norms, training)
        outer.step(self.state, mean_P, training, number)
        self.tokens += sum(self.quotas) * self.spec.data.sequence_length

    def _train(self, member: Member, quota: int, number: int) -> codec.Update:
        """One member's round; returns its update as the others decode it."""
        training = self.spec.training
        member.inner.take(self.state.weights_P)
        member.inner.train(
            self._read(self._sampler.windows(self._next_slot, quota)),
            slots=quota,
            round_number=number,
            seed=self.spec.seed,
            deadline_s=math.inf,
            stopped=lambda: False,
            report=lambda *_: None,
        )
        change_P = member.inner.change(self.state.weights_P)
        if member.owed_P is not None:
            change_P.add_(member.owed_P.mul_(training.codec.decay))
        data, _ = codec.encode(change_P, training.codec)
        update = codec.decode(data, training.codec, change_P.numel())
        update.subtract_from(change_P)
        member.owed_P = change_P
        self.sent_bytes += len(data)
        return update

    def evaluate(self, sequences: int) -> float:
        """Mean held-out loss of the shared weights in nats."""
        windows = self._sampler.held_out(sequences)
        inner = self.members[0].inner
        inner.take(self.state.weights_P)
        return inner.evaluate(self._read(windows), len(windows))

    def _read(self, windows: Any) -> Read:
        return lambda first, count: torch.from_numpy(self._shards.read(windows[first : first + count]))


def follow(swarm: Swarm, *, looks: int, sequences: int, told: Callable[[int, float], None]) -> Track:
    """All rounds of a run, with so many looks at the held-out loss.

    Args:
        sequences: held-out sequences of a look; the last one takes all.
        told: hears of each look: rounds done, loss.
    """
    rounds = swarm.spec.training.rounds
    wanted = {round(rounds * look / looks) for look in range(1, looks + 1)}
    looked: list[int] = []
    losses: list[float] = []
    for number in range(1, rounds + 1):
        swarm.round(number)
        if number in wanted:
            looked.append(swarm.tokens)
            losses.append(swarm.evaluate(sequences if number < rounds else ALL))
            told(number, losses[-1])
    return Track(looked=looked, losses=losses, tokens=swarm.tokens, sent_bytes=swarm.sent_bytes)
