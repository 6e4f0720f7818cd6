"""One process that trains a run with stages as its log says, by whole graphs and torch's own clipping and AdamW.

IO: reads blobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from ledger.entries import parse
from ledger.store.store import Store
from p2p_llm_forge import model
from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.data.sampler import Sampler
from p2p_llm_forge.data.shards import Shards, load_manifest
from p2p_llm_forge.schedule import learning_rate
from p2p_llm_forge.stages import anatomy, split, start
from p2p_llm_forge.stages.seeds import stage_seed
from p2p_llm_forge.state import State
from peer.identity import Home
from peer.ledger.logs import Logs, certified_size
from peer.rounds.log import SettledRound
from peer.runs.run import Run
from peer.runs.shards import shards_of
from peer.stages.manifest import Manifest, check_cover
from tests.p2p_llm_forge.stage_world import distance


class Blobs(Protocol):
    """Where blobs lie."""

    def path(self, blob: str) -> Path:
        """The file of one."""


class Found:
    """The blobs of several homes, whose daemons may run or be dead."""

    def __init__(self, homes: Sequence[Path]) -> None:
        self._homes = homes

    def path(self, blob: str) -> Path:
        places = [home / "blobs" / blob[:2] / blob for home in self._homes]
        return next(place for place in places if place.exists())


class Oracle:
    """One run's training, done again."""

    def __init__(self, run: Run, store: Blobs) -> None:
        self.run, self.store = run, store
        self.spec = RunSpec.from_canonical(run.config)
        config = model.config_from_blob(store.path(run.blobs["model"]).read_bytes())
        cut = start.cut_of(self.spec)
        known = anatomy.of(config, cut.stages())
        self.layouts = split.layouts(config, cut, self.spec.training.outer, known)
        self.stages = [split.build(config, cut, index, known).train() for index in range(cut.stages())]
        path = store.path(run.blobs["manifest"])
        self.manifest = load_manifest(path)
        self.shards = Shards(self.manifest, [store.path(shard) for shard in shards_of(path)])
        self.whole = {name: torch.nn.Parameter(value.clone()) for name, value in self.weights(0).items()}

    def weights(self, round_number: int) -> dict[str, Tensor]:
        """The run's own weights after a round, by name."""
        states: Any = self.run.spec["stages"]["states"] if not round_number else self.run.log.states_after(round_number)
        found: dict[str, Tensor] = {}
        for name, layout in zip(states, self.layouts, strict=True):
            state = State.load(Path(self.store.path(name)), layout)
            for tensor, shape, (begin, end, _) in zip(layout.names, layout.shapes, layout.spans(), strict=True):
                part = state.weights_P[begin:end].view(shape)
                assert tensor not in found or torch.equal(found[tensor], part), "both copies are the same to the bit"
                found[tensor] = part
        return found

    def distance(self) -> float:
        """How far the run's final weights are from this process's, relatively."""
        decayed = [value for value in self.whole.values() if value.ndim >= 2]
        groups: list[dict[str, Any]] = [
            {"params": decayed},
            {"params": [value for value in self.whole.values() if value.ndim < 2], "weight_decay": 0.0},
        ]
        training = self.spec.training
        optimizer = torch.optim.AdamW(groups, betas=training.betas, weight_decay=training.weight_decay)
        for done in self.run.log.settled:
            if not done.staged:
                continue
            self._gradient(done)
            if training.grad_clip:
                torch.nn.utils.clip_grad_norm_(self.whole.values(), training.grad_clip)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(training, done.round)
            optimizer.step()
        found = {name: value.reshape(-1) for name, value in self.weights(self.run.log.round).items()}
        return distance(found, {name: value.detach().reshape(-1) for name, value in self.whole.items()})

    @torch.no_grad()
    def held_out(self, sequences: int) -> float:
        """The held-out loss of the weights that `distance` came to, in nats a token."""
        sampler = Sampler(
            seed=self.spec.seed, train_slots=self.manifest.train_slots, held_out_slots=self.manifest.held_out_slots
        )
        tokens = torch.from_numpy(self.shards.read(sampler.held_out(sequences)))
        x = tokens[:, :-1]
        for stage in self.stages:
            for name, parameter in stage.named_parameters():
                parameter.copy_(self.whole[name])
            x = stage.eval()(x)
        return float(torch.nn.functional.cross_entropy(x.flatten(0, 1), tokens[:, 1:].flatten()))

    def _gradient(self, done: SettledRound) -> None:
        """The mean gradient over what the receipts say was served."""
        for stage in self.stages:
            stage.zero_grad()
            with torch.no_grad():
                for name, parameter in stage.named_parameters():
                    parameter.copy_(self.whole[name])
        tokens = 0
        for number in served(done, len(self.stages), self.run):
            tokens += self._backward(done, number)
        for name, value in self.whole.items():
            parts = [dict(stage.named_parameters()).get(name) for stage in self.stages]
            value.grad = torch.stack([part.grad for part in parts if part is not None and part.grad is not None]).sum(0)
            value.grad /= tokens

    def _backward(self, done: SettledRound, number: int) -> int:
        assert self.spec.pipeline is not None
        size = self.spec.pipeline.microbatch_size
        sampler = Sampler(
            seed=self.spec.seed, train_slots=self.manifest.train_slots, held_out_slots=self.manifest.held_out_slots
        )
        first = min(seat.start for seat in done.roster) + number * size
        tokens = torch.from_numpy(self.shards.read(sampler.windows(first, size)))
        x = tokens[:, :-1]
        for index, stage in enumerate(self.stages):
            torch.manual_seed(stage_seed(self.spec.seed, done.round, number, index))
            x = stage(x)
        torch.nn.functional.cross_entropy(x.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum").backward()
        return int(tokens[:, 1:].numel())


def served(done: SettledRound, stages: int, run: Run) -> Manifest:
    """What every stage served in a round, each microbatch exactly once, as the receipts say."""
    assert run.staged is not None
    size = sum(seat.quota for seat in done.roster if seat.stage == 0) // run.staged.microbatch
    held = [[Manifest.read(one.served, size) for one in done.staged if one.stage == stage] for stage in range(stages)]
    return check_cover(held, size)


def known_run(home: Path) -> Run:
    """The one run in a home folder, as its ledger has it."""
    network = Home(home).network()
    (folder,) = (path.parent for path in home.glob("runs/*/spec.json"))
    logs = SimpleNamespace(genesis=network.genesis)
    run = Run.load(folder, cast("Logs", logs))
    with Store.open(Home(home).ledger_file, network.genesis, read_only=True) as store:
        size = certified_size(store, run.origin)
        run.log.extend([parse(entry) for entry in store.entries(run.origin, 0, size)])
    return run
