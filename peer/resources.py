"""What this machine has: cores, memory, GPUs.

IO: reads the system through psutil and, where there is a driver, NVIDIA's library; both are imported when asked.
"""

from __future__ import annotations

import functools
import importlib
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One NVIDIA GPU."""

    name: str
    """As the driver calls it."""
    memory_bytes: int
    """All of its memory."""
    free_bytes: int
    """What is free now."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What may be lent."""

    cores: int
    """CPU cores that this process may use."""
    memory_bytes: int
    """All memory, or the container's limit."""
    available_bytes: int
    """Memory that can be had now without swapping."""
    disk_free_bytes: int
    """Free room where the home lies."""
    cpu: str
    """Name of the processor."""
    gpus: tuple[Gpu, ...] = ()
    """NVIDIA GPUs that can be seen."""

    @property
    def device(self) -> str:
        """`cuda` or `cpu`."""
        return "cuda" if self.gpus else "cpu"

    @property
    def device_memory_bytes(self) -> int:
        """Memory of the largest GPU, or of the machine."""
        return max((gpu.memory_bytes for gpu in self.gpus), default=self.memory_bytes)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def measure(folder: Path) -> Resources:
    """Looks now; `folder` tells which disk."""
    psutil = importlib.import_module("psutil")
    memory = psutil.virtual_memory()
    total, available = int(memory.total), int(memory.available)
    limit = _container_limit()
    if 0 < limit < total:
        total, available = limit, min(available, limit)
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    disk = os.statvfs(place)
    return Resources(
        cores=cores(),
        memory_bytes=total,
        available_bytes=available,
        disk_free_bytes=disk.f_bavail * disk.f_frsize,
        cpu=cpu_name(),
        gpus=gpus(),
    )


def _container_limit(file: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """The control group's memory limit in bytes, or 0."""
    try:
        text = file.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0


@functools.cache
def cpu_name(file: Path = Path("/proc/cpuinfo")) -> str:
    """What the processor calls itself."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def gpus(module: str = "pynvml") -> tuple[Gpu, ...]:
    """NVIDIA GPUs; none where the library or the driver is missing."""
    try:
        nvml: Any = importlib.import_module(module)
    except ImportError:
        return ()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()
    try:
        found = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            name = nvml.nvmlDeviceGetName(handle)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            text = name.decode() if isinstance(name, bytes) else str(name)
            found.append(Gpu(name=text, memory_bytes=int(memory.total), free_bytes=int(memory.free)))
        return tuple(found)
    except nvml.NVMLError:
        return ()
    finally:
        nvml.nvmlShutdown()
