"""Money of runs with stages: what is set aside, who earns what, and that the stages earn what the whole model would."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.entries import Begin, Close, Entry, StageOpen, StageReceipt, StageSeat, StageSettle, run_id
from ledger.fold.fold import Ledger, conservation, fold
from ledger.fold.history import movements, why
from ledger.stages import bitmap, run_state

from . import world
from .stage_world import DRIVERS, ENDS, MIDDLE, RUN, fund, opened, receipt, round_of, run_log, settled, spec_of, states
from .world import ALICE, ALICE_LOG, GENESIS, blob, recv_of

ORIGIN = GENESIS.run_origin(RUN)


def folded(run: list[Entry], amount: int = 10**6, origin: str = ORIGIN) -> Ledger:
    """The ledger of this run, which must conserve credits."""
    ledger = fold({ALICE_LOG: fund(amount), origin: run}, GENESIS.terms, signatures=False)
    assert conservation(ledger)
    return ledger


def test_each_stage_earns_its_share_of_the_tokens_that_it_served():
    run = folded(run_log(1)).runs[RUN]
    assert run.paid == {  # 7.777 for each slot, and of that a share
        DRIVERS[0].public: 15, DRIVERS[1].public: 7, MIDDLE[0].public: 16, MIDDLE[1].public: 16, ENDS[0].public: 37,
    }  # fmt: skip
    assert (run.balance, run.reserved, run.rounds_settled, run.slot_cursor) == (10**6 - 91, 0, 1, 12)
    assert run.state == run_state(states(1))


def test_what_a_dead_driver_did_not_drive_is_paid_to_nobody():
    before, after = folded(run_log(1)).runs[RUN].paid, folded(run_log(2)).runs[RUN].paid
    assert sum(after.values()) - sum(before.values()) == 59  # 8 slots of 12; all together they would be 62
    assert after[DRIVERS[1].public] == before[DRIVERS[1].public]


def test_an_open_round_reserves_what_the_whole_model_would_earn():
    ledger = folded(run_log(1)[:-1])
    assert (ledger.runs[RUN].reserved, ledger.runs[RUN].balance, ledger.runs[RUN].round_open) == (93, 10**6 - 93, 1)


def test_what_drivers_would_lose_by_rounding_is_reserved_for_the_others():
    spec = spec_of(shares=[1, 999_998, 1])
    spec["price"] = 999
    run = run_id(spec)
    seats = [StageSeat(key.public, 2 * number, 2, 0) for number, key in enumerate(DRIVERS)]
    roster = (*seats, StageSeat(MIDDLE[0].public, 0, 4, 1), StageSeat(ENDS[0].public, 0, 4, 2))
    given = [
        receipt(key, 1, done, run=run, served=bitmap(done, 2))
        for key, done in ((DRIVERS[0], (0,)), (DRIVERS[1], (1,)), (MIDDLE[0], (0, 1)), (ENDS[0], (0, 1)))
    ]
    money = [world.Send(to=f"run/{run}", amount=3)]
    log: list[Entry] = [Begin(spec=spec), recv_of(ALICE_LOG, money), opened(1, roster=roster), *given]
    log.append(settled(1, (3, 4, 5, 6)))
    ledger = fold({ALICE_LOG: money, GENESIS.run_origin(run): log}, GENESIS.terms)
    assert conservation(ledger)
    assert ledger.runs[run].paid == {key.public: 0 for key in DRIVERS} | {MIDDLE[0].public: 3, ENDS[0].public: 0}
    assert ledger.runs[run].balance == 0  # 1.998 for each driver alone would have been 2 together


@pytest.mark.parametrize(
    ("amount", "voids"), [(93, [(9, "roster"), (15, "round")]), (92, [(2, "roster"), (8, "round")])]
)
def test_a_round_that_the_balance_does_not_cover_is_void_and_pays_nobody(amount, voids):
    ledger = folded(run_log(2, funding=fund(amount)), amount)
    assert [(void.index, void.rule) for void in ledger.voids][:2] == voids
    assert sum(ledger.runs[RUN].paid.values()) == (91 if amount == 93 else 0)


def test_a_reservation_never_settled_is_burned_by_the_next_open_or_the_close():
    log = run_log(1)[:5]
    roster = tuple(seat._replace(slot_start=seat.slot_start + 12) for seat in opened(1).roster)
    assert folded([*log, opened(1, roster=roster)]).burned == 93
    ledger = folded([*log, opened(1, roster=roster), Close(state=run_state(states(0)), reason="")])
    assert (ledger.burned, ledger.claimable) == (186, {ALICE.public: {ORIGIN: 10**6 - 186}})


def test_an_invalid_settle_ends_the_log_and_pays_nobody():
    log = run_log(1)
    ledger = folded([*log[:-1], settled(1, (3, 4, 5, 6)), *round_of(2, len(log))])
    assert (ledger.invalid[0].index, ledger.invalid[0].rule) == (8, "served")
    assert "in stage 0 and not in stage 2" in ledger.invalid[0].reason
    assert ledger.runs[RUN].paid == {}


def test_a_round_is_explained_like_any_other():
    log = run_log(1)
    found = movements({ALICE_LOG: fund(), ORIGIN: log}, GENESIS.terms)
    told = [(item.kind, item.owner, item.amount) for item in why(found, ORIGIN, len(log) - 1)]
    assert told[0] == ("earn", DRIVERS[0].public, 15)
    assert told[-1] == ("return", f"run/{RUN}", 2)
    assert len(told) == 6


@st.composite
def rounds(draw):
    """Any cut of a model, any replicas, and what each of them served of a round's microbatches."""
    stages, count, microbatch = draw(st.integers(1, 5)), draw(st.integers(1, 40)), draw(st.integers(1, 3))
    edges = draw(st.lists(st.integers(1, 10**6 - 1), min_size=stages - 1, max_size=stages - 1, unique=True))
    shares = [after - before for before, after in pairwise([0, *sorted(edges), 10**6])]
    cuts = [draw(st.lists(st.integers(1, count), max_size=4)) for _ in range(stages)]
    parts = [
        [range(before, after) for before, after in pairwise([0, *sorted(set(cut)), count]) if after > before]
        for cut in cuts
    ]
    return shares, count, microbatch, parts, draw(st.integers(0, 10**7))


