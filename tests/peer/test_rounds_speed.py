"""Quotas by measured speed, and who comes in every round.

IO: none.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from peer.rounds.log import Seat
from peer.rounds.speed import EVEN, HEADROOM, LEAST_S, LOSS, SURE, Speeds
from tests.peer.rounds_kit import PLAN, S0, S1, A, B, C, D, begun, settled_round

WIDE = replace(PLAN, quota=80, batch_size=4, time_budget_s=60.0, rounds=1000)
ALL = [A, B, C, D]


def seen(**speeds: float) -> Speeds:
    """What is known after each of these delivered so many slots a second."""
    known, names = Speeds(WIDE, []), dict(zip("abcd", ALL, strict=True))
    for name, speed in speeds.items():
        for _ in range(SURE):
            known.delivered(names[name], 100, 100 / speed)
    return known


def seat(account: str, quota: int) -> Seat:
    """A seat with so many slots."""
    return Seat(account=account, start=0, quota=quota)


# ---------------------------------------------------------------- quotas


def test_all_of_a_roster_finish_together_and_the_fastest_gets_the_whole_quota() -> None:
    assert seen(a=1, b=1, c=2, d=4).quotas(ALL) == [20, 20, 40, 80]


def test_whoever_is_nearly_as_fast_as_the_fastest_gets_the_whole_quota_as_well() -> None:
    assert seen(a=4, b=4 * EVEN, c=4 * EVEN - 0.1).quotas([A, B, C]) == [80, 80, 72]


def test_the_slowest_gets_one_batch_and_not_a_ban() -> None:
    assert seen(a=4, b=0.001).quotas([A, B]) == [80, 4]


def test_quotas_are_rounded_to_whole_batches_but_hardly_up() -> None:
    quotas = [seen(a=4, b=batches / 5).quotas([A, B])[1] // 4 for batches in (1.4, 1.6, 1.9, 2.6, 2.8, 9.4, 9.6)]
    assert quotas == [1, 1, 2, 2, 3, 9, 10]


def test_while_nobody_was_seen_everybody_gets_the_whole_quota() -> None:
    assert Speeds(WIDE, []).quotas([A, B]) == [80, 80]
    assert Speeds(WIDE, []).round_s([seat(A, 80)]) is None
    assert Speeds(WIDE, []).quotas([]) == []


def test_a_newcomer_starts_with_half_of_what_the_others_get() -> None:
    assert seen(a=1, b=2, c=4).quotas(ALL) == [20, 40, 80, 20]
    assert seen(a=4).quotas([A, B]) == [80, 40]
    one_batch = Speeds(replace(WIDE, quota=4), [])
    one_batch.delivered(A, 4, 1.0)
    assert one_batch.quotas([A, B]) == [4, 4]


def test_where_even_the_fastest_uses_up_the_time_budget_quotas_leave_some_room_beyond_it() -> None:
    tenth = 80 / WIDE.time_budget_s / 10
    assert seen(a=tenth, b=tenth / 2).quotas([A, B]) == [8, 4]
    assert round(HEADROOM * tenth * WIDE.time_budget_s / 4) * 4 == 8


def test_no_round_is_planned_so_short_that_latency_would_decide() -> None:
    assert seen(a=1e6, b=80 / LEAST_S, c=40 / LEAST_S).quotas([A, B, C]) == [80, 80, 40]


def test_a_new_leader_gives_what_was_delivered_last_until_it_has_seen_for_itself() -> None:
    log = begun()
    log.extend(settled_round(1, S0, S1, log.size))
    known = Speeds(WIDE, log.settled)
    assert known.quotas([A, B]) == [4, 80]
    known.delivered(B, 80, 10.0)
    assert known.quotas([A, B, C]) == [4, 80, 40]
    known.delivered(A, 4, 1.0)
    assert known.quotas([A, B]) == [40, 80]


@given(
    st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=4), st.integers(0, 4), st.integers(1, 8), st.integers(1, 50),
    st.floats(0.01, 1e4),
)  # fmt: skip
def test_quotas_are_whole_batches_within_bounds_and_the_faster_never_gets_less(
    speeds: list[float], newcomers: int, batch: int, steps: int, budget_s: float
) -> None:
    plan = replace(PLAN, quota=batch * steps, batch_size=batch, time_budget_s=budget_s)
    known = Speeds(plan, [])
    names = [f"{number:064x}" for number in range(len(speeds) + newcomers)]
    for name, speed in zip(names, sorted(speeds), strict=False):
        known.delivered(name, 1, 1 / speed)
    quotas = known.quotas(names)
    assert all(batch <= quota <= plan.quota and quota % batch == 0 for quota in quotas)
    assert quotas[: len(speeds)] == sorted(quotas[: len(speeds)])


# ---------------------------------------------------------------- learning


@given(st.floats(0.05, 50.0), st.floats(0.0, 10.0), st.integers(0, 3))
def test_a_quota_settles_where_the_member_needs_as_long_as_the_fastest_and_stays_there(
    speed: float, latency_s: float, missed: int
) -> None:
    """A member that needs a fixed time besides its training: network, replay, upload."""
    known, quotas = seen(a=4), []
    for number in range(60):
        (_, quota) = known.quotas([A, B])
        if number < missed:
            known.late(seat(B, quota), 40.0)
        else:
            known.delivered(B, quota, latency_s + quota / speed)
            quotas.append(quota)
    assert all(one <= other for one, other in pairwise(quotas)) or all(one >= other for one, other in pairwise(quotas))
    assert quotas[-1] == quotas[-2]
    if 4 < quotas[-1] < EVEN * 80:
        assert 14.5 <= latency_s + quotas[-1] / speed <= 22.1  # the round takes 20 s, a quota is whole batches


def test_a_missed_cut_halves_the_quota_and_delivering_in_time_brings_it_back() -> None:
    known = seen(a=4, b=4)
    for _ in range(2):
        known.late(seat(B, known.quotas([A, B])[1]), 20.0)
    assert known.quotas([A, B]) == [80, 20]
    grown = []
    for _ in range(6):
        grown.append(known.quotas([A, B])[1])
        known.delivered(B, grown[-1], grown[-1] / 4)
    assert grown == [20, 40, 56, 68, 80, 80]


def test_who_is_always_late_still_gets_a_batch_and_is_not_forgotten_for_ever() -> None:
    known = seen(a=4, b=4)
    for _ in range(5000):
        known.late(seat(B, 4), 40.0)
    assert known.quotas([A, B]) == [80, 4]
    known.delivered(B, 4, 1.0)
    assert known.quotas([A, B])[1] >= 4


def test_a_member_that_was_never_seen_and_misses_its_first_cut_starts_smaller() -> None:
    known = seen(a=4)
    known.late(seat(B, 40), 20.0)
    assert known.quotas([A, B]) == [80, 20]


def test_a_round_is_expected_to_take_as_long_as_its_slowest_seat() -> None:
    known = seen(a=4, b=1, c=0.01)
    assert known.round_s([seat(A, 80), seat(B, 20)]) == 20.0
    assert known.round_s([seat(A, 80), seat(B, 24), seat(D, 80)]) == 24.0
    assert known.round_s([seat(A, 80), seat(C, 4)]) == 400.0
    assert known.round_s([seat(D, 80)]) is None


# ---------------------------------------------------------------- overhead


def away(**members: tuple[float, float]) -> Speeds:
    """What is known of members with (slots a second, overhead in seconds)."""
    known, names = Speeds(WIDE, []), dict(zip("abcd", ALL, strict=True))
    for name, (speed, overhead_s) in members.items():
        for _ in range(SURE):
            known.delivered(names[name], 40, overhead_s + 40 / speed, overhead_s)
    return known


def test_who_starts_late_gets_what_it_can_do_in_the_time_that_is_left() -> None:
    known = away(a=(4, 0), b=(4, 10), c=(2, 10))
    assert known.quotas([A, B, C]) == [80, 40, 20]
    assert [known.expected_s(seat(name, quota)) for name, quota in ((A, 80), (B, 40), (C, 20))] == [20, 20, 20]


def test_a_late_start_is_not_taken_for_slowness_when_rounds_get_longer() -> None:
    one, other = away(a=(4, 0), b=(4, 10)), seen(a=4)
    for _ in range(SURE):
        other.delivered(B, 40, 20.0)  # the same delivery, when nobody saw it start
    longer = [seat(A, 80), seat(B, 80)]
    assert [one.round_s(longer), other.round_s(longer)] == [30.0, 40.0]


def test_where_overheads_are_long_rounds_are_longer_than_the_fastest_needs() -> None:
    short, long = away(a=(8, 0.1), b=(4, 0.1), c=(4, 0.1)), away(a=(8, 12), b=(4, 12), c=(4, 12))
    assert short.quotas([A, B, C]) == [80, 40, 40]
    assert long.quotas([A, B, C]) == [80, 80, 80], "10 s of training after 12 s of waiting would be a waste"


def test_the_time_between_rounds_counts_as_well() -> None:
    known = away(a=(8, 0), b=(4, 0), c=(4, 0))
    for number in range(8):
        known.cut(40.0 * number)
        known.opened(40.0 * number + 30.0)
    known.opened(1e6)  # no round was cut before this one
    assert known.quotas([A, B, C]) == [80, 80, 80]


def test_equal_machines_with_equal_lines_stay_equal() -> None:
    assert away(a=(4, 5), b=(4, 5.5), c=(3.8, 5)).quotas([A, B, C]) == [80, 80, 80]


def test_who_says_late_that_it_starts_gets_no_more_for_it() -> None:
    """The same machine, once honest and once with 9 of 10 seconds declared as waiting."""
    honest, liar = away(a=(4, 0), b=(2, 0)), seen(a=4)
    for _ in range(8):
        quota = liar.quotas([A, B])[1]
        liar.delivered(B, quota, quota / 2, 0.9 * quota / 2)
    assert liar.quotas([A, B])[1] <= honest.quotas([A, B])[1]
    never = seen(a=4)
    never.delivered(B, 40, 20.0, 1e9)
    assert never.expected_s(seat(B, 40)) == 20.0


def test_a_missed_cut_is_no_slowness_where_the_state_came_too_late() -> None:
    known = away(a=(4, 0), b=(4, 2))
    known.late(seat(B, 72), 30.0, overhead_s=28.0)
    assert known.expected_s(seat(B, 40)) == 15.0 + 10.0
    assert known.quotas([A, B])[1] == 20
    known.late(seat(B, 20), 30.0, overhead_s=0.0)
    assert known.expected_s(seat(B, 20)) == 7.5 + 20 / (20 / 30.0 / 2), "all the time was its own, and it did not do it"


def test_who_never_holds_the_state_within_a_round_is_not_in_every_one() -> None:
    known = away(a=(4, 0), b=(4, 0), c=(4, 0), d=(4, 30))
    with_d = rounds_with_d(known, 1000)
    assert 0 < with_d <= 1000 // 5
    assert rounds_with_d(away(a=(4, 0), b=(4, 0), c=(4, 0), d=(4, 15)), 100) == 100


# ---------------------------------------------------------------- very slow members


def rounds_with_d(known: Speeds, count: int, wanted: int = 1) -> int:
    """In how many of so many rounds D is."""
    return sum(D in known.in_time(ALL, round=number, wanted=wanted) for number in range(1, count + 1))


def test_for_a_batch_that_takes_longer_than_a_round_nobody_waits_more_than_a_tenth_of_the_time() -> None:
    known = seen(a=4, b=4, c=4, d=0.08)  # 20 s a round, 50 s for a batch of D's
    with_d = rounds_with_d(known, 1500)
    assert with_d == 1500 // 15
    lost_s = with_d * (50 - 20)
    assert lost_s / (1500 * 20) <= LOSS


def test_who_manages_a_batch_in_little_more_than_a_round_is_in_every_round() -> None:
    assert rounds_with_d(seen(a=4, b=4, c=4, d=4 / 25), 100) == 100
    assert rounds_with_d(seen(a=4, b=4, c=4, d=4 / 26), 100) < 100


def test_a_newcomer_and_whoever_a_run_needs_are_in_every_round_however_slow() -> None:
    assert rounds_with_d(seen(a=4, b=4, c=4), 100) == 100
    assert rounds_with_d(seen(a=4, b=4, c=4, d=0.08), 100, wanted=4) == 100
    assert Speeds(WIDE, []).in_time(ALL, round=1, wanted=1) == ALL


def test_nobody_is_left_out_after_one_bad_round() -> None:
    known = seen(a=4, b=4, c=4)
    for number in range(1, SURE):
        known.delivered(D, 4, 1000.0)
        assert known.in_time(ALL, round=number, wanted=1) == ALL
    known.late(seat(D, 4), 1000.0)
    assert known.in_time(ALL, round=1, wanted=1) == [A, B, C]


def test_one_member_that_claims_to_be_very_fast_puts_nobody_out() -> None:
    assert seen(a=1e9, b=1, c=1, d=1).in_time(ALL, round=1, wanted=1) == ALL
