"""Which receipts cannot count in the open round, and why.

Pure: raises `RoundError` naming account, round and rule; changes nothing.
"""

from __future__ import annotations

from ledger.entries import Receipt
from peer.errors import RoundError
from peer.rounds.log import OpenRound
from peer.rounds.plan import Plan
from peer.rounds.roster import Roll


def check_receipt(
    receipt: Receipt, *, plan: Plan, open_round: OpenRound | None, settled: int, excluded: bool = False
) -> None:
    """Check a receipt against the open round (its signature is checked where it arrives).

    `excluded`: whether its account had too many refused updates.

    Raises:
        RoundError: FP-410 wrong run or network, FP-411 wrong round, FP-412 not on the roster, FP-413 slots, tokens or
            state that differ from what the round gave out, FP-415 excluded, FP-419 an update longer than any can be.
    """
    place = f"receipt of {receipt.account[:16]}"
    if receipt.network != plan.network or receipt.run != plan.run:
        raise RoundError(
            "FP-410",
            f"{place}: for run {receipt.run[:16]} of network {receipt.network[:16]}, "
            f"wanted run {plan.run[:16]} of {plan.network[:16]}",
        )
    if open_round is None or receipt.round != open_round.round:
        wanted = (
            f"round {open_round.round} is open" if open_round else f"round {settled} is settled and none is open yet"
        )
        raise RoundError("FP-411", f"{place}: for round {receipt.round}, but {wanted}")
    seat = open_round.seat(receipt.account)
    if seat is None:
        raise RoundError("FP-412", f"{place}: not on the roster of round {open_round.round}")
    if receipt.state_in != open_round.state:
        raise RoundError(
            "FP-413",
            f"{place}: trained from state {receipt.state_in[:16]}, "
            f"round {open_round.round} starts from {open_round.state[:16]}",
        )
    update_bytes = int(receipt.update.rpartition("-")[2])
    if update_bytes > plan.most_update_bytes:
        raise RoundError("FP-419", f"{place}: an update of {update_bytes} bytes, at most {plan.most_update_bytes} fit")
    start, count = receipt.slots
    if start != seat.start or not 1 <= count <= seat.quota:
        raise RoundError("FP-413", f"{place}: slots {start}+{count}, its seat is {seat.start}+{seat.quota}")
    if receipt.tokens != count * plan.tokens_per_slot:
        raise RoundError(
            "FP-413", f"{place}: claims {receipt.tokens} tokens for {count} slots of {plan.tokens_per_slot}"
        )
    if excluded:
        raise RoundError("FP-415", f"{place}: excluded from this run after {Roll.STRIKES} refused updates")
