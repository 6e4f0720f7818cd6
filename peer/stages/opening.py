"""What comes after a settled round of a run with stages: a close, the next open with its roster, or nothing yet.

Pure: no state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ledger.entries import StageOpen, StageReceipt, StageSeat, Validation
from ledger.stages import worth
from peer.rounds.log import RunLog
from peer.rounds.opening import Standing
from peer.stages.manifest import MOST_MICROBATCHES
from peer.stages.plan import StagePlan


def standing_after(
    log: RunLog, plan: StagePlan, *, round: int, balance: int, counted: Sequence[StageReceipt],
    figure: Validation | tuple[()],
) -> Standing:  # fmt: skip
    """Where the run stands after this round, as `peer.rounds.opening.standing_after` has it for other runs."""
    shared = plan.plan
    quotas = [seat.quota for seat in log.open.roster if seat.stage == 0] if log.open is not None else []
    paid = sum(worth(receipt.tokens, shared.price, plan.shares[receipt.stage]) for receipt in counted)
    return Standing(
        settled=round,
        balance=balance + shared.worth(sum(quotas)) - paid,
        tokens=log.tokens + sum(receipt.tokens for receipt in counted if receipt.stage == 0),
        losses=[*log.losses, *figure[1:]],
    )


def opening(
    plan: StagePlan, log: RunLog, *, round: int, state: str, ready: Mapping[int, Sequence[str]],
    quotas: Mapping[str, int], balance: int,
) -> StageOpen | None:  # fmt: skip
    """The open of a round with everybody who is ready, on slots never given out; None if a stage has too few.

    Args:
        plan: the run's figures.
        log: the run's log.
        round: number of the round.
        state: id of the run's state that it starts from.
        ready: accounts by stage.
        quotas: slots of each driver, in order; as many drivers as the balance pays have a seat.
        balance: the run's spendable micro-credits.
    """
    if any(len(ready.get(stage, ())) < plan.opens_with(stage, round) for stage in range(plan.stages)):
        return None
    roster: list[StageSeat] = []
    slot = start = log.next_slot
    most = start + MOST_MICROBATCHES * plan.microbatch
    for account in ready[0]:
        quota = min(quotas[account], most - slot)
        if plan.plan.worth(slot + quota - start) > balance or quota < plan.microbatch:
            break
        roster.append(StageSeat(account, slot, quota, 0))
        slot += quota
    if not roster:
        return None
    for stage in range(1, plan.stages):
        roster += [StageSeat(account, start, slot - start, stage) for account in ready.get(stage, ())]
    return StageOpen(round=round, state=state, roster=tuple(roster))
