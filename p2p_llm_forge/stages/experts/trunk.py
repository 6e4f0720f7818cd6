"""The trunk: the whole model but its experts, which its driver trains, and what it minimises.

The objective is that of the model itself: the token losses and, where its configuration has `output_router_logits`,
`router_aux_loss_coef` times its load-balance loss, as `transformers` computes it from the router's logits of all
layers with experts. Both are summed over tokens, so that gradients of microbatches and peers add up and are divided by
the round's tokens; the load-balance loss is then the mean over microbatches, as with any accumulated batch.

Shapes: P parameters of the trunk, B sequences, L tokens of a sequence.

IO: `Trunk` writes updates and states into its own folder; holders are asked through the exchange.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from p2p_llm_forge.answer import leaves_root
from p2p_llm_forge.errors import RequestError, UpdateError
from p2p_llm_forge.finite import is_finite
from p2p_llm_forge.flat import flatten, precision
from p2p_llm_forge.stages.experts.call import Call
from p2p_llm_forge.stages.experts.gate import Lost
from p2p_llm_forge.stages.experts.groups import Serving
from p2p_llm_forge.stages.experts.remote import Exchange, install
from p2p_llm_forge.stages.experts.updates import Updates
from p2p_llm_forge.stages.held import Held, Settled
from p2p_llm_forge.stages.skeleton import materialise, skeleton
from p2p_llm_forge.stages.tags import Written


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
    """The model with `RemoteExperts`, all parameters zero; no expert is ever allocated. Raises ModelError."""
    model = skeleton(config)
    install(model, exchange)
    materialise(model)
    return model


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

    tokens: int
    """Its tokens."""
    losses: tuple[int, ...]
    """Mean token loss of each sequence in micro-nats."""
    balance: float
    """The load-balance loss; 0 where the model has none."""
    lost: dict[int, Lost]
    """What dead experts cost, by layer."""
    records: tuple[tuple[Call, Tensor], ...]
    """The backward calls with their gradients: enough to have another replica count them."""

    def layers(self, span: tuple[int, int]) -> frozenset[int]:
        """In which experts of this span were asked: what a manifest of their group has to hold of this microbatch."""
        return frozenset(
            call.layer for call, _ in self.records if any(span[0] <= expert < span[1] for expert in call.experts)
        )


class Trunk:
    """A driver's trunk. Several threads may drive microbatches at once; nothing changes when a method raises."""

    def __init__(self, *, config: Any, held: Held, exchange: Exchange, device: torch.device, folder: Path) -> None:
        """Drive this trunk.

        Args:
            held: its state.
            exchange: how experts are asked.
            folder: where updates go.

        Raises:
            ModelError: as `build`.
        """
        self.held, self._exchange, self._device = held, exchange, device
        self._model = build(config, exchange).to(device).train()
        self._local_P = flatten(self._model, held.layout, device)
        self._local_P.copy_(held.state.weights_P)
        named = dict(self._model.named_parameters())
        self._parameters = [named[name] for name in held.layout.names]
        self._sum_P = torch.zeros_like(self._local_P)
        self._driven: dict[int, tuple[int, Driven]] = {}
        self._adding = threading.Lock()
        self._updates = Updates(folder, held.spec.codec)

    def begin(self) -> None:
        """A round begins, with nothing driven."""
        self._sum_P.zero_()
        self._driven.clear()

    def manifest(self) -> list[int]:
        """What is in the sum."""
        return sorted(self._driven)

    def drive(self, number: int, start: int, tokens_BL: Tensor, serving: Serving, seed: int) -> Driven:
        """Forward and backward of a microbatch; the gradients of the trunk are in the sum then.

        Args:
            number: of the microbatch in the round.
            start: its first slot.
            tokens_BL: [B, L + 1].
            serving: who serves which expert.
            seed: as `seeds.stage_seed` of stage 0; dropout repeats by it as long as one thread drives.

        Raises:
            RequestError: it was driven already. HolderError: a holder failed; whatever others counted of this
                microbatch is to be undone before it is driven again. UpdateError: diverged.
        """
        if number in self._driven:
            raise RequestError(f"trunk: microbatch {number} was driven already")
        torch.manual_seed(seed)
        passage = self._exchange.begin(number, serving)
        with precision(self.held.spec.precision, self._device):
            found = objective(self._model, tokens_BL.to(self._device))
        gradients = torch.autograd.grad([found.total], self._parameters, allow_unused=True)
        if not all(part is None or is_finite(part) for part in gradients):
            raise UpdateError("trunk: the gradients are not finite, training diverged; lower training.learning_rate")
        driven = Driven(
            tokens=tokens_BL[:, 1:].numel(),
            losses=tuple(round(loss * 1e6) for loss in found.losses_B.tolist()),
            balance=found.balance,
            lost=passage.lost,
            records=tuple(passage.records),
        )
        with self._adding:
            if number in self._driven:
                raise RequestError(f"trunk: microbatch {number} was driven already")
            for (first, last, _), part in zip(self.held.layout.spans(), gradients, strict=True):
                if part is not None:
                    self._sum_P[first:last].add_(part.reshape(-1))
            self._driven[number] = (start, replace(driven, records=()))
        return driven

    @torch.no_grad()
    def evaluate(self, tokens_BL: Tensor, serving: Serving) -> Tensor:
        """Mean token loss of each sequence [B] in nats, without dropout. Raises HolderError."""
        self._exchange.begin(-1, serving)
        self._model.eval()
        try:
            with precision(self.held.spec.precision, self._device):
                return objective(self._model, tokens_BL.to(self._device)).losses_B.cpu()
        finally:
            self._model.train()

    def write(self) -> Written:
        """Write the update over what was driven. Raises RequestError where nothing was; UpdateError, DiskError."""
        if not self._driven:
            raise RequestError("write: no microbatch of this round was driven")
        path = self._updates.write(self._sum_P)
        driven = [self._driven[number] for number in sorted(self._driven)]
        leaves = [(start + row, loss) for start, item in driven for row, loss in enumerate(item.losses)]
        return Written(
            path=path, tokens=sum(item.tokens for _, item in driven), leaves=leaves_root(leaves),
            loss=round(sum(loss for _, loss in leaves) / len(leaves)),
        )  # fmt: skip

    def apply(self, state: str, round_number: int, own: Settled, norms: Sequence[str], tokens: int = 0) -> Path:
        """Take the round's step, as `stages.held.Held.apply`."""
        path = self.held.apply(state, round_number, own, (), norms, tokens)
        self._updates.applied(own)
        self._local_P.copy_(self.held.state.weights_P)
        self.begin()
        return path

    def load(self, path: Path) -> None:
        """Go on with another state, as `Held.load`; nothing of its round is driven."""
        self.held.load(path)
        self._updates.jumped()
        self._local_P.copy_(self.held.state.weights_P)
        self.begin()
