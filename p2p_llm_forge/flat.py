"""A model's parameters, and their gradients, as views of one flat vector in the order of the state.

Shapes: P parameters.

Pure: changes the model it is given.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from p2p_llm_forge.state import Layout


def flatten(model: nn.Module, layout: Layout, device: torch.device) -> Tensor:
    """Move all parameters into one vector, each becoming a view of it."""
    flat_P = torch.empty(layout.parameters, dtype=torch.float32, device=device)
    parameters = dict(model.named_parameters())
    at = 0
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        view = flat_P[at : at + math.prod(shape)].view(shape)
        view.copy_(parameters[name].detach())
        parameters[name].data = view
        at += view.numel()
    return flat_P


def flat_gradients(model: nn.Module, layout: Layout, local_P: Tensor) -> Tensor:
    """One vector whose views are the gradients of all parameters, so that backward passes add up in it."""
    flat_P = torch.zeros_like(local_P)
    parameters = dict(model.named_parameters())
    for name, (start, end, _) in zip(layout.names, layout.spans(), strict=True):
        parameters[name].grad = flat_P[start:end].view_as(parameters[name])
    return flat_P


def precision(setting: str, device: torch.device) -> AbstractContextManager[object]:
    """What a forward pass runs in, by `training.precision`."""
    on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if setting == "bf16" or (setting == "auto" and on_gpu):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
