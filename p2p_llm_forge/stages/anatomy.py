"""How a family's model is built, learned by running a small one: its layers, what runs before them, what after.

Every module that is no layer is a *unit*: an embedding, a norm, the head. A model can be cut between its layers if each
runs once, in order, if nothing with parameters runs between them, and if no two of them share parameters.

Pure: builds small models and runs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from p2p_llm_forge import model
from p2p_llm_forge.errors import ModelError, SplitError
from p2p_llm_forge.stages import shrink

LARGEST_SPECIMEN = 16 << 20
"""Parameters of a small model; one that does not get smaller is not built."""


def faults() -> tuple[type[Exception], ...]:
    """What a model raises that was not made for this."""
    return (*model.build_errors(), ModelError)


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """What there is to know of a family with these options."""

    layers: str
    """Path of the list of layers."""
    before: tuple[str, ...]
    """Paths of the units that the first stage has; also of those with parameters that never run."""
    after: tuple[str, ...]
    """Paths of the units that the last stage has."""
    returns: int | None
    """A layer returns the hidden states: None as they are, or as the first of so many values."""
    specimen: Any
    """The small configuration that it was learned from."""


def of(config: Any, stages: int) -> Anatomy:
    """Build a small model of this family and watch it run.

    Raises:
        SplitError: it cannot be cut, with the module that is in the way.
    """
    why: list[str] = []
    for specimen in shrink.candidates(config, stages):
        try:
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in model.from_config(specimen).parameters())
            if size > LARGEST_SPECIMEN:
                why.append(f"it still has {size:,} parameters")
                continue
            built = model.build(specimen, 0)
            run = _watch(built)
        except faults() as exc:
            why.append(first_line(exc))
            continue
        return _judge(built, run, specimen)
    told = why[0] if why else "its sizes do not go together"
    raise SplitError(f"model: no small {config.model_type} can be built to check the cut with ({told}); {WAY_OUT}")


WAY_OUT = "train it without pipeline, or choose another model.family"


def first_line(exc: BaseException) -> str:
    """An error of the libraries in short."""
    lines = str(exc).splitlines()
    return f"{type(exc).__name__}: {lines[0][:160]}" if lines else type(exc).__name__


@dataclass(frozen=True, kw_only=True)
class _Run:
    layers: str
    events: list[str | int]
    """Units by path and layers by number, in the order in which they ran."""
    returned: list[int | None]


def layers_path(built: nn.Module) -> str:
    """The outermost list of modules that holds the most parameters. Raises SplitError where there is none."""
    sizes: dict[str, int] = {}
    for name, module in built.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in sizes):
            sizes[name] = sum(parameter.numel() for parameter in module.parameters())
    if not any(sizes.values()):
        raise SplitError(f"model: {type(built).__name__} has no list of layers to cut; {WAY_OUT}")
    return max(sizes, key=lambda name: sizes[name])


def units(built: nn.Module, layers: str) -> Iterator[str]:
    """Paths of everything besides the layers."""
    owner, prefix = built, ""
    for part in layers.split("."):
        yield from (prefix + name for name, _ in owner.named_children() if name != part)
        owner, prefix = owner.get_submodule(part), f"{prefix}{part}."


def _watch(built: nn.Module) -> _Run:
    run = _Run(layers=layers_path(built), events=[], returned=[])

    def saw(event: str | int, *_: object) -> None:
        run.events.append(event)

    def left(_module: nn.Module, _inputs: object, output: object) -> None:
        first = output[0] if isinstance(output, (tuple, list)) else output
        if not isinstance(first, Tensor) or first.ndim != 3:
            raise TypeError("its layers hand on something else than hidden states of each token")
        run.returned.append(len(output) if isinstance(output, (tuple, list)) else None)

    for path in units(built, run.layers):
        for module in built.get_submodule(path).modules():
            module.register_forward_pre_hook(partial(saw, path))
    for number, layer in enumerate(built.get_submodule(run.layers).children()):
        layer.register_forward_pre_hook(partial(saw, number))
        layer.register_forward_hook(left)
    tokens = torch.zeros(1, 8, dtype=torch.int64)
    with torch.no_grad():
        logits = built.eval()(input_ids=tokens, use_cache=False).logits
    assert isinstance(logits, Tensor)
    return run


def _judge(built: nn.Module, run: _Run, specimen: Any) -> Anatomy:
    name, listed = type(built).__name__, built.get_submodule(run.layers)
    assert isinstance(listed, nn.ModuleList)
    order = [event for event in run.events if isinstance(event, int)]
    if order != list(range(len(listed))):
        raise SplitError(f"model: {name} does not run the layers of {run.layers} once each, in order; {WAY_OUT}")
    if len(set(run.returned)) > 1:
        raise SplitError(f"model: the layers of {name} return different things; {WAY_OUT}")
    _check_own(built, run.layers)
    first, last = run.events.index(0), run.events.index(order[-1])
    before, after = [], []
    for path in units(built, run.layers):
        at = [index for index, event in enumerate(run.events) if event == path]
        has_parameters = any(True for _ in built.get_submodule(path).parameters())
        if at and min(at) > last:
            after.append(path)
        elif not at or max(at) < first:
            if has_parameters or any(isinstance(part, nn.Dropout) for part in built.get_submodule(path).modules()):
                before.append(path)
        elif has_parameters:
            raise SplitError(f"model: {path} of {name} runs between the layers and has parameters; {WAY_OUT}")
    return Anatomy(
        layers=run.layers,
        before=tuple(before),
        after=tuple(after),
        returns=run.returned[0],
        specimen=specimen,
    )


def _check_own(built: nn.Module, layers: str) -> None:
    """Refuse parameters that belong to no unit, and those that a layer shares with another one or with a unit."""
    owners: dict[int, str] = {}
    for path in units(built, layers):
        owners.update({id(parameter): path for parameter in built.get_submodule(path).parameters()})
    for number, layer in enumerate(built.get_submodule(layers).children()):
        mine = f"{layers}.{number}"
        for name, parameter in layer.named_parameters():
            other = owners.setdefault(id(parameter), mine)
            if other != mine:
                raise SplitError(f"model: {mine}.{name} is shared with {other}, another stage may hold that; {WAY_OUT}")
    for name, parameter in built.named_parameters():
        if id(parameter) not in owners:
            raise SplitError(f"model: {name} belongs to no layer and to no module beside them; {WAY_OUT}")
