"""A tiny mixture of experts on several holders in one process, and the same model whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from p2p_llm_forge import codec, model, outer
from p2p_llm_forge.errors import HolderError
from p2p_llm_forge.flat import precision
from p2p_llm_forge.protocol import Contribution
from p2p_llm_forge.settings import TrainingSpec
from p2p_llm_forge.stages.experts.call import Call
from p2p_llm_forge.stages.experts.fused import Fused, survey
from p2p_llm_forge.stages.experts.groups import Groups, Serving
from p2p_llm_forge.stages.experts.manifest import Asked
from p2p_llm_forge.stages.experts.pieces import Piece, cut, pieces
from p2p_llm_forge.stages.experts.remote import Exchange, Passage
from p2p_llm_forge.stages.experts.shard import ExpertShard, Reply
from p2p_llm_forge.stages.experts.trunk import Driven, Trunk, objective
from p2p_llm_forge.stages.held import Held
from p2p_llm_forge.stages.step import norm_hex
from p2p_llm_forge.stages.tags import Tag, Written
from p2p_llm_forge.state import Layout, State

CPU = torch.device("cpu")
VOCABULARY, LENGTH, SEQUENCES = 61, 12, 4
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
        with precision(self.spec.precision, CPU):
            found = objective(self.model, tokens)
        found.total.backward()  # type: ignore[no-untyped-call]
        return self.flat_gradient(), float(found.total.detach())

    def flat_gradient(self) -> Tensor:
        """What `backward` left, in the order of the state."""
        found = [self.named[name] for name in self.layout.names]
        return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in found])

    def round(self, number: int, tokens: Tensor) -> float:
        """One AdamW step on this batch; the mean token loss before it."""
        sum_P, losses = torch.zeros(self.layout.parameters), []
        for part in tokens.split(SEQUENCES):
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
        self.folder, self.spec, self.replicas = folder, spec, replicas
        self.fused: tuple[Fused, ...] = survey(config)
        self.groups = Groups.of(self.fused[0].experts, groups)
        self.pieces: tuple[Piece, ...] = pieces(state.layout, self.fused, self.groups)
        self._states = cut(state, self.pieces)
        self.calls: list[tuple[str, Call]] = []
        self.dead: set[str] = set()
        self.exchange = Exchange(self._forward, self._backward)
        self.trunk = Trunk(
            config=config, held=self._held(0, "trunk"), exchange=self.exchange, device=CPU, folder=folder / "trunk"
        )
        self.shards = {
            f"g{group}r{replica}": ExpertShard(
                held=self._held(1 + group, f"g{group}r{replica}"), span=self.groups.span(group), fused=self.fused,
                sequences=SEQUENCES, keep_bytes=1 << 24, device=CPU, folder=folder / f"g{group}r{replica}",
            )
            for group in range(groups)
            for replica in range(replicas)
        }  # fmt: skip
        self.driven: dict[int, Driven] = {}
        self.manifests: dict[str, dict[int, Asked]] = {}
        self._round = 0

    def _held(self, index: int, name: str) -> Held:
        path = self.folder / name / "initial.safetensors"
        self._states[index].write(path)
        layouts = [piece.layout for piece in self.pieces]
        return Held(path, layouts, index=index, spec=self.spec, folder=self.folder / name)

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

    def tag(self, holder: str, microbatch: int) -> Tag:
        """Of a call to this holder."""
        held = self.shards[holder].held
        return Tag(round=self._round, microbatch=microbatch, state=held.id, tokens=SEQUENCES * LENGTH)

    def begin(self, number: int, microbatches: int = 2) -> None:
        """Begin a round."""
        self._round = number
        self.driven, self.manifests = {}, {name: {} for name in self.shards}
        self.trunk.begin()
        for shard in self.shards.values():
            shard.begin(number, 0, microbatches)

    def run(self, microbatch: int, tokens: Tensor, serving: Serving | None = None) -> Driven:
        """One microbatch, which each group's manifest holds then."""
        serving = serving or self.serving(microbatch)
        driven = self.trunk.drive(microbatch, microbatch * SEQUENCES, tokens, serving, seed=microbatch)
        for group, name in enumerate(self.holders(microbatch)):
            if name is not None:
                layers = driven.layers(self.groups.span(group))
                self.manifests[name][microbatch] = Asked(layers=layers, tokens=driven.tokens)
        self.driven[microbatch] = driven
        return driven

    def _asked(self, kind: str, calls: Sequence[Call]) -> None:
        for call in calls:
            if call.holder in self.dead:
                raise HolderError(f"{call.holder}: gone", holder=call.holder)
            self.calls.append((kind, call))

    def _forward(self, passage: Passage, calls: Sequence[Call]) -> list[Tensor]:
        self._asked("forward", calls)
        return [
            done(self.shards[call.holder].forward(self.tag(call.holder, passage.microbatch), call)) for call in calls
        ]

    def _backward(self, passage: Passage, calls: Sequence[Call], gradients: Sequence[Tensor]) -> list[Tensor]:
        self._asked("backward", calls)
        return [
            done(self.shards[call.holder].backward(self.tag(call.holder, passage.microbatch), call, gradient))
            for call, gradient in zip(calls, gradients, strict=True)
        ]

    def updates(self) -> list[list[Contribution]]:
        """Of the living replicas of every piece that served anything, as they write them."""
        found = [[contribution(self.trunk.write())]]
        for group in range(self.groups.count):
            names = [f"g{group}r{replica}" for replica in range(self.replicas)]
            serving = [name for name in names if name not in self.dead and self.manifests[name]]
            assert all(not self.shards[name].freeze(self.manifests[name]) for name in serving)
            found.append([contribution(self.shards[name].write(self.manifests[name])) for name in serving])
        return found

    def gradients(self) -> list[Tensor]:
        """What every piece has added up, replicas of a group together; the trunk's first."""
        found = []
        for piece, updates in zip(self.pieces, self.updates(), strict=True):
            sum_P = torch.zeros(piece.layout.parameters)
            for update in updates:
                sum_P += codec.decode(Path(update.path).read_bytes(), self.spec.codec, len(sum_P)).values
            found.append(sum_P)
        return found

    def settle(self, number: int) -> None:
        """Everybody who lives takes the step; groups that nobody serves stay where they are."""
        updates, living = self.updates(), [[self.trunk]]  # type: list[list[Contribution]], list[list[Any]]
        for group in range(self.groups.count):
            names = [name for name in self.shards if name.startswith(f"g{group}r") and name not in self.dead]
            living.append([self.shards[name] for name in names])
        norms = [
            members[0].held.norm(members[0].held.id, own, ()) if members else norm_hex(0.0)
            for members, own in zip(living, updates, strict=True)
        ]
        for members, own in zip(living, updates, strict=True):
            for member in members:
                mine = [item.model_copy(update={"mine": int(is_of(member, item))}) for item in own]
                member.apply(member.held.id, number, mine, norms)
            assert len({member.held.id for member in members}) <= 1

    def round(self, number: int, tokens: Tensor) -> float:
        """A whole round: the batch in microbatches, then the step; the mean token loss."""
        self.begin(number, len(tokens) // SEQUENCES)
        for at, part in enumerate(tokens.split(SEQUENCES)):
            self.run(at, part)
        self.settle(number)
        return self.loss()

    def loss(self) -> float:
        """The mean token loss of what was driven."""
        losses = [loss for driven in self.driven.values() for loss in driven.losses]
        return sum(losses) / len(losses) / 1e6

    def states(self) -> list[State]:
        """Of the trunk and of one replica of each group."""
        return [self.trunk.held.state, *(self.shards[f"g{g}r0"].held.state for g in range(self.groups.count))]


def is_of(member: ExpertShard | Trunk, item: Contribution) -> bool:
    """Whether it is this member's own update."""
    return Path(item.path).parent == member._updates._folder


def contribution(written: Written) -> Contribution:
    """As the daemon names an update."""
    return Contribution(path=str(written.path), tokens=written.tokens)


def done(reply: Reply) -> Tensor:
    """What was answered."""
    assert reply.kind == "done"
    assert reply.values_SD is not None
    return reply.values_SD


def distance(found: Tensor, wanted: Tensor) -> float:
    """Relative, in norm."""
    return float((found - wanted).double().norm() / wanted.double().norm())
