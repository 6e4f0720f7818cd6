"""Finds the fused expert modules of a model: those whose tensors hold all experts of a layer, [experts, out, in].

`transformers` has them in Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE and others alike: `gate_up_proj` [E, 2·I, D] and
`down_proj` [E, D, I], called with the hidden states, the chosen experts and their weights by the model's own router.
An expert is down(act(gate(x)) · up(x)). What is built otherwise (biases, transposed or interleaved tensors, a gate or
norm of its own) is refused by name rather than computed wrongly.

Shapes: E experts of a layer, D hidden size, I inner size, N tokens of one expert.

Pure: `survey` builds a model without memory for its weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from p2p_llm_forge.errors import ModelError
from p2p_llm_forge.stages.skeleton import skeleton

TENSORS = ("down_proj", "gate_up_proj")
"""The parameters of a fused module, in order of name."""
_KIND = {
    "has_gate": True,
    "has_bias": False,
    "is_transposed": False,
    "is_concatenated": True,
    "has_post_expert_norm": False,
}


@dataclass(frozen=True, kw_only=True)
class Fused:
    """The experts of one layer."""

    name: str
    """Of the module, in the whole model."""
    experts: int
    """E."""
    hidden: int
    """D."""
    inner: int
    """I."""
    activation: Callable[[Tensor], Tensor]
    """Of the gate; without parameters."""

    def shape(self, tensor: str, experts: int) -> tuple[int, int, int]:
        """The shape of one of `TENSORS` that holds so many experts."""
        if tensor == "down_proj":
            return experts, self.hidden, self.inner
        return experts, 2 * self.inner, self.hidden

    def apply(self, tokens_ND: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        """What one expert makes of its tokens [N, D]; `gate_up` [2·I, D], `down` [D, I]."""
        gate_NI, up_NI = F.linear(tokens_ND, gate_up).chunk(2, dim=-1)
        return F.linear(self.activation(gate_NI) * up_NI, down)


def find(model: nn.Module) -> tuple[Fused, ...]:
    """The fused modules in the order of the layers.

    Raises:
        ModelError: there are none, one is of another kind, or layers differ in their experts.
    """
    family = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    found = tuple(_read(name, module) for name, module in model.named_modules() if name.rpartition(".")[2] == "experts")
    if not found:
        raise ModelError(f"model: {family} has no experts to place on peers; leave experts out of the spec")
    for fused in found:
        if fused.experts != found[0].experts:
            raise ModelError(
                f"model: {fused.name} has {fused.experts} experts and {found[0].name} {found[0].experts}; "
                "groups need the same number in every layer"
            )
    return found


def _read(name: str, module: nn.Module) -> Fused:
    shapes = {key: tuple(parameter.shape) for key, parameter in module.named_parameters()}
    kind = {key: getattr(module, key, None) for key in _KIND}
    gate = getattr(type(module), "_apply_gate", None)
    plain = gate is not None and gate.__module__ == "transformers.integrations.moe"
    if set(shapes) != set(TENSORS) or kind != _KIND or not plain:
        raise ModelError(
            f"model: {name} ({type(module).__name__}) is no fused expert module of a kind that can be split"
        )
    experts, hidden, inner = shapes["down_proj"]
    fused = Fused(name=name, experts=experts, hidden=hidden, inner=inner, activation=module.act_fn)  # type: ignore[arg-type]
    if shapes["gate_up_proj"] != (wanted := fused.shape("gate_up_proj", experts)):
        raise ModelError(f"model: {name}.gate_up_proj is {list(shapes['gate_up_proj'])}, wanted {list(wanted)}")
    return fused


def survey(config: Any) -> tuple[Fused, ...]:
    """The fused modules of a configuration's model, from the shapes alone. Raises ModelError."""
    return find(skeleton(config))
