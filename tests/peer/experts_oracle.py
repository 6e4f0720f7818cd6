"""One process that trains a run with experts on several peers as its log says, the model whole, by torch's own AdamW.

IO: reads blobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from p2p_llm_forge import model
from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.data.sampler import Sampler
from p2p_llm_forge.data.shards import Shards, load_manifest
from p2p_llm_forge.schedule import learning_rate
from p2p_llm_forge.stages.experts.pieces import assemble
from p2p_llm_forge.stages.experts.start import Placed
from p2p_llm_forge.stages.experts.trunk import objective
from p2p_llm_forge.stages.whole import model_of
from p2p_llm_forge.state import State
from peer.rounds.log import SettledRound
from peer.runs.run import Run
from peer.runs.shards import shards_of
from peer.stages.manifest import Manifest
from tests.p2p_llm_forge.stage_world import distance
from tests.peer.staged_oracle import Blobs


class ExpertsOracle:
    """One run's training, done again."""

    def __init__(self, run: Run, stores: Sequence[Blobs]) -> None:
        """`stores`: where blobs lie; each blob is in one of them."""
        self.run, self.stores = run, stores
        self.spec = RunSpec.from_canonical(run.config)
        self.config = model.config_from_blob(self.path(run.blobs["model"]).read_bytes())
        self.placed = Placed.of(self.spec, self.config)
        path = self.path(run.blobs["manifest"])
        self.manifest = load_manifest(path)
        self.shards = Shards(self.manifest, [self.path(shard) for shard in shards_of(path)])
        self.whole = model_of(self.config, self.state(0)).train()

    def path(self, blob: str) -> Path:
        """The file of a blob, wherever it is."""
        return next(path for store in self.stores if (path := Path(store.path(blob))).exists())

    def state(self, round_number: int) -> State:
        """The run's own whole state after a round."""
        states: Any = self.run.spec["stages"]["states"] if not round_number else self.run.log.states_after(round_number)
        found = [
            State.load(self.path(name), piece.layout) for name, piece in zip(states, self.placed.pieces, strict=True)
        ]
        return assemble(found, self.placed.pieces, self.placed.whole)

    def distance(self) -> float:
        """How far the run's final weights are from this process's, relatively."""
        named = dict(self.whole.named_parameters())
        groups: list[dict[str, Any]] = [
            {"params": [value for value in named.values() if value.ndim >= 2]},
            {"params": [value for value in named.values() if value.ndim < 2], "weight_decay": 0.0},
        ]
        training = self.spec.training
        optimizer = torch.optim.AdamW(groups, betas=training.betas, weight_decay=training.weight_decay)
        for done in self.run.log.settled:
            if not done.staged:
                continue
            optimizer.zero_grad()
            tokens = sum(self._backward(done, number) for number in served(done, self.run))
            for value in named.values():
                value.grad = value.grad / tokens if value.grad is not None else torch.zeros_like(value)
            if training.grad_clip:
                torch.nn.utils.clip_grad_norm_(named.values(), training.grad_clip)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(training, done.round)
            optimizer.step()
        final = model_of(self.config, self.state(self.run.log.round))
        found = {name: value.detach().reshape(-1) for name, value in final.named_parameters()}
        return distance(found, {name: value.detach().reshape(-1) for name, value in named.items()})

    @torch.no_grad()
    def held_out(self, sequences: int) -> float:
        """The held-out loss of the run's final weights, in nats a token."""
        sampler = Sampler(
            seed=self.spec.seed, train_slots=self.manifest.train_slots, held_out_slots=self.manifest.held_out_slots
        )
        tokens = torch.from_numpy(self.shards.read(sampler.held_out(sequences)))
        final = model_of(self.config, self.state(self.run.log.round)).eval()
        return float(objective(final, tokens).losses_B.mean())

    def _backward(self, done: SettledRound, number: int) -> int:
        assert self.spec.experts is not None
        size = self.spec.experts.microbatch_size
        sampler = Sampler(
            seed=self.spec.seed, train_slots=self.manifest.train_slots, held_out_slots=self.manifest.held_out_slots
        )
        first = min(seat.start for seat in done.roster) + number * size
        tokens = torch.from_numpy(self.shards.read(sampler.windows(first, size)))
        objective(self.whole, tokens).total.backward()
        return int(tokens[:, 1:].numel())


def served(done: SettledRound, run: Run) -> list[int]:
    """The microbatches that count in a round: those of its drivers, each once."""
    assert run.staged is not None
    size = sum(seat.quota for seat in done.roster if seat.stage == 0) // run.staged.microbatch
    return [number for one in done.staged if one.stage == 0 for number in Manifest.read(one.served, size)]
