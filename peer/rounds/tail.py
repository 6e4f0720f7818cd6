"""The tail of a run's log, signed and not certified: how far members may go by it, and what money of the run it takes.

Pure: no state.
"""

from __future__ import annotations

from collections.abc import Sequence

from ledger.entries import Close, Entry, Open, Settle, StageOpen, StageSettle
from ledger.stages import worth
from peer.rounds.log import RunLog, SettledRound, opens
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

    As the ledger's fold has it: an open reserves the worth of its quotas, a settle pays and returns the rest.
    """
    opened = log.certified_open
    seats = opened.roster if opened is not None else ()
    reserved = _reserved(plan, log, [seat.quota for seat in seats if seat.stage == 0])
    for entry in log.tail:
        if isinstance(entry, Open | StageOpen):
            drivers = entry.drivers if isinstance(entry, StageOpen) else entry.roster
            reserved = _reserved(plan, log, [seat.quota for seat in drivers])
            balance -= reserved
        elif isinstance(entry, Settle | StageSettle):
            balance += reserved - earned(plan, log, log.settled[entry.round - 1])
            reserved = 0
    return balance


def _reserved(plan: Plan, log: RunLog, quotas: Sequence[int]) -> int:
    """What an open sets aside: rounded for each member, in a run with stages for all drivers together."""
    return sum(map(plan.worth, quotas)) if log.stages is None else plan.worth(sum(quotas))


def earned(plan: Plan, log: RunLog, settled: SettledRound) -> int:
    """What all receipts of a settled round earn, in micro-credits."""
    shares = log.stages.shares if log.stages is not None else ()
    staged = sum(worth(receipt.tokens, plan.price, shares[receipt.stage]) for receipt in settled.staged)
    return staged + sum(plan.worth(receipt.slots.count) for receipt in settled.receipts)
