"""What comes after a settled round: a close with its reason, the next open with its roster, or nothing yet.

Pure: no state.
"""

from __future__ import annotations

from collections.abc import Sequence

from ledger.entries import Open, Seat
from peer.rounds.plan import Plan


def close_reason(plan: Plan, *, settled: int, balance: int, closing: str) -> str:
    """Why no round may follow round `settled`, or an empty string; `closing` is why somebody wants the run to end."""
    if closing:
        return closing
    if settled >= plan.rounds:
        return "all rounds settled"
    return "budget spent" if plan.seats_for(balance) < plan.min_members else ""


def opening(plan: Plan, *, round: int, state: str, ready: Sequence[str], balance: int, slot: int) -> Open | None:
    """The open of a round with as many of `ready` as the run has seats for, slots from `slot` on; None if too few."""
    seats = min(plan.max_members, plan.seats_for(balance), len(ready))
    if seats < plan.min_members:
        return None
    roster = tuple(Seat(account, slot + place * plan.quota, plan.quota) for place, account in enumerate(ready[:seats]))
    return Open(round=round, state=state, roster=roster)
