"""A tiny mixture of experts on several holders in one process, and the same model whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from p2p_llm_forge import codec, model, outer
from p2p_llm_forge.errors import HolderError
from p2p_llm_forge.settings import TrainingSpec
from p2p_llm_forge.stages.experts.call import Call
from p2p_llm_forge.stages.experts.fused import Fused, survey
from p2p_llm_forge.stages.experts.groups import Groups, Serving
from p2p_llm_forge.stages.experts.parts import Part, cut, parts
from p2p_llm_forge.stages.experts.remote import Exchange
from p2p_llm_forge.stages.experts.shard import ExpertShard, Tag
from p2p_llm_forge.stages.experts.trunk import Driven, Trunk, objective
from p2p_llm_forge.stages.step import whole_norm
from p2p_llm_forge.state import Layout, State

CPU = torch.device("cpu")
VOCABULARY, LENGTH = 61, 12
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {},
    "qwen2_moe": {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 40},
    "qwen3_moe": {"moe_intermediate_size": 24, "head_dim": 8, "norm_topk_prob": True},
    "olmoe": {},
}
SPEC = TrainingSpec(
    mode="synchronous", rounds=50, inner_steps=1, batch_size=8, warmup_rounds=3, learning_rate=3e-3, precision="fp32"
)


def config_of(family: str, *, experts: int = 8, chosen: int = 2, **more: Any) -> Any:
    """A tiny configuration of this family."""
    from transformers import AutoConfig

    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.15,
        "num_experts_per_tok": chosen, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
        "num_local_experts" if family == "mixtral" else "num_experts": experts,
    }  # fmt: skip
    return AutoConfig.for_model(family, **{**sizes, **FAMILIES[family], **more})


def tokens_of(sequences: int, seed: int, length: int = LENGTH) -> Tensor:
    """Sequences with some structure [B, L + 1]."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(VOCABULARY, (sequences, 1), generator=generator)
    steps = torch.randint(1, 4, (sequences, 1), generator=generator)
    return (first + steps * torch.arange(length + 1)) % VOCABULARY


class Whole:
    """The model on one machine, as it trains without any of this."""

    def __init__(self, config: Any, spec: TrainingSpec = SPEC, seed: int = 1) -> None:
        self.spec = spec
        self.model: nn.Module = model.build(config, seed).train()
        self.layout = Layout.of(self.model, spec.outer)
        self.state = State.of_model(self.model, self.layout)
        self.named = dict(self.model.named_parameters())

    def gradient(self, tokens: Tensor) -> tuple[Tensor, float]:
        """Of the sum of token losses [P]; and the objective."""
        self.model.zero_grad(set_to_none=True)
        found = objective(self.model, tokens)
        found.total.backward()  # type: ignore[no-untyped-call]
        return self.flat_gradient(), float(found.total)

    def flat_gradient(self) -> Tensor:
        """What `backward` left, in the order of the state."""
        found = [self.named[name] for name in self.layout.names]
        return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in found])

    def round(self, number: int, tokens: Tensor, microbatch: int) -> float:
        """One AdamW step on this batch; the mean token loss before it."""
        sum_P, losses = torch.zeros(self.layout.parameters), []
        for part in tokens.split(microbatch):
            self.model.zero_grad(set_to_none=True)
            found = objective(self.model, part)
            found.total.backward()  # type: ignore[no-untyped-call]
            sum_P += self.flat_gradient()
            losses.append(found.losses_B)
        outer.step(self.state, sum_P / (tokens[:, 1:].numel()), self.spec, number)
        with torch.no_grad():
            for name, (start, end, _) in zip(self.layout.names, self.layout.spans(), strict=True):
                self.named[name].copy_(self.state.weights_P[start:end].view_as(self.named[name]))
        return float(torch.cat(losses).mean())


