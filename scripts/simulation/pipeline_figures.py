"""What a simulated run with stages came to.

Pure: frozen values.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from peer.stages.course import Step
from peer.stages.lead import StageLeader


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How a run went."""

    seed: int
    rounds: int
    microbatches: int
    """That count."""
    share: float
    """While driving: what went through all stages, of what could have."""
    whole_share: float
    """All the time: what counts, of what those who lived to their round's end could have done."""
    balance: float
    """The least stage's summed speed over an equal part of everybody's who was on a roster, on average."""
    moves: int
    most_moves: int
    """Of one peer within five minutes, joining not counted."""
    ends: int
    """Sessions that ended."""
    undone: int
    replays: int
    """Calls of a round's end; losses are mostly replayed before."""
    reports: Counter[str]
    events: int
    parts: Counter[str]
    """Seconds that rounds were in each of their steps; draining: driving after the time budget."""


def part(leader: StageLeader, *, late: bool) -> str:
    """What the open round is at; `late`: its time budget is over."""
    step = leader.course.step if leader.course is not None else Step.DRIVING
    return "draining" if step is Step.DRIVING and late else step.value


def told(found: Figures) -> str:
    """The figures in a line."""
    whole_s = sum(found.parts.values())
    parts = ", ".join(f"{name} {seconds / whole_s:.1%}" for name, seconds in found.parts.items())
    return (
        f"seed {found.seed}: {found.rounds} rounds, {found.microbatches} microbatches, "
        f"{found.share:.1%} of what could be done while driving, {found.whole_share:.1%} of the survivors' all in all, "
        f"balance {found.balance:.2f}, {found.ends} sessions ended, {found.moves} moves, {found.undone} undone, "
        f"{found.reports['void']} rounds void; of the time: {parts}"
    )
