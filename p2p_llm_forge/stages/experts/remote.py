"""`RemoteExperts`: takes the place of a layer's fused expert module, and asks the peers that hold the experts.

The model's router stays as it is. Tokens are grouped by the holder of the experts that were chosen for them: one call
per holder and layer, forward and backward. A backward call carries tokens and gradients, so holders need not remember
forward calls, and a replica may take over between the two. Each token's outputs are added up here, in the order of its
chosen experts as `transformers`' own grouped kernel does it, so who holds what changes no bit.

Shapes: T tokens, K experts chosen for each, D hidden size, S pairs of a token and a living chosen expert, E experts.

Pure: calls go to the functions that `Exchange` is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from p2p_llm_forge.errors import HolderError, ModelError
from p2p_llm_forge.stages.experts import gate
from p2p_llm_forge.stages.experts.call import Call, check_answer
from p2p_llm_forge.stages.experts.fused import Fused, find
from p2p_llm_forge.stages.experts.gate import Lost
from p2p_llm_forge.stages.experts.groups import Serving

Ask = Callable[[Sequence[Call]], Sequence[Tensor]]
"""The calls of one layer, one for each holder → their outputs [S, D]; they may well be under way at once."""
Return = Callable[[Sequence[Call], Sequence[Tensor]], Sequence[Tensor]]
"""The calls of one layer and the gradients of their outputs → the gradients of their tokens [S, D]."""


class Exchange:
    """What the layers of one trunk share: who serves which expert now, and how they are asked."""

    def __init__(self, forward: Ask, backward: Return) -> None:
        self.forward, self.backward = forward, backward
        self.begin(Serving(holders=()))

    def begin(self, serving: Serving) -> None:
        """The next microbatch."""
        # Within a microbatch changed by its driver only, to hand a dead replica's group to another replica.
        self.serving = serving
        self.lost: dict[int, Lost] = {}
        """By layer, of the newest forward pass."""
        self.records: list[tuple[Call, Tensor]] = []
        """The backward calls that were answered, with the gradients they carried: enough to ask another replica."""


class RemoteExperts(nn.Module):
    """One layer's experts, elsewhere. Without parameters."""

    def __init__(self, layer: int, fused: Fused, exchange: Exchange) -> None:
        super().__init__()
        self.layer, self.fused, self.exchange = layer, fused, exchange

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """As the fused module: [T, D], [T, K], [T, K] → [T, D].

        Raises:
            HolderError: a holder answered what it must not. ModelError: the router chose an expert that is none.
        """
        dead = self.exchange.serving.dead(self.layer)
        alive_TK = gate.living(top_k_index, dead) if dead else None
        self.exchange.lost[self.layer] = gate.count(top_k_weights, alive_TK)
        if alive_TK is not None:
            top_k_weights = gate.renormalised(top_k_weights, alive_TK)
        if torch.is_grad_enabled() and not hidden_states.requires_grad:
            hidden_states = (
                hidden_states.detach().requires_grad_()
            )  # the experts learn even where nothing before them does
        outputs_TKD = _Elsewhere.apply(hidden_states, top_k_index, alive_TK, self)
        return (outputs_TKD * top_k_weights.unsqueeze(-1)).sum(dim=1).to(hidden_states.dtype)


