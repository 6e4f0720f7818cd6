"""Whether the stages of a model compute what the whole model does: loss and every gradient, bit for bit.

Checked at a run's start on a small model of the same family with the same options, cut into as many stages.

Shapes: B sequences, L tokens, D hidden size.

Pure: builds small models and runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from p2p_llm_forge import model
from p2p_llm_forge.errors import SplitError
from p2p_llm_forge.stages import anatomy, cut, split
from p2p_llm_forge.stages.anatomy import WAY_OUT, Anatomy, faults, first_line
from p2p_llm_forge.stages.cut import Cut
from p2p_llm_forge.stages.split import Stage

SEQUENCES, TOKENS = 2, 12

Reseed = Callable[[int], None]
"""Called with the stage before its forward pass."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One forward and backward pass."""

    loss: Tensor
    """Sum over the tokens."""
    gradients: dict[str, Tensor]
    """By name in the whole model; those of both copies of a tied tensor are added."""
    outputs: dict[str, Tensor] = field(default_factory=dict)
    """What the modules gave at their first call, by path, in the order in which they were done."""


def check(config: Any, stages: int, known: Anatomy | None = None) -> Anatomy:
    """Compare a small model of this family with its stages.

    Raises:
        SplitError: they differ, with the first module whose output or gradient does, or they cannot be run.
    """
    known = known or anatomy.of(config, stages)
    whole = model.build(known.specimen, 0)
    listed = whole.get_submodule(known.layers)
    assert isinstance(listed, nn.ModuleList)
    compare(whole, known, cut.even(len(listed), stages), known.specimen)
    return known


def compare(whole: nn.Module, known: Anatomy, layers: Cut, config: Any, reseed: Reseed = lambda stage: None) -> None:
    """Compare this model with its stages, in training; see `check`.

    Args:
        reseed: sets the seed, where the model has dropout.
    """
    tokens_BL = sample(config)
    try:
        parts = [_part(whole, known, layers, index, config) for index in range(layers.stages())]
        alone = run_whole(whole.train(), known, layers, tokens_BL, reseed)
        chained = run_stages(parts, tokens_BL, reseed, known, layers)
    except faults() as exc:
        name = type(whole).__name__
        raise SplitError(f"model: the stages of {name} do not run ({first_line(exc)}); {WAY_OUT}") from exc
    _judge(type(whole).__name__, alone, chained)


def _judge(name: str, alone: Run, chained: Run) -> None:
    """Refuse the first difference, in the order in which it came about."""
    if not bool(alone.loss.isfinite()):
        raise SplitError(f"model: a small {name} gives a loss of {float(alone.loss)}, which proves nothing; {WAY_OUT}")
    for path, output in alone.outputs.items():
        if path in chained.outputs and not same_bits(output, chained.outputs[path]):
            raise SplitError(f"model: {path} of {name} gives something else in its stage; {WAY_OUT}")
    if not same_bits(alone.loss, chained.loss):
        raise SplitError(f"model: the loss of {name} is another one with its stages; {WAY_OUT}")
    for path in reversed(alone.gradients):
        if path not in chained.gradients or not same_bits(alone.gradients[path], chained.gradients[path]):
            raise SplitError(f"model: the gradient of {path} of {name} is another one in its stage; {WAY_OUT}")


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors are the same in shape, kind and every bit: -0 is not 0 here."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    bits = [side.contiguous().reshape(-1).view(torch.uint8) for side in (left, right)]
    return torch.equal(*bits)


def sample(config: Any) -> Tensor:
    """Tokens [B, L + 1] that differ."""
    drawn = torch.Generator().manual_seed(0)
    return torch.randint(1, model.vocabulary(config), (SEQUENCES, TOKENS + 1), generator=drawn)


def _part(whole: nn.Module, known: Anatomy, layers: Cut, index: int, config: Any) -> Stage:
    stage = split.build(config, layers, index, known)
    weights = dict(whole.named_parameters())
    with torch.no_grad():
        for name, parameter in stage.named_parameters():
            parameter.copy_(weights[name])
    return stage.train()


def run_whole(whole: nn.Module, known: Anatomy, layers: Cut, tokens_BL: Tensor, reseed: Reseed) -> Run:
    """The whole model, reseeded where the stages begin."""
    outputs: dict[str, Tensor] = {}
    handles = [_record(whole, path, outputs) for path, _ in whole.named_modules() if path]
    for index, (start, _) in enumerate(layers.layers):
        if index:
            layer = whole.get_submodule(f"{known.layers}.{start}")
            handles.append(layer.register_forward_pre_hook(partial(_reseed, reseed, index)))
    whole.zero_grad()
    try:
        reseed(0)
        loss = token_loss(whole(input_ids=tokens_BL[:, :-1], use_cache=False).logits, tokens_BL)
        loss.backward()  # type: ignore[no-untyped-call]
    finally:
        for handle in handles:
            handle.remove()
    return Run(loss=loss.detach(), gradients=_gradients([whole]), outputs=outputs)


def _reseed(reseed: Reseed, index: int, *_: object) -> None:
    reseed(index)


def run_stages(
    parts: Sequence[Stage], tokens_BL: Tensor, reseed: Reseed, known: Anatomy | None = None, layers: Cut | None = None
) -> Run:
    """The stages one after the other, and back."""
    outputs: dict[str, Tensor] = {}
    handles: list[Any] = []
    if known is not None and layers is not None:
        handles = [_record(part.model, path, outputs) for part in parts for path in _own(part, known, layers)]
    inputs: list[Tensor] = []
    gave: list[Tensor] = []
    try:
        for index, part in enumerate(parts):
            part.zero_grad()
            inputs.append(tokens_BL[:, :-1] if part.first else gave[-1].detach().requires_grad_())
            reseed(index)
            gave.append(part(inputs[-1]))
    finally:
        for handle in handles:
            handle.remove()
    loss = token_loss(gave[-1], tokens_BL)
    loss.backward()  # type: ignore[no-untyped-call]
    for index in range(len(parts) - 2, -1, -1):
        gave[index].backward(inputs[index + 1].grad)  # type: ignore[no-untyped-call]
    return Run(loss=loss.detach(), gradients=_gradients(parts), outputs=outputs)


def token_loss(logits_BLV: Tensor, tokens_BL: Tensor) -> Tensor:
    """The sum of the tokens' losses in nats, for tokens [B, L + 1]."""
    return F.cross_entropy(logits_BLV.float().flatten(0, 1), tokens_BL[:, 1:].flatten(), reduction="sum")


def _own(part: Stage, known: Anatomy, layers: Cut) -> list[str]:
    """Paths of the modules that the stage itself holds."""
    start, end = layers.layers[part.index]
    roots = [f"{known.layers}.{number}" for number in range(start, end)]
    roots += list(known.before) if part.first else []
    roots += list(known.after) if part.last else []
    return [path for path, _ in part.model.named_modules() if any(f"{path}.".startswith(f"{root}.") for root in roots)]


def _record(built: nn.Module, path: str, outputs: dict[str, Tensor]) -> Any:
    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, Tensor) and path not in outputs:
            outputs[path] = first.detach().clone()

    return built.get_submodule(path).register_forward_hook(note)


def _gradients(parts: Sequence[nn.Module]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for part in parts:
        for name, parameter in part.named_parameters():
            if parameter.grad is not None:
                found[name] = found[name] + parameter.grad if name in found else parameter.grad.clone()
    return found
