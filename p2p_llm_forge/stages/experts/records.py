"""The backward calls that a shard has counted, as far as there is room: enough to undo them without asking anybody.

The oldest go first. What is gone can be given again by the driver, who keeps its own records until the round is
settled; the digest of a call says whether it is the same one.

Shapes: S token-expert pairs of a call, D hidden size.

Pure: tensors only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from torch import Tensor

from p2p_llm_forge.stages.experts.call import Call

Key = tuple[int, int]
"""Microbatch and layer."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A backward call that was counted."""

    call: Call
    """What was asked."""
    gradient_SD: Tensor
    """With which gradients."""
    reply_SD: Tensor
    """What was answered."""

    @property
    def size_bytes(self) -> int:
        """What it takes."""
        return 3 * self.reply_SD.nbytes


def digest(call: Call, gradient_SD: Tensor) -> bytes:
    """Of what a backward call asks, whoever is asked."""
    found = hashlib.sha256(repr((call.layer, call.experts, call.counts)).encode())
    for values in (call.tokens_SD, gradient_SD):
        found.update(values.contiguous().numpy().data)
    return found.digest()


class Records:
    """One shard's; belongs to its thread."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._kept: dict[Key, Record] = {}
        self.used_bytes = 0
        """What is kept now."""

    def put(self, key: Key, record: Record) -> None:
        """Keep this, in place of the oldest ones where there is no room; not at all if it alone is too much."""
        self.drop(key)
        while self._kept and self.used_bytes + record.size_bytes > self._budget_bytes:
            self.drop(next(iter(self._kept)))
        if record.size_bytes <= self._budget_bytes:
            self._kept[key] = record
            self.used_bytes += record.size_bytes

    def get(self, key: Key) -> Record | None:
        """The record, if it is still kept."""
        return self._kept.get(key)

    def drop(self, key: Key) -> None:
        """Keep it no longer, if it is kept."""
        if (record := self._kept.pop(key, None)) is not None:
            self.used_bytes -= record.size_bytes

    def clear(self) -> None:
        """Keep nothing."""
        self._kept.clear()
        self.used_bytes = 0
