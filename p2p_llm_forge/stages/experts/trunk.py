"""The trunk: the whole model but its experts, which its driver trains, and what it minimises.

The objective is that of the model itself: the token losses and, where its configuration has `output_router_logits`,
`router_aux_loss_coef` times its load-balance loss, as `transformers` computes it from the router's logits of all
layers with experts. Both are summed over tokens, so that gradients of microbatches and peers add up and are divided by
the round's tokens; the load-balance loss is then the mean over microbatches, as with any accumulated batch.

Shapes: P parameters of the trunk, B sequences, L tokens of a sequence.

IO: `Trunk` writes updates and states into its own folder; holders are asked through the exchange.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from p2p_llm_forge.codec import Update
from p2p_llm_forge.errors import ModelError, UpdateError
from p2p_llm_forge.finite import is_finite
from p2p_llm_forge.flat import flatten, precision
from p2p_llm_forge.memory import quiet
from p2p_llm_forge.model import from_config
from p2p_llm_forge.settings import TrainingSpec
from p2p_llm_forge.stages.experts.gate import Lost
from p2p_llm_forge.stages.experts.groups import Serving
from p2p_llm_forge.stages.experts.held import Held
from p2p_llm_forge.stages.experts.parts import Part
from p2p_llm_forge.stages.experts.remote import Exchange, install
from p2p_llm_forge.state import State


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a forward pass of a microbatch gave."""

    total: Tensor
    """To go backward from: the sum of token losses and the load-balance part, in nats."""
    losses_B: Tensor
    """Mean token loss of each sequence, without that part."""
    balance: float
    """The load-balance loss; 0 where the model has none."""


def build(config: Any, exchange: Exchange) -> nn.Module:
    """The model with `RemoteExperts`, its parameters zero until a state is loaded; no expert is ever allocated.

    Raises:
        ModelError: a model without fused experts, or with values of its own that cannot be made again.
    """
    with torch.device("meta"), quiet():
        model = from_config(config)
        install(model, exchange)
    made: dict[nn.Parameter, nn.Parameter] = {}  # tied parameters stay one
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter not in made:
                made[parameter] = nn.Parameter(torch.zeros(parameter.shape))
            setattr(module, name, made[parameter])
    for name, module in list(model.named_modules()):
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            model.set_submodule(name, _again(name, module, config))
    return model


def _again(name: str, module: nn.Module, config: Any) -> nn.Module:
    """A module that computes its buffers from the configuration, such as rotary embeddings, with real ones."""
    if list(module.parameters()) or list(module.children()):
        raise ModelError(f"model: {name} ({type(module).__name__}) has buffers that a trunk cannot make again")
    try:
        return type(module)(config)
    except TypeError as exc:
        raise ModelError(f"model: {name} ({type(module).__name__}) is not made from the configuration alone") from exc


def objective(model: nn.Module, tokens_BL: Tensor) -> Objective:
    """Of a microbatch: tokens [B, L + 1] on the model's device."""
    config: Any = model.config
    answer = model(input_ids=tokens_BL[:, :-1], use_cache=False)
    targets = tokens_BL[:, 1:]
    losses = F.cross_entropy(answer.logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    total, balance = losses.sum(), 0.0
    if getattr(config, "output_router_logits", False):
        balance = float(answer.aux_loss.detach())
        total = total + answer.aux_loss * (config.router_aux_loss_coef * targets.numel())
    return Objective(total=total, losses_B=losses.detach().view(targets.shape).mean(dim=1), balance=balance)


@dataclass(frozen=True, kw_only=True)
class Driven:
    """What came of a microbatch."""

    losses_B: Tensor
    """Mean token loss of each sequence in nats."""
    balance: float
    """The load-balance loss; 0 where the model has none."""
    lost: dict[int, Lost]
    """What dead experts cost, by layer."""
    asked: dict[str, frozenset[int]]
    """By holder, the layers of its backward calls: what its manifest has to hold of this microbatch."""


class Trunk:
    """A driver's trunk; belongs to one thread. Nothing changes when a method raises."""

    def __init__(
        self, *, config: Any, part: Part, state: State, spec: TrainingSpec, exchange: Exchange, folder: Path,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.held = Held(part=part, state=state, spec=spec, folder=folder)
        self._model = build(config, exchange).to(device).train()
        self._exchange, self._device = exchange, device
        self._local_P = flatten(self._model, part.layout, device)
        self._local_P.copy_(state.weights_P)
        named = dict(self._model.named_parameters())
        self._parameters = [named[name] for name in part.layout.names]
        self._precision = precision(spec.precision, device)
        self._sum_P = torch.zeros_like(self._local_P)

    def open(self) -> None:
        """Begin a round with nothing added up."""
        self._sum_P.zero_()

    def run(self, tokens_BL: Tensor, serving: Serving, seed: int) -> Driven:
        """Forward and backward of a microbatch, tokens [B, L + 1]; adds up the gradients of the trunk.

        Raises:
            HolderError: a holder failed. What others added up of this microbatch is to be undone before it runs again.
            UpdateError: diverged.
        """
        torch.manual_seed(seed)
        self._exchange.begin(serving)
        with self._precision:
            found = objective(self._model, tokens_BL.to(self._device))
        gradients = torch.autograd.grad([found.total], self._parameters, allow_unused=True)
        if not all(part is None or is_finite(part) for part in gradients):
            raise UpdateError("trunk: the gradients are not finite, the training diverged; lower training.learning_rate")
        for (start, end, _), part in zip(self.held.part.layout.spans(), gradients, strict=True):
            if part is not None:
                self._sum_P[start:end].add_(part.reshape(-1))
        return Driven(
            losses_B=found.losses_B.cpu(),
            balance=found.balance,
            lost=dict(self._exchange.lost),
            asked={holder: frozenset(layers) for holder, layers in self._exchange.asked.items()},
        )

    def write_update(self) -> Path:
        """Encode what is added up. Raises UpdateError, DiskError."""
        return self.held.write_update(self._sum_P)

    def norm(self, updates: Sequence[Update], tokens: int) -> float:
        """As `Held.norm`."""
        return self.held.norm(updates, tokens)

    def apply(self, round_number: int, updates: Sequence[Update], tokens: int, norms: Sequence[float]) -> str:
        """As `Held.apply`."""
        name = self.held.apply(round_number, updates, tokens, norms)
        self._local_P.copy_(self.held.state.weights_P)
        return name
