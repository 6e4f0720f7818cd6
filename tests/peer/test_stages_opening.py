"""The opening of a round with stages: seats, slots, and what the balance pays.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace

from peer.rounds.speed import Speeds
from peer.stages.manifest import MOST_MICROBATCHES
from peer.stages.opening import opening, quotas_of, standing_after
from tests.peer.stages_kit import D1, D2, L1, M1, M2, OPEN, PLAN, S0, SHARES, log_of, receipt

READY = {0: [D1, D2], 1: [M1, M2], 2: [L1]}
QUOTAS = {D1: 8, D2: 4}
LIMITS = replace(PLAN.plan, quota=80)
ROOMY = replace(PLAN, plan=LIMITS)
DEAR = replace(PLAN, plan=replace(PLAN.plan, price=1_000_000))


def test_drivers_share_the_slots_and_the_others_have_them_all() -> None:
    entry = opening(PLAN, log_of(), round=1, state=S0, ready=READY, quotas=QUOTAS, balance=10**9)
    assert entry is not None
    assert [tuple(seat) for seat in entry.roster] == [
        (D1, 0, 8, 0), (D2, 8, 4, 0), (M1, 0, 12, 1), (M2, 0, 12, 1), (L1, 0, 12, 2),
    ]  # fmt: skip


def test_a_round_is_opened_only_with_enough_replicas_of_every_stage() -> None:
    for stage in READY:
        ready = {**READY, stage: []}
        assert opening(PLAN, log_of(), round=1, state=S0, ready=ready, quotas=QUOTAS, balance=10**9) is None
    two = replace(PLAN, replicas=2)
    assert opening(two, log_of(), round=1, state=S0, ready=READY, quotas=QUOTAS, balance=10**9) is None


def test_as_many_drivers_have_a_seat_as_the_balance_pays() -> None:
    worth = DEAR.plan.worth(8)
    entry = opening(DEAR, log_of(), round=1, state=S0, ready=READY, quotas=QUOTAS, balance=worth)
    assert entry is not None
    assert [seat.account for seat in entry.drivers] == [D1]
    assert opening(DEAR, log_of(), round=1, state=S0, ready=READY, quotas=QUOTAS, balance=0) is None


def test_a_round_has_no_more_microbatches_than_a_bitmap_holds() -> None:
    many = {D1: 2 * MOST_MICROBATCHES - 4, D2: 100}
    entry = opening(PLAN, log_of(), round=1, state=S0, ready=READY, quotas=many, balance=10**15)
    assert entry is not None
    assert [seat.quota for seat in entry.drivers] == [2 * MOST_MICROBATCHES - 4, 4]


def test_quotas_follow_the_speeds_and_leave_room_where_the_time_budget_ends_the_round() -> None:
    quick, slow = Speeds(LIMITS, ()), Speeds(LIMITS, ())
    for speeds, needed_s in ((quick, 4.0), (slow, 40.0)):
        for account in (D1, D2):
            speeds.delivered(account, 80 if account == D1 else 40, needed_s)
    assert quotas_of(quick, [D1, D2], ROOMY) == {D1: 80, D2: 40}
    tight = dict(zip((D1, D2), slow.quotas([D1, D2]), strict=True))
    assert quotas_of(slow, [D1, D2], ROOMY) == {account: min(2 * quota, 80) for account, quota in tight.items()}
    found = quotas_of(slow, [D1, D2, M1], ROOMY)
    assert found[M1] == max(found[D1], found[D2]) == 48, "a newcomer gets what the quickest does"
    assert quotas_of(Speeds(LIMITS, ()), [D1, D2], ROOMY) == {D1: 80, D2: 80}
    assert quotas_of(quick, [], ROOMY) == {}


def test_what_was_not_served_of_the_quotas_comes_back() -> None:
    log = log_of(OPEN)
    served = [receipt(account, [0, 1]) for account in (D1, M1, L1)]
    before = standing_after(log, DEAR, round=1, balance=100, counted=[], figure=())
    after = standing_after(log, DEAR, round=1, balance=100, counted=served, figure=())
    assert before.balance == 100 + DEAR.plan.worth(16)
    assert sum(SHARES) == 10**6
    assert before.balance - after.balance == 63, "64 for the whole model, rounded down stage by stage"
    assert after.tokens == 2 * 2 * 16
