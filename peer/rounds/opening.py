"""What comes after a settled round: a close with its reason, the next open with its roster, or nothing yet.

Pure: no state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ledger.entries import Open, Receipt, Seat, Validation
from peer.rounds import ahead
from peer.rounds.log import RunLog
from peer.rounds.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a run stands once a round is settled."""

    settled: int
    """Rounds."""
    balance: int
    """Spendable micro-credits."""
    tokens: int
    """Trained and settled since the run began."""
    losses: Sequence[int]
    """Held-out losses so far, in micro-nats, oldest first."""


def standing_after(
    log: RunLog, plan: Plan, *, round: int, balance: int, counted: Sequence[Receipt], figure: Validation | tuple[()]
) -> Standing:
    """Where the run stands after this round: what the log says and, while it is open, what counted in it.

    Args:
        log: the run's log; if the round is open in it, its quotas' worth is reserved.
        plan: the run's figures.
        round: number of the round.
        balance: the run's spendable micro-credits now.
        counted: receipts of the open round that are settled with it.
        figure: a held-out loss that is not in the log yet.
    """
    seats = log.open.roster if log.open is not None else ()
    unused = sum(plan.worth(seat.quota) for seat in seats) - sum(plan.worth(receipt.slots[1]) for receipt in counted)
    return Standing(
        settled=round,
        balance=balance + unused,
        tokens=log.tokens + sum(receipt.tokens for receipt in counted),
        losses=[*log.losses, *figure[1:]],
    )


def close_reason(plan: Plan, standing: Standing) -> str:
    """Why no round may follow, or an empty string."""
    if standing.settled >= plan.rounds:
        return "all rounds settled"
    if plan.max_tokens and standing.tokens >= plan.max_tokens:
        return "max_tokens reached"
    if plan.target_loss and standing.losses and standing.losses[-1] <= plan.target_loss:
        return "target_loss reached"
    if plan.patience and _since_best(standing.losses) >= plan.patience:
        return f"no better held-out loss in {plan.patience} evaluations"
    return "budget spent" if plan.seats_for(standing.balance) < plan.min_members else ""


def _since_best(losses: Sequence[int]) -> int:
    """How many evaluations came after the best one."""
    return len(losses) - 1 - min(range(len(losses)), key=losses.__getitem__) if losses else 0


def opening(
    plan: Plan, log: RunLog, *, round: int, state: str, quotas: Mapping[str, int], balance: int
) -> Open | None:
    """The open of a round with as many members as the balance pays, on slots never given out; None if too few.

    Args:
        plan: the run's figures.
        log: the run's log; a round that is open in it is the one before.
        round: number of the round.
        state: id of the state that it starts from.
        quotas: by account, in order.
        balance: the run's spendable micro-credits, which reserve the worth of each quota.
    """
    roster: list[Seat] = []
    slot, before, starts = log.next_slot, log.last_roster, dict[str, int]()
    if plan.overlap:
        quotas = ahead.steady(quotas, before)
        starts = ahead.places(before, list(quotas), width=plan.quota, slot=slot)
    for account, quota in quotas.items():
        balance -= plan.worth(quota)
        if balance < 0:
            break
        roster.append(Seat(account, starts.get(account, slot), quota))
        slot += quota
    return Open(round=round, state=state, roster=tuple(roster)) if len(roster) >= plan.min_members else None
