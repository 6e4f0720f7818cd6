"""How fast and large this machine is, for its advert.

IO: runs matrix products for a moment and asks the operating system.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

import psutil
import torch

_SIZE = {"cpu": 768, "cuda": 4096}
_SECONDS = 0.3


def measure(device: torch.device) -> dict[str, Any]:
    """Sustained TFLOP/s of matrix products in the precision used for training, memory and device name."""
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu and torch.cuda.is_bf16_supported() else torch.float32
    size = _SIZE[device.type]
    left = torch.ones(size, size, dtype=dtype, device=device)
    done, elapsed = 0, 0.0
    torch.mm(left, left)
    _wait(device)
    started = time.perf_counter()
    while elapsed < _SECONDS:
        for _ in range(8 if on_gpu else 1):
            torch.mm(left, left)
            done += 1
        _wait(device)
        elapsed = time.perf_counter() - started
    if on_gpu:
        memory, name = torch.cuda.get_device_properties(device).total_memory, torch.cuda.get_device_name(device)
    else:
        memory, name = psutil.virtual_memory().total, _cpu_name()
    tflops = 2.0 * size**3 * done / elapsed / 1e12
    return {"tflops": round(tflops, 6), "memory_bytes": int(memory), "device": device.type, "name": name}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
