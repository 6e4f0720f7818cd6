"""Stages of a small model in this process: replicas, a driver that records, rounds; and one process as the measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from p2p_llm_forge import model
from p2p_llm_forge.protocol import Contribution
from p2p_llm_forge.schedule import learning_rate
from p2p_llm_forge.settings import CodecSpec, ModelSpec, TrainingSpec
from p2p_llm_forge.stages.activations import Kind, encode
from p2p_llm_forge.stages.cut import Cut
from p2p_llm_forge.stages.held import Held
from p2p_llm_forge.stages.replica import Replica
from p2p_llm_forge.stages.seeds import stage_seed
from p2p_llm_forge.stages.split import Stage, build, layout_of
from p2p_llm_forge.stages.tags import Answer, Part, Tag
from p2p_llm_forge.state import State

SEED, VOCABULARY, LENGTH, SEQUENCES, WIDTH, LAYERS = 5, 61, 12, 2, 32, 3
CPU = torch.device("cpu")

Choose = Callable[[int, int], int]
"""(stage, microbatch) → which replica."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a driver remembers of a microbatch at a stage."""

    replica: int
    x: bytes
    gradient: bytes


def config_of(family: str, *, tied: bool, dropout: float) -> Any:
    """A tiny model."""
    spec = ModelSpec(
        family=family, layers=LAYERS, hidden_size=WIDTH, heads=2, dropout=dropout,
        options={"tie_word_embeddings": tied},
    )  # fmt: skip
    return model.config_from_spec(spec, vocab_size=VOCABULARY, sequence_length=LENGTH, end_id=None)


def windows(number: int, microbatch: int) -> Tensor:
    """A microbatch's tokens [B, L + 1]: counting in steps, from anywhere."""
    random = Random(f"{number} {microbatch}")
    rows = [(random.randrange(VOCABULARY), random.randrange(1, 4)) for _ in range(SEQUENCES)]
    return torch.tensor([[(start + step * at) % VOCABULARY for at in range(LENGTH + 1)] for start, step in rows])


