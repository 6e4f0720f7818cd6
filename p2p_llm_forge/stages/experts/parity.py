"""Whether a model with its experts elsewhere computes what the whole model does: every layer, the loss, every gradient.

Checked at a run's start on a small model of the same family with the same options, its experts in as many groups.
Holders add up in another order than one machine does, so this is to a tolerance; `TOLERANCE` is a few roundings.

Shapes: P parameters, B sequences, L tokens.

Pure: builds small models and runs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from p2p_llm_forge import model
from p2p_llm_forge.errors import SplitError
from p2p_llm_forge.settings import OuterSpec
from p2p_llm_forge.stages import shrink
from p2p_llm_forge.stages.anatomy import LARGEST_SPECIMEN, faults, first_line
from p2p_llm_forge.stages.experts.call import Call
from p2p_llm_forge.stages.experts.fused import Fused, find
from p2p_llm_forge.stages.experts.groups import Groups, Serving
from p2p_llm_forge.stages.experts.passes import ExpertPasses
from p2p_llm_forge.stages.experts.pieces import Piece, cut, pieces
from p2p_llm_forge.stages.experts.remote import Exchange, Passage
from p2p_llm_forge.stages.experts.trunk import build, objective
from p2p_llm_forge.stages.parity import sample
from p2p_llm_forge.stages.skeleton import skeleton
from p2p_llm_forge.state import Layout, State

TOLERANCE = 1e-5
"""Relative, in norm."""
WAY_OUT = "train it without experts on other peers, or choose another model.family"


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One forward and backward pass."""

    outputs: dict[str, Tensor]
    """Of each layer's experts, by module."""
    objective: Tensor
    gradients: dict[str, Tensor]
    """By name in the pieces."""


def check(config: Any, groups: int) -> None:
    """Compare a small model of this family with its experts in groups.

    Raises:
        ModelError: no experts that can be placed. SpecError: more groups than experts.
        SplitError: they differ, with the first module whose output or gradient does, or they cannot be run.
    """
    Groups.of(find(skeleton(config))[0].experts, groups)
    told = "its sizes do not go together"
    for specimen in shrink.candidates(config, 2):
        try:
            if sum(parameter.numel() for parameter in skeleton(specimen).parameters()) > LARGEST_SPECIMEN:
                told = "it is still large"
                continue
            whole = model.build(specimen, 0).train()
            tokens_BL = sample(specimen)
            objective(whole, tokens_BL)
        except faults() as exc:
            told = first_line(exc)
            continue
        compare(whole, specimen, tokens_BL, groups)
        return
    raise SplitError(f"model: no small {config.model_type} can be built to check its experts with ({told}); {WAY_OUT}")


def compare(whole: nn.Module, config: Any, tokens_BL: Tensor, groups: int) -> None:
    """Compare this model with its experts in groups. Raises SplitError."""
    name = type(whole).__name__
    try:
        fused = find(whole)
        layout = Layout.of(whole, OuterSpec())
        into = pieces(layout, fused, Groups.of(fused[0].experts, groups))
        state = State.of_model(whole, layout)
        apart = _apart(config, into, cut(state, into), fused, tokens_BL, groups)
        alone = _alone(whole, layout, into, fused, tokens_BL)
    except faults() as exc:
        raise SplitError(f"model: the experts of {name} do not run elsewhere ({first_line(exc)}); {WAY_OUT}") from exc
    for path, output in alone.outputs.items():
        if _differ(apart.outputs[path], output):
            raise SplitError(f"model: {path} of {name} gives something else with its experts elsewhere; {WAY_OUT}")
    if _differ(apart.objective, alone.objective):
        raise SplitError(f"model: the loss of {name} is another one with its experts elsewhere; {WAY_OUT}")
    for path, gradient in alone.gradients.items():
        if _differ(apart.gradients[path], gradient):
            raise SplitError(f"model: the gradient of {path} of {name} is another one elsewhere; {WAY_OUT}")


def _differ(found: Tensor, wanted: Tensor) -> bool:
    return not float((found - wanted).double().norm()) <= TOLERANCE * float(wanted.double().norm())


def _alone(whole: nn.Module, layout: Layout, into: Sequence[Piece], fused: Sequence[Fused], tokens_BL: Tensor) -> _Run:
    """The whole model, its gradients cut as the pieces are."""
    whole.zero_grad()
    outputs, total = _watched(whole, fused, tokens_BL)
    total.backward()  # type: ignore[no-untyped-call]
    gradients = State.blank(layout)
    named = dict(whole.named_parameters())
    for name, (start, end, _) in zip(layout.names, layout.spans(), strict=True):
        if (gradient := named[name].grad) is not None:
            gradients.weights_P[start:end].copy_(gradient.reshape(-1))
    found: dict[str, Tensor] = {}
    for piece, part in zip(into, cut(gradients, into), strict=True):
        found.update(_named(piece.layout, part.weights_P))
    return _Run(outputs=outputs, objective=total.detach(), gradients=found)


def _apart(
    config: Any, into: Sequence[Piece], states: Sequence[State], fused: Sequence[Fused], tokens_BL: Tensor, groups: int
) -> _Run:
    """The trunk and its groups, all in this process."""
    cut_in, device = Groups.of(fused[0].experts, groups), torch.device("cpu")
    shards, sums = [], []
    for group, (piece, state) in enumerate(zip(into[1:], states[1:], strict=True)):
        shards.append(ExpertPasses(layout=piece.layout, span=cut_in.span(group), fused=fused, device=device))
        shards[-1].take(state.weights_P)
        sums.append(shards[-1].zeros())

    def backward(_passage: Passage, calls: Sequence[Call], gradients: Sequence[Tensor]) -> list[Tensor]:
        answers = []
        for call, gradient_SD in zip(calls, gradients, strict=True):
            found = shards[int(call.holder)].backward(call, gradient_SD)
            shards[int(call.holder)].add(sums[int(call.holder)], call.layer, found, 1)
            answers.append(found.tokens_SD)
        return answers

    exchange = Exchange(lambda _passage, calls: [shards[int(call.holder)].forward(call) for call in calls], backward)
    exchange.begin(0, Serving.of(cut_in, [str(group) for group in range(groups)], layers=len(fused)))
    trunk = build(config, exchange).train()
    weights, named = _named(into[0].layout, states[0].weights_P), dict(trunk.named_parameters())
    with torch.no_grad():
        for name, values in weights.items():
            named[name].copy_(values.view_as(named[name]))
    outputs, total = _watched(trunk, fused, tokens_BL)
    total.backward()  # type: ignore[no-untyped-call]
    gradients = {
        name: torch.zeros(parameter.numel()) if parameter.grad is None else parameter.grad.reshape(-1)
        for name, parameter in named.items()
    }
    for piece, sum_P in zip(into[1:], sums, strict=True):
        gradients.update(_named(piece.layout, sum_P))
    return _Run(outputs=outputs, objective=total.detach(), gradients=gradients)


def _watched(built: nn.Module, fused: Sequence[Fused], tokens_BL: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What the experts of each layer gave, and the objective."""
    outputs: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            outputs[name] = output.detach().clone()

        return built.get_submodule(name).register_forward_hook(hook)

    handles = [note(layer.name) for layer in fused]
    try:
        return outputs, objective(built, tokens_BL).total
    finally:
        for handle in handles:
            handle.remove()


def _named(layout: Layout, values_P: Tensor) -> dict[str, Tensor]:
    """The parts of a vector by the names of its tensors."""
    return {name: values_P[start:end] for name, (start, end, _) in zip(layout.names, layout.spans(), strict=True)}
