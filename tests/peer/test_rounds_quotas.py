"""The leader's round machine with unequal quotas: slots, reservation, deadline, and who was too slow.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace

from ledger.entries import Open, Slots
from peer.rounds import messages as rounds
from peer.rounds.log import Seat
from tests.peer.rounds_kit import PLAN, S1, S2, A, B, Bench, applies, reports

WIDE = replace(PLAN, quota=80, batch_size=4, time_budget_s=60.0, rounds=1000)


def deliver(bench: Bench, account: str, slots: int | None = None) -> None:
    """A receipt for so many slots of an account's seat, all if not said."""
    assert bench.log.open is not None
    own = bench.log.open.seat(account)
    assert own is not None
    count = slots or own.quota
    given = replace(
        bench.open_receipt(account), slots=Slots(own.start, count), tokens=count * bench.plan.tokens_per_slot
    )
    bench.tell(rounds.Delivered(receipt=given), rounds.Checked(account=account, update=given.update, refusal=None))


def unequal(balance: int = 10**9) -> Bench:
    """A leader after a round for which A needed 10 s and B 40 s; from now on one member is enough."""
    bench = Bench(WIDE, balance=balance)
    bench.beat(A, B)
    bench.plan = bench.machine.plan = replace(WIDE, min_members=1)
    bench.stay(10.0, A, B)
    deliver(bench, A)
    bench.stay(40.0, A, B)
    deliver(bench, B)
    bench.tell(rounds.Applied(round=1, state=S1))
    bench.beat(A, B, state=S1)
    return bench


def test_seats_of_unequal_quotas_follow_one_another_and_reserve_what_they_are_worth() -> None:
    bench = unequal()
    second = bench.logged[-1]
    assert isinstance(second, Open)
    assert second.roster == ((A, 160, 80), (B, 240, 20))
    assert bench.reserved == WIDE.worth(100)
    deliver(bench, B)
    deliver(bench, A)
    bench.tell(rounds.Applied(round=2, state=S2))
    third = bench.logged[-1]
    assert isinstance(third, Open)
    assert third.roster[0].slot_start == 260
    assert bench.balance == 10**9 - WIDE.worth(160 + 100) - bench.reserved


def test_a_balance_pays_small_seats_where_it_would_not_pay_whole_ones() -> None:
    bench = unequal(balance=WIDE.worth(160 + 100))
    second = bench.logged[-1]
    assert isinstance(second, Open)
    assert [quota for _, _, quota in second.roster] == [80, 20]
    poorer = unequal(balance=WIDE.worth(160 + 99))
    assert isinstance(poorer.logged[-1], Open)
    assert [account for account, _, _ in poorer.logged[-1].roster] == [A]


def test_the_deadline_is_that_of_the_quotas_and_not_of_the_rounds_before() -> None:
    bench = unequal()  # a round of 40 s, from which quotas for 10 s follow
    bench.stay(50.0, A, B, state=S1)
    deliver(bench, A)
    assert applies(bench.stay(54.9, A, B, state=S1)) == []
    effects = bench.stay(55.0, A, B, state=S1)
    assert applies(effects) == [(A,)]
    assert reports(effects, "late") == [{"account": B, "round": 2, "quota": 20}]


def test_who_missed_the_cut_is_rostered_again_with_a_smaller_quota() -> None:
    bench = unequal()
    bench.stay(50.0, A, B, state=S1)
    deliver(bench, A)
    bench.stay(55.0, A, B, state=S1)
    bench.tell(rounds.Applied(round=2, state=S2))
    third = bench.logged[-1]
    assert isinstance(third, Open)
    assert [(account, quota) for account, _, quota in third.roster][1][1] < 20


def test_who_died_or_was_refused_or_was_cut_by_a_cancel_was_not_slow() -> None:
    for end in ("left", "refused", "cancel"):
        bench = unequal()
        deliver(bench, A)
        if end == "left":
            effects = bench.tell(rounds.Left(account=B, reason="gone"))
        elif end == "refused":
            effects = bench.deliver(B, refusal=("FP-131", "not finite"))
        else:
            effects = bench.tell(rounds.Cancel(reason="enough"))
        assert applies(effects) == [(A,)]
        assert reports(effects, "late") == []
        assert bench.machine.speeds.expected_s(Seat(account=B, start=0, quota=20)) == 10.0


def test_part_of_a_quota_within_the_time_budget_teaches_the_speed_too() -> None:
    bench = unequal()
    bench.stay(50.0, A, B, state=S1)
    deliver(bench, A)
    deliver(bench, B, slots=5)
    bench.tell(rounds.Applied(round=2, state=S2))
    third = bench.logged[-1]
    assert isinstance(third, Open)
    assert [quota for _, _, quota in third.roster][1] < 20


def test_when_all_are_later_than_expected_nobody_is_late() -> None:
    names = [f"{number:064x}" for number in range(1, 8)]
    bench = Bench(replace(WIDE, min_members=1, max_members=7), balance=10**9)
    bench.plan = bench.machine.plan = replace(WIDE, min_members=7, max_members=7)
    bench.beat(*names)
    bench.plan = bench.machine.plan = replace(WIDE, min_members=1, max_members=7)
    bench.stay(20.0, *names)
    for name in names:
        deliver(bench, name)
    bench.tell(rounds.Applied(round=1, state=S1))
    bench.beat(*names, state=S1)
    bench.stay(52.0, *names, state=S1)  # 20 s were expected: half as long again has passed
    for name in names[:2]:
        deliver(bench, name)
    effects = bench.stay(70.0, *names, state=S1)
    assert applies(effects) == reports(effects, "late") == []
    deliver(bench, names[2])  # at 50 s of the round; now three of seven are in, and the others have until 75 s
    assert applies(bench.stay(94.9, *names, state=S1)) == []
    effects = bench.stay(95.1, *names, state=S1)
    assert applies(effects) == [tuple(names[:3])]
    assert len(reports(effects, "late")) == 4


def test_the_last_few_of_many_are_not_waited_for_however_much_members_strayed() -> None:
    names = [f"{number:064x}" for number in range(1, 21)]
    for delivering, cut_s in ((18, 30.0), (17, 65.0)):
        bench = Bench(replace(WIDE, min_members=20, max_members=20), balance=10**9)
        bench.beat(*names)
        bench.plan = bench.machine.plan = replace(WIDE, min_members=1, max_members=20)
        bench.stay(20.0, *names)
        for name in names:
            deliver(bench, name)
        for number in range(200):
            bench.machine.pace.saw((1.0, 2.0)[number % 2], expected_s=1.0)
        bench.tell(rounds.Applied(round=1, state=S1))
        bench.stay(40.0, *names, state=S1)
        for name in names[:delivering]:
            deliver(bench, name)
        assert applies(bench.stay(20.0 + cut_s - 0.1, *names, state=S1)) == []
        assert applies(bench.stay(20.0 + cut_s + 0.1, *names, state=S1)) == [tuple(names[:delivering])]
