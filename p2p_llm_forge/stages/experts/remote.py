"""`RemoteExperts`: takes the place of a layer's fused expert module, and asks the peers that hold the experts.

The model's router stays as it is. Tokens are grouped by the holder of the experts that were chosen for them: one call
per holder and layer, forward and backward. A backward call carries tokens and gradients, so holders need not remember
forward calls, and a replica may take over between the two. Each token's outputs are added up here, in the order of its
chosen experts as `transformers`' own grouped kernel does it, so who holds what changes no bit.

Shapes: T tokens, K experts chosen for each, D hidden size, S pairs of a token and a living chosen expert, E experts.

Pure: calls go to the functions that `Exchange` is given.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from p2p_llm_forge.errors import HolderError, ModelError
from p2p_llm_forge.stages.experts import gate
from p2p_llm_forge.stages.experts.call import Call, check_answer
from p2p_llm_forge.stages.experts.fused import Fused, find
from p2p_llm_forge.stages.experts.gate import Lost
from p2p_llm_forge.stages.experts.groups import Serving


@dataclass(kw_only=True)
class Passage:
    """A microbatch on its way through the layers."""

    microbatch: int
    """Its number in the round; -1 where it is none of a round, as in an evaluation."""
    serving: Serving
    """Who serves which expert; changed on the way only to hand a dead replica's group to another replica."""
    lost: dict[int, Lost] = field(default_factory=dict)
    """What dead experts cost, by layer."""
    records: list[tuple[Call, Tensor]] = field(default_factory=list)
    """The backward calls that were answered and the gradients they carried: enough to ask another replica."""


Ask = Callable[[Passage, Sequence[Call]], Sequence[Tensor]]
"""The calls of one layer, one for each holder → their outputs [S, D]; they may well be under way at once."""
Return = Callable[[Passage, Sequence[Call], Sequence[Tensor]], Sequence[Tensor]]
"""The calls of one layer and the gradients of their outputs → the gradients of their tokens [S, D]."""


class Exchange:
    """What the layers of one trunk share: how holders are asked, and in each thread the microbatch under way."""

    def __init__(self, forward: Ask, backward: Return) -> None:
        self.forward, self.backward = forward, backward
        self._here = threading.local()

    def begin(self, microbatch: int, serving: Serving) -> Passage:
        """What runs in this thread from now on belongs to this microbatch."""
        self._here.passage = Passage(microbatch=microbatch, serving=serving)
        return self.passage

    @property
    def passage(self) -> Passage:
        """The microbatch under way in this thread."""
        found = self._here.passage
        assert isinstance(found, Passage)
        return found


class RemoteExperts(nn.Module):
    """One layer's experts, elsewhere. Without parameters."""

    def __init__(self, layer: int, fused: Fused, exchange: Exchange) -> None:
        super().__init__()
        self.layer, self.fused, self.exchange = layer, fused, exchange

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """As the fused module: [T, D], [T, K], [T, K] → [T, D].

        Raises:
            HolderError: a holder answered what it must not, or is gone. ModelError: the router chose what is no expert.
        """
        passage = self.exchange.passage
        dead = passage.serving.dead(self.layer)
        alive_TK = gate.living(top_k_index, dead) if dead else None
        passage.lost[self.layer] = gate.count(top_k_weights, alive_TK)
        if alive_TK is not None:
            top_k_weights = gate.renormalised(top_k_weights, alive_TK)
        if torch.is_grad_enabled() and not hidden_states.requires_grad:
            # Else the experts would not learn where nothing before them does.
            hidden_states = hidden_states.detach().requires_grad_()
        pairs = _pairs(top_k_index, alive_TK, self.fused)
        outputs_TKD: Tensor = _Elsewhere.apply(hidden_states, pairs, passage, self)  # type: ignore[no-untyped-call]
        added_TD = (outputs_TKD * top_k_weights.unsqueeze(-1)).sum(dim=1)
        return added_TD.to(hidden_states.dtype)


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """The living pairs of a layer, by expert and within each by token."""

    order_S: Tensor
    """Their numbers t·K + k."""
    counts: tuple[int, ...]
    """Pairs of each expert [E]."""
    chosen: int
    """K."""

    @property
    def tokens_S(self) -> Tensor:
        """The token of each."""
        return self.order_S // self.chosen