class World:
    """Replicas of all stages, each with its own folder."""

    def __init__(
        self, folder: Path, *, family: str = "gpt2", tied: bool = True, stages: int = 3, replicas: int = 2,
        kind: Kind = "f32", dropout: float = 0.1, keep_bytes: int = 1 << 20, keep_passes: int = 0, **training: Any,
    ) -> None:  # fmt: skip
        self.folder, self.kind, self.keep_bytes, self.keep_passes = folder, kind, keep_bytes, keep_passes
        self.spec = TrainingSpec(**{"mode": "synchronous", "learning_rate": 0.002, **training})
        self.config = config_of(family, tied=tied, dropout=dropout if family == "gpt2" else 0.0)
        self.cut = Cut.of_counts([2, 1] if stages == 2 else [1] * stages)
        self.initial = dict(model.build(self.config, SEED).named_parameters())
        self.layouts = [layout_of(self.stage(index), self.spec.outer) for index in range(stages)]
        for index in range(stages):
            State.of_model(self.stage(index), self.layouts[index]).write(folder / f"initial {index}")
        self.replicas = [[self.replica(index, place) for place in range(replicas)] for index in range(stages)]
        self.records: dict[tuple[int, int], Record] = {}
        self.losses: list[float] = []

    @property
    def stages(self) -> int:
        return self.cut.stages()

    def stage(self, index: int) -> Stage:
        """A stage with the initial weights."""
        stage = build(self.config, self.cut, index)
        with torch.no_grad():
            for name, parameter in stage.named_parameters():
                parameter.copy_(self.initial[name])
        return stage

    def replica(self, index: int, place: int, state: Path | None = None) -> Replica:
        """A replica that holds this state, or the initial one."""
        folder = self.folder / f"{index} {place}"
        held = Held(
            state or self.folder / f"initial {index}", self.layouts, index=index, spec=self.spec,
            folder=folder / "states",
        )  # fmt: skip
        part = Part(
            index=index, stages=self.stages, sequences=SEQUENCES, length=LENGTH, width=WIDTH, vocabulary=VOCABULARY,
            activations=self.kind, seed=SEED,
        )  # fmt: skip
        stage = build(self.config, self.cut, index)
        return Replica(
            stage, part, held, device=CPU, keep_bytes=self.keep_bytes, keep_passes=self.keep_passes,
            folder=folder / "updates",
        )  # fmt: skip

    def lose(self, index: int, place: int) -> None:
        """A replica restarts from the state that it wrote, and what it had done of the round is gone."""
        old = self.replicas[index][place]
        path = old.held._folder / f"{old.held.id.partition('-')[0]}.safetensors"
        new = self.replica(index, place, path if path.exists() else None)
        assert new.held.id == old.held.id
        new.begin(old.round, old.start, old.microbatches)
        self.replicas[index][place] = new

    def tag(self, number: int, index: int, microbatch: int) -> Tag:
        state = self.replicas[index][0].held.id
        return Tag(round=number, microbatch=microbatch, state=state, tokens=SEQUENCES * LENGTH)

    # ------------------------------------------------------------------ a round

    def begin(self, number: int, microbatches: int) -> None:
        self.records.clear()
        for replicas in self.replicas:
            for replica in replicas:
                replica.begin(number, number * 1000, microbatches)

    def drive(self, number: int, microbatch: int, choose: Choose, repeats: Callable[[], bool] = lambda: False) -> None:
        """Take a microbatch through the stages; a repeated request has to be answered with the same bytes."""

        def twice(ask: Callable[[], Answer]) -> bytes:
            answer = ask()
            assert answer.kind == "done"
            if repeats():
                assert ask() == answer
            if answer.loss:
                self.losses.append(answer.loss / 1e6)
            return answer.data

        tokens, last = windows(number, microbatch), self.stages - 1
        chosen = [choose(index, microbatch) for index in range(self.stages)]
        asked = [self.replicas[index][place] for index, place in enumerate(chosen)]
        tags = [self.tag(number, index, microbatch) for index in range(self.stages)]
        inputs = [encode(tokens[:, :-1], "tokens")]
        for index in range(last):
            inputs.append(twice(lambda: asked[index].forward(tags[index], inputs[index])))  # noqa: B023
        gradient = encode(tokens[:, 1:], "tokens")
        for index in range(last, -1, -1):
            given = inputs[index] if index in (0, last) else None
            record = Record(replica=chosen[index], x=inputs[index], gradient=gradient)
            gradient = twice(lambda: asked[index].backward(tags[index], given, record.gradient))  # noqa: B023
            self.records[index, microbatch] = record
            if repeats():
                asked[index].confirm([microbatch])

    def replay(self, number: int, index: int, microbatch: int, place: int) -> None:
        """Have another replica do a microbatch from the driver's record."""
        record = self.records[index, microbatch]
        replica = self.replicas[index][place]
        assert replica.backward(self.tag(number, index, microbatch), record.x, record.gradient).kind == "done"
        self.records[index, microbatch] = Record(replica=place, x=record.x, gradient=record.gradient)

    def manifest(self, index: int, place: int) -> set[int]:
        """What a replica shall hold, by the driver's table."""
        return {j for (stage, j), record in self.records.items() if (stage, record.replica) == (index, place)}

    def reconcile(self, number: int, random: Random) -> int:
        """Freeze and replay until every replica holds exactly its manifest; returns how many were replayed."""
        replayed = 0
        while True:
            lacking = [
                (index, j)
                for index, replicas in enumerate(self.replicas)
                for place, replica in enumerate(replicas)
                for j in replica.freeze(self.manifest(index, place))
            ]
            if not lacking:
                return replayed
            for index, j in lacking:
                self.replay(number, index, j, random.randrange(len(self.replicas[index])))
                replayed += 1

    def settle(self, number: int) -> list[str]:
        """Write, exchange and apply the updates; returns the new states' ids."""
        updates: list[list[tuple[int, Contribution]]] = []
        for index, replicas in enumerate(self.replicas):
            written = [
                (place, replica.write(manifest))
                for place, replica in enumerate(replicas)
                if (manifest := self.manifest(index, place))
            ]
            updates.append([(place, Contribution(path=str(w.path), tokens=w.tokens)) for place, w in written])
        first, last = [item for _, item in updates[0]], [item for _, item in updates[-1]]
        tied = {0: last, self.stages - 1: first} if self.replicas[0][0].held.partner else {}
        norms = []
        for index, replicas in enumerate(self.replicas):
            own, theirs = [item for _, item in updates[index]], tied.get(index, [])
            found = {replica.held.norm(replica.held.id, own, theirs) for replica in replicas}
            assert len(found) == 1
            norms.extend(found)
        states = []
        for index, replicas in enumerate(self.replicas):
            for place, replica in enumerate(replicas):
                own = [item.model_copy(update={"mine": int(whose == place)}) for whose, item in updates[index]]
                replica.apply(replica.held.id, number, own, tied.get(index, []), norms)
            ids = {replica.held.id for replica in replicas}
            assert len(ids) == 1, "replicas of a stage hold the same bits"
            states.extend(ids)
        return states

    # ------------------------------------------------------------------ what came out

    def weights(self) -> dict[str, Tensor]:
        """The whole model's, by name; what is shared has to be the same to the bit."""
        found: dict[str, Tensor] = {}
        for replicas in self.replicas:
            state = replicas[0].held.state
            for name, (start, end, _) in zip(state.layout.names, state.layout.spans(), strict=True):
                part = state.weights_P[start:end]
                assert name not in found or torch.equal(found[name], part)
                found[name] = part
        return found

    def one_process(self, rounds: int, microbatches: int) -> dict[str, Tensor]:
        """The same global batches in one process: whole graphs, torch's clipping and AdamW."""
        stages = [self.stage(index).train() for index in range(self.stages)]
        whole = {name: torch.nn.Parameter(value.detach().clone()) for name, value in self.initial.items()}
        groups: list[dict[str, Any]] = [
            {"params": [value for value in whole.values() if value.ndim >= 2]},
            {"params": [value for value in whole.values() if value.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, betas=self.spec.betas, weight_decay=self.spec.weight_decay)
        for number in range(1, rounds + 1):
            for j in range(microbatches):
                tokens = windows(number, j)
                x = tokens[:, :-1]
                for index, stage in enumerate(stages):
                    torch.manual_seed(stage_seed(SEED, number, j, index))
                    x = stage(x)
                torch.nn.functional.cross_entropy(x.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum").backward()
            for name, value in whole.items():
                parts = [dict(stage.named_parameters()).get(name) for stage in stages]
                value.grad = sum(part.grad for part in parts if part is not None and part.grad is not None)
                value.grad = value.grad / (microbatches * SEQUENCES * LENGTH)
            if self.spec.grad_clip:
                torch.nn.utils.clip_grad_norm_(whole.values(), self.spec.grad_clip)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.spec, number)
            optimizer.step()
            for stage in stages:
                stage.zero_grad()
                with torch.no_grad():
                    for name, parameter in stage.named_parameters():
                        parameter.copy_(whole[name])
        return {name: value.detach().reshape(-1) for name, value in whole.items()}


def distance(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """How far weights are from others, relatively."""
    assert found.keys() == wanted.keys()
    one, other = (torch.cat([weights[name] for name in sorted(weights)]).double() for weights in (found, wanted))
    return float((one - other).norm() / other.norm())


def lossy(kind: str) -> dict[str, Any]:
    """Training settings with this codec."""
    return {"codec": CodecSpec(kind=kind)}  # type: ignore[arg-type]
