"""A whole model whose parameters have shapes and no memory, while its buffers are real.

Rotary frequencies and the like are no parameters and in no state: they are computed while a model is built, which a
model built on the meta device never gets back. So only parameters are put there, each as soon as it is made.

Pure: torch's hook for new parameters is set while a skeleton is built, and taken away again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from p2p_llm_forge import model


def skeleton(config: Any) -> nn.Module:
    """The whole model without memory for its parameters; tied ones are tied. Raises ModelError."""
    from transformers.initialization import no_init_weights

    with _parameters_on_meta(), no_init_weights():
        built: Any = model.from_config(config)
    built.tie_weights()
    assert isinstance(built, nn.Module)
    return built


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    drawn = torch.random.get_rng_state()
    handle = register_module_parameter_registration_hook(_to_meta)
    try:
        yield
    finally:
        handle.remove()
        torch.random.set_rng_state(drawn)


def _to_meta(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> Any:
    """What is registered instead; None leaves it."""
    if parameter is None or parameter.is_meta:
        return None
    return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)


def materialise(built: nn.Module) -> None:
    """Give the parameters that are left memory, all zeros; tied ones stay tied."""
    made: dict[int, nn.Parameter] = {}
    for module in built.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.is_meta:
                if id(parameter) not in made:
                    zeros = torch.zeros(parameter.shape, dtype=torch.float32)
                    made[id(parameter)] = nn.Parameter(zeros, requires_grad=parameter.requires_grad)
                setattr(module, name, made[id(parameter)])