def _pairs(index_TK: Tensor, alive_TK: Tensor | None, fused: Fused) -> _Pairs:
    flat = index_TK.reshape(-1)
    for chosen in (int(flat.min()), int(flat.max())):
        if not 0 <= chosen < fused.experts:
            raise ModelError(f"{fused.name}: the router chose expert {chosen}, wanted 0…{fused.experts - 1}")
    if alive_TK is not None:
        flat = torch.where(alive_TK.reshape(-1), flat, fused.experts)
    order = torch.sort(flat).indices  # as `transformers` does it: the same order of tokens adds up to the same bits
    counts = torch.bincount(flat, minlength=fused.experts + 1)[: fused.experts].tolist()
    return _Pairs(order_S=order[: sum(counts)], counts=tuple(counts), chosen=index_TK.shape[1])


class _Elsewhere(torch.autograd.Function):
    """Tokens [T, D] → the outputs of their chosen experts [T, K, D], 0 for dead ones."""

    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, pairs: _Pairs, passage: Passage, experts: RemoteExperts) -> Tensor:
        ctx.save_for_backward(hidden_TD)
        ctx.pairs, ctx.passage, ctx.experts = pairs, passage, experts
        calls, rows = _calls(hidden_TD, pairs, passage, experts)
        answers = experts.exchange.forward(passage, calls) if calls else ()
        outputs_PD = hidden_TD.new_zeros(len(hidden_TD) * pairs.chosen, hidden_TD.shape[1])
        outputs_PD[pairs.order_S] = _gathered(calls, rows, answers, pairs, experts).to(hidden_TD)
        return outputs_PD.view(len(hidden_TD), pairs.chosen, -1)

    @staticmethod
    def backward(ctx: Any, gradient_TKD: Tensor) -> tuple[Tensor, None, None, None]:
        (hidden_TD,) = ctx.saved_tensors
        pairs, passage, experts = ctx.pairs, ctx.passage, ctx.experts
        calls, rows = _calls(hidden_TD, pairs, passage, experts)
        gradient_SD = gradient_TKD.flatten(0, 1)[pairs.order_S].float()
        gradients = [gradient_SD[part].cpu() for part in rows]
        answers = experts.exchange.backward(passage, calls, gradients) if calls else ()
        found_SD = _gathered(calls, rows, answers, pairs, experts).to(hidden_TD)
        passage.records.extend(zip(calls, gradients, strict=True))
        return torch.zeros_like(hidden_TD).index_add_(0, pairs.tokens_S, found_SD), None, None, None


def _calls(
    hidden_TD: Tensor, pairs: _Pairs, passage: Passage, experts: RemoteExperts
) -> tuple[list[Call], list[Tensor]]:
    """One call for each holder, and which of the sorted pairs it is about."""
    spans: dict[str, list[tuple[int, int, int]]] = {}  # of each holder: expert, first pair, pair after its last
    at = 0
    for expert, (holder, count) in enumerate(zip(passage.serving.holders[experts.layer], pairs.counts, strict=True)):
        if count and holder is None:
            raise HolderError(
                f"{experts.fused.name}: expert {expert} died within a microbatch; run the microbatch again", holder=None
            )
        if count and holder is not None:
            spans.setdefault(holder, []).append((expert, at, at + count))
        at += count
    tokens_S, calls, rows = pairs.tokens_S, [], []
    for holder, held in spans.items():
        part = torch.cat([torch.arange(first, last, device=hidden_TD.device) for _, first, last in held])
        experts_held, counts = tuple(expert for expert, _, _ in held), tuple(last - first for _, first, last in held)
        tokens_SD = hidden_TD[tokens_S[part]].float().cpu()
        calls.append(Call(layer=experts.layer, holder=holder, experts=experts_held, counts=counts, tokens_SD=tokens_SD))
        rows.append(part)
    return calls, rows


def _gathered(
    calls: Sequence[Call], rows: Sequence[Tensor], answers: Sequence[Tensor], pairs: _Pairs, experts: RemoteExperts
) -> Tensor:
    """The answers, checked, in the order of the sorted pairs [S, D]."""
    assert len(answers) == len(calls)
    gathered_SD = torch.empty(len(pairs.order_S), experts.fused.hidden, device=pairs.order_S.device)
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
