"""A shard's passes: the outputs of its experts, and backward, which computes them again.

A backward pass returns the gradients of the experts' parameters instead of adding them up anywhere, so that whoever
asked looks at them first, and one that fails has changed nothing. Gradients are of the SUM of token losses. Experts
have no dropout, so computing them again needs no seed.

Shapes: P parameters of the shard, S token-expert pairs of a call, D hidden size, I inner size.

Pure: tensors only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from p2p_llm_forge.stages.experts.call import Call
from p2p_llm_forge.stages.experts.fused import TENSORS, Fused
from p2p_llm_forge.stages.experts.pieces import slice_name
from p2p_llm_forge.state import Layout


@dataclass(frozen=True, kw_only=True)
class Backward:
    """What a backward pass of one layer found."""

    experts: dict[int, tuple[Tensor, ...]]
    """By expert, the gradients of its slices of `TENSORS`."""
    tokens_SD: Tensor
    """Gradients of the tokens, fp32 on the CPU."""

    def norm(self) -> float:
        """The Euclidean norm of the gradients of parameters; infinite or not a number where one of them is."""
        norms = [torch.linalg.vector_norm(part) for parts in self.experts.values() for part in parts]
        return math.sqrt(math.fsum(float(norm) ** 2 for norm in norms))


class ExpertPasses:
    """Owns a copy of the shard's weights on the device."""

    def __init__(self, *, layout: Layout, span: tuple[int, int], fused: Sequence[Fused], device: torch.device) -> None:
        self._first, self._last = span
        self._fused, self._device = tuple(fused), device
        self._local_P = torch.zeros(layout.parameters, device=device)
        spans = dict(zip(layout.names, layout.spans(), strict=True))
        self._places = [
            [spans[slice_name(f"{layer.name}.{tensor}", *span)][:2] for tensor in TENSORS] for layer in self._fused
        ]
        self._weights = [self._views(self._local_P, layer) for layer in range(len(self._fused))]

    def _views(self, values_P: Tensor, layer: int) -> list[Tensor]:
        """A layer's tensors [experts held, out, in] as views of a vector."""
        shapes = [self._fused[layer].shape(tensor, self._last - self._first) for tensor in TENSORS]
        return [
            values_P[start:end].view(shape) for (start, end), shape in zip(self._places[layer], shapes, strict=True)
        ]

    def take(self, weights_P: Tensor) -> None:
        """Go on with these weights."""
        self._local_P.copy_(weights_P)

    def zeros(self) -> Tensor:
        """A vector of all parameters, where they are."""
        return torch.zeros_like(self._local_P)

    @torch.no_grad()
    def forward(self, call: Call) -> Tensor:
        """The outputs of the call's experts, fp32 [S, D] on the CPU."""
        tokens_SD, fused = call.tokens_SD.to(self._device), self._fused[call.layer]
        outputs_SD = torch.empty_like(tokens_SD)
        for expert, start, end in call.spans():
            down, gate_up = (tensor[expert - self._first] for tensor in self._weights[call.layer])
            with self._exactly():
                outputs_SD[start:end] = fused.apply(tokens_SD[start:end], gate_up=gate_up, down=down)
        return outputs_SD.cpu()

    def backward(self, call: Call, gradient_SD: Tensor) -> Backward:
        """From the gradients of the outputs, fp32 [S, D]."""
        tokens_SD, gradient_SD = call.tokens_SD.to(self._device), gradient_SD.to(self._device)
        found_SD, experts = torch.empty_like(tokens_SD), {}
        for expert, start, end in call.spans():
            slices = [tensor[expert - self._first] for tensor in self._weights[call.layer]]
            leaves = [part.detach().requires_grad_() for part in (tokens_SD[start:end], *slices)]
            with torch.enable_grad(), self._exactly():
                output_ND = self._fused[call.layer].apply(leaves[0], down=leaves[1], gate_up=leaves[2])
            found_SD[start:end], *rest = torch.autograd.grad([output_ND], leaves, [gradient_SD[start:end]])
            experts[expert] = tuple(rest)
        return Backward(experts=experts, tokens_SD=found_SD.cpu())

    def _exactly(self) -> torch.autocast:
        """Experts run in fp32 whatever the trunk does: `transformers`' grouped kernel takes no part in autocast."""
        return torch.autocast(self._device.type, enabled=False)

    def add(self, sum_P: Tensor, layer: int, found: Backward, sign: int) -> None:
        """Add a pass's gradients to this vector, or with sign -1 take them out again."""
        sums = self._views(sum_P, layer)
        for expert, gradients in found.experts.items():
            for tensor, values in zip(sums, gradients, strict=True):
                row = tensor[expert - self._first]
                row.add_(values) if sign > 0 else row.sub_(values)
