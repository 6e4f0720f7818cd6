"""The leader of a run with stages: other leaders, members that lie, newcomers, and a run that is cancelled.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.entries import Close
from peer.errors import RoundError
from peer.rounds.messages import Cancel, Checked, Evaluated
from peer.stages.course import MOST_TOLD, Step
from peer.stages.lead import Phase
from peer.stages.messages import Assign, Attempt, Cut, Halt, Status
from tests.peer.stages_bench import ALL, NORM, Bench
from tests.peer.stages_kit import D1, D2, GB, L1, M1, M2, OPEN, PLAN, S0, S1, receipt


def test_another_leader_goes_on_with_the_receipts_that_were_told_to_count() -> None:
    bench = Bench(OPEN).driven().wrote(*ALL)
    cut = bench.orders[M1]
    assert isinstance(cut, Cut)
    other = Bench(OPEN, name="another/1")
    other.say(D1, 5.0)
    other.say(M1, 5.0, frozen=cut.attempt, cut=cut.receipts, norm=NORM)
    assert other.step is Step.APPLYING
    assert other.checks == list(cut.receipts)
    order = other.orders[D1]
    assert isinstance(order, Cut)
    assert order.receipts == cut.receipts
    assert order.attempt > cut.attempt
    other.all_say(5.0).applied(*ALL, now=6.0)
    assert other.settled().state == S1


def test_if_an_update_of_that_cut_is_not_to_be_had_the_round_is_reconciled_anew() -> None:
    bench = Bench(OPEN).driven().wrote(*ALL)
    cut = bench.orders[M1]
    assert isinstance(cut, Cut)
    other = Bench(OPEN, name="another/1").all_say(5.0)
    other.say(M1, 5.0, frozen=cut.attempt, cut=cut.receipts)
    missing = cut.receipts[0]
    other.tell(Checked(account=missing.account, update=missing.update, refusal=("FP-417", "nobody has it")), 6.0)
    assert other.step is Step.RECONCILING
    assert isinstance(other.orders[D1], Halt)


def test_another_leader_reconciles_anew_what_was_only_frozen() -> None:
    bench = Bench(OPEN, name="another/1").all_say(1.0)
    bench.say(M1, 1.5, frozen=Attempt(7, "leader/1"))
    assert bench.step is Step.RECONCILING
    assert bench.attempt(D1) == Attempt(8, "another/1")


def test_whoever_goes_on_to_know_of_other_attempts_is_left_out() -> None:
    bench = Bench(OPEN).all_say(1.0)
    for number in range(MOST_TOLD + 1):
        bench.say(M1, 1.5, frozen=Attempt(1000 * (number + 1), "nobody"))
    assert bench.attempt(D1).number == 1000 * MOST_TOLD + 1
    bench.say(M1, 1.6, frozen=Attempt(10**9, "nobody"))
    assert bench.attempt(D1).number == 1000 * MOST_TOLD + 1


def test_statuses_that_come_late_or_twice_change_nothing() -> None:
    bench = Bench(OPEN).all_say(1.0)
    old = bench.standing[D1]
    bench.say(D1, finished=True)
    assert bench.leader.receive(replace(old, finished=False), 1.5) == []
    assert bench.leader.receive(bench.standing[D1], 1.5) == []
    bench.say(D2, finished=True)
    assert bench.step is Step.RECONCILING


@pytest.mark.parametrize(
    ("account", "changes", "code"),
    [
        (M1, {"stage": 3}, "FP-454"),
        (M1, {"microbatch_s": float("nan")}, "FP-454"),
        (M1, {"microbatch_s": -1.0}, "FP-454"),
        (M1, {"lacking": "fff"}, "FP-450"),
        (M1, {"norm": "7ff0000000000000"}, "FP-454"),
        (M1, {"norm": "bff0000000000000"}, "FP-454"),
        (M1, {"norm": "NOT HEX"}, "FP-454"),
        (M1, {"applied": "a state"}, "FP-454"),
        (M1, {"table": ((0, (M1, L1)),)}, "FP-454"),
        (D1, {"table": ((4, (M1, L1)),)}, "FP-454"),
        (D1, {"table": ((0, (L1, M1)),)}, "FP-454"),
        (D1, {"table": ((0, (M1,)),)}, "FP-454"),
        (D1, {"table": ((1, (M1, L1)), (0, (M1, L1)))}, "FP-454"),
        (M1, {"receipt": receipt(M2, [0])}, "FP-454"),
        (D1, {"receipt": receipt(D1, [5])}, "FP-413"),
        (M1, {"receipt": replace(receipt(M1, [0]), run="77" * 32)}, "FP-410"),
        (M1, {"receipt": replace(receipt(M1, [0]), state_in=S1)}, "FP-413"),
        (M1, {"receipt": replace(receipt(M1, [0]), tokens=7)}, "FP-413"),
        (M1, {"receipt": replace(receipt(M1, [0]), stage=2)}, "FP-413"),
        (M1, {"receipt": replace(receipt(M1, [0]), slots=(0, 4))}, "FP-413"),
        (M1, {"cut": (replace(receipt(M1, [0]), round=2),)}, "FP-413"),
    ],
    ids=str,
)
def test_what_no_honest_member_says_is_refused_and_changes_nothing(
    account: str, changes: dict[str, object], code: str
) -> None:
    bench = Bench(OPEN).all_say(1.0)
    shown = bench.leader.deadline, bench.leader.roll.since(account, S0)
    with pytest.raises(RoundError, match=code):
        bench.say(account, 2.0, **changes)
    assert (bench.leader.deadline, bench.leader.roll.since(account, S0)) == shown
    assert bench.step is Step.DRIVING


def test_an_unsound_update_leaves_its_maker_out_and_is_replayed_elsewhere() -> None:
    bench = Bench(OPEN).driven()
    given = receipt(M1, [0, 4])
    bench.say(M1, 3.0, frozen=bench.attempt(M1), receipt=given)
    bench.tell(Checked(account=M1, update=given.update, refusal=("FP-131", "not finite")), 3.0)
    halt = bench.orders[D1]
    assert isinstance(halt, Halt)
    assert halt.gaps == ((1, 0),)
    assert bench.reports[-1].event == "refused"


def test_a_cancelled_run_settles_what_was_driven_and_is_closed() -> None:
    bench = Bench(OPEN).all_say(1.0)
    bench.tell(Cancel(reason="cancelled"), 1.5)
    bench.halted(D1, D2).wrote(*ALL).applied(*ALL)
    assert isinstance(bench.logged[-1], Close)
    assert len(bench.settled().receipts) == 6


def test_a_newcomer_is_assigned_a_stage_and_one_that_fits_nowhere_is_told_why() -> None:
    bench = Bench(OPEN).all_say(1.0)
    new, tiny = "aa" * 32, "bb" * 32
    bench.tell(Status(account=new, life=1, seq=1, memory_bytes=8 * GB), 1.0)
    assert isinstance(bench.orders[new], Assign)
    bench.tell(Status(account=tiny, life=1, seq=1, memory_bytes=GB), 1.0)
    assert tiny not in bench.orders
    assert bench.reports[-1].fields["reason"] == "gives 1.0 GB, the smallest stage needs 2.0 GB"


def test_the_last_state_is_evaluated_before_the_run_is_closed() -> None:
    plan = replace(PLAN, plan=replace(PLAN.plan, rounds=1, evaluate_every=1))
    bench = Bench(OPEN, plan=plan).driven().wrote(*ALL).applied(*ALL)
    assert (bench.leader.phase, bench.logged) == (Phase.EVALUATING, [])
    bench.tell(Evaluated(round=1, loss=2_500_000), 6.0)
    assert bench.settled().validation == (1, 2_500_000)
    assert isinstance(bench.logged[-1], Close)
