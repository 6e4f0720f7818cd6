"""The tail of a run's log, signed and not certified: how far members may go by it, and what money of the run it takes.

Pure: no state.
"""

from __future__ import annotations

from collections.abc import Sequence

from ledger.entries import Close, Entry, Open, Settle
from peer.rounds.log import RunLog, opens
from peer.rounds.plan import Plan

MOST_BYTES = 600_000
"""A longer tail is not handed out: members would take up too much that may never count."""


def why_wait(plan: Plan, tail: Sequence[Entry]) -> str:
    """Why members must not go by this tail before some of it is certified, or an empty string."""
    if any(isinstance(entry, Close) for entry in tail):
        return "a run is closed only once that is certified"
    if (count := opens(tail)) > plan.max_uncertified:
        return f"{count} rounds are opened and not certified, at most {plan.max_uncertified} may be"
    if (size := sum(len(entry.encode()) for entry in tail)) > MOST_BYTES:
        return f"{size} bytes are not certified, at most {MOST_BYTES} may be"
    return ""


def balance_after_tail(plan: Plan, log: RunLog, balance: int) -> int:
    """What the run can spend after its log's tail, in micro-credits; `balance` is what it can where that begins.

    As the ledger's fold has it: an `open` reserves the worth of its quotas, a `settle` pays and returns the rest.
    """
    opened = log.certified_open
    reserved = sum(plan.worth(seat.quota) for seat in opened.roster) if opened is not None else 0
    for entry in log.tail:
        if isinstance(entry, Open):
            reserved = sum(plan.worth(seat.quota) for seat in entry.roster)
            balance -= reserved
        elif isinstance(entry, Settle):
            counted = log.settled[entry.round - 1].receipts
            balance += reserved - sum(plan.worth(receipt.slots.count) for receipt in counted)
            reserved = 0
    return balance
