"""A leader of a run with overlap: whom it gives which seat, whom it expects, and how it learns how quick they are.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.entries import Slots
from peer.rounds import messages as rounds
from peer.rounds.plan import Plan
from tests.peer.rounds_kit import PLAN, S0, S1, S2, TOKENS, A, B, Bench, C, applies

OVERLAP = replace(PLAN, overlap=True, rounds=9)


def test_the_leader_gives_those_who_stay_the_seats_that_they_expect() -> None:
    bench = Bench(OVERLAP)
    bench.beat(A, B)
    bench.beat(C)
    bench.settle(S1, A, B)
    roster = bench.log.open.roster if bench.log.open is not None else ()
    assert {seat.account: seat.start for seat in roster} == {A: 8, B: 12, C: 16}
    bench.tell(rounds.Left(account=A, reason="gone"))
    bench.beat(B, C, state=S1)
    bench.settle(S2, B, C)
    roster = bench.log.open.roster if bench.log.open is not None else ()
    assert {seat.account: seat.start for seat in roster} == {B: 24, C: 28}


@pytest.mark.parametrize("overlap", [True, False])
def test_a_member_that_still_works_ahead_is_two_states_behind_and_expected(overlap: bool) -> None:
    bench = Bench(replace(OVERLAP, overlap=overlap))
    bench.beat(A, B)
    for state in (S1, S2):
        bench.settle(state, A, B)
        bench.beat(A, B, state=state)
    bench.beat(C, state=S0)
    assert (C in bench.machine.roll.ready(bench.machine._states())) == overlap


def deliver(bench: Bench, account: str, took_s: float) -> None:
    """Its whole quota, sound."""
    opened = bench.log.open
    assert opened is not None
    seat = opened.seat(account)
    assert seat is not None
    whole = replace(bench.open_receipt(account), slots=Slots(seat.start, seat.quota), tokens=seat.quota * TOKENS)
    bench.tell(
        rounds.Delivered(receipt=whole, took_s=took_s),
        rounds.Checked(account=account, update=whole.update, refusal=None),
    )


def quotas(*told: tuple[float, float], plan: Plan) -> list[int]:
    """Of A and B in the round after these, in each of which both delivered 10 s after its opening."""
    bench = Bench(plan)
    bench.beat(A, B)
    for number, (a, b) in enumerate(told, 1):
        bench.stay(10.0 * number, A, B, state=(S0, S1, S2)[number - 1])
        deliver(bench, A, a), deliver(bench, B, b)
        bench.tell(rounds.Applied(round=number, state=(S0, S1, S2)[number]))
    assert bench.log.open is not None
    return [seat.quota for seat in bench.log.open.roster]


def test_quotas_follow_how_long_the_training_took_and_not_how_long_a_member_waited() -> None:
    plan = replace(OVERLAP, quota=80, batch_size=4, time_budget_s=60.0)
    assert quotas((4.0, 8.0), plan=plan) == [80, 40]
    assert quotas((4.0, 8.0), plan=replace(plan, overlap=False)) == [80, 80]


def test_who_does_not_say_how_long_it_took_is_taken_for_what_it_was() -> None:
    plan = replace(OVERLAP, quota=80, batch_size=4, time_budget_s=60.0)
    assert quotas((4.0, 8.0), (4.0, 0.0), plan=plan) == [80, 40]


def test_nobody_is_believed_to_be_many_times_quicker_than_before() -> None:
    plan = replace(OVERLAP, quota=80, batch_size=4, time_budget_s=60.0)
    assert quotas((8.0, 8.0), (8.0, 1e-6), plan=plan)[0] >= 80 / 2**0.5 - 4


def test_who_is_late_though_it_need_not_wait_for_the_state_gets_a_smaller_quota() -> None:
    plan = replace(OVERLAP, quota=80, batch_size=4, time_budget_s=60.0)
    bench = Bench(plan)
    bench.beat(A, B)
    bench.beat(C)
    for number, accounts in enumerate([(A, B), (A, B, C), (A, B)], 1):
        for account in accounts:
            deliver(bench, account, 8.0)
        if number == 3:
            assert applies(bench.stay(60.0, A, B, C, state=S1)) == [(A, B)]
        bench.tell(rounds.Applied(round=number, state=(S1, S2, S0)[number - 1]))
    assert bench.log.open is not None
    assert [seat.quota for seat in bench.log.open.roster] == [80, 80, 12], "of 40; it had the whole 12 s, and no excuse"
