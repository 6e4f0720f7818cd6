"""Which statuses cannot be what an honest member says of the open round, and why.

Pure: raises `RoundError` naming account and rule; changes nothing.
"""

from __future__ import annotations

import math
import re
import struct

from ledger.entries import StageReceipt
from peer.errors import RoundError
from peer.rounds.log import OpenRound, Seat
from peer.stages.manifest import Manifest
from peer.stages.messages import Status
from peer.stages.plan import StagePlan
from peer.stages.slots import first_slot, numbers, size_of

UNFIT = "FP-454"
BLOB = re.compile(r"[0-9a-f]{64}-(0|[1-9][0-9]{0,15})")


def check_status(status: Status, *, plan: StagePlan, open_round: OpenRound | None) -> None:
    """Check what a member says of the open round (its identity and signatures are checked where it arrives).

    Raises:
        RoundError: FP-410, FP-412, FP-413, FP-419 as in other runs, FP-450 a bitmap, FP-454 anything else.
    """
    place = f"status of {status.account[:16]}"
    if not -1 <= status.stage < plan.stages:
        raise RoundError(UNFIT, f"{place}: stage {status.stage}, the run has {plan.stages}")
    if not 0 <= status.microbatch_s < math.inf:
        raise RoundError(UNFIT, f"{place}: a microbatch in {status.microbatch_s} s")
    if open_round is None or status.round != open_round.round:
        return
    seat = open_round.seat(status.account)
    if seat is None:
        raise RoundError("FP-412", f"{place}: not on the roster of round {open_round.round}")
    if status.lacking:
        Manifest.read(status.lacking, size_of(open_round, plan.microbatch))
    if status.norm:
        check_norm(status.norm, place)
    if status.applied and BLOB.fullmatch(status.applied) is None:
        raise RoundError(UNFIT, f"{place}: state {status.applied[:80]!r}, wanted a blob id")
    _check_table(status, seat, open_round, plan, place)
    for receipt in (*([status.receipt] if status.receipt is not None else []), *status.cut):
        check_receipt(receipt, plan=plan, open_round=open_round)
    if status.receipt is not None and status.receipt.account != status.account:
        raise RoundError(UNFIT, f"{place}: with a receipt of {status.receipt.account[:16]}")


def check_receipt(receipt: StageReceipt, *, plan: StagePlan, open_round: OpenRound) -> None:
    """Check a receipt against the open round (its signature is checked where it arrives).

    Raises:
        RoundError: as `check_status`.
    """
    place, shared = f"receipt of {receipt.account[:16]}", plan.plan
    if receipt.network != shared.network or receipt.run != shared.run:
        raise RoundError("FP-410", f"{place}: for run {receipt.run[:16]}, wanted {shared.run[:16]}")
    if receipt.round != open_round.round or receipt.state_in != open_round.state:
        raise RoundError(
            "FP-413",
            f"{place}: for round {receipt.round} from {receipt.state_in[:16]}, "
            f"open is round {open_round.round} from {open_round.state[:16]}",
        )
    seat = open_round.seat(receipt.account)
    if seat is None:
        raise RoundError("FP-412", f"{place}: not on the roster of round {open_round.round}")
    if receipt.stage != seat.stage:
        raise RoundError("FP-413", f"{place}: for stage {receipt.stage}, its seat is of stage {seat.stage}")
    served = Manifest.read(receipt.served, size_of(open_round, plan.microbatch))
    if seat.stage == 0 and any(microbatch not in numbers(seat, open_round, plan.microbatch) for microbatch in served):
        raise RoundError("FP-413", f"{place}: serves microbatches of other drivers' slots")
    slots = (first_slot(open_round), len(served) * plan.microbatch)
    if tuple(receipt.slots) != slots:
        raise RoundError("FP-413", f"{place}: slots {receipt.slots.start}+{receipt.slots.count}, served {slots}")
    if receipt.tokens != slots[1] * shared.tokens_per_slot:
        raise RoundError("FP-413", f"{place}: claims {receipt.tokens} tokens for {slots[1]} slots")
    if (size := int(receipt.update.rpartition("-")[2])) > shared.most_update_bytes:
        raise RoundError("FP-419", f"{place}: an update of {size} bytes, at most {shared.most_update_bytes} fit")


def fits(receipt: StageReceipt, *, plan: StagePlan, open_round: OpenRound) -> bool:
    """Whether our own receipt is for the open round, and not for another one of this number that gave way to it."""
    try:
        check_receipt(receipt, plan=plan, open_round=open_round)
    except RoundError:
        return False
    return True


def check_norm(norm: str, place: str) -> None:
    """Check that it is a double, not negative and finite, as 16 hex digits of its big-endian bytes.

    Raises:
        RoundError: FP-454.
    """
    if re.fullmatch(r"[0-9a-f]{16}", norm) is None:
        raise RoundError(UNFIT, f"{place}: norm {norm[:40]!r}, wanted 16 hex digits")
    (value,) = struct.unpack(">d", bytes.fromhex(norm))
    if not math.isfinite(value) or value < 0:
        raise RoundError(UNFIT, f"{place}: norm {value}, wanted finite and not negative")


def _check_table(status: Status, seat: Seat, open_round: OpenRound, plan: StagePlan, place: str) -> None:
    if not status.table:
        return
    if seat.stage:
        raise RoundError(UNFIT, f"{place}: a table, but it serves stage {seat.stage}")
    own = numbers(seat, open_round, plan.microbatch)
    stages = {each.account: each.stage for each in open_round.roster}
    wanted = list(range(1, plan.stages))
    before = -1
    for microbatch, replicas in status.table:
        if microbatch not in own or microbatch <= before:
            raise RoundError(UNFIT, f"{place}: microbatch {microbatch} in its table, its own are {own}")
        if any(
            stages.get(account) != stage if account else stage < plan.needed
            for stage, account in zip(wanted, replicas, strict=False)
        ) or len(replicas) != len(wanted):
            raise RoundError(UNFIT, f"{place}: microbatch {microbatch} went to others than one of every stage")
        before = microbatch
