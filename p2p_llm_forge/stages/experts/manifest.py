"""What a round asks of a replica of an expert shard, by microbatch.

A microbatch counts for a group even where none of its tokens chose an expert of it: then it has no layers, and the
manifests of all groups cover one and the same microbatches.

Pure: definitions only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Of one microbatch."""

    layers: frozenset[int]
    """In which its tokens chose experts of the group."""
    tokens: int
    """Valid tokens of the microbatch."""


Manifest = Mapping[int, Asked]
"""By the microbatch's number in the round."""
