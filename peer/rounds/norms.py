"""Which of a round's updates are far larger or smaller than the others.

A member that trained on more tokens may have a norm larger by as much, so the bounds go along with the tokens where
that favours the member. Too large is refused only where updates are not scaled down to the median norm anyway
(`clip_updates`); too small proves nothing, and is told so that audits can look there first.

Pure: figures in, reports out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from ledger.entries import Receipt
from peer.rounds.messages import Report

OVERWEIGHT = "FP-428"
MOST_TIMES = 16
"""The norm of an unclipped update may be so many times the median."""
LEAST_PART = 64
"""An update whose norm is less than the median over this is suspicious."""
ENOUGH = 3
"""With fewer updates there is no telling who is odd."""


def weigh(
    receipts: Sequence[Receipt], norms: Mapping[str, int], *, clipped: bool
) -> tuple[tuple[Receipt, ...], list[Report]]:
    """The receipts that count, and what a person is told of the odd ones.

    Args:
        receipts: sound ones, in roster order.
        norms: by account, in any one unit; whoever is missing is not judged.
        clipped: whether the run scales updates down to the median norm.
    """
    judged = [receipt for receipt in receipts if receipt.account in norms]
    if len(judged) < ENOUGH:
        return tuple(receipts), []
    norm, tokens = median(norms[each.account] for each in judged), median(each.tokens for each in judged)
    counted, reports = [], []
    for receipt in receipts:
        times = norms.get(receipt.account, norm) / max(norm, 1)
        more = receipt.tokens / tokens
        fields: dict[str, object] = {"account": receipt.account, "round": receipt.round}
        reason = f"the norm of its update is {times:.3g} times the median of the round"
        if times > MOST_TIMES * max(1.0, more) and not clipped:
            reason += f", at most {MOST_TIMES} times is taken"
            reports.append(Report(event="refused", fields={**fields, "code": OVERWEIGHT, "reason": reason}))
            continue
        if times > MOST_TIMES * max(1.0, more) or times * LEAST_PART < min(1.0, more):
            reports.append(Report(event="suspicious", fields={**fields, "reason": reason}))
        counted.append(receipt)
    return tuple(counted), reports
