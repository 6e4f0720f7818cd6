"""How many sequences go through the model at once: the largest part of the batch that fits the memory lent here.

Estimated from the shapes, then tried on the model: one forward and backward pass of one sequence, then of the choice,
whose peaks are measured. Only halvings of the batch are chosen, so that a little more free memory changes nothing.

IO: runs the model it is given, asks the system and the accelerator for peaks; `halvings` and `largest` are pure.
"""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

SPARE = 0.9
"""Share of the free memory that activations may take: the allocator loses some in pieces."""
NOISE_BYTES = 64 << 20
"""Growth below this says nothing of activations: the first pass loads libraries and starts threads."""
_NO_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory", re.IGNORECASE)

Pass = Callable[[int], None]
"""One forward and backward pass of so many sequences."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen, and why."""

    sequences: int
    """Sequences at once."""
    measured_bytes: int
    """What a pass of so many took at its peak beyond the gradients."""
    allowed_bytes: int
    """What it may take."""


def halvings(batch: int) -> list[int]:
    """The batch, half of it, a quarter, … rounded up, down to 1."""
    sizes = [batch]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes


def largest(batch: int, each_bytes: float, allowed_bytes: float) -> int:
    """The largest halving of the batch whose sequences fit; 1 if none does."""
    return next((size for size in halvings(batch) if size * each_bytes <= allowed_bytes), 1)


def choose(
    run: Pass, *, batch: int, each_bytes: int, free_bytes: int, gradient_bytes: int, device: torch.device
) -> Choice:
    """Try what fits.

    Args:
        run: a pass; its gradients are dropped by whoever owns the model.
        batch: most sequences.
        each_bytes: estimate for the activations of one.
        free_bytes: memory that is free for activations.
        gradient_bytes: what a pass allocates for gradients, which is no part of `free_bytes`.

    Raises:
        RuntimeError, MemoryError: not even one sequence fits.
    """
    allowed = int(SPARE * free_bytes)
    before = _peak(device, anew=True) + gradient_bytes
    one = _measured(run, 1, before, device)
    size = largest(batch, max(each_bytes, one if one > NOISE_BYTES else 0), allowed)
    while size > 1:
        took = _tried(run, size, before, device)
        if took is not None and took <= max(allowed, NOISE_BYTES):
            return Choice(sequences=size, measured_bytes=took, allowed_bytes=allowed)
        size = -(-size // 2)
    return Choice(sequences=1, measured_bytes=one, allowed_bytes=allowed)


def out_of_memory(exc: BaseException) -> bool:
    """Whether this is the accelerator or the machine saying that it has no more memory."""
    known = isinstance(exc, MemoryError | torch.OutOfMemoryError)
    return known or (isinstance(exc, RuntimeError) and _NO_MEMORY.search(str(exc)) is not None)


def free_again(device: torch.device) -> None:
    """Give back what a pass left with the allocators."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        with suppress(OSError, AttributeError):  # glibc only; elsewhere a pass seems to take what one before it took
            ctypes.CDLL(None).malloc_trim(0)


def _tried(run: Pass, size: int, before: int, device: torch.device) -> int | None:
    """`_measured`; None where there was not enough memory."""
    try:
        return _measured(run, size, before, device)
    except (RuntimeError, MemoryError) as exc:
        if not out_of_memory(exc):
            raise
    free_again(device)
    return None


def _measured(run: Pass, size: int, before: int, device: torch.device) -> int:
    """Peak bytes of a pass beyond `before`."""
    free_again(device)
    _peak(device, anew=True)
    run(size)
    return max(0, _peak(device, anew=False) - before)


def _peak(device: torch.device, *, anew: bool) -> int:
    """What this process takes now (`anew`: the peak is measured from now on), or the peak since then, in bytes."""
    if device.type == "cuda":
        if anew:
            torch.cuda.reset_peak_memory_stats(device)
            return torch.cuda.memory_allocated(device)
        return torch.cuda.max_memory_allocated(device)
    if anew:
        with suppress(OSError):  # where it cannot be reset the old peak stands, and a pass seems smaller than it is
            Path("/proc/self/clear_refs").write_text("5")
        return int(psutil.Process().memory_info().rss)
    with suppress(OSError):
        if found := re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE):
            return 1024 * int(found[1])
    return int(psutil.Process().memory_info().rss)
