"""What the volunteer lends to a run's worker.

Pure: values only.
"""

from __future__ import annotations

from dataclasses import dataclass

from peer.config import Settings


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

    @classmethod
    def of(cls, settings: Settings, *, cores: int) -> Hardware:
        """As the settings say; all cores unless they say otherwise."""
        return cls(
            threads=settings.threads or cores,
            device=settings.device,
            memory_bytes=settings.memory_bytes,
            keep=settings.keep_residuals,
        )
