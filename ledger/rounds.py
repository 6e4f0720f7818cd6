"""What the entries of a round may say: who may have which slots, and in a run with stages what was served of them.

A round with stages may only be settled so that every stage served the same microbatches, each of them once: then
nothing is lost and nothing counts twice.

Pure: no IO; what is checked is not changed.
"""

from collections.abc import Sequence

from .codec import MAX_INT
from .entries import Open, StageOpen, StageReceipt, Stages, StageSettle
from .errors import EntryInvalid
from .stages import digits, lowest
from .values import StageSeat, same


def check_slots(entry: Open, cursor: int) -> int:
    """Check the seats of a round; all slots below `cursor` were given out. Returns where the round's slots end.

    Raises:
        EntryInvalid: slots that were given out, or to two.
    """
    end = cursor
    for seat in sorted(entry.roster, key=lambda seat: seat.slot_start):
        if seat.slot_start < end:
            got = f"slots from {seat.slot_start} for {seat.account}"
            raise EntryInvalid(rule="roster", got=got, wanted=f"slots from {end} on: those below were given out")
        end = seat.slot_start + seat.quota
    _check_end(end)
    return end


def _check_end(end: int) -> None:
    if end > MAX_INT:
        raise EntryInvalid(rule="roster", got=f"slots up to {end}", wanted="up to 2^53-1")


def check_stages(entry: StageOpen, stages: Stages, cursor: int) -> int:
    """The same of a round with stages.

    Raises:
        EntryInvalid: a seat is not what it must be, or a stage has none.
    """
    end = entry.drivers[0].slot_start
    if end < cursor:
        raise EntryInvalid(
            rule="roster", got=f"slots from {end}", wanted=f"from {cursor} on: those below were given out"
        )
    for seat in entry.drivers:
        if seat.slot_start != end:
            got = f"slots from {seat.slot_start} for {seat.account}"
            raise EntryInvalid(rule="roster", got=got, wanted=f"slots from {end}: those of drivers have no gap")
        if seat.quota % stages.microbatch:
            got = f"{seat.quota} slots for {seat.account}"
            raise EntryInvalid(rule="roster", got=got, wanted=f"whole microbatches of {stages.microbatch} slots")
        end += seat.quota
    _check_end(end)
    start, count = entry.slots
    for seat in entry.roster:
        if seat.stage >= len(stages.shares):
            got = f"stage {seat.stage} for {seat.account}"
            raise EntryInvalid(rule="roster", got=got, wanted=f"one of {len(stages.shares)} stages, from 0 on")
        if seat.stage and (seat.slot_start, seat.quota) != (start, count):
            got = f"{seat.quota} slots from {seat.slot_start} for {seat.account} in stage {seat.stage}"
            raise EntryInvalid(rule="roster", got=got, wanted=f"all {count} from {start}")
    lacking = sorted(set(range(stages.last + 1)) - {seat.stage for seat in entry.roster})
    if lacking:
        raise EntryInvalid(rule="roster", got=f"nobody in stage {lacking[0]}", wanted="a member in every stage")
    return end


def check_served(receipt: StageReceipt, opened: StageOpen, stages: Stages) -> None:
    """Check what a receipt of a member on the open round's roster says that it served.

    Raises:
        EntryInvalid: `rule` names what is wrong.
    """
    [seat] = [seat for seat in opened.roster if seat.account == receipt.account]
    same("stage", receipt.stage, seat.stage)
    start, slots = opened.slots
    bits, count = receipt.bits, slots // stages.microbatch
    if len(receipt.served) != digits(count) or bits >> count:
        got = f"{len(receipt.served)} hex digits up to microbatch {bits.bit_length() - 1}"
        raise EntryInvalid(rule="served", got=got, wanted=f"{digits(count)} for {count} microbatches, from 0 on")
    strange = bits & ~_own(seat, start, stages) if seat.stage == 0 else 0
    if strange:
        got = f"microbatch {lowest(strange)}"
        wanted = f"those of its own seat: a driver's {seat.quota} slots from {seat.slot_start}"
        raise EntryInvalid(rule="served", got=got, wanted=wanted)
    served = bits.bit_count() * stages.microbatch
    same("slots", f"{receipt.slots.count} from {receipt.slots.start}", f"{served} from {start}")
    if seat.stage != stages.last:
        same("loss", receipt.loss, 0)


def _own(seat: StageSeat, start: int, stages: Stages) -> int:
    """The microbatches of a driver's own slots; `start` is the round's first."""
    return ((1 << seat.quota // stages.microbatch) - 1) << (seat.slot_start - start) // stages.microbatch


def check_cover(entry: StageSettle, receipts: Sequence[StageReceipt], stages: Stages) -> None:
    """Check that every stage served the same microbatches, each once; of experts, none that the stages did not.

    Raises:
        EntryInvalid: a microbatch is lost or counts twice, or a stage has no state.
    """
    covers = [0] * len(stages.shares)
    for index, receipt in zip(entry.receipts, receipts, strict=True):
        stage, bits = receipt.stage, receipt.bits
        if twice := covers[stage] & bits:
            got = f"microbatch {lowest(twice)} of stage {stage} again in entry {index}"
            raise EntryInvalid(rule="served", got=got, wanted="each microbatch once in each stage")
        covers[stage] |= bits
    for stage, cover in enumerate(covers):
        lost = covers[0] & ~cover if stage <= stages.last else 0
        if strange := lost or cover & ~covers[0]:
            one, other = (0, stage) if lost else (stage, 0)
            got = f"microbatch {lowest(strange)} in stage {one} and not in stage {other}"
            raise EntryInvalid(rule="served", got=got, wanted="the same microbatches in every stage")
    same("states", f"{len(entry.states)} states", f"{len(stages.shares)} states")