@settings(max_examples=60, deadline=None)
@given(rounds())
def test_a_whole_round_earns_what_the_whole_model_would_but_for_less_than_one_micro_credit_a_receipt(made):
    shares, count, microbatch, parts, price = made
    ids, after = ([blob(f"{stage} {name}") for stage in range(len(shares))] for name in ("before", "after"))
    spec = spec_of(shares=shares, states=ids, microbatch=microbatch)
    spec["blobs"], spec["price"] = {**spec["blobs"], "state": run_state(ids)}, price
    run, slots, roster, receipts = run_id(spec), count * microbatch, [], []
    for stage, replicas in enumerate(parts):
        for number, done in enumerate(replicas):
            account = f"{stage:032x}{number:032x}"
            own = (done.start * microbatch, len(done) * microbatch) if stage == 0 else (0, slots)
            roster.append(StageSeat(account, *own, stage))
            receipts.append(
                StageReceipt(
                    network=GENESIS.id, run=run, round=1, account=account, stage=stage, state_in=run_state(ids),
                    update=blob(0), slots=(0, len(done) * microbatch), served=bitmap(done, count),
                    tokens=len(done) * microbatch * 1000, loss=0, leaves="00" * 32, signature="00" * 64,
                )  # type: ignore[arg-type]
            )  # fmt: skip
    whole = slots * 1000 * price // 10**6
    money = [world.Send(to=f"run/{run}", amount=whole + 1)]
    settle = StageSettle(
        round=1, receipts=tuple(range(3, 3 + len(receipts))), states=tuple(after), state=run_state(after)
    )
    opened = StageOpen(round=1, state=run_state(ids), roster=tuple(roster))
    log: list[Entry] = [Begin(spec=spec), recv_of(ALICE_LOG, money), opened, *receipts, settle]
    ledger = fold({ALICE_LOG: money, GENESIS.run_origin(run): log}, GENESIS.terms, signatures=False)
    assert conservation(ledger)
    assert (ledger.invalid, ledger.voids) == ((), ())
    paid = sum(ledger.runs[run].paid.values())
    assert whole - len(receipts) < paid <= whole
    assert ledger.runs[run].balance == whole + 1 - paid
