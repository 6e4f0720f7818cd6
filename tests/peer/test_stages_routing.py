"""Which replica a driver calls: the one that should be finished first, and not whoever fails or is full.

IO: none.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from peer.stages.messages import Kind
from peer.stages.routing import LEAST_TIMEOUT_S, MOST_WAIT_S, REMEMBER_S, Router

A, B, C = "aa", "bb", "cc"
FORWARD = Kind.FORWARD


def router(**service_s: float) -> Router:
    """One that had an answer of each of these at time 0, 0.1 s away."""
    made = Router(random.Random(1))
    for account, seconds in service_s.items():
        answered(made, account, seconds)
    return made


def answered(made: Router, account: str, service_s: float, now: float = 0.0, **more: float) -> None:
    """A replica answered."""
    told = {"took_s": service_s + 0.1, "service_s": service_s, "waited_s": 0.0, "queue_s": 0.0, **more}
    made.answered(account, 1, FORWARD, now, **told)


def picks(made: Router, accounts: list[str], times: int, now: float = 1.0) -> Counter[str | None]:
    """Who is called how often, if nobody answers."""
    chosen: Counter[str | None] = Counter()
    for _ in range(times):
        account = made.pick(accounts, 1, FORWARD, now)
        chosen[account] += 1
        if account is not None:
            made.sent(account, 1, FORWARD, now)
    return chosen


def test_of_two_the_one_that_should_be_finished_first_is_called() -> None:
    assert picks(router(aa=1.0, bb=3.0), [A, B], 1) == {A: 1}
    assert picks(router(aa=1.0, bb=3.0), [A, B], 40) == {A: 30, B: 10}


def test_of_many_a_few_are_drawn_so_that_drivers_do_not_all_run_to_the_same_one() -> None:
    chosen = {Router(random.Random(seed)).pick([A, B, C], 1, FORWARD, 0.0) for seed in range(20)}
    assert chosen == {A, B, C}


def test_what_a_replica_says_to_have_before_it_counts_until_it_should_be_through() -> None:
    made = router(aa=1.0, bb=1.0)
    answered(made, A, 1.0, now=1.0, queue_s=10.0)
    assert made.finish_s(A, 1, FORWARD, 1.0) == pytest.approx(11.05)
    assert made.finish_s(A, 1, FORWARD, 9.0) == pytest.approx(3.05)
    assert made.pick([A, B], 1, FORWARD, 2.0) == B


def test_whoever_keeps_us_waiting_keeps_the_next_call_waiting_for_as_long() -> None:
    made = router(aa=1.0, bb=1.5)
    assert made.pick([A, B], 1, FORWARD, 10.0) == A
    assert made.pick([A, B], 1, FORWARD, 10.0, since={A: 2.0}) == B
    assert made.finish_s(A, 1, FORWARD, 10.0, waited_s=8.0) == pytest.approx(9.05)


def test_times_move_part_of_the_way_to_what_is_seen_and_newcomers_are_taken_to_be_like_the_others() -> None:
    made = router(aa=1.0)
    answered(made, A, 2.0)
    assert made.services() == {(1, FORWARD): 1.25}
    assert made.finish_s(B, 1, FORWARD, 5.0) == pytest.approx(made.finish_s(A, 1, FORWARD, 5.0))


def test_a_replica_not_called_yet_is_not_taken_to_be_farther_away_than_the_others() -> None:
    made = router()
    answered(made, A, 0.001, took_s=0.002)
    assert picks(made, [A, B], 10) == {A: 5, B: 5}


def test_a_replica_that_was_slow_once_gets_another_turn_when_that_is_long_ago() -> None:
    made = router(aa=1.0, bb=60.0)
    for now in (10.0, 20.0, REMEMBER_S):
        answered(made, A, 1.0, now)
    assert picks(made, [A, B], 8, REMEMBER_S) == {A: 8}
    answered(made, A, 1.0, REMEMBER_S + 10)
    assert picks(made, [A, B], 8, REMEMBER_S + 10)[B] >= 1


def test_whoever_fails_is_not_called_for_a_while_that_grows_and_an_answer_clears_it() -> None:
    made = router(aa=1.0, bb=9.0)
    for now, pause_s in ((10.0, 1.0), (20.0, 2.0), (30.0, 4.0)):
        made.failed(A, now)
        made.failed(A, now)  # of several calls under way each fails
        assert made.pick([A, B], 1, FORWARD, now + pause_s - 0.1) == B
        assert made.pick([A, B], 1, FORWARD, now + pause_s) == A
    answered(made, A, 1.0, now=40.0)
    made.failed(A, 50.0)
    assert made.free_at([A]) == 51.0


def test_whoever_is_full_is_not_called_before_it_has_room_however_long_it_says_within_limits() -> None:
    made = router(aa=1.0, bb=9.0)
    made.busy(A, 10.0, 2.5)
    assert (made.pick([A, B], 1, FORWARD, 12.0), made.pick([A, B], 1, FORWARD, 12.5)) == (B, A)
    assert made.pick([A], 1, FORWARD, 12.0) is None
    assert made.free_at([A]) == 12.5
    made.busy(A, 20.0, 1e9)
    assert made.free_at([A]) == 20.0 + MOST_WAIT_S
    made.busy(A, 20.0, -5.0)
    assert made.free_at([A]) == 20.0
    assert made.free_at([]) is None


def test_what_was_sent_to_a_replica_that_did_not_take_it_is_not_before_it() -> None:
    made = router(aa=1.0, bb=2.5)
    for declined in (lambda: made.busy(A, 1.0, 0.1), lambda: made.failed(A, 1.0)):
        for _ in range(3):
            made.sent(A, 1, FORWARD, 1.0)
        declined()
        assert made.pick([A, B], 1, FORWARD, 2.0) == A


def test_who_failed_this_very_step_is_called_again_only_where_there_is_nobody_else() -> None:
    made = router(aa=1.0, bb=9.0)
    assert made.pick([A, B], 1, FORWARD, 1.0, without={A}) == B
    assert made.pick([A], 1, FORWARD, 1.0, without={A}) == A


def test_a_call_has_failed_after_several_times_what_was_predicted() -> None:
    made = router(aa=0.2, bb=10.0)
    assert made.timeout_s(A, 1, FORWARD, 1.0) == LEAST_TIMEOUT_S
    assert made.timeout_s(B, 1, FORWARD, 1.0) == pytest.approx(4 * 10.1)
    assert made.working_s(3.0) == 6.0
    assert made.working_s(1e9) == MOST_WAIT_S


def test_lies_about_times_make_nobody_quicker_than_it_was() -> None:
    made = router(aa=2.0)
    answered(made, A, -7.0, took_s=2.0, waited_s=-3.0, queue_s=-9.0)
    assert made.finish_s(A, 1, FORWARD, 0.0) > 1.0
