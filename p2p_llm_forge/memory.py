"""Estimates what training a model needs, and what this machine has free, before anything large is allocated.

IO: asks the operating system and the accelerator for free memory; `estimate` is pure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from p2p_llm_forge.errors import DoesNotFit
from p2p_llm_forge.model import from_config, vocabulary


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """How much memory training needs on one peer, in bytes."""

    parameters: int
    """Distinct parameters."""
    weights_bytes: int
    """Local weights and gradients, 8 bytes per parameter, and 8 more for the AdamW state of a member's own steps."""
    state_bytes: int
    """Shared state, residual and aggregation: 20 bytes per parameter, 8 more for each moment of the outer optimizer, 4
    more for work ahead."""
    activation_bytes: int
    """A rough figure for what goes through the model at once."""

    @property
    def total_bytes(self) -> int:
        """Everything together."""
        return self.weights_bytes + self.state_bytes + self.activation_bytes


def estimate(
    config: Any, *, sequences: int, sequence_length: int, moments: int, own_steps: bool = True, overlap: bool = False
) -> Estimate:
    """What training will need, from the shapes alone: nothing of the model's size is allocated.

    Args:
        sequences: sequences per micro batch.
        moments: values that the outer optimizer remembers of every parameter.
        own_steps: whether a member takes AdamW steps of its own; not in mode synchronous.
        overlap: whether a change waits for the settlement of the round before it.
    """
    with torch.device("meta"), _quiet():
        model = from_config(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    hidden = int(getattr(config, "hidden_size", 0) or 0)
    layers = int(getattr(config, "num_hidden_layers", 0) or 0)
    tokens = sequences * sequence_length
    # About 34 hidden-sized activations a layer in half precision (Korthikanti et al., 2022), doubled for fp32;
    # logits, their log-softmax and their gradient in fp32.
    activations = tokens * (layers * hidden * 68 + vocabulary(config) * 12)
    state = parameters * (20 + 8 * moments + 4 * overlap)
    return Estimate(
        parameters=parameters,
        weights_bytes=parameters * (16 if own_steps else 8),
        state_bytes=state,
        activation_bytes=activations,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    state = torch.random.get_rng_state()
    try:
        yield
    finally:
        torch.random.set_rng_state(state)


def check_fits(need: Estimate, free_bytes: int, gpu_bytes: int | None = None) -> None:
    """Refuse a model that will not fit. Raises DoesNotFit with the figures.

    Args:
        free_bytes: main memory that is free.
        gpu_bytes: free memory of the accelerator that trains; None when the CPU does.
    """
    if gpu_bytes is not None:
        local = need.weights_bytes + need.activation_bytes
        if local > gpu_bytes:
            raise DoesNotFit(
                f"model: {need.parameters:,} parameters need about {_gib(local)} on the GPU, {_gib(gpu_bytes)} are "
                "free there; choose a smaller model, micro_batch_size or sequence_length"
            )
        need = Estimate(parameters=need.parameters, weights_bytes=0, state_bytes=need.state_bytes, activation_bytes=0)
    if need.total_bytes > free_bytes:
        raise DoesNotFit(
            f"model: {need.parameters:,} parameters need about {_gib(need.total_bytes)} "
            f"({_gib(need.weights_bytes)} local weights, gradients and AdamW, {_gib(need.state_bytes)} shared state, "
            f"{_gib(need.activation_bytes)} activations), {_gib(free_bytes)} are free; "
            "choose a smaller model, micro_batch_size or sequence_length"
        )


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"


def available_bytes() -> int:
    """Memory that this process could still take: what the system has free, within its control group."""
    free = int(psutil.virtual_memory().available)
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
    return max(free, 0)


def gpu_bytes(device: torch.device) -> int | None:
    """Free memory of this accelerator; None for the CPU."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


@dataclass(frozen=True, kw_only=True)
class Room:
    """The memory that a run may take."""

    main_bytes: int
    """Of the machine."""
    gpu_bytes: int | None
    """Of the accelerator that trains; None when the CPU does."""

    @classmethod
    def on(cls, device: torch.device, limit_bytes: int | None) -> Room:
        """What is free now, and no more than the limit of each kind."""
        main, gpu = available_bytes(), gpu_bytes(device)
        limit = main if limit_bytes is None else limit_bytes
        return cls(
            main_bytes=min(main, limit),
            gpu_bytes=gpu if gpu is None or limit_bytes is None else min(gpu, limit_bytes),
        )

    def beside(self, need: Estimate) -> int:
        """What is left for activations where they are."""
        if self.gpu_bytes is not None:
            return self.gpu_bytes - need.weights_bytes
        return self.main_bytes - need.weights_bytes - need.state_bytes
