"""Many simulated runs: how they ended, and what went wrong in those that did not.

Pure: every run follows from its seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def played(run: Callable[[int], T], seeds: Iterable[int]) -> tuple[list[T], list[str]]:
    """Play these seeds; what broke is told with its seed."""
    ended, broken = [], []
    for seed in seeds:
        try:
            ended.append(run(seed))
        except AssertionError as exc:
            broken.append(f"seed {seed}: {exc}")
    return ended, broken
