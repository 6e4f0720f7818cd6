"""What comes after a settled round of a run with stages: a close, the next open with its roster, or nothing yet.

Pure: no state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ledger.entries import StageOpen, StageReceipt, StageSeat, Validation
from ledger.stages import worth
from peer.rounds.log import RunLog, Seat
from peer.rounds.opening import Standing
from peer.rounds.speed import Speeds
from peer.stages.manifest import MOST_MICROBATCHES
from peer.stages.plan import StagePlan

NEARLY = 0.8
"""A round that is planned for this part of the time budget is ended by that."""
ROOM = 2
"""Then drivers get so many times what they should come to drive."""


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


def ready(
    plan: StagePlan, accounts: Iterable[str], *, holds: Mapping[str, int], serves: Callable[[str], int | None]
) -> dict[int, list[str]]:
    """By stage: those of `accounts` that hold the one that they are to serve; of drivers not too many."""
    found: dict[int, list[str]] = {stage: [] for stage in range(plan.stages)}
    for account in accounts:
        stage = holds.get(account, -1)
        if stage >= 0 and stage == serves(account):
            found[stage].append(account)
    found[0] = found[0][: plan.plan.max_members]
    return found


def quotas_of(speeds: Speeds, accounts: Sequence[str], plan: StagePlan) -> dict[str, int]:
    """Slots for each driver, so that all finish together.

    Where the time budget ends the round anyway they get more: when a driver dies, the others go on in its place, and
    a newcomer may be quick.
    """
    quotas = dict(zip(accounts, speeds.quotas(accounts), strict=True))
    round_s = speeds.round_s([Seat(account=account, start=0, quota=quota) for account, quota in quotas.items()])
    if round_s is None or round_s < NEARLY * plan.plan.time_budget_s:
        return quotas
    known = {account for account in accounts if speeds.time_s(account, plan.microbatch)}
    most = max(quotas.values())
    return {
        account: min(ROOM * (quota if account in known else most), plan.plan.quota) for account, quota in quotas.items()
    }


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
