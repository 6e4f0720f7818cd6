"""What the volunteer lends to a run's worker.

Pure: values only.
"""

from __future__ import annotations

from dataclasses import dataclass

from peer.config import Settings
from peer.resources import Resources


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What the volunteer lends to a worker."""

    threads: int
    device: str
    """auto, cpu or cuda"""
    memory_bytes: int | None = None
    """Most memory that training may take; what is free if not set."""
    keep: bool = True
    """Whether residuals and optimizer states may be kept on disk."""
    machine_bytes: int = 0
    """Memory of the device."""

    @classmethod
    def of(cls, settings: Settings, machine: Resources) -> Hardware:
        """As the settings say; all cores unless they say otherwise."""
        return cls(
            threads=settings.threads or machine.cores,
            device=settings.device,
            memory_bytes=settings.memory_bytes,
            keep=settings.keep_residuals,
            machine_bytes=machine.device_memory_bytes,
        )
