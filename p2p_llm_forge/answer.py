"""What a worker answers of a training.

Pure: numbers in, JSON out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from p2p_llm_forge.blobs import leaf_hash, merkle_root
from p2p_llm_forge.inner import RoundResult


def trained(result: RoundResult, *, start: int, sequence_length: int, micro_batch: int) -> dict[str, Any]:
    """The answer, still without an update; `start` is the first slot."""
    slots = [(start + offset, round(loss * 1e6)) for offset, loss in enumerate(result.losses) if loss == loss]
    return {
        "update": "",
        "tokens": len(result.losses) * sequence_length,
        "slots": len(result.losses),
        "steps": result.steps,
        "loss": round(sum(loss for _, loss in slots) / max(len(slots), 1)),
        "leaves": leaves_root(slots),
        "seconds": round(result.seconds, 6),
        "micro_batch": micro_batch,
    }


def leaves_root(slots: Sequence[tuple[int, int]]) -> str:
    """Merkle root (hex) over leaves slot u64be ‖ loss in micro-nats u64be."""
    return merkle_root(leaf_hash(slot.to_bytes(8, "big") + loss.to_bytes(8, "big")) for slot, loss in slots).hex()