class Swarm:
    """One driver and one or more replicas of every group; `dead` ones answer nothing."""

    def __init__(
        self, config: Any, state: State, folder: Path, *, groups: int, replicas: int = 1, spec: TrainingSpec = SPEC
    ) -> None:
        self.spec = spec
        self.fused: tuple[Fused, ...] = survey(config)
        self.groups = Groups.of(self.fused[0].experts, groups)
        self.parts: tuple[Part, ...] = parts(state.layout, self.fused, self.groups)
        states = cut(state, self.parts)
        self.calls: list[tuple[str, Call]] = []
        self.dead: set[str] = set()
        self.trunk = Trunk(
            config=config, part=self.parts[0], state=states[0], spec=spec,
            exchange=Exchange(self._forward, self._backward), folder=folder / "trunk", device=CPU,
        )  # fmt: skip
        self.shards = {
            f"g{group}r{replica}": ExpertShard(
                part=self.parts[1 + group], group=group, groups=self.groups, fused=self.fused,
                state=states[1 + group].copy(), spec=spec, folder=folder / f"g{group}r{replica}",
                room_bytes=1 << 24, device=CPU,
            )
            for group in range(groups)
            for replica in range(replicas)
        }  # fmt: skip
        self.replicas, self._round, self._microbatch = replicas, 0, 0

    def holders(self, turn: int = 0) -> list[str | None]:
        """A living replica of each group, in turn; None where there is none."""
        found: list[str | None] = []
        for group in range(self.groups.count):
            names = [f"g{group}r{(turn + replica) % self.replicas}" for replica in range(self.replicas)]
            found.append(next((name for name in names if name not in self.dead), None))
        return found

    def serving(self, turn: int = 0) -> Serving:
        """Everybody who lives."""
        return Serving.of(self.groups, self.holders(turn), layers=len(self.fused))

    def tag(self, holder: str) -> Tag:
        """Of a call to this holder now."""
        held = self.shards[holder].held
        return Tag(round=self._round, microbatch=self._microbatch, state=held.state_id, tokens=1)

    def open(self, number: int) -> None:
        """Begin a round."""
        self._round = number
        self.trunk.open()
        for shard in self.shards.values():
            shard.open(number)

    def run(self, microbatch: int, tokens: Tensor, serving: Serving | None = None) -> Driven:
        """One microbatch."""
        self._microbatch = microbatch
        return self.trunk.run(tokens, serving or self.serving(microbatch), seed=microbatch)

    def _asked(self, kind: str, calls: Sequence[Call]) -> None:
        for call in calls:
            if call.holder in self.dead:
                raise HolderError(f"{call.holder}: gone", holder=call.holder)
            self.calls.append((kind, call))

    def _forward(self, calls: Sequence[Call]) -> list[Tensor]:
        self._asked("forward", calls)
        return [self.shards[call.holder].forward(self.tag(call.holder), call) for call in calls]

    def _backward(self, calls: Sequence[Call], gradients: Sequence[Tensor]) -> list[Tensor]:
        self._asked("backward", calls)
        return [
            self.shards[call.holder].backward(self.tag(call.holder), call, gradient)
            for call, gradient in zip(calls, gradients, strict=True)
        ]

    def gradients(self) -> list[Tensor]:
        """What every part has added up, replicas of a group together; the trunk's first."""
        found = [read(self.trunk.write_update(), self.parts[0], self.spec).values]
        for group in range(self.groups.count):
            paths = [self.shards[f"g{group}r{replica}"].write_update() for replica in range(self.replicas)]
            found.append(sum(read(path, self.parts[1 + group], self.spec).values for path in paths))  # type: ignore[arg-type]
        return found

    def settle(self, number: int, tokens: int) -> None:
        """Everybody who lives takes the step."""
        living = [[name for name in self.shards if name.startswith(f"g{g}r") and name not in self.dead]
                  for g in range(self.groups.count)]  # fmt: skip
        own = [read(self.trunk.write_update(), self.parts[0], self.spec)]
        updates = [
            [read(self.shards[name].write_update(), self.parts[1 + group], self.spec) for name in names]
            for group, names in enumerate(living)
        ]
        norms = [self.trunk.norm(own, tokens)]
        norms.extend(self.shards[names[0]].norm(found, tokens) for names, found in zip(living, updates, strict=True) if names)
        assert whole_norm(norms) > 0.0
        self.trunk.apply(number, own, tokens, norms)
        for names, found in zip(living, updates, strict=True):
            ids = {self.shards[name].apply(number, found, tokens, norms) for name in names}
            assert len(ids) <= 1

    def round(self, number: int, tokens: Tensor, microbatch: int) -> list[Driven]:
        """A whole round: the batch in microbatches, then the step."""
        self.open(number)
        driven = [self.run(at, part) for at, part in enumerate(tokens.split(microbatch))]
        self.settle(number, tokens[:, 1:].numel())
        return driven

    def states(self) -> list[State]:
        """Of the trunk and of one replica of each group."""
        return [self.trunk.held.state, *(self.shards[f"g{g}r0"].held.state for g in range(self.groups.count))]


def read(path: Path, part: Part, spec: TrainingSpec) -> codec.Update:
    """An update as it was written."""
    return codec.decode(path.read_bytes(), spec.codec, part.layout.parameters)


def distance(found: Tensor, wanted: Tensor) -> float:
    """Relative, in norm."""
    return float((found - wanted).double().norm() / wanted.double().norm())