class _Elsewhere(torch.autograd.Function):
    """Tokens [T, D] → the outputs of their chosen experts [T, K, D], 0 for dead ones."""

    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, index_TK: Tensor, alive_TK: Tensor | None, experts: RemoteExperts
    ) -> Tensor:
        order_S, counts_E = _sorted_pairs(index_TK, alive_TK, experts.fused)
        ctx.save_for_backward(hidden_TD, order_S)
        ctx.counts_E, ctx.chosen, ctx.experts = counts_E, index_TK.shape[1], experts
        calls, rows = _calls(ctx, hidden_TD, order_S)
        answers = experts.exchange.forward(calls) if calls else ()
        outputs_PD = hidden_TD.new_zeros(index_TK.numel(), hidden_TD.shape[1])
        outputs_PD[order_S] = _gathered(calls, rows, answers, experts, len(order_S)).to(hidden_TD)
        return outputs_PD.view(*index_TK.shape, -1)

    @staticmethod
    def backward(ctx: Any, gradient_TKD: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        hidden_TD, order_S = ctx.saved_tensors
        experts: RemoteExperts = ctx.experts
        calls, rows = _calls(ctx, hidden_TD, order_S)
        gradient_SD = gradient_TKD.flatten(0, 1)[order_S].float()
        gradients = [gradient_SD[part] for part in rows]
        answers = experts.exchange.backward(calls, gradients) if calls else ()
        experts.exchange.records.extend(zip(calls, gradients, strict=True))
        found_SD = _gathered(calls, rows, answers, experts, len(order_S)).to(hidden_TD)
        return torch.zeros_like(hidden_TD).index_add_(0, order_S // ctx.chosen, found_SD), None, None, None


def _sorted_pairs(index_TK: Tensor, alive_TK: Tensor | None, fused: Fused) -> tuple[Tensor, list[int]]:
    """Numbers t·K + k of the living pairs [S] by expert and within each by token, and how many each expert has."""
    flat = index_TK.reshape(-1)
    for chosen in (int(flat.min()), int(flat.max())):
        if not 0 <= chosen < fused.experts:
            raise ModelError(f"{fused.name}: the router chose expert {chosen}, wanted 0…{fused.experts - 1}")
    if alive_TK is not None:
        flat = torch.where(alive_TK.reshape(-1), flat, fused.experts)
    order = torch.sort(flat).indices  # as `transformers` does it: the same order of tokens adds up to the same bits
    counts_E = torch.bincount(flat, minlength=fused.experts + 1)[: fused.experts].tolist()
    return order[: sum(counts_E)], counts_E


def _calls(ctx: Any, hidden_TD: Tensor, order_S: Tensor) -> tuple[list[Call], list[Tensor]]:
    """One call for each holder, and which of the sorted pairs it is about."""
    experts: RemoteExperts = ctx.experts
    name, layer = experts.fused.name, experts.layer
    starts, held, at = [], {}, 0  # type: list[int], dict[str, list[int]], int
    for expert, (holder, count) in enumerate(zip(experts.exchange.serving.holders[layer], ctx.counts_E, strict=True)):
        starts.append(at)
        at += count
        if count and holder is None:
            raise HolderError(
                f"{name}: expert {expert} died within a microbatch; run the microbatch again", holder=None
            )
        if count and holder is not None:
            held.setdefault(holder, []).append(expert)
    calls, rows = [], []
    for holder, chosen in held.items():
        counts = tuple(ctx.counts_E[expert] for expert in chosen)
        spans = [
            torch.arange(starts[e], starts[e] + n, device=order_S.device) for e, n in zip(chosen, counts, strict=True)
        ]
        part = torch.cat(spans)
        tokens_SD = hidden_TD[order_S[part] // ctx.chosen].float()
        calls.append(Call(layer=layer, holder=holder, experts=tuple(chosen), counts=counts, tokens_SD=tokens_SD))
        rows.append(part)
    return calls, rows


def _gathered(
    calls: Sequence[Call], rows: Sequence[Tensor], answers: Sequence[Tensor], experts: RemoteExperts, pairs: int
) -> Tensor:
    """The answers, checked, in the order of the sorted pairs [S, D]."""
    assert len(answers) == len(calls)
    gathered_SD = torch.empty(pairs, experts.fused.hidden, device=rows[0].device if rows else None)
    for call, part, answer_SD in zip(calls, rows, answers, strict=True):
        check_answer(call, answer_SD, experts.fused.name)
        gathered_SD[part] = answer_SD.to(gathered_SD.device)
    return gathered_SD


def install(model: nn.Module, exchange: Exchange) -> tuple[Fused, ...]:
    """Put `RemoteExperts` in the place of every fused expert module, whose parameters go with it. Raises ModelError."""
    found = find(model)
    for layer, fused in enumerate(found):
        model.set_submodule(fused.name, RemoteExperts(layer, fused, exchange))
    return found
